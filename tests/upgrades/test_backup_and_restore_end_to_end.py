"""Databases that are restored: all to the last commit or to a moment, and one of them alone.

One suite goes through all of it; each test begins with what the one before has left, healed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chassis.ids import new_id
from deploy.local.suite import MAVEN, Suite
from tests.chaos.market import LEASE, SLOW, heal
from tests.conftest import ENVIRONMENT
from tests.e2e.books import read_books, select
from tests.e2e.eventually import eventually
from tests.e2e.invariants import broken_invariants, prove_everything, unsettled
from tests.e2e.shoppers import Journal, Market
from tests.upgrades.backups import Backups
from tests.upgrades.previous_release import REPOSITORY
from tests.upgrades.shopping import shopping

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(600)]

CONTEXTS = ("users", "inventory", "payments", "orders")
COMMAND_SECONDS = 120
UNDER_WAY = "SELECT id FROM saga WHERE state = 'RUNNING' AND seq > 6"


@pytest.fixture(scope="module")
async def restored_market(
    tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path
) -> AsyncIterator[Market]:
    """A suite of its own, whose databases may be lost."""
    suite = Suite(
        tmp_path_factory.mktemp("restored-suite"),
        kafka=MAVEN,
        jars=kafka_jars,
        overrides={"orchestrator": LEASE, "payments": SLOW},
        fsync=False,
        sample_data=False,
    )
    await suite.start()
    try:
        async with Market(suite) as market:
            yield market
    finally:
        await suite.abort()


@pytest.fixture
async def shop_floor(restored_market: Market, tmp_path: Path) -> AsyncIterator[tuple[Market, Backups]]:
    """The market, with everything running and a base backup of now."""
    await heal(restored_market.suite)
    backups = Backups(restored_market.suite.postgres, tmp_path)
    try:
        await backups.start_receiving()
        await asyncio.to_thread(backups.take_base)
        yield restored_market, backups
    finally:
        backups.stop_receiving()


def recovery(suite: Suite, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of deploy.recovery, with the settings of the processes."""
    variables = {f"SAGACITY_{name.upper()}_DATABASE_DSN": suite.dsn(name) for name in CONTEXTS}
    variables["SAGACITY_ORCHESTRATOR_DATABASE_DSN"] = suite.dsn("sagas")
    variables["SAGACITY_KAFKA_BOOTSTRAP_SERVERS"] = suite.broker.bootstrap_servers
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )


def as_it_was_told(journal: Journal, answers: list[int]) -> Journal:
    """The journal with what its clients knew when each of its intents had so many answers, and no more."""
    counts = [*answers, *([0] * (len(journal.intents) - len(answers)))]
    return Journal(
        intents=[
            dataclasses.replace(intent, answers=intent.answers[:count])
            for intent, count in zip(journal.intents, counts, strict=True)
        ],
        users=journal.users,
        requests=[dataclasses.replace(request, answers=[]) for request in journal.requests],
    )


async def test_all_databases_go_back_to_one_moment_and_kafka_is_cut_to_it(
    shop_floor: tuple[Market, Backups], tmp_path: Path
) -> None:
    """What was acknowledged before the moment is there; what Kafka has of later is found and taken out."""
    market, backups = shop_floor
    suite = market.suite
    async with shopping(market) as shop:
        await shop.goes_on()
        await eventually(lambda: select(suite.dsn("sagas"), UNDER_WAY))
        told = [len(intent.answers) for intent in market.journal.intents]
        moment = backups.now()
        await shop.goes_on(5)
    await eventually(lambda: unsettled(suite), until=lambda under_way: not under_way)
    after = len((await read_books(suite)).orders)
    for name in reversed(suite.names):
        await suite.stop_process(name)
    await asyncio.to_thread(backups.end_the_server)
    await backups.restore(until=moment)
    before = await read_books(suite)
    lost = {event for event in before.events if event.sequence > before.facts.get(event[:2], 0)}
    assert len(before.orders) < after
    assert lost, "Kafka knows of nothing that the databases do not: the fault did not fire"

    folder = str(tmp_path / "topics")
    looked = recovery(suite, "deploy.recovery.topics", "--dry-run", folder)
    cut = recovery(suite, "deploy.recovery.topics", folder)
    assert cut.returncode == 0, cut.stderr
    assert cut.stdout.startswith(looked.stdout)
    assert sum(int(line.split(" known, ")[1].split()[0]) for line in looked.stdout.splitlines()) == len(lost)
    assert "is not empty" in recovery(suite, "deploy.recovery.topics", folder).stderr
    again = recovery(suite, "deploy.recovery.topics", "--resume", folder)
    assert again.stdout == "".join(f"sagacity.{context}.v1: done before\n" for context in CONTEXTS), (
        again.stderr
    )
    for name in suite.names:
        suite.start_process(name)
    for name in suite.names:
        await suite.wait_ready(name)
    await eventually(lambda: unsettled(suite), until=lambda under_way: not under_way)
    assert await broken_invariants(suite, as_it_was_told(market.journal, told)) == []
    assert recovery(suite, "deploy.recovery.invariants").stdout == "0 broken\n"
    # What was published since is not deleted by a folder of before.
    late = recovery(suite, "deploy.recovery.topics", "--resume", folder)
    assert (late.returncode, "somebody has published since" in late.stderr) == (1, True)
    # From here on the clients know better: nobody was told of these any more.
    market.journal = as_it_was_told(market.journal, told)


async def test_a_lost_server_comes_back_with_every_order_that_was_acknowledged(
    shop_floor: tuple[Market, Backups],
) -> None:
    """P5, P8: the processes go on as after a crash; sagas that were in flight come to their end.

    The server went back to a moment before (the test above): that moment must not end this recovery.
    """
    market, backups = shop_floor
    suite = market.suite
    async with shopping(market) as shop:
        await shop.goes_on(5)
        in_flight = await eventually(lambda: select(suite.dsn("sagas"), UNDER_WAY))
        timeline = backups.timeline()
        await asyncio.to_thread(backups.lose_everything)
        await backups.restore()
        assert backups.timeline() == timeline + 1
        await shop.goes_on(5)
    known = await select(
        suite.dsn("sagas"), "SELECT id FROM saga WHERE id = ANY (%(ids)s::uuid[])", ids=in_flight
    )
    assert sorted(known) == sorted(in_flight)
    await prove_everything(suite, market.journal)
    assert recovery(suite, "deploy.recovery.invariants").stdout == "0 broken\n"


async def test_one_database_that_went_back_alone_is_found_out(
    shop_floor: tuple[Market, Backups], tmp_path: Path
) -> None:
    """What it forgot is named, order by order."""
    market, backups = shop_floor
    suite = market.suite
    shopper, sku = await market.shopper(), await market.product(stock=10)
    dump = tmp_path / "inventory.dump"
    backups.dump(suite.dsn("inventory"), dump)
    answer = await shopper.insist({sku: 1}, key=str(new_id()))
    assert answer.status == 201
    await eventually(lambda: unsettled(suite), until=lambda under_way: not under_way)
    later = tmp_path / "later.dump"
    backups.dump(suite.dsn("inventory"), later)
    await suite.stop_process("inventory")
    backups.load(suite.dsn("inventory"), dump)
    found = recovery(suite, "deploy.recovery.invariants")
    assert found.returncode == 1
    assert f"I6  order {answer.order_id} is CONFIRMED, its stock None" in found.stdout
    backups.load(suite.dsn("inventory"), later)
    assert recovery(suite, "deploy.recovery.invariants").stdout == "0 broken\n"
