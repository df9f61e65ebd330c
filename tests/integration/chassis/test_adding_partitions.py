"""Partitions that are added to a topic (docs/scaling.md): drained before, or with events in flight."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from chassis.kafka import KafkaCluster
from chassis.outbox import OUTBOX_DDL
from chassis.postgres import Database
from chassis.relay import Relay
from tests.integration.chassis.consuming import DDL, effects, letters, until, until_applied

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

KEYS = [f"key-{number}" for number in range(12)]
MORE = 8
DRAIN_SECONDS = 30.0


@asynccontextmanager
async def administrator(servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


class World:
    """A topic of one partition, an outbox with its relay, and a consumer in another database."""

    def __init__(self, source: Database, servers: str, topic: str, publish: Any, running: Any) -> None:
        self._source, self._servers, self._topic = source, servers, topic
        self._publish, self._running = publish, running

    async def make_topic(self) -> None:
        async with administrator(self._servers) as admin:
            await admin.create_topics([NewTopic(self._topic, num_partitions=1, replication_factor=1)])

    async def add_partitions(self) -> None:
        async with administrator(self._servers) as admin:
            await admin.create_partitions({self._topic: NewPartitions(MORE)})

    async def relay(self, sequence: int) -> None:
        """Publish an event of every key, by a relay that starts for it and stops."""
        for key in KEYS:
            await self._publish(self._source, key, sequence)
        relay = Relay(self._source, kafka=KafkaCluster(self._servers), topic=self._topic, owner="orders")
        async with self._running(relay):
            assert await relay.drain(DRAIN_SECONDS)


@pytest.fixture
async def world(
    open_database: Any, kafka_bootstrap_servers: str, topic: str, publish: Any, running: Any
) -> World:
    made = World(await open_database(OUTBOX_DDL + DDL), kafka_bootstrap_servers, topic, publish, running)
    await made.make_topic()
    return made


async def test_partitions_that_are_added_while_nothing_is_in_flight_halt_nobody(
    world: World, open_database: Any, running: Any, new_consumer: Any
) -> None:
    database = await open_database()
    async with running(new_consumer(database)):
        await world.relay(1)
        await until_applied(database, {key: [1] for key in KEYS})
        await world.add_partitions()
        await world.relay(2)
        await world.relay(3)
        await until_applied(database, {key: [1, 2, 3] for key in KEYS})
    assert await letters(database) == []


async def test_partitions_that_are_added_with_events_in_flight_lose_and_reorder_nothing(
    world: World, open_database: Any, running: Any, new_consumer: Any
) -> None:
    database = await open_database()
    await world.relay(1)
    await world.add_partitions()
    await world.relay(2)

    async def everything_was_seen() -> bool:
        applied = sum(len(sequences) for sequences in (await effects(database)).values())
        return applied + len(await letters(database)) == 2 * len(KEYS)

    async with running(new_consumer(database)):
        await until(everything_was_seen)
    # Which partition is read first is a race: of each key both are applied in order, or parked.
    for key, sequences in (await effects(database)).items():
        assert sequences in ([1, 2], [1]), key
