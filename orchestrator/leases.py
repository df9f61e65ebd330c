"""Who drives what: a replica's lease, the sweep for what nobody drives, and the hand-over at a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from chassis.errors import Fault
from orchestrator import metrics
from orchestrator.executor import Executor
from orchestrator.saga_log import SagaLog

RENEW_SECONDS = 1.0
SWEEP_SECONDS = 0.5
SWEEP_BATCH = 64
# A sweep that finds much goes on at once, within this bound.
MAX_SWEEPS_IN_A_ROW = 16
PRUNE_SECONDS = 60.0
# A thousand at a time: enough for what two thousand sagas a second leave behind.
MAX_PRUNES_IN_A_ROW = 128

log = structlog.get_logger(__name__)


class Leases:
    """The lease of one replica. All times that matter are the journal's."""

    def __init__(self, journal: SagaLog, executor: Executor, *, lease_seconds: float) -> None:
        self._journal = journal
        self._executor = executor
        self._lease_seconds = lease_seconds
        self._newest_first = False
        self._renewed_at: float | None = None

    async def renew(self) -> None:
        """Say that this replica lives, for another lease; raises Fault where the journal is away."""
        loop = asyncio.get_running_loop()
        await self._journal.renew(self._lease_seconds)
        # Only told, never acted upon: the fence is what keeps a replica that slept from doing harm.
        if self._renewed_at is not None and loop.time() - self._renewed_at > self._lease_seconds:
            metrics.LEASE_LOSSES.inc()
            log.warning("lease_was_lost", seconds=round(loop.time() - self._renewed_at, 1))
        self._renewed_at = loop.time()

    async def run(self) -> None:
        """Renew, sweep and prune until cancelled; a journal that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self._repeat(self.renew, min(RENEW_SECONDS, self._lease_seconds / 3)), name="lease-renew"
            )
            freed = self._journal.freed
            group.create_task(self._repeat(self.sweep, SWEEP_SECONDS, wake=freed), name="lease-sweep")
            group.create_task(self._repeat(self.prune, PRUNE_SECONDS), name="lease-prune")

    async def sweep(self) -> None:
        """Claim and drive sagas that are due and that nobody drives, newest and oldest first in turn.

        The turns keep a saga that fails at once, again and again, from starving the rest.
        """
        for _ in range(MAX_SWEEPS_IN_A_ROW):
            limit = min(self._executor.capacity, SWEEP_BATCH)
            if limit <= 0:
                return
            self._newest_first = not self._newest_first
            claimed = await self._journal.claim(
                self._executor.in_memory, limit=limit, newest_first=self._newest_first
            )
            if claimed:
                metrics.CLAIMED.inc(len(claimed))
                log.info("sagas_claimed", count=len(claimed))
            for saga_id in claimed:
                self._executor.resume(saga_id)
            if len(claimed) < limit:
                return

    async def prune(self) -> None:
        """Forget keys whose time is over and replicas that are long gone, and archive old finished sagas."""
        for _ in range(MAX_PRUNES_IN_A_ROW):
            if not await self._journal.prune(self._lease_seconds):
                return

    async def hand_over(self) -> None:
        """Give this replica's sagas to whoever sweeps next; the raised epoch fences the rest."""
        await self._journal.hand_over()

    async def _repeat(
        self, action: Callable[[], Awaitable[None]], seconds: float, *, wake: asyncio.Event | None = None
    ) -> None:
        """Do it every so many seconds, and at once when `wake` is set."""
        wake = wake or asyncio.Event()
        while True:
            wake.clear()
            try:
                await action()
            except Fault as fault:
                log.warning("lease_action_failed", action=action.__name__, reason=fault.reason)
            except Exception:
                # A bug in one round must not end the lease: without renewals every saga would change hands.
                log.exception("lease_action_failed", action=action.__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await wake.wait()
