"""The saga log as the engine sees it: what may be asked of it, and what it answers.

Two things are one: the journal on PostgreSQL, and the simulation's in memory. Both pass the contract suite in
tests/contract.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from chassis.errors import Fault, FaultKind
from orchestrator.entries import Command, Entry, Event, State

# Sagas of one order that wait behind the one under way.
MAX_WAITING = 16
WAITING_RETRY = timedelta(seconds=5)
OVERLOAD_RETRY = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A saga to be begun under an idempotency key.

    Attributes:
        key: What it is about; at most one saga of a key is under way, the others wait.
        events: The intents of the first steps; `accept_behind` leaves them to who drives the saga.
        step: The first of those steps.
        pivot_intended: Whether one of them is the pivot.
        owner: The replica that drives it.
        traceparent: The trace of the request that began it, if any.
        request_id: The id of that request, which ties the logs of all who have a part in it together.
    """

    saga_id: UUID
    kind: str
    version: int
    definition_hash: str
    key: UUID
    context: dict[str, Any]
    deadline: timedelta
    events: tuple[Event, ...]
    owner: str
    caller: str
    rpc: str
    idempotency_key: str
    request_hash: bytes
    step: str = ""
    pivot_intended: bool = False
    traceparent: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Which saga a key names: ours where `fresh`, else an earlier one, with its answer once it has one.

    Attributes:
        waiting: A fresh one that waits behind another saga of its order; nobody drives it yet.
    """

    saga_id: UUID
    request_hash: bytes
    answer: bytes | None
    fresh: bool
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a saga stands for the one who waits: its state, its terminal answer, its refusal, its order."""

    state: State
    answer: bytes | None
    refusal: dict[str, Any] | None = None
    key: UUID | None = None


@dataclass(frozen=True, slots=True)
class SagaRow:
    """A saga as it is stored. Seconds are by the log's clock; a deadline that is over is negative."""

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
    deadline_seconds: float
    attempts: int
    pivot_intended: bool
    refusal: dict[str, Any] | None
    error_fingerprint: str = ""
    last_error: str = ""
    waiting_for: str = ""
    step: str = ""
    age_seconds: float = 0.0
    traceparent: str | None = None
    request_id: str | None = None


class Written(Enum):
    """What became of an entry."""

    YES = "yes"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has an order: the saga under way, or the one that waits longest."""

    saga_id: UUID
    kind: str
    state: State
    pivot_intended: bool
    context: dict[str, Any] = field(default_factory=dict)


class SagaLog(Protocol):
    """The durable log of one replica; others write to the same one, and the fence keeps them apart.

    Whatever raises Fault UNAVAILABLE may have been written, or not.
    """

    replica: str
    # Set where a write of this replica has started a saga that waited: there is something to claim.
    freed: asyncio.Event

    async def accept(self, acceptance: Acceptance) -> Accepted:
        """Begin a saga whose key (`Acceptance.key`) no other saga can have yet; idempotent by its name."""

    async def accept_behind(self, acceptance: Acceptance) -> Accepted:
        """Begin a saga on an order that others may be working on: it waits, first in first out, behind them.

        Raises:
            Fault: FAILED_PRECONDITION ORDER_BUSY behind a PARKED saga, with its id; RESOURCE_EXHAUSTED
                TOO_MANY_WAITING with retry_after where MAX_WAITING wait already. Nothing is written.
        """

    async def find(self, acceptance: Acceptance) -> Accepted | None:
        """The saga that has the idempotency key of this acceptance already, if any."""

    async def holder(self, key: UUID) -> Holder | None:
        """The saga that has an order now, if any."""

    async def write(self, entry: Entry) -> Written:
        """Commit an entry where (epoch, sequence) still match; one that ends a saga starts who waits."""

    async def command(self, command: Command, *, owner: str) -> int | None:
        """Take a saga over with a verb from outside; its new epoch, or None where the verb does not fit."""

    async def postpone(self, saga_id: UUID, epoch: int, seconds: float) -> None:
        """Release a saga that cannot be driven now; it is due again in so many seconds."""

    async def load(self, saga_id: UUID) -> tuple[SagaRow, list[Event]]:
        """Read a saga and its events, oldest first; KeyError where there is none."""

    async def standing(self, saga_id: UUID) -> Standing:
        """Where a saga stands now; KeyError where there is none."""

    async def renew(self, lease_seconds: float) -> None:
        """Say that this replica lives, for another lease."""

    async def claim(self, in_memory: Collection[UUID], *, limit: int, newest_first: bool) -> Sequence[UUID]:
        """Take sagas that are due and that nobody drives, and start waiting ones whose order is free.

        Nobody drives those without owner, those of replicas whose lease is over, and our own that are not in
        memory and were not written for a while.
        """

    async def wake(self, participant: str) -> None:
        """Make sagas that wait for a participant due, in a ramp."""

    async def hand_over(self) -> None:
        """Give this replica's sagas to whoever claims next."""

    async def prune(self, lease_seconds: float) -> bool:
        """Forget expired keys and long-gone replicas, and archive old finished sagas: a bounded number.

        Returns whether there may be more.
        """


def order_busy(holder: UUID) -> Fault:
    """The refusal of a saga on an order whose holder needs a person first."""
    return Fault(
        FaultKind.FAILED_PRECONDITION,
        "ORDER_BUSY",
        f"the order is held by saga {holder}, which needs an operator",
    )


def too_many_waiting() -> Fault:
    """The refusal of a saga on an order for which enough wait."""
    return Fault(
        FaultKind.RESOURCE_EXHAUSTED,
        "TOO_MANY_WAITING",
        f"{MAX_WAITING} requests wait for this order already; try again when they are done",
        retry_after=WAITING_RETRY,
    )


def overloaded() -> Fault:
    """The refusal of a new saga while too many are in flight."""
    return Fault(
        FaultKind.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        "too many orders are being worked on; try again shortly",
        retry_after=OVERLOAD_RETRY,
    )
