"""The two saga logs behind one face, with what a test has to do behind their back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from typing_extensions import override

from chassis.clock import SystemClock
from chassis.postgres import Database, statement
from orchestrator.journal import Journal
from orchestrator.saga_log import SagaLog
from tests.simulation.memory_journal import MemoryJournal
from tests.simulation.memory_store import MemoryStore

ARCHIVE_AFTER = timedelta(days=7)
# What may be moved back in time.
TIMES = frozenset({"next_run", "deadline", "create_time", "update_time"})


class Logs(Protocol):
    """One durable log, seen by as many replicas as a test wants."""

    def of(self, replica: str, drives: Collection[str] | None = None) -> SagaLog:
        """The log as a replica has it, which claims sagas of these definitions only; None: of all."""

    async def move_back(self, saga_id: UUID, column: str, seconds: float) -> None:
        """Let a time of a saga be earlier."""

    async def expire_key(self, saga_id: UUID) -> None:
        """Let the time of a saga's idempotency key be over."""

    async def expire_replica(self, replica: str, seconds_ago: float) -> None:
        """Let a replica's lease have ended."""

    async def due_at(self, saga_id: UUID) -> float:
        """When a saga is due, in seconds since 1970."""

    async def due_in(self, saga_id: UUID) -> float:
        """In how many seconds a saga is due."""
        return await self.due_at(saga_id) - _now()

    async def archived(self) -> list[UUID]:
        """The sagas in the archive."""

    async def replicas(self) -> list[str]:
        """The replicas that have a lease, over or not."""


class PostgresLogs(Logs):
    """Journals on a real database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._journals: dict[str, Journal] = {}
        self.tasks: list[asyncio.Task[None]] = []

    @override
    def of(self, replica: str, drives: Collection[str] | None = None) -> SagaLog:
        if replica not in self._journals:
            journal = self._journals[replica] = Journal(
                self._database, replica, archive_after=ARCHIVE_AFTER, drives=drives
            )
            self.tasks.append(asyncio.create_task(journal.run()))
        return self._journals[replica]

    async def _rows(self, query: str, **params: Any) -> list[dict[str, Any]]:
        return await self._database.fetch(statement("contract", query), params)

    @override
    async def move_back(self, saga_id: UUID, column: str, seconds: float) -> None:
        assert column in TIMES
        query = (
            f"UPDATE saga SET {column} = {column} - make_interval(secs => %(s)s::float8) WHERE id = %(id)s"  # noqa: S608
        )
        await self._rows(query, id=saga_id, s=seconds)

    @override
    async def expire_key(self, saga_id: UUID) -> None:
        await self._rows(
            "UPDATE idempotency SET expires_at = clock_timestamp() - interval '1 s' WHERE saga_id = %(id)s",
            id=saga_id,
        )

    @override
    async def expire_replica(self, replica: str, seconds_ago: float) -> None:
        await self._rows(
            "UPDATE replica SET expires_at = clock_timestamp() - make_interval(secs => %(s)s::float8)"
            " WHERE id = %(id)s",
            id=replica,
            s=seconds_ago,
        )

    @override
    async def due_at(self, saga_id: UUID) -> float:
        query = "SELECT extract(epoch FROM next_run)::float8 AS due FROM saga WHERE id = %(id)s"
        return float((await self._rows(query, id=saga_id))[0]["due"])

    @override
    async def archived(self) -> list[UUID]:
        return [row["id"] for row in await self._rows("SELECT id FROM saga_archive ORDER BY id")]

    @override
    async def replicas(self) -> list[str]:
        return [row["id"] for row in await self._rows("SELECT id FROM replica ORDER BY id")]


class MemoryLogs(Logs):
    """Journals on a store in memory, by this host's clock."""

    def __init__(self) -> None:
        self.store = MemoryStore(_now)

    @override
    def of(self, replica: str, drives: Collection[str] | None = None) -> SagaLog:
        return MemoryJournal(self.store, replica, archive_after=ARCHIVE_AFTER, drives=drives)

    @override
    async def move_back(self, saga_id: UUID, column: str, seconds: float) -> None:
        assert column in TIMES
        row = self.store.sagas[saga_id]
        setattr(row, column, getattr(row, column) - seconds)

    @override
    async def expire_key(self, saga_id: UUID) -> None:
        for name in self.store.names.values():
            if name.saga_id == saga_id:
                name.expires_at = _now() - 1

    @override
    async def expire_replica(self, replica: str, seconds_ago: float) -> None:
        self.store.replicas[replica] = _now() - seconds_ago

    @override
    async def due_at(self, saga_id: UUID) -> float:
        return self.store.sagas[saga_id].next_run

    @override
    async def archived(self) -> list[UUID]:
        return sorted(self.store.archive)

    @override
    async def replicas(self) -> list[str]:
        return sorted(self.store.replicas)


def _now() -> float:
    return SystemClock().now().timestamp()


@asynccontextmanager
async def opened(name: str, new_dsn: Callable[[], str]) -> AsyncIterator[Logs]:
    """Open the log of that name: "postgres" or "memory"."""
    if name == "memory":
        yield MemoryLogs()
        return
    async with AsyncExitStack() as stack:
        database = await Database.open(new_dsn(), application_name="contract")
        stack.push_async_callback(database.close)
        logs = PostgresLogs(database)
        try:
            yield logs
        finally:
            for task in logs.tasks:
                task.cancel()
            await asyncio.gather(*logs.tasks, return_exceptions=True)
