"""The saga log of one replica on a store in memory: what `orchestrator.journal` is on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from typing_extensions import override

from chassis.errors import Fault
from orchestrator.entries import Command, Entry, Event
from orchestrator.journal import DEFAULT_ARCHIVE_AFTER, WRITE_ATTEMPTS, WRITE_RETRY_SECONDS
from orchestrator.saga_log import Acceptance, Accepted, Holder, SagaLog, SagaRow, Standing, Written
from tests.simulation.memory_store import MemoryStore

Answer = TypeVar("Answer")


class Link(Protocol):
    """The way from a replica to the store."""

    async def ask(self, transaction: Callable[[], Answer]) -> Answer:
        """Run a transaction at the store; raises Fault UNAVAILABLE where it ran, or not."""


class DirectLink(Link):
    """A way on which nothing is lost."""

    @override
    async def ask(self, transaction: Callable[[], Answer]) -> Answer:
        await asyncio.sleep(0)
        return transaction()


class MemoryJournal(SagaLog):
    """One replica's view of the store."""

    def __init__(
        self,
        store: MemoryStore,
        replica: str,
        link: Link | None = None,
        *,
        archive_after: timedelta = DEFAULT_ARCHIVE_AFTER,
        drives: Collection[str] | None = None,
    ) -> None:
        self.store = store
        self.replica = replica
        self.freed = asyncio.Event()
        self._link = link or DirectLink()
        self._archive_after = archive_after
        self._drives = drives

    @override
    async def accept(self, acceptance: Acceptance) -> Accepted:
        return await self._link.ask(lambda: self.store.accept(acceptance))

    @override
    async def accept_behind(self, acceptance: Acceptance) -> Accepted:
        return await self._link.ask(lambda: self.store.accept_behind(acceptance))

    @override
    async def find(self, acceptance: Acceptance) -> Accepted | None:
        return await self._link.ask(lambda: self.store.find(acceptance))

    @override
    async def holder(self, key: UUID) -> Holder | None:
        return await self._link.ask(lambda: self.store.holder(key))

    @override
    async def write(self, entry: Entry) -> Written:
        for attempt in range(WRITE_ATTEMPTS):
            try:
                if await self._commit(entry):
                    return Written.YES
                break
            except Fault:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(WRITE_RETRY_SECONDS)
        landed = await self._link.ask(lambda: self.store.landed(entry))
        return Written.YES if landed else Written.FENCED

    async def _commit(self, entry: Entry) -> bool:
        written = await self._link.ask(lambda: self.store.write(entry, self.replica))
        if self.replica in self.store.started_by:
            self.store.started_by.discard(self.replica)
            self.freed.set()
        return written

    @override
    async def command(self, command: Command, *, owner: str) -> int | None:
        return await self._link.ask(lambda: self.store.command(command, owner))

    @override
    async def postpone(self, saga_id: UUID, epoch: int, seconds: float) -> None:
        await self._link.ask(lambda: self.store.postpone(saga_id, epoch, seconds, self.replica))

    @override
    async def load(self, saga_id: UUID) -> tuple[SagaRow, list[Event]]:
        # Two statements there, two here: what is written between them does not fit the row.
        row = await self._link.ask(lambda: self.store.load_row(saga_id))
        events = await self._link.ask(lambda: self.store.load_events(saga_id))
        return row, events[: row.sequence]

    @override
    async def standing(self, saga_id: UUID) -> Standing:
        return await self._link.ask(lambda: self.store.standing(saga_id))

    @override
    async def renew(self, lease_seconds: float) -> None:
        await self._link.ask(lambda: self.store.renew(self.replica, lease_seconds))

    @override
    async def claim(self, in_memory: Collection[UUID], *, limit: int, newest_first: bool) -> Sequence[UUID]:
        names = frozenset(in_memory)  # as it is now: what comes meanwhile is kept by the grace
        return await self._link.ask(
            lambda: self.store.claim(
                self.replica, names, limit=limit, newest_first=newest_first, drives=self._drives
            )
        )

    @override
    async def wake(self, participant: str) -> None:
        await self._link.ask(lambda: self.store.wake(participant))

    @override
    async def hand_over(self) -> None:
        await self._link.ask(lambda: self.store.hand_over(self.replica))

    @override
    async def prune(self, lease_seconds: float) -> bool:
        seconds = self._archive_after.total_seconds()
        return await self._link.ask(lambda: self.store.prune(lease_seconds, seconds))
