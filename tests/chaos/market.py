"""A suite with replicas to spare, each with a short lease, and what heals it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.suite import EMBEDDED, Suite
from tests.chaos.replicas import DOOMED, HEALTHY, REPLICAS
from tests.e2e.shoppers import Market

LEASE_VARIABLE = "SAGACITY_ORCHESTRATOR_LEASE_SECONDS"
LEASE_SECONDS = 1.0
LEASE = {LEASE_VARIABLE: str(LEASE_SECONDS)}
# Long enough that an order is under way when something is stopped.
SLOW = {"SAGACITY_PAYMENTS_SIMULATED_SLOW_SECONDS": "1.5"}


@asynccontextmanager
async def replicated_market(folder: Path) -> AsyncIterator[Market]:
    """A market with two orchestrators that stay, and three on standby that a test may start and kill."""
    suite = Suite(
        folder,
        kafka=EMBEDDED,
        orchestrators=REPLICAS,
        standby=DOOMED,
        overrides=dict.fromkeys((*HEALTHY, *DOOMED), LEASE) | {"payments": SLOW},
        fsync=False,
        sample_data=False,
    )
    await suite.start()
    try:
        async with Market(suite) as opened:
            yield opened
    finally:
        await suite.abort()


async def heal(suite: Suite) -> None:
    """Kill what is on standby, start what should run and does not, and wait until it is ready."""
    for name in set(suite.names) - set(suite.standing):
        suite.kill(name)
    for name in suite.standing:
        suite.resume(name)
        if suite.process(name).pid is None:
            suite.start_process(name)
    for name in suite.standing:
        await suite.wait_ready(name)
