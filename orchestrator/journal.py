"""The saga log on PostgreSQL: group-committed, fenced by (epoch, sequence), timed by the database's clock."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from chassis.crash_points import crash_point
from chassis.errors import Fault
from chassis.postgres import Database, Row
from orchestrator import statements as sql
from orchestrator.batching import Batcher
from orchestrator.progress import Entry, Event, State

WRITE_RETRY_SECONDS = 0.5
WRITE_ATTEMPTS = 10
KEY_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True)
class Acceptance:
    """A saga to be begun under an idempotency key."""

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


@dataclass(frozen=True)
class Accepted:
    """Which saga a key names: ours where `fresh`, else an earlier one, with its answer once it has one."""

    saga_id: UUID
    request_hash: bytes
    answer: bytes | None
    fresh: bool


@dataclass(frozen=True)
class Standing:
    """Where a saga stands for the one who waits: its state, its terminal answer, its refusal, its order."""

    state: State
    answer: bytes | None
    refusal: dict[str, Any] | None = None
    key: UUID | None = None


@dataclass(frozen=True)
class SagaRow:
    """A saga as it is stored."""

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


class Written(Enum):
    """What became of an entry."""

    YES = "yes"
    FENCED = "fenced"


class Journal:
    """The durable log of one replica; others write to the same tables, and the fence keeps them apart."""

    def __init__(self, database: Database, replica: str) -> None:
        self._database = database
        self.replica = replica
        self._entries: Batcher[Entry, Written] = Batcher(self._write_batch)
        self._acceptances: Batcher[Acceptance, bool] = Batcher(self._accept_batch)

    @property
    def batches(self) -> int:
        """How many times entries were flushed."""
        return self._entries.batches

    async def run(self) -> None:
        """Flush what many sagas say, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._entries.run(), name="journal-entries")
            group.create_task(self._acceptances.run(), name="journal-acceptances")

    async def accept(self, acceptance: Acceptance) -> Accepted:
        """Insert key, saga and first intents in one commit, or find the earlier owner of the key.

        Raises:
            Fault: the database is away; nothing is known to be accepted, the client may send the same key
            again.
        """
        if await self._acceptances.submit(acceptance):
            return Accepted(acceptance.saga_id, acceptance.request_hash, None, fresh=True)
        # Without a row, the winner expired between the two statements, and the key is free again.
        return await self.find(acceptance) or await self.accept(acceptance)

    async def find(self, acceptance: Acceptance) -> Accepted | None:
        """The saga that has the key of this acceptance already, if any."""
        rows = await self._database.fetch(sql.FIND_KEY, _key_of(acceptance))
        if not rows:
            return None
        row = rows[0]
        # A batch whose commit was cut and that was written again finds its own row: it is ours to drive.
        fresh = row["saga_id"] == acceptance.saga_id
        return Accepted(row["saga_id"], bytes(row["request_hash"]), row["answer"], fresh=fresh)

    async def write(self, entry: Entry) -> Written:
        """Commit an entry where (epoch, sequence) still match; wait, within a bound, for the database.

        Raises:
            Fault: the database stayed away; whether the entry is written is unknown, so the saga must be
            loaded again.
        """
        crash_point("journal.before_write")
        for attempt in range(WRITE_ATTEMPTS):
            try:
                written = await self._entries.submit(entry)
                break
            except Fault:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(WRITE_RETRY_SECONDS)
        else:  # pragma: no cover - the loop returns or raises
            raise AssertionError
        if written is Written.FENCED and await self._landed(entry):
            written = Written.YES
        crash_point("journal.after_write")
        return written

    async def load(self, saga_id: UUID) -> tuple[SagaRow, list[Event]]:
        """Read a saga and its events, oldest first; KeyError where there is none."""
        rows = await self._database.fetch(sql.GET_SAGA, {"id": saga_id})
        if not rows:
            raise KeyError(saga_id)
        events = await self._database.fetch(sql.GET_EVENTS, {"id": saga_id})
        return saga_row(rows[0]), [
            Event(
                row["step"],
                row["op"],
                row["attempt"],
                row["outcome"],
                row["detail"],
                row["request"],
                row["reply"],
                row["recorded"],
            )
            for row in events
        ]

    async def standing(self, saga_id: UUID) -> Standing:
        """Where a saga stands now; KeyError where there is none."""
        rows = await self._database.fetch(sql.GET_STANDING, {"id": saga_id})
        if not rows:
            raise KeyError(saga_id)
        row = rows[0]
        return Standing(State(row["state"]), row["answer"], row["refusal"], row["key"])

    async def _landed(self, entry: Entry) -> bool:
        """Whether an entry that matched nothing is there already: committed by a try whose reply got lost."""
        rows = await self._database.fetch(sql.GET_FENCE, {"id": entry.saga_id})
        if not rows:
            return False
        row, last = rows[0], entry.events[-1]
        return (row["epoch"], row["seq"]) == (entry.epoch, entry.sequence + len(entry.events)) and (
            (row["step"], row["op"], row["attempt"], row["outcome"])
            == (last.step, last.operation, last.attempt, last.outcome)
        )

    async def _write_batch(self, entries: Sequence[Entry]) -> list[Written]:
        ordered = sorted(entries, key=lambda entry: entry.saga_id)  # one lock order for all replicas
        params: dict[str, Any] = {
            "ids": [entry.saga_id for entry in ordered],
            "epochs": [entry.epoch for entry in ordered],
            "seqs": [entry.sequence for entry in ordered],
            "counts": [len(entry.events) for entry in ordered],
            "states": [str(entry.state) for entry in ordered],
            "attempts": [entry.attempts for entry in ordered],
            "pivots": [entry.pivot_intended for entry in ordered],
            "refusals": [json.dumps(entry.refusal) if entry.refusal else None for entry in ordered],
            "answers": [entry.answer for entry in ordered],
            "delays": [entry.delay_seconds for entry in ordered],
            "releases": [entry.release for entry in ordered],
        }
        params |= _event_columns([(entry.saga_id, entry.sequence, entry.events) for entry in ordered])
        rows = await self._database.fetch(sql.WRITE_ENTRIES, params)
        written = {row["id"] for row in rows}
        return [Written.YES if entry.saga_id in written else Written.FENCED for entry in entries]

    async def _accept_batch(self, acceptances: Sequence[Acceptance]) -> list[bool]:
        ordered = sorted(acceptances, key=lambda item: (item.caller, item.rpc, item.idempotency_key))
        params: dict[str, Any] = {
            "ids": [item.saga_id for item in ordered],
            "kinds": [item.kind for item in ordered],
            "versions": [item.version for item in ordered],
            "hashes": [item.definition_hash for item in ordered],
            "keys": [item.key for item in ordered],
            "contexts": [json.dumps(item.context) for item in ordered],
            "deadlines": [item.deadline.total_seconds() for item in ordered],
            "counts": [len(item.events) for item in ordered],
            "owners": [item.owner for item in ordered],
            "callers": [item.caller for item in ordered],
            "rpcs": [item.rpc for item in ordered],
            "idempotency_keys": [item.idempotency_key for item in ordered],
            "request_hashes": [item.request_hash for item in ordered],
            "lifetime": KEY_LIFETIME.total_seconds(),
        }
        params |= _event_columns([(item.saga_id, 0, item.events) for item in ordered])
        rows = await self._database.fetch(sql.ACCEPT, params)
        fresh = {row["saga_id"] for row in rows}
        return [item.saga_id in fresh for item in acceptances]


