"""What the journal is made of: states, events, calls and their results, entries. Values only.

What is made many times for each saga is a named tuple: making one takes a quarter of a frozen dataclass's
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from chassis.errors import Fault
from orchestrator.saga import Action, Operation, Outcome

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

# Outcomes of events that are no call's.
INTENDED = "intended"
REQUESTED = "requested"


class Verb(StrEnum):
    """What may be asked of a saga from outside; also the operation of the event that journals it."""

    RETRY = "retry"
    SKIP = "skip"
    COMPENSATE = "compensate"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


class Event(NamedTuple):
    """One line of the journal: an intent with its request, what became of it, or what somebody asked."""

    step: str
    operation: str
    attempt: int
    outcome: str
    detail: str = ""
    request: bytes | None = None
    reply: bytes | None = None
    recorded: bool = False
    actor: str = ""
    reason: str = ""


class Call(NamedTuple):
    """A call whose intent is journaled: the same bytes are sent until its outcome is known."""

    step: str
    operation: Operation
    action: Action
    request: bytes
    attempt: int


class Result(NamedTuple):
    """What a call said: its reply where it is DONE, else the fault. `sent` is False for a call held back."""

    call: Call
    outcome: Outcome
    reply: bytes | None = None
    fault: Fault | None = None
    sent: bool = True


class Entry(NamedTuple):
    """One write to the journal: events, and the saga's row after them, if (epoch, sequence) match.

    Attributes:
        sequence: The last event before this entry.
        step: Which step is being tried now; empty at the end.
        refusal: Why it unwinds, once that is decided; None leaves it as it is.
        deadline_seconds: A new deadline, from now; None leaves it as it is.
        delay_seconds: When the saga is due again; None leaves it as it is.
        release: The saga leaves the replica's memory and is anybody's when it is due.
        waiting_for: The participant that it waits for; empty where it does not.
        fingerprint: Names the kind of error that holds it up; empty where there is none.
        last_error: That error in a sentence.
    """

    saga_id: UUID
    epoch: int
    sequence: int
    state: State
    attempts: int
    pivot_intended: bool
    refusal: dict[str, Any] | None
    events: tuple[Event, ...]
    step: str = ""
    answer: bytes | None = None
    deadline_seconds: float | None = None
    delay_seconds: float | None = None
    release: bool = False
    waiting_for: str = ""
    fingerprint: str = ""
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A verb from outside, as one conditional write that takes the saga over.

    Attributes:
        event: Who asked for what, and why; with the reply, for a skip.
        before_pivot: Only while the pivot is not intended; the row's lock decides between it and the pivot.
        sequence: Only at this sequence; None: at any.
    """

    saga_id: UUID
    verb: Verb
    event: Event
    before_pivot: bool = False
    sequence: int | None = None


# From which states a verb is possible. What follows: PAUSED after a pause, else the direction that the saga
# had (WAITING stays WAITING).
VERB_STATES: dict[Verb, frozenset[State]] = {
    Verb.RETRY: frozenset({State.RUNNING, State.COMPENSATING, State.PARKED}),
    Verb.SKIP: frozenset({State.RUNNING, State.PARKED}),
    Verb.COMPENSATE: frozenset({State.RUNNING, State.WAITING, State.PAUSED, State.PARKED}),
    Verb.PAUSE: frozenset({State.RUNNING, State.COMPENSATING}),
    Verb.RESUME: frozenset({State.PAUSED}),
    Verb.CANCEL: frozenset({State.RUNNING, State.WAITING, State.PAUSED, State.PARKED}),
}
