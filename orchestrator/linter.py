"""The linter of saga definitions: it refuses, at import, what could lose or half-do an order.

The rules are those of architecture.md, section 4.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from google.protobuf import descriptor_pool

from orchestrator.saga import Action, DefinitionError, Saga, Step


def lint(saga: Saga[Any]) -> None:
    """Check a definition.

    Raises:
        DefinitionError: a rule is broken; the message names the saga, the step and the rule.
    """
    if not dataclasses.is_dataclass(saga.params):
        raise DefinitionError(f"{saga.kind}: params must be a dataclass")
    steps = list(saga.all_steps())
    if not steps:
        raise DefinitionError(f"{saga.kind}: there are no steps")
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"{saga.kind}: two steps are named {name!r}")
    _lint_pivot(saga, steps)
    _lint_order(saga, steps)
    _lint_reads(saga)
    for step in steps:
        _lint_step(saga, step)
    if all(step.when is not None for step in steps):
        raise DefinitionError(f"{saga.kind}: all of its steps may be left out")


def _lint_pivot(saga: Saga[Any], steps: list[Step]) -> None:
    pivots = [step.name for step in steps if step.pivot]
    if len(pivots) > 1:
        raise DefinitionError(f"{saga.kind}: more than one pivot: {', '.join(pivots)}")
    for group in saga.groups:
        if len(group) > 1 and any(step.pivot for step in group):
            raise DefinitionError(f"{saga.kind}: the pivot {pivots[0]!r} must be a group of its own")


def _lint_order(saga: Saga[Any], steps: list[Step]) -> None:
    after_pivot = False
    for step in steps:
        if step.pivot:
            after_pivot = True
            if step.undo is not None:
                raise DefinitionError(f"{saga.kind}.{step.name}: a pivot cannot be undone")
        elif after_pivot and step.undo is not None:
            raise DefinitionError(f"{saga.kind}.{step.name}: an undoable step after the pivot")
        elif not after_pivot and step.undo is None and not step.check:
            raise DefinitionError(f"{saga.kind}.{step.name}: before the pivot, but neither undo nor check")
        if step.check and step.undo is not None:
            raise DefinitionError(f"{saga.kind}.{step.name}: a check has nothing to undo")


def _lint_reads(saga: Saga[Any]) -> None:
    """A call may read only what is journaled before its intent; an undo only what was before its do's intent.

    The outcome of the do may be unknown when its undo is called, so its own reply is not the undo's to read.
    """
    journaled: set[str] = set()
    conditional = {step.name for step in saga.all_steps() if step.when is not None}
    for group in saga.groups:
        for step in group:
            for half, action in (("do", step.do), ("undo", step.undo)):
                for name in action.reads if action is not None else ():
                    where = f"{saga.kind}.{step.name}: its {half} reads {name!r}"
                    if name not in journaled:
                        raise DefinitionError(f"{where}, which is not journaled before the call")
                    if name in conditional:
                        raise DefinitionError(f"{where}, which is not part of every saga")
        journaled |= {step.name for step in group}


def _lint_step(saga: Saga[Any], step: Step) -> None:
    name = f"{saga.kind}.{step.name}"
    if step.pivot and step.when is not None:
        raise DefinitionError(f"{name}: a pivot is part of every saga")
    if step.skippable and (step.pivot or step.undo is not None):
        raise DefinitionError(f"{name}: a pivot, or a step with an undo, cannot be skipped")
    if step.do.timeout >= saga.deadline:
        raise DefinitionError(f"{name}: the call's time-out is not inside the saga's deadline")
    if step.undo is not None and step.undo.timeout >= saga.unwind_deadline:
        raise DefinitionError(f"{name}: the undo's time-out is not inside the unwind's deadline")
    for action in filter(None, (step.do, step.undo)):
        _lint_rpc(name, action)


def _lint_rpc(name: str, action: Action) -> None:
    try:
        service = descriptor_pool.Default().FindServiceByName(action.service)
    except KeyError:
        raise DefinitionError(f"{name}: there is no service {action.service}") from None
    if action.method not in service.methods_by_name:
        raise DefinitionError(f"{name}: {action.service} has no RPC {action.method}")