def saga_row(row: Row) -> SagaRow:
    """Make a SagaRow of a row of the table `saga`."""
    names = {field.name for field in dataclasses.fields(SagaRow)}
    values = {name: value for name, value in row.items() if name in names}
    return SagaRow(**values | {"state": State(row["state"]), "sequence": row["seq"]})


def _key_of(acceptance: Acceptance) -> dict[str, Any]:
    return {"caller": acceptance.caller, "rpc": acceptance.rpc, "key": acceptance.idempotency_key}


def _event_columns(items: Sequence[tuple[UUID, int, tuple[Event, ...]]]) -> dict[str, list[Any]]:
    rows = [
        (saga_id, first + offset, event)
        for saga_id, first, events in items
        for offset, event in enumerate(events, start=1)
    ]
    return {
        "event_sagas": [saga_id for saga_id, _, _ in rows],
        "event_seqs": [sequence for _, sequence, _ in rows],
        "event_steps": [event.step for _, _, event in rows],
        "event_ops": [event.operation for _, _, event in rows],
        "event_attempts": [event.attempt for _, _, event in rows],
        "event_outcomes": [event.outcome for _, _, event in rows],
        "event_details": [event.detail for _, _, event in rows],
        "event_recorded": [event.recorded for _, _, event in rows],
        "event_requests": [event.request for _, _, event in rows],
        "event_replies": [event.reply for _, _, event in rows],
    }
