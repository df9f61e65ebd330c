"""The whole suite as real processes: one for the gentle tests, one for those that kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.kafka import ApacheKafka
from deploy.local.suite import EMBEDDED, MAVEN, Suite
from tests.chaos.market import heal, replicated_market
from tests.conftest import JARS, kafka_source, maven_works
from tests.e2e.live_watch import watched
from tests.e2e.shoppers import Market

LEASE = {"SAGACITY_ORCHESTRATOR_LEASE_SECONDS": "1"}
# Long enough that an order is under way when something is killed.
SLOW = {"SAGACITY_PAYMENTS_SIMULATED_SLOW_SECONDS": "1.5"}


@pytest.fixture(scope="package")
async def market(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Market]:
    """A suite that nothing is done to, with two orchestrators, on the session's Kafka, and its customers."""
    kafka = str(request.getfixturevalue("kafka_bootstrap_servers")) if kafka_source() else EMBEDDED
    suite = Suite(tmp_path_factory.mktemp("suite"), kafka=kafka, orchestrators=2, fsync=False)
    await suite.start()
    try:
        async with Market(suite) as opened:
            yield opened
    finally:
        await suite.abort()


@pytest.fixture(scope="module")
async def stormy_market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    """A suite with two orchestrators, short leases and a Kafka of its own, where there can be one."""
    suite = Suite(
        tmp_path_factory.mktemp("stormy-suite"),
        kafka=MAVEN if maven_works() else EMBEDDED,
        jars=JARS,
        orchestrators=2,
        overrides={"orchestrator": LEASE, "orchestrator-2": LEASE, "payments": SLOW},
        fsync=False,
        sample_data=False,
    )
    await suite.start()
    try:
        async with Market(suite) as opened:
            yield opened
    finally:
        await suite.abort()


@pytest.fixture
async def storm(stormy_market: Market) -> AsyncIterator[Market]:
    """The stormy market with everything running, whatever the test before has left; watched all the time."""
    await heal_servers(stormy_market.suite)
    await heal(stormy_market.suite)
    async with watched(stormy_market.suite) as watch:
        yield stormy_market
    assert watch.looks > 0
    assert watch.broken == []


async def heal_servers(suite: Suite) -> None:
    """Start PostgreSQL and the broker where they do not run."""
    if suite.postgres.pid is None:
        suite.postgres.launch()
        await asyncio.to_thread(suite.postgres.wait_ready)
    if suite.broker.pid is None and isinstance(suite.broker, ApacheKafka):
        suite.broker.launch()
        await asyncio.to_thread(suite.broker.wait_ready)


@pytest.fixture(scope="module")
async def spare_market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    """A market with two orchestrators that stay, and some that a test may start and kill."""
    async with replicated_market(tmp_path_factory.mktemp("spare-suite")) as opened:
        yield opened


@pytest.fixture
async def arena(spare_market: Market) -> AsyncIterator[Market]:
    """The market with replicas to spare, with everything healed, watched all the time."""
    await heal(spare_market.suite)
    async with watched(spare_market.suite) as watch:
        yield spare_market
    assert watch.looks > 0
    assert watch.broken == []


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the checkout."""
    return Path(__file__).resolve().parents[2]
