"""What must hold at every moment, and not only at the end: looked at again and again while faults happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg

from deploy.local.suite import Suite
from tests.e2e.books import rows, select
from tests.e2e.queries import QUERIES

PAUSE_SECONDS = 0.2
LIVE = ("I11", "I12")


class LiveWatch:
    """Samples the stock (I11, I12) and who drives which saga (I17); `broken` is what it has seen go wrong."""

    def __init__(self, suite: Suite) -> None:
        self.broken: list[str] = []
        self.looks = 0
        self._suite = suite
        self._owners: dict[tuple[str, int], str] = {}
        self._epochs: dict[str, int] = {}

    async def run(self) -> None:
        """Look until cancelled; a database that is away is looked at later."""
        while True:
            with suppress(psycopg.OperationalError):
                await self.look()
            await asyncio.sleep(PAUSE_SECONDS)

    async def look(self) -> None:
        """Look once."""
        for invariant in LIVE:
            found = await select(self._suite.dsn("inventory"), QUERIES["inventory"][invariant])
            self.broken += [f"{invariant}: {sku}" for sku in found]
        for saga in await rows(self._suite.dsn("sagas"), "SELECT id::text, epoch, owner FROM saga"):
            saga_id, epoch, owner = saga["id"], saga["epoch"], saga["owner"]
            if epoch < self._epochs.get(saga_id, 0):
                self.broken.append(f"I17: the epoch of saga {saga_id} went down to {epoch}")
            self._epochs[saga_id] = epoch
            if owner and self._owners.setdefault((saga_id, epoch), owner) != owner:
                self.broken.append(f"I17: saga {saga_id} has two owners in epoch {epoch}")
        self.looks += 1


@asynccontextmanager
async def watched(suite: Suite) -> AsyncIterator[LiveWatch]:
    """Watch a suite for as long as the block lasts."""
    watch = LiveWatch(suite)
    watching = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()
