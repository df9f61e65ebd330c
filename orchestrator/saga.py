"""The definition language of sagas: plain data, checked by a linter when it is imported.

A saga is a sequence of steps; a step is a call to a participant, with the call that undoes it. Steps may be
grouped to run in parallel. The terms are those of Garcia-Molina and Salem, "Sagas" (SIGMOD 1987); "pivot" is
Richardson's, "Microservices Patterns" (2018), chapter 4: the step after which a saga only goes forward.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from chassis.errors import Fault, FaultKind
from sagacity.common.v1 import saga_step_pb2

Params = TypeVar("Params")
Reply = TypeVar("Reply", bound=Message)

DEFAULT_CALL_TIMEOUT = timedelta(seconds=5)
OUR_DOMAINS = "sagacity."

_REFUSALS = frozenset(
    {
        FaultKind.FAILED_PRECONDITION,
        FaultKind.INVALID_ARGUMENT,
        FaultKind.NOT_FOUND,
        FaultKind.ALREADY_EXISTS,
        FaultKind.PERMISSION_DENIED,
        FaultKind.OUT_OF_RANGE,
    }
)


class Outcome(StrEnum):
    """What is known of a call. A time-out is UNKNOWN, never a failure."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Operation(StrEnum):
    """Which half of a step a call is."""

    DO = "do"
    UNDO = "undo"


def classify(fault: Fault) -> Outcome:
    """Tell a refusal of a participant from an unknown outcome; nothing else in the engine decides this."""
    ours = fault.domain.startswith(OUR_DOMAINS)
    return Outcome.REFUSED if ours and fault.kind in _REFUSALS else Outcome.UNKNOWN


class DefinitionError(Exception):
    """A saga's definition breaks a rule; the message names the saga, the step and the rule."""


@dataclass(frozen=True)
class View(Generic[Params]):
    """All that a step function sees: typed parameters, outputs of earlier steps, and which call it builds."""

    saga_id: UUID
    params: Params
    step: str
    operation: Operation
    replies: Mapping[str, bytes]
    refusal: Fault | None

    @property
    def call(self) -> saga_step_pb2.SagaStep:
        """The identity of the call, for the participant's barrier."""
        operation = (
            saga_step_pb2.OPERATION_DO if self.operation is Operation.DO else saga_step_pb2.OPERATION_UNDO
        )
        return saga_step_pb2.SagaStep(saga_id=str(self.saga_id), step=self.step, operation=operation)

    def output(self, step: str, reply: type[Reply]) -> Reply:
        """The journaled reply of an earlier step; KeyError where that step is not done."""
        return reply.FromString(self.replies[step])


class Build(Protocol):
    """A step function: it builds the request of a call, from the view alone."""

    def __call__(self, saga: View[Any], /) -> Message:
        """Return the request."""


@dataclass(frozen=True)
class Action:
    """A call to a participant: which RPC, and how its request is built."""

    service: str
    method: str
    build: Build
    timeout: timedelta = DEFAULT_CALL_TIMEOUT

    @property
    def path(self) -> str:
        """The gRPC path of the RPC."""
        return f"/{self.service}/{self.method}"

    @property
    def participant(self) -> str:
        """The context that answers, for example "inventory"."""
        return self.service.split(".")[1]


def calls(
    service: str, method: str, *, timeout: timedelta = DEFAULT_CALL_TIMEOUT
) -> Callable[[Build], Action]:
    """Make an action of a step function: `@calls("sagacity.inventory.v1.Inventory", "Reserve")`."""
    return lambda build: Action(service, method, build, timeout)


@dataclass(frozen=True)
class Step:
    """One step: its effect, its compensation, or that it is a check (a read) or the pivot."""

    name: str
    do: Action
    undo: Action | None = None
    check: bool = False
    pivot: bool = False


@dataclass(frozen=True, init=False)
class Parallel:
    """Steps that do not depend on each other; their undos run in parallel too."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        object.__setattr__(self, "steps", steps)


@dataclass(frozen=True)
class Saga(Generic[Params]):
    """A definition. Construction runs the linter and raises DefinitionError."""

    kind: str
    version: int
    params: type[Params]
    deadline: timedelta
    steps: tuple[Step | Parallel, ...]
    answer: Callable[[Ending], Message]

    def __post_init__(self) -> None:
        lint(self)

    @property
    def groups(self) -> tuple[tuple[Step, ...], ...]:
        """The steps in the order in which they run; steps of one group run in parallel."""
        return tuple(item.steps if isinstance(item, Parallel) else (item,) for item in self.steps)

    def all_steps(self) -> Iterator[Step]:
        """Every step, in order."""
        for group in self.groups:
            yield from group

    def step(self, name: str) -> Step:
        """The step of that name; KeyError where there is none."""
        for step in self.all_steps():
            if step.name == name:
                return step
        raise KeyError(name)

    @property
    def hash(self) -> str:
        """A fingerprint of names, order, RPCs and parameters; where it changes, open sagas do not fit."""
        shape = [
            [(s.name, s.do.path, s.undo.path if s.undo else "", s.check, s.pivot) for s in group]
            for group in self.groups
        ]
        fields = [(field.name, str(field.type)) for field in dataclasses.fields(self.params)]  # type: ignore[arg-type]
        return hashlib.sha256(repr((shape, fields)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Ending:
    """How a saga ended, or stands: what an answer to its caller is made of."""

    saga_id: UUID
    state: str
    params: Any
    replies: Mapping[str, bytes]
    undo_replies: Mapping[str, bytes]
    refusal: Fault | None
    refused_step: str


def lint(saga: Saga[Any]) -> None:
    """Refuse a definition that could lose or half-do an order; see architecture.md, section 4."""
    if not dataclasses.is_dataclass(saga.params):
        raise DefinitionError(f"{saga.kind}: params must be a dataclass")
    steps = list(saga.all_steps())
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"{saga.kind}: two steps are named {name!r}")
    pivots = [step.name for step in steps if step.pivot]
    if len(pivots) > 1:
        raise DefinitionError(f"{saga.kind}: more than one pivot: {', '.join(pivots)}")
    for group in saga.groups:
        if len(group) > 1 and any(step.pivot for step in group):
            raise DefinitionError(f"{saga.kind}: the pivot {pivots[0]!r} must be a group of its own")
    _lint_order(saga, steps)
    for step in steps:
        _lint_calls(saga, step)


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


def _lint_calls(saga: Saga[Any], step: Step) -> None:
    for action in filter(None, (step.do, step.undo)):
        if action.timeout >= saga.deadline:
            raise DefinitionError(
                f"{saga.kind}.{step.name}: the call's time-out is not inside the saga's deadline"
            )
        try:
            service = descriptor_pool.Default().FindServiceByName(action.service)
        except KeyError:
            raise DefinitionError(f"{saga.kind}.{step.name}: there is no service {action.service}") from None
        if action.method not in service.methods_by_name:
            raise DefinitionError(f"{saga.kind}.{step.name}: {action.service} has no RPC {action.method}")
