"""Where one saga stands, and what follows from what its calls said: pure, no I/O, no clock.

The executor asks `pending()` for the calls to make, makes them, hands the results to `absorb()`, and writes
the entry that it gets into the journal before it goes on. So no step is called before its intent is
committed, and no undo before the decision to unwind is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from chassis.errors import Fault, FaultKind
from orchestrator.saga import Action, Ending, Operation, Outcome, Saga, Step, View

DETAIL_CHARACTERS = 500


class State(StrEnum):
    """Where a saga stands."""

    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    WAITING = "WAITING"
    PAUSED = "PAUSED"
    PARKED = "PARKED"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"


OPEN_STATES = frozenset({State.RUNNING, State.COMPENSATING})
TERMINAL_STATES = frozenset({State.COMPLETED, State.COMPENSATED})

INTENDED = "intended"


@dataclass(frozen=True)
class Event:
    """One line of the journal: an intent with its request, or what became of it."""

    step: str
    operation: str
    attempt: int
    outcome: str
    detail: str = ""
    request: bytes | None = None
    reply: bytes | None = None
    recorded: bool = False


@dataclass(frozen=True)
class Call:
    """A call whose intent is journaled: the same bytes are sent until its outcome is known."""

    step: str
    operation: Operation
    action: Action
    request: bytes
    attempt: int


@dataclass(frozen=True)
class Result:
    """What a call said: its reply where it is DONE, else the fault."""

    call: Call
    outcome: Outcome
    reply: bytes | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Entry:
    """One write to the journal: events, and the saga's row after them, if (epoch, sequence) match."""

    saga_id: UUID
    epoch: int
    sequence: int
    state: State
    attempts: int
    pivot_intended: bool
    refusal: dict[str, Any] | None
    events: tuple[Event, ...]
    answer: bytes | None = None
    delay_seconds: float | None = None
    release: bool = False


@dataclass
class _Half:
    """One half of one step, as the journal knows it."""

    request: bytes
    attempts: int = 0
    outcome: Outcome | None = None
    reply: bytes | None = None
    recorded: bool = False


