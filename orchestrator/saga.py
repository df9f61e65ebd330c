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
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from chassis.errors import REFUSALS, Fault
from sagacity.common.v1 import saga_step_pb2

Params = TypeVar("Params")
Reply = TypeVar("Reply", bound=Message)

DEFAULT_CALL_TIMEOUT = timedelta(seconds=5)
# After it an unwind is overdue: that is an alarm, never a reason to stop.
DEFAULT_UNWIND_DEADLINE = timedelta(minutes=5)
OUR_DOMAINS = "sagacity."
# Marks a field of the parameters that came after the version was released; see `additive`.
_ADDITIVE = "additive"


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
    return Outcome.REFUSED if ours and fault.kind in REFUSALS else Outcome.UNKNOWN


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
    reads: tuple[str, ...] = ()

    @property
    def call(self) -> saga_step_pb2.SagaStep:
        """The identity of the call, for the participant's barrier."""
        operation = (
            saga_step_pb2.OPERATION_DO if self.operation is Operation.DO else saga_step_pb2.OPERATION_UNDO
        )
        return saga_step_pb2.SagaStep(saga_id=str(self.saga_id), step=self.step, operation=operation)

    def output(self, step: str, reply: type[Reply]) -> Reply:
        """The journaled reply of an earlier step.

        Raises:
            DefinitionError: the step function did not declare that it reads it.
            KeyError: that step is not done.
        """
        if step not in self.reads:
            raise DefinitionError(f"step {self.step!r} reads {step!r} without saying so: reads=({step!r},)")
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
    reads: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The gRPC path of the RPC."""
        return f"/{self.service}/{self.method}"

    @property
    def participant(self) -> str:
        """The context that answers, for example "inventory"."""
        return self.service.split(".")[1]


def calls(
    service: str, method: str, *, timeout: timedelta = DEFAULT_CALL_TIMEOUT, reads: tuple[str, ...] = ()
) -> Callable[[Build], Action]:
    """Make an action of a step function: `@calls("sagacity.inventory.v1.Inventory", "Reserve")`.

    Args:
        service: Full name of the gRPC service.
        method: Name of the RPC.
        timeout: Deadline of one call; less where less is left of the saga's.
        reads: The steps whose replies the function reads; the linter checks that they are journaled by then.
    """
    return lambda build: Action(service, method, build, timeout, reads)


def additive(default: Any) -> Any:
    """A field of the parameters that came after the release: sagas begun without it have the default."""
    return dataclasses.field(default=default, metadata={_ADDITIVE: True})


@dataclass(frozen=True)
class Step:
    """One step: its effect, its compensation, or that it is a check (a read) or the pivot.

    Attributes:
        skippable: An operator may take it for done: only where money, stock and the order still add up.
        when: Whether the step is part of a saga with these parameters; None: of every one.
    """

    name: str
    do: Action
    undo: Action | None = None
    check: bool = False
    pivot: bool = False
    skippable: bool = False
    when: Callable[[Any], bool] | None = None


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
    unwind_deadline: timedelta = DEFAULT_UNWIND_DEADLINE

    def __post_init__(self) -> None:
        # Imported here: the linter works on the definitions of this module.
        from orchestrator.linter import lint  # noqa: PLC0415

        lint(self)

    @cached_property
    def groups(self) -> tuple[tuple[Step, ...], ...]:
        """The steps in the order in which they run; steps of one group run in parallel."""
        return tuple(item.steps if isinstance(item, Parallel) else (item,) for item in self.steps)

    def all_steps(self) -> Iterator[Step]:
        """Every step, in order."""
        for group in self.groups:
            yield from group

    def step(self, name: str) -> Step:
        """The step of that name; KeyError where there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Step]:
        return {step.name: step for step in self.all_steps()}

    @cached_property
    def hash(self) -> str:
        """A fingerprint of names, order, RPCs and parameters; where it changes, open sagas do not fit."""
        shape = [
            [(s.name, s.do.path, s.undo.path if s.undo else "", s.check, s.pivot) for s in group]
            for group in self.groups
        ]
        fields = [
            (field.name, str(field.type))
            for field in dataclasses.fields(self.params)  # type: ignore[arg-type]
            if not field.metadata.get(_ADDITIVE)
        ]
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
