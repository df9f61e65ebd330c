"""The projection follows the orders, and is rebuilt beside itself while they change, whatever dies (P7)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chassis.config import environment
from chassis.identity import new_key_pair
from chassis.projections import ProjectionState
from chassis.telemetry import REGISTRY
from services.orders.domain import OrderState
from services.orders.history import generations, rebuilding
from services.orders.history.generations import GenerationState
from services.orders.history.listing import read_page
from services.orders.history.search import OrderSearch
from tests.integration.orders.history_world import HistoryWorld, history_world
from tests.integration.orders.shop import fill_shop

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

ROOT = Path(__file__).resolve().parents[3]
OLD_ORDERS = 3_000
# So many that copying them takes longer than the lives of the processes that do it.
MANY_ORDERS = 40_000
KILLED_AT = (5_000, 15_000, 25_000)
SEARCHES = [OrderSearch(), *(OrderSearch(states=frozenset({state})) for state in OrderState)]


@pytest.fixture
async def world(
    new_database: Callable[..., str], kafka_bootstrap_servers: str
) -> AsyncIterator[HistoryWorld]:
    async with history_world(new_database("services.orders"), kafka_bootstrap_servers) as opened:
        yield opened


@pytest.fixture
async def old_world(
    new_database: Callable[..., str], kafka_bootstrap_servers: str
) -> AsyncIterator[HistoryWorld]:
    """A database that was upgraded: it has orders, and no generation of them yet."""
    dsn = new_database("services.orders")
    fill_shop(dsn, OLD_ORDERS)
    async with history_world(dsn, kafka_bootstrap_servers) as opened:
        await opened.rows("UPDATE order_listing_generation SET state = 'COPYING'")
        await opened.rows("UPDATE order_listing_head SET active_generation = 0")
        yield opened


async def test_the_first_generation_of_an_empty_database_follows_the_events(world: HistoryWorld) -> None:
    async with world.replica():
        for _ in range(20):
            await world.writer.write()
        await world.until_equal(1)
    assert await world.active() == 1
    assert (await world.projection.status(world.database)).state is ProjectionState.SERVING


async def test_orders_of_an_older_release_become_the_first_generation(old_world: HistoryWorld) -> None:
    async with old_world.replica(), old_world.replica():
        await old_world.writer.write()
        await old_world.until(old_world.active)
        await old_world.writer.write()
        await old_world.until_equal(1)
    status = await old_world.projection.status(old_world.database)
    assert (status.active_generation, status.copied >= OLD_ORDERS) == (1, True)
    assert status.switch_time is not None


async def test_a_rebuild_under_writes_ends_with_what_the_orders_say(old_world: HistoryWorld) -> None:
    """Two replicas; every list is the same from the old generation and from the new one."""
    done = asyncio.Event()
    async with old_world.replica(), old_world.replica(), asyncio.TaskGroup() as group:
        await old_world.until(old_world.active)
        for _ in range(2):
            group.create_task(old_world.writer.write_until(done))
        number = await old_world.rebuild()
        assert await old_world.rebuild() == number  # which is being built already
        generation = await old_world.generation(1)
        assert generation is not None
        assert generation.active

        async def switched() -> bool:
            return await old_world.active() == number

        before = old_world.writer.orders
        await old_world.until(switched)
        assert old_world.writer.orders > before
        done.set()
    await after_the_switch(old_world, number)


async def after_the_switch(world: HistoryWorld, number: int) -> None:
    async with world.replica():
        await world.until_equal(number)
        letters = await world.rows("SELECT * FROM dead_letter")
        assert letters == []
        assert await every_list(world) == await lists_of_a_copy(world)


async def every_list(world: HistoryWorld) -> list[list[Any]]:
    return [[order.id for order in await whole(world, search)] for search in SEARCHES]


async def whole(world: HistoryWorld, search: OrderSearch) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        page = await read_page(world.database, search, after, size=200)
        found += page.orders
        after = page.end
        if after is None:
            return found


async def lists_of_a_copy(world: HistoryWorld) -> list[list[Any]]:
    number = await world.rebuild()

    async def switched() -> bool:
        return await world.active() == number

    await world.until(switched)
    return await every_list(world)


async def test_the_old_generation_serves_until_the_new_one_has_caught_up_and_is_deleted_then(
    old_world: HistoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "COPY_PACE_SECONDS", 0.2)
    monkeypatch.setattr(rebuilding, "RETIRED_FOR", timedelta(0))
    async with old_world.replica():
        await old_world.until(old_world.active)
        wanted = await every_list(old_world)
        number = await old_world.rebuild()

        async def copying() -> bool:
            found = await old_world.generation(number)
            return found is not None and 0 < found.copied < OLD_ORDERS

        await old_world.until(copying)
        status = await old_world.projection.status(old_world.database)
        assert (status.state, status.active_generation) == (ProjectionState.COPYING, 1)
        assert await every_list(old_world) == wanted

        async def deleted() -> bool:
            return await old_world.generation(1) is None

        await old_world.until(deleted)
        assert await every_list(old_world) == wanted
    assert await old_world.rows("SELECT 1 AS n FROM order_listing WHERE generation = 1 LIMIT 1") == []
    assert await old_world.rows("SELECT 1 AS n FROM inbox WHERE generation = 1 LIMIT 1") == []


async def test_a_generation_that_could_not_apply_something_is_not_switched_to(
    old_world: HistoryWorld,
) -> None:
    async with old_world.replica():
        await old_world.until(old_world.active)
        number = await old_world.rebuild()
        consumer = generations.consumer_of(number)
        halt = """
            INSERT INTO dead_letter (consumer, generation, aggregate, sequence, event_id, type,
                aggregate_type, aggregate_id, payload, topic, partition, kafka_offset, error)
            VALUES (%(consumer)s, %(number)s, 'a', 1, '', 'OrderPlaced', '', '', '', '', 0, 0, ''),
                (%(consumer)s, %(number)s, 'junk', 1, '', '', 'unreadable', '0', '', '', 0, 0, '')
        """
        await old_world.rows(halt, consumer=consumer, number=number)

        async def following() -> bool:
            found = await old_world.generation(number)
            return found is not None and found.state is GenerationState.FOLLOWING

        await old_world.until(following)
        assert await old_world.active() == 1
        # A record that is no event holds nothing up, and stays.
        await old_world.rows(
            "DELETE FROM dead_letter WHERE consumer = %(consumer)s AND type <> ''", consumer=consumer
        )

        async def switched() -> bool:
            return await old_world.active() == number

        await old_world.until(switched)


async def test_a_generation_that_halted_and_was_replaced_is_shown_no_more(old_world: HistoryWorld) -> None:
    """Its alarm would be one that nobody can end: there is no consumer to resume."""
    retired = generations.consumer_of(1)

    def series(group: str) -> set[str]:
        return {
            sample.name
            for family in REGISTRY.collect()
            for sample in family.samples
            if sample.labels.get("group") == group
        }

    async def halted() -> bool:
        labels = {"group": retired, "state": "HALTED"}
        return REGISTRY.get_sample_value("sagacity_consumer_stopped", labels) == 1

    async with old_world.replica():
        await old_world.until(old_world.active)
        await old_world.rows(
            "INSERT INTO consumer_control (consumer, generation, state) VALUES (%(consumer)s, 1, 'HALTED')",
            consumer=retired,
        )
        await old_world.writer.write()
        await old_world.until(halted)
        number = await old_world.rebuild()

        async def forgotten() -> bool:
            return await old_world.active() == number and not series(retired)

        await old_world.until(forgotten)
        assert "sagacity_consumer_stopped" in series(generations.consumer_of(number))


@asynccontextmanager
async def process(world: HistoryWorld, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of the orders context that is killed at the end of the block."""
    pairs = {name: new_key_pair(name) for name in ("orchestrator", "orders")}
    (folder / "keys.json").write_text(json.dumps({"keys": [public for _, public in pairs.values()]}))
    (folder / "orders.pem").write_text(pairs["orders"][0])
    ours = {
        "SAGACITY_ORDERS_DATABASE_DSN": world.dsn,
        "SAGACITY_ORDERS_LISTEN": "127.0.0.1:0",
        "SAGACITY_ORDERS_IDENTITY_KEY_FILE": str(folder / "orders.pem"),
        "SAGACITY_IDENTITY_KEYS_FILE": str(folder / "keys.json"),
        "SAGACITY_KAFKA_BOOTSTRAP_SERVERS": world.servers,
        "SAGACITY_ORCHESTRATOR_ADDRESS": "127.0.0.1:1",
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.orders"),
        cwd=ROOT,
        env={**environment(), **ours},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        assert started.returncode is None  # it lived until now
        started.kill()
        await started.wait()


async def test_a_rebuild_goes_on_where_a_killed_process_left_it(
    new_database: Callable[..., str], kafka_bootstrap_servers: str, tmp_path: Path
) -> None:
    dsn = new_database("services.orders")
    fill_shop(dsn, MANY_ORDERS)
    async with history_world(dsn, kafka_bootstrap_servers) as world:
        number = await world.rebuild()
        for least in KILLED_AT:

            async def copied(least: int = least) -> bool:
                found = await world.generation(number)
                return found is not None and found.copied >= least

            async with process(world, tmp_path):
                await world.until(copied)
                await world.writer.write()
            found = await world.generation(number)
            assert found is not None
            assert found.copied < MANY_ORDERS  # it was killed in the middle

        async def switched() -> bool:
            return await world.active() == number

        async with process(world, tmp_path):
            await world.until(switched)
        await world.writer.write()
        async with process(world, tmp_path):
            await world.until_equal(number)
        assert await world.rows("SELECT * FROM dead_letter") == []
