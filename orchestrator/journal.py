"""The saga log on PostgreSQL: group-committed, fenced by (epoch, sequence), timed by the database's clock."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

from psycopg.errors import (
    DeadlockDetected,
    LockNotAvailable,
    QueryCanceled,
    SerializationFailure,
    UniqueViolation,
)
from typing_extensions import override

from chassis import tracing
from chassis.crash_points import crash_point
from chassis.errors import Fault
from chassis.postgres import Database, Row, Transaction, unavailable
from orchestrator import metrics
from orchestrator import statements as sql
from orchestrator.arrays import bytes_array, plain_array, text_array
from orchestrator.batching import Batcher
from orchestrator.beginning import KEY_LIFETIME, begin_behind, found, key_of
from orchestrator.entries import REQUESTED, VERB_STATES, Command, Entry, Event, State
from orchestrator.saga_log import (
    Acceptance,
    Accepted,
    Holder,
    SagaLog,
    SagaRow,
    Standing,
    Written,
)

WRITE_RETRY_SECONDS = 0.5
WRITE_ATTEMPTS = 10
DEFAULT_ARCHIVE_AFTER = timedelta(days=7)
# A saga of ours that is not in memory may have been accepted since the list was made: one that was written so
# recently is left alone.
SWEEP_GRACE_SECONDS = 2.0
# During an upgrade, sagas of definitions that this replica does not have are for those that do. One that
# nobody has taken for so long is claimed all the same, to be parked.
STRANGE_SECONDS = 60.0
PRUNE_BATCH = 1_000
START_BATCH = 64
# Batches in flight, of entries and of acceptances each: while one is written, the engine makes the next.
WRITERS = 2
WAKE_BATCH = 10_000
RAMP_PER_SECOND = 20.0
BEGIN_ATTEMPTS = 5
# What one row of a batch may be to blame for: somebody else has its lock, and kept it.
_OF_ONE_ROW = (DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure)


class Journal(SagaLog):
    """The durable log of one replica; others write to the same tables, and the fence keeps them apart.

    Args:
        database: The journal's.
        replica: Names this replica; new at every start of the process.
        archive_after: Finished sagas that did not change for so long are archived.
        drives: The definitions that this replica claims sagas of, as `Definitions.names`; None: of all.
    """

    def __init__(
        self,
        database: Database,
        replica: str,
        *,
        archive_after: timedelta = DEFAULT_ARCHIVE_AFTER,
        drives: Collection[str] | None = None,
    ) -> None:
        self._database = database
        self.replica = replica
        self.freed = asyncio.Event()
        self._archive_after = archive_after
        self._drives = None if drives is None else list(drives)
        self._entries: Batcher[Entry, Written] = Batcher(
            self._write_batch, metrics.group_commit("write"), gives_up=_is_away, writers=WRITERS
        )
        self._acceptances: Batcher[Acceptance, bool] = Batcher(
            self._accept_batch, metrics.group_commit("accept"), gives_up=_is_away, writers=WRITERS
        )

    @property
    def batches(self) -> int:
        """How many times entries were flushed."""
        return self._entries.batches

    async def run(self) -> None:
        """Flush what many sagas say, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._entries.run(), name="journal-entries")
            group.create_task(self._acceptances.run(), name="journal-acceptances")

    # --- beginning ---

    @override
    async def accept(self, acceptance: Acceptance) -> Accepted:
        # One statement for many sagas belongs to none of their traces: each has a span of its wait for it.
        with tracing.statement(sql.ACCEPT.name):
            fresh = await self._acceptances.submit(acceptance)
        if fresh:
            return Accepted(acceptance.saga_id, acceptance.request_hash, None, fresh=True)
        known = await self.find(acceptance)
        if known is None:
            # Its key expired between the two statements: the caller asks again.
            raise unavailable("whether the request was accepted is not known; send it again")
        return known

    @override
    async def accept_behind(self, acceptance: Acceptance) -> Accepted:
        async def begin(tx: Transaction) -> Accepted:
            return await begin_behind(tx, acceptance)

        for _ in range(BEGIN_ATTEMPTS):
            try:
                return await self._database.run(begin)
            except UniqueViolation:
                continue  # a sweep started one that waits, in the same moment
        raise unavailable("too many requests for one order at once")

    @override
    async def find(self, acceptance: Acceptance) -> Accepted | None:
        rows = await self._database.fetch(sql.FIND_KEY, key_of(acceptance))
        return found(rows[0], acceptance) if rows else None

    @override
    async def holder(self, key: UUID) -> Holder | None:
        rows = await self._database.fetch(sql.FIND_HOLDER, {"key": key})
        if not rows:
            return None
        row = rows[0]
        return Holder(row["id"], row["kind"], State(row["state"]), row["pivot_intended"], row["context"])

    # --- driving ---

    @override
    async def write(self, entry: Entry) -> Written:
        """Commit an entry where (epoch, sequence) still match; wait, within a bound, for the database.

        Raises:
            Fault: the database stayed away; whether the entry is written is unknown, so the saga must be
            loaded again.
        """
        crash_point("journal.before_write")
        for attempt in range(WRITE_ATTEMPTS):
            try:
                with tracing.statement(sql.WRITE_ENTRIES.name):
                    written = await self._entries.submit(entry)
                break
            except Fault:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(WRITE_RETRY_SECONDS)
        else:  # pragma: no cover - the loop returns or raises
            raise AssertionError
        if written is Written.FENCED:
            written = Written.YES if await self._landed(entry) else Written.FENCED
            if written is Written.FENCED:
                metrics.FENCE_REFUSALS.inc()
        crash_point("journal.after_write")
        return written

    async def _landed(self, entry: Entry) -> bool:
        """Whether an entry that matched nothing is there already: committed by a try whose reply got lost."""
        if not entry.events:
            return False
        rows = await self._database.fetch(sql.GET_FENCE, {"id": entry.saga_id})
        if not rows:
            return False
        row, last = rows[0], entry.events[-1]
        return (row["epoch"], row["seq"]) == (entry.epoch, entry.sequence + len(entry.events)) and (
            (row["step"], row["op"], row["attempt"], row["outcome"])
            == (last.step, last.operation, last.attempt, last.outcome)
        )

    @override
    async def command(self, command: Command, *, owner: str) -> int | None:
        event = command.event
        rows = await self._database.fetch(
            sql.COMMAND,
            {
                "id": command.saga_id,
                "verb": str(command.verb),
                "states": [str(state) for state in VERB_STATES[command.verb]],
                "before_pivot": command.before_pivot,
                "sequence": command.sequence,
                "owner": owner,
                "step": event.step,
                "outcome": REQUESTED,
                "detail": event.detail,
                "reply": event.reply,
                "actor": event.actor,
                "reason": event.reason,
            },
        )
        return int(rows[0]["epoch"]) if rows else None

    @override
    async def postpone(self, saga_id: UUID, epoch: int, seconds: float) -> None:
        params = {"id": saga_id, "epoch": epoch, "seconds": seconds, "replica": self.replica}
        await self._database.fetch(sql.POSTPONE, params)

    # --- reading ---

    @override
    async def load(self, saga_id: UUID) -> tuple[SagaRow, list[Event]]:
        rows = await self._database.fetch(sql.GET_SAGA, {"id": saga_id})
        if not rows:
            raise KeyError(saga_id)
        events = await self._database.fetch(sql.GET_EVENTS, {"id": saga_id})
        # What another owner wrote between the two statements does not fit the row.
        return saga_row(rows[0]), [event_of(row) for row in events[: rows[0]["seq"]]]

    @override
    async def standing(self, saga_id: UUID) -> Standing:
        rows = await self._database.fetch(sql.GET_STANDING, {"id": saga_id})
        if not rows:
            raise KeyError(saga_id)
        row = rows[0]
        return Standing(State(row["state"]), row["answer"], row["refusal"], row["key"])

    # --- leases ---

    @override
    async def renew(self, lease_seconds: float) -> None:
        await self._database.fetch(sql.RENEW_REPLICA, {"id": self.replica, "lease": lease_seconds})

    @override
    async def claim(self, in_memory: Collection[UUID], *, limit: int, newest_first: bool) -> Sequence[UUID]:
        # Where somebody starts the same one, or begins on the same order, in this moment, it is theirs.
        with suppress(UniqueViolation):
            await self._database.fetch(sql.START_WAITING, {"limit": START_BATCH})
        params = {
            "replica": self.replica,
            "in_memory": list(in_memory),
            "limit": limit,
            "grace": SWEEP_GRACE_SECONDS,
            "drives": self._drives,
            "strange": STRANGE_SECONDS,
        }
        rows = await self._database.fetch(sql.CLAIM_NEWEST if newest_first else sql.CLAIM_OLDEST, params)
        return [row["id"] for row in rows]

    @override
    async def wake(self, participant: str) -> None:
        params = {"participant": participant, "limit": WAKE_BATCH, "rate": RAMP_PER_SECOND}
        await self._database.fetch(sql.WAKE, params)

    @override
    async def hand_over(self) -> None:
        await self._database.fetch(sql.REMOVE_REPLICA, {"id": self.replica})

    @override
    async def prune(self, lease_seconds: float) -> bool:
        keys = await self._database.fetch(sql.PRUNE_KEYS, {"limit": PRUNE_BATCH})
        await self._database.fetch(sql.REMOVE_EXPIRED_REPLICAS, {"lease": lease_seconds})
        params = {"age": self._archive_after.total_seconds(), "limit": PRUNE_BATCH}
        rows = await self._database.fetch(sql.ARCHIVE, params)
        metrics.ARCHIVED.inc(rows[0]["archived"])
        return PRUNE_BATCH in {len(keys), rows[0]["archived"]}

    # --- batches ---

    async def _write_batch(self, entries: Sequence[Entry]) -> list[Written]:
        # One lock order for all replicas. A UUID's text sorts as it does, and is made and compared faster.
        named = sorted(((str(entry.saga_id), entry) for entry in entries), key=itemgetter(0))
        ordered = [entry for _, entry in named]
        params: dict[str, Any] = {
            "ids": plain_array(name for name, _ in named),
            "epochs": plain_array(entry.epoch for entry in ordered),
            "seqs": plain_array(entry.sequence for entry in ordered),
            "counts": plain_array(len(entry.events) for entry in ordered),
            "states": plain_array(entry.state for entry in ordered),
            "attempts": plain_array(entry.attempts for entry in ordered),
            "pivots": plain_array(entry.pivot_intended for entry in ordered),
            "refusals": text_array(json.dumps(entry.refusal) if entry.refusal else None for entry in ordered),
            "answers": bytes_array(entry.answer for entry in ordered),
            "deadlines": plain_array(entry.deadline_seconds for entry in ordered),
            "delays": plain_array(entry.delay_seconds for entry in ordered),
            "releases": plain_array(entry.release for entry in ordered),
            "steps": text_array(entry.step for entry in ordered),
            "waits": text_array(entry.waiting_for for entry in ordered),
            "fingerprints": text_array(entry.fingerprint for entry in ordered),
            "errors": text_array(entry.last_error for entry in ordered),
        }
        params |= _event_columns([(name, entry.sequence, entry.events) for name, entry in named])
        rows = await self._database.fetch(sql.WRITE_ENTRIES, params)
        if rows and rows[0]["started"]:
            self.freed.set()
        written = {row["id"] for row in rows}
        return [Written.YES if entry.saga_id in written else Written.FENCED for entry in entries]

    async def _accept_batch(self, acceptances: Sequence[Acceptance]) -> list[bool]:
        ordered = sorted(acceptances, key=lambda item: (item.caller, item.rpc, item.idempotency_key))
        params: dict[str, Any] = {
            "ids": plain_array(item.saga_id for item in ordered),
            "kinds": text_array(item.kind for item in ordered),
            "versions": plain_array(item.version for item in ordered),
            "hashes": text_array(item.definition_hash for item in ordered),
            "keys": plain_array(item.key for item in ordered),
            "contexts": text_array(json.dumps(item.context) for item in ordered),
            "deadlines": plain_array(item.deadline.total_seconds() for item in ordered),
            "counts": plain_array(len(item.events) for item in ordered),
            "owners": text_array(item.owner for item in ordered),
            "callers": text_array(item.caller for item in ordered),
            "rpcs": text_array(item.rpc for item in ordered),
            "idempotency_keys": text_array(item.idempotency_key for item in ordered),
            "request_hashes": bytes_array(item.request_hash for item in ordered),
            "steps": text_array(item.step for item in ordered),
            "pivots": plain_array(item.pivot_intended for item in ordered),
            "traces": text_array(item.traceparent for item in ordered),
            "request_ids": text_array(item.request_id for item in ordered),
            "lifetime": KEY_LIFETIME.total_seconds(),
        }
        params |= _event_columns([(str(item.saga_id), 0, item.events) for item in ordered])
        rows = await self._database.fetch(sql.ACCEPT, params)
        fresh = {row["saga_id"] for row in rows}
        return [item.saga_id in fresh for item in acceptances]


