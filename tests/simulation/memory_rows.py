"""What the tables of the saga log in memory have in their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from orchestrator.entries import Event, State

HOLDING = frozenset({State.RUNNING, State.COMPENSATING, State.PAUSED, State.PARKED})

NameOfSaga = tuple[str, str, str]


class LockBrokenError(Exception):
    """Two sagas of one order would be under way: what the unique index refuses."""


@dataclass(slots=True)
class Row:
    """A saga as it is stored. Times are the store's."""

    id: UUID
    kind: str
    version: int
    definition_hash: str
    key: UUID
    state: State
    sequence: int
    epoch: int
    owner: str | None
    context: dict[str, Any]
    deadline: float
    next_run: float
    create_time: float
    update_time: float
    step: str = ""
    pivot_intended: bool = False
    attempts: int = 0
    refusal: dict[str, Any] | None = None
    error_fingerprint: str = ""
    last_error: str = ""
    waiting_for: str = ""
    traceparent: str | None = None
    request_id: str | None = None
    events: dict[int, Event] = field(default_factory=dict)


@dataclass(slots=True)
class Name:
    """An idempotency key and what it names."""

    saga_id: UUID
    request_hash: bytes
    expires_at: float
    answer: bytes | None = None


class Change(NamedTuple):
    """One committed change of a saga's row, for who watches."""

    kind: str
    by: str
    row: Row
    events: tuple[Event, ...] = ()
