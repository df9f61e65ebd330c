"""Where one saga stands, and what follows from what its calls said: pure, no I/O, no clock.

The executor asks `pending()` for the calls to make, makes them, hands the results to `absorb()`, and writes
the entry that it gets into the journal before it goes on. So no step is called before its intent is
committed, and no undo before the decision to unwind is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from chassis.errors import Detail, Fault, FaultKind
from orchestrator.entries import (
    DETAIL_CHARACTERS,
    INTENDED,
    OPEN_STATES,
    REQUESTED,
    TERMINAL_STATES,
    Call,
    Entry,
    Event,
    Result,
    State,
    Verb,
)
from orchestrator.saga import Ending, Operation, Outcome, Saga, Step, View

UNWIND = "unwind"
_UNWIND_REASONS = {Verb.CANCEL: "CANCELLED", Verb.COMPENSATE: "COMPENSATED_BY_OPERATOR"}


@dataclass(slots=True)
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
    fingerprint: str = ""
    last_error: str = ""
    step: str = ""
    unwind_requested: Fault | None = None
    _halves: dict[tuple[str, Operation], _Half] = field(default_factory=dict)
    _direction: Operation = Operation.DO
    _groups: tuple[tuple[Step, ...], ...] = ()

    def __post_init__(self) -> None:
        chosen = (
            tuple(step for step in group if step.when is None or step.when(self.params))
            for group in self.definition.groups
        )
        self._groups = tuple(group for group in chosen if group)

    def replay(self, event: Event) -> None:
        """Take one journaled event into account; called in the order of the journal."""
        if event.outcome == REQUESTED:
            self._replay_request(event)
        elif not event.step:
            if event.operation == UNWIND:
                self._direction = Operation.UNDO
        elif event.outcome == INTENDED:
            self._halves[event.step, Operation(event.operation)] = _Half(request=event.request or b"")
        else:
            half = self._halves[event.step, Operation(event.operation)]
            half.attempts = event.attempt
            half.recorded = event.recorded
            half.reply = event.reply
            half.outcome = None if event.outcome == Outcome.UNKNOWN else Outcome(event.outcome)

    def _replay_request(self, event: Event) -> None:
        if event.operation in {Verb.RETRY, Verb.SKIP}:
            # Who skips one step of a group must not take a refused neighbour for done.
            for (_, operation), half in self._halves.items():
                if operation is self._direction and half.outcome is Outcome.REFUSED:
                    half.outcome = None
        if event.operation == Verb.SKIP:
            half = self._halves[event.step, Operation.DO]
            half.outcome, half.reply = Outcome.DONE, event.reply
        elif event.operation in _UNWIND_REASONS:
            reason = _UNWIND_REASONS[Verb(event.operation)]
            self.unwind_requested = Fault(FaultKind.FAILED_PRECONDITION, reason, event.reason or event.detail)

    # --- what to do ---

    @property
    def may_still_unwind(self) -> bool:
        """Whether a deadline or a cancel still has an effect: before the pivot's intent."""
        return self.state in {State.RUNNING, State.WAITING} and not self.pivot_intended

    @property
    def must_unwind(self) -> bool:
        """Whether somebody asked for an unwind, and it is still possible."""
        return self.unwind_requested is not None and self.may_still_unwind

    def begin(self) -> tuple[Event, ...]:
        """Intend the first group; the events belong into the same write as the saga itself."""
        events = tuple(self._intend(step, Operation.DO) for step in self._groups[0])
        self.step = events[0].step
        self.pivot_intended = any(step.pivot for step in self._groups[0])
        return events

    def pending(self) -> list[Call]:
        """The calls that are intended and not known to be done or refused, in this direction."""
        calls = []
        for name, operation, half in self._unsettled():
            step = self.definition.step(name)
            action = step.do if operation is Operation.DO else step.undo
            if action is not None:
                calls.append(Call(name, operation, action, half.request, half.attempts + 1))
        return calls

    def _unsettled(self) -> Iterator[tuple[str, Operation, _Half]]:
        for (name, operation), half in self._halves.items():
            if operation is self._direction and half.outcome is None:
                yield name, operation, half

    def refused_calls(self) -> list[str]:
        """The steps whose calls were refused in the present direction: what parked the saga."""
        return [
            name
            for (name, operation), half in self._halves.items()
            if operation is self._direction and half.outcome is Outcome.REFUSED
        ]

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
        unwinding_before = self._direction is Operation.UNDO
        events = [self._record(result) for result in results if result.sent]
        self._note_errors(results)
        if self.state is State.COMPENSATING:
            events += self._go_back(results)
        elif self.state in {State.RUNNING, State.WAITING}:
            events += self._go_forward(results, deadline_passed=deadline_passed)
        unknown = any(result.outcome is Outcome.UNKNOWN and result.sent for result in results)
        held = any(not result.sent for result in results)
        if self.state not in OPEN_STATES:
            self.attempts = 0
        elif not held or unknown:
            self.attempts = self.attempts + 1 if unknown else 0
        unwinds_now = self._direction is Operation.UNDO and not unwinding_before
        return self._entry(epoch, sequence, events, unwinds_now=unwinds_now)

    def park(self, detail: str) -> Entry:
        """Stop: a person is needed. `detail` says why, for the timeline."""
        epoch, sequence = self.epoch, self.sequence
        self.attempts = 0
        if not self.last_error:
            self._set_error(self.step, "engine", FaultKind.INTERNAL, "PARKED", detail)
        return self._entry(epoch, sequence, [self._parked(detail)], unwinds_now=False)

    def _entry(self, epoch: int, sequence: int, events: list[Event], *, unwinds_now: bool) -> Entry:
        self.sequence += len(events)
        if self.state in TERMINAL_STATES:
            self.step = self.refused_step
        elif self.state in OPEN_STATES:
            self.step = next((name for name, _, _ in self._unsettled()), self.step)
        return Entry(
            saga_id=self.saga_id,
            epoch=epoch,
            sequence=sequence,
            state=self.state,
            attempts=self.attempts,
            pivot_intended=self.pivot_intended,
            refusal=self._refusal_json() if unwinds_now else None,
            events=tuple(events),
            step=self.step,
            answer=self._answer(),
            deadline_seconds=self.definition.unwind_deadline.total_seconds() if unwinds_now else None,
            fingerprint=self.fingerprint,
            last_error=self.last_error,
        )

    def _go_forward(self, results: list[Result], *, deadline_passed: bool) -> list[Event]:
        refused = next((result for result in results if result.outcome is Outcome.REFUSED), None)
        if refused is not None:
            return self._refused_forward(refused)
        if self.must_unwind and self.unwind_requested is not None:
            return self._unwind("", self.unwind_requested)
        if deadline_passed and not self.pivot_intended and not self._all_done():
            fault = Fault(
                FaultKind.DEADLINE_EXCEEDED, "ORDER_TIMED_OUT", "the order could not be completed in time"
            )
            return self._unwind("", fault)
        if self._is_pending():
            return []
        group = self._next_group()
        if group is None:
            self.state = State.COMPLETED
            return [Event("", "completed", 0, Outcome.DONE)]
        self.pivot_intended = self.pivot_intended or any(step.pivot for step in group)
        return [self._intend(step, Operation.DO) for step in group]

    def _refused_forward(self, refused: Result) -> list[Event]:
        fault = refused.fault or Fault(FaultKind.INTERNAL, "REFUSED", "the participant refused")
        pivot = self.definition.step(refused.call.step).pivot
        if self.pivot_intended and not (pivot and fault.recorded):
            self.step = refused.call.step
            return [self._parked(f"{refused.call.step} was refused after the pivot: {fault.message}")]
        return self._unwind(refused.call.step, fault)

    def _unwind(self, step: str, fault: Fault) -> list[Event]:
        self.state = State.COMPENSATING
        self._direction = Operation.UNDO
        self.refusal, self.refused_step = _storable(fault), step
        if not step:
            self._set_error("", UNWIND, fault.kind, fault.reason, fault.message)
        decision = Event("", UNWIND, 0, INTENDED, detail=_short(f"{fault.reason}: {fault.message}"))
        return [decision, *self._next_undos()]

    def _go_back(self, results: list[Result]) -> list[Event]:
        refused = next((result for result in results if result.outcome is Outcome.REFUSED), None)
        if refused is not None:
            message = refused.fault.message if refused.fault else ""
            self.step = refused.call.step
            return [self._parked(f"the undo of {refused.call.step} was refused: {message}")]
        return [] if self._is_pending() else self._next_undos()

    def _next_undos(self) -> list[Event]:
        """Intend the undo of the last group that is not undone yet; without one, the saga is compensated.

        A step is skipped only where it was never intended, has nothing to undo, or its refusal is recorded at
        the participant: an earlier attempt of an unrecorded refusal may still land.
        """
        for group in reversed(self._groups):
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
            reads=action.reads,
        )
        request = action.build(view).SerializeToString(deterministic=True)
        self._halves[step.name, operation] = _Half(request=request)
        return Event(step.name, operation, 0, INTENDED, request=request)

    def _record(self, result: Result) -> Event:
        fault = result.fault
        event = Event(
            result.call.step,
            result.call.operation,
            result.call.attempt,
            result.outcome,
            detail=_short(f"{fault.reason}: {fault.message}") if fault else "",
            reply=result.reply,
            recorded=bool(fault and fault.recorded),
        )
        self.replay(event)
        return event

    def _parked(self, detail: str) -> Event:
        self.state = State.PARKED
        return Event("", "parked", 0, INTENDED, detail=_short(detail))

    def _note_errors(self, results: list[Result]) -> None:
        """Remember what holds the saga up; forget it once everything went well on the way forward."""
        failed = next((result for result in results if result.fault is not None), None)
        if failed is not None and failed.fault is not None:
            if failed.sent or not self.last_error:
                call, fault = failed.call, failed.fault
                kind = f"{fault.kind} {fault.domain}"
                self._set_error(call.step, call.operation, kind, fault.reason, fault.message)
        elif results and self._direction is Operation.DO:
            self.fingerprint = self.last_error = ""

    def _set_error(self, step: str, operation: str, kind: str, reason: str, message: str) -> None:
        parts = (self.definition.kind, step, str(operation), str(kind), reason)
        self.fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        self.last_error = _short(f"{reason}: {message}")

    def _is_pending(self) -> bool:
        return next(self._unsettled(), None) is not None

    def _all_done(self) -> bool:
        return self._next_group() is None and not self._is_pending()

    def _next_group(self) -> tuple[Step, ...] | None:
        for group in self._groups:
            if any((step.name, Operation.DO) not in self._halves for step in group):
                return group
        return None

    def _replies(self, operation: Operation) -> dict[str, bytes]:
        return {
            name: half.reply
            for (name, op), half in self._halves.items()
            if op is operation and half.outcome is Outcome.DONE and half.reply is not None
        }

    def _refusal_json(self) -> dict[str, Any] | None:
        if self.refusal is None:
            return None
        return {"step": self.refused_step, **self.refusal.to_json()}

    def _answer(self) -> bytes | None:
        if self.state not in TERMINAL_STATES:
            return None
        return self.definition.answer(self.ending()).SerializeToString(deterministic=True)


def _storable(fault: Fault) -> Fault:
    """A foreign fault without NUL: no database takes it, neither the journal's nor that of who undoes."""

    def plain(details: tuple[Detail, ...]) -> tuple[Detail, ...]:
        return tuple(Detail(_plain(item.subject), _plain(item.description)) for item in details)

    fields, subjects = plain(fault.fields), plain(fault.subjects)
    return Fault(fault.kind, _plain(fault.reason), _plain(fault.message), fields=fields, subjects=subjects)


def _plain(text: str) -> str:
    return text.replace("\x00", "")


def _short(text: str) -> str:
    """What PostgreSQL stores and a timeline shows of a foreign text."""
    return _plain(text[:DETAIL_CHARACTERS])
