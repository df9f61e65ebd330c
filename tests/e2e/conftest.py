"""The whole suite as real processes: one for the gentle tests, one for those that kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.local.kafka import ApacheKafka
from deploy.local.suite import EMBEDDED, MAVEN, Suite
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
    """A suite that nothing is done to, on the session's Kafka, and its customers."""
    kafka = str(request.getfixturevalue("kafka_bootstrap_servers")) if kafka_source() else EMBEDDED
    suite = Suite(tmp_path_factory.mktemp("suite"), kafka=kafka, fsync=False)
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
    await heal(stormy_market.suite)
    async with watched(stormy_market.suite) as watch:
        yield stormy_market
    assert watch.looks > 0
    assert watch.broken == []


async def heal(suite: Suite) -> None:
    """Start whatever does not run, and wait until all of it is ready."""
    if suite.postgres.pid is None:
        suite.postgres.launch()
        await asyncio.to_thread(suite.postgres.wait_ready)
    if suite.broker.pid is None and isinstance(suite.broker, ApacheKafka):
        suite.broker.launch()
        await asyncio.to_thread(suite.broker.wait_ready)
    for name in suite.names:
        if suite.process(name).pid is None:
            suite.start_process(name)
    for name in suite.names:
        await suite.wait_ready(name)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the checkout."""
    return Path(__file__).resolve().parents[2]
