"""Who drives what: a replica's lease, the sweep for what nobody drives, and the hand-over at a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from chassis.errors import Fault
from chassis.postgres import Database
from orchestrator import statements as sql
from orchestrator.executor import Executor

RENEW_SECONDS = 1.0
SWEEP_SECONDS = 0.5
SWEEP_BATCH = 64
PRUNE_SECONDS = 60.0
PRUNE_BATCH = 1_000

log = structlog.get_logger(__name__)


class Leases:
    """The lease of one replica. All times are the database's."""

    def __init__(self, database: Database, executor: Executor, replica: str, *, lease_seconds: float) -> None:
        self._database = database
        self._executor = executor
        self._replica = replica
        self._lease_seconds = lease_seconds
        self._newest_first = False

    async def renew(self) -> None:
        """Say that this replica lives, for another lease; raises Fault where the database is away."""
        await self._database.fetch(sql.RENEW_REPLICA, {"id": self._replica, "lease": self._lease_seconds})

    async def run(self) -> None:
        """Renew, sweep and prune until cancelled; a database that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self._repeat(self.renew, min(RENEW_SECONDS, self._lease_seconds / 3)), name="lease-renew"
            )
            group.create_task(self._repeat(self.sweep, SWEEP_SECONDS), name="lease-sweep")
            group.create_task(self._repeat(self.prune, PRUNE_SECONDS), name="lease-prune")

    async def sweep(self) -> None:
        """Claim and drive sagas that are due and that nobody drives, newest and oldest first in turn.

        The turns keep a saga that fails at once, again and again, from starving the rest.
        """
        limit = min(self._executor.capacity, SWEEP_BATCH)
        if limit <= 0:
            return
        self._newest_first = not self._newest_first
        statement = sql.CLAIM_NEWEST if self._newest_first else sql.CLAIM_OLDEST
        params = {"replica": self._replica, "in_memory": self._executor.in_memory, "limit": limit}
        rows = await self._database.fetch(statement, params)
        if rows:
            log.info("sagas_claimed", count=len(rows))
        for row in rows:
            self._executor.resume(row["id"])

    async def prune(self) -> None:
        """Forget keys whose time is over and replicas that are long gone, a bounded number at a time."""
        await self._database.fetch(sql.PRUNE_KEYS, {"limit": PRUNE_BATCH})
        await self._database.fetch(sql.REMOVE_EXPIRED_REPLICAS, {"lease": self._lease_seconds})

    async def hand_over(self) -> None:
        """Give this replica's sagas to whoever sweeps next; the raised epoch fences the rest."""
        await self._database.fetch(sql.REMOVE_REPLICA, {"id": self._replica})

    async def _repeat(self, action: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                await action()
            except Fault as fault:
                log.warning("lease_action_failed", action=action.__name__, reason=fault.reason)
            await asyncio.sleep(seconds)