def saga_row(row: Row) -> SagaRow:
    """Make a SagaRow of a row of the table `saga`."""
    values = {name: row[name] for name in _STORED_NAMES}
    return SagaRow(**values | {"state": State(row["state"]), "sequence": row["seq"]})


_STORED_NAMES = [
    field.name for field in dataclasses.fields(SagaRow) if field.name not in {"state", "sequence"}
]


def event_of(row: Row) -> Event:
    """Make an Event of a row of the table `saga_event`."""
    return Event(
        row["step"],
        row["op"],
        row["attempt"],
        row["outcome"],
        row["detail"],
        row["request"],
        row["reply"],
        row["recorded"],
        row["actor"],
        row["reason"],
    )


def _is_away(error: Exception) -> bool:
    return isinstance(error, Fault) and not isinstance(error.__cause__, _OF_ONE_ROW)


def _event_columns(items: Sequence[tuple[str, int, tuple[Event, ...]]]) -> dict[str, str]:
    rows = [
        (saga_id, first + offset, event)
        for saga_id, first, events in items
        for offset, event in enumerate(events, start=1)
    ]
    events = [event for _, _, event in rows]
    return {
        "event_sagas": plain_array([saga_id for saga_id, _, _ in rows]),
        "event_seqs": plain_array([sequence for _, sequence, _ in rows]),
        "event_steps": text_array([event.step for event in events]),
        "event_ops": plain_array([event.operation for event in events]),
        "event_attempts": plain_array([event.attempt for event in events]),
        "event_outcomes": plain_array([event.outcome for event in events]),
        "event_details": text_array([event.detail for event in events]),
        "event_recorded": plain_array([event.recorded for event in events]),
        "event_requests": bytes_array([event.request for event in events]),
        "event_replies": bytes_array([event.reply for event in events]),
    }