@dataclass
class Progress:
    """One saga in memory. `absorb` changes it; where the journal refuses the entry, throw it away."""

    definition: Saga[Any]
    saga_id: UUID
    params: Any
    state: State
    epoch: int
    sequence: int
    pivot_intended: bool = False
    attempts: int = 0
    refusal: Fault | None = None
    refused_step: str = ""
    _halves: dict[tuple[str, str], _Half] = field(default_factory=dict)

    def replay(self, event: Event) -> None:
        """Take one journaled event into account; called in the order of the journal."""
        key = (event.step, event.operation)
        if event.outcome == INTENDED:
            self._halves[key] = _Half(request=event.request or b"")
        elif event.step:
            half = self._halves[key]
            half.attempts = event.attempt
            half.recorded = event.recorded
            half.reply = event.reply
            half.outcome = None if event.outcome == Outcome.UNKNOWN else Outcome(event.outcome)

    # --- what to do ---

    @property
    def may_still_unwind(self) -> bool:
        """Whether a deadline or a cancel still has an effect: before the pivot's intent."""
        return self.state is State.RUNNING and not self.pivot_intended

    def begin(self) -> tuple[Event, ...]:
        """Intend the first group; the events belong into the same write as the saga itself."""
        return tuple(self._intend(step, Operation.DO) for step in self.definition.groups[0])

    def pending(self) -> list[Call]:
        """The calls that are intended and not known to be done or refused, in this direction."""
        direction = Operation.DO if self.state is State.RUNNING else Operation.UNDO
        calls = []
        for (name, operation), half in self._halves.items():
            if operation != direction or half.outcome is not None:
                continue
            step = self.definition.step(name)
            action = step.do if direction is Operation.DO else step.undo
            if action is not None:
                calls.append(Call(name, direction, action, half.request, half.attempts + 1))
        return calls

    def ending(self) -> Ending:
        """What an answer is made of."""
        return Ending(
            saga_id=self.saga_id,
            state=self.state,
            params=self.params,
            replies=self._replies(Operation.DO),
            undo_replies=self._replies(Operation.UNDO),
            refusal=self.refusal,
            refused_step=self.refused_step,
        )

    # --- what follows ---

    def absorb(self, results: list[Result], *, deadline_passed: bool) -> Entry:
        """Turn results into the entry that records them and the intent of what comes next."""
        epoch, sequence = self.epoch, self.sequence
        events = [self._record(result) for result in results]
        if self.state is State.RUNNING:
            events += self._go_forward(results, deadline_passed=deadline_passed)
        elif self.state is State.COMPENSATING:
            events += self._go_back(results)
        unknown = any(result.outcome is Outcome.UNKNOWN for result in results)
        self.attempts = self.attempts + 1 if unknown and self.state in OPEN_STATES else 0
        self.sequence += len(events)
        return Entry(
            saga_id=self.saga_id,
            epoch=epoch,
            sequence=sequence,
            state=self.state,
            attempts=self.attempts,
            pivot_intended=self.pivot_intended,
            refusal=self._refusal_json(),
            events=tuple(events),
            answer=self._answer(),
        )

    def park(self, detail: str) -> Entry:
        """Stop: a person is needed. `detail` says why, for the timeline."""
        epoch, sequence = self.epoch, self.sequence
        event = self._parked(detail)
        self.sequence += 1
        return Entry(
            saga_id=self.saga_id,
            epoch=epoch,
            sequence=sequence,
            state=self.state,
            attempts=0,
            pivot_intended=self.pivot_intended,
            refusal=self._refusal_json(),
            events=(event,),
        )

    def _go_forward(self, results: list[Result], *, deadline_passed: bool) -> list[Event]:
        refused = next((result for result in results if result.outcome is Outcome.REFUSED), None)
        if refused is not None:
            fault = refused.fault or Fault(FaultKind.INTERNAL, "REFUSED", "the participant refused")
            pivot = self.definition.step(refused.call.step).pivot
            if self.pivot_intended and not (pivot and fault.recorded):
                return [self._parked(f"{refused.call.step} was refused after the pivot: {fault.message}")]
            return self._unwind(refused.call.step, fault)
        if deadline_passed and not self.pivot_intended and not self._all_done():
            fault = Fault(
                FaultKind.DEADLINE_EXCEEDED, "ORDER_TIMED_OUT", "the order could not be completed in time"
            )
            return self._unwind("", fault)
        if self.pending():
            return []
        group = self._next_group()
        if group is None:
            self.state = State.COMPLETED
            return [Event("", "completed", 0, Outcome.DONE)]
        self.pivot_intended = self.pivot_intended or any(step.pivot for step in group)
        return [self._intend(step, Operation.DO) for step in group]

    def _unwind(self, step: str, fault: Fault) -> list[Event]:
        self.state = State.COMPENSATING
        self.refusal, self.refused_step = fault, step
        decision = Event(
            "", "unwind", 0, INTENDED, detail=f"{fault.reason}: {fault.message}"[:DETAIL_CHARACTERS]
        )
        return [decision, *self._next_undos()]

    def _go_back(self, results: list[Result]) -> list[Event]:
        refused = next((result for result in results if result.outcome is Outcome.REFUSED), None)
        if refused is not None:
            message = refused.fault.message if refused.fault else ""
            return [self._parked(f"the undo of {refused.call.step} was refused: {message}")]
        return [] if self.pending() else self._next_undos()

    def _next_undos(self) -> list[Event]:
        """Intend the undo of the last group that is not undone yet; without one, the saga is compensated.

        A step is skipped only where it was never intended, has nothing to undo, or its refusal is recorded at
        the participant: an earlier attempt of an unrecorded refusal may still land.
        """
        for group in reversed(self.definition.groups):
            undos = [step for step in group if self._needs_undo(step)]
            if undos:
                return [self._intend(step, Operation.UNDO) for step in undos]
        self.state = State.COMPENSATED
        return [Event("", "compensated", 0, Outcome.DONE)]

    def _needs_undo(self, step: Step) -> bool:
        done = self._halves.get((step.name, Operation.DO))
        if step.undo is None or done is None or (step.name, Operation.UNDO) in self._halves:
            return False
        return not (done.outcome is Outcome.REFUSED and done.recorded)

    # --- small parts ---

    def _intend(self, step: Step, operation: Operation) -> Event:
        action = step.do if operation is Operation.DO else step.undo
        if action is None:  # pragma: no cover - the linter and the callers exclude it
            raise AssertionError(f"{step.name} has no {operation}")
        view = View(
            saga_id=self.saga_id,
            params=self.params,
            step=step.name,
            operation=operation,
            replies=self._replies(Operation.DO),
            refusal=self.refusal,
        )
        request = action.build(view).SerializeToString(deterministic=True)
        self._halves[step.name, operation] = _Half(request=request)
        return Event(step.name, operation, 0, INTENDED, request=request)

    def _record(self, result: Result) -> Event:
        fault = result.fault
        detail = f"{fault.reason}: {fault.message}"[:DETAIL_CHARACTERS] if fault else ""
        event = Event(
            result.call.step,
            result.call.operation,
            result.call.attempt,
            result.outcome,
            detail=detail.replace("\x00", ""),
            reply=result.reply,
            recorded=bool(fault and fault.recorded),
        )
        self.replay(event)
        return event

    def _parked(self, detail: str) -> Event:
        self.state = State.PARKED
        return Event("", "parked", 0, INTENDED, detail=detail[:DETAIL_CHARACTERS].replace("\x00", ""))

    def _all_done(self) -> bool:
        return self._next_group() is None and not self.pending()

    def _next_group(self) -> tuple[Step, ...] | None:
        for group in self.definition.groups:
            if any((step.name, Operation.DO) not in self._halves for step in group):
                return group
        return None

    def _replies(self, operation: Operation) -> dict[str, bytes]:
        return {
            name: half.reply
            for (name, op), half in self._halves.items()
            if op == operation and half.outcome is Outcome.DONE and half.reply is not None
        }

    def _refusal_json(self) -> dict[str, Any] | None:
        if self.refusal is None:
            return None
        return {"step": self.refused_step, **self.refusal.to_json()}

    def _answer(self) -> bytes | None:
        if self.state not in TERMINAL_STATES:
            return None
        return self.definition.answer(self.ending()).SerializeToString(deterministic=True)
