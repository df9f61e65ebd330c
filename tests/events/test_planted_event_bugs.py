"""The checker is examined: bugs that others shipped are planted, and it has to find each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from tests.conftest import NewDatabase
from tests.e2e.eventually import eventually
from tests.events.checker import Kind, broken, kinds
from tests.events.processes import Children, children_of
from tests.events.world import World, new_world
from tests.events.writers import Writers

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.timeout(300)]

WRITERS = 20
EVENTS = 300


@pytest.fixture
async def world(new_database: NewDatabase, kafka_bootstrap_servers: str) -> AsyncIterator[World]:
    async with new_world(new_database, kafka_bootstrap_servers) as made:
        yield made


@pytest.fixture
async def children(world: World) -> AsyncIterator[Children]:
    async with children_of(world) as made:
        yield made


async def written(world: World, seed: int) -> Writers:
    """Write EVENTS events."""
    writers = Writers(world, seed, writers=WRITERS, events=EVENTS)
    writers.enough.set()
    await writers.run()
    return writers


async def last_position_is_published(world: World) -> bool:
    """Whether the relay that never deletes has been everywhere."""
    async with await psycopg.AsyncConnection.connect(world.source_dsn) as connection:
        found = await connection.execute("SELECT id::text FROM outbox ORDER BY position DESC LIMIT 1")
        row = await found.fetchone()
    assert row is not None
    return row[0] in {published.fact.event_id for published in await world.published()}


async def every_partition_is_applied_to_its_end(world: World) -> bool:
    """Whether the consumer has been everywhere: the last message of each partition has its effect."""
    last = {published.partition: published.fact for published in await world.published()}
    return set(last.values()) <= set(await world.effects())


async def test_a_relay_with_a_cursor_loses_who_commits_late(world: World, children: Children) -> None:
    await children.start("cursor relay")
    writers = await written(world, seed=1)
    assert writers.late > 0
    await eventually(lambda: last_position_is_published(world))
    assert {Kind.LOST, Kind.LOG_ORDER} <= kinds(await broken(world))


async def test_a_mark_outside_of_the_transaction_has_an_effect_twice(
    world: World, children: Children
) -> None:
    await children.start("relay")
    await written(world, seed=2)
    await (await children.start("forgetful consumer", crash_at="planted.before_mark:5")).crashed()
    await children.start("forgetful consumer")
    committed = await world.committed()
    await eventually(world.applied, until=lambda applied: applied == committed + 1)
    assert kinds(await broken(world)) == {Kind.DOUBLE, Kind.ORDER}


async def test_offsets_that_the_clock_commits_lose_what_was_in_hand(world: World, children: Children) -> None:
    await children.start("relay")
    await written(world, seed=3)
    await (await children.start("auto-committing consumer", crash_at="planted.committed:1")).crashed()
    await children.start("auto-committing consumer")
    # What the second one gets is newer than what was lost.
    await written(world, seed=4)
    await eventually(world.in_outbox, until=lambda left: left == 0)
    await eventually(lambda: every_partition_is_applied_to_its_end(world))
    assert {Kind.LOST, Kind.ORDER} <= kinds(await broken(world))
