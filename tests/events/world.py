"""A source with an outbox, a sink with an inbox, a topic between them, and what each of them holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from chassis.cloud_events import from_record
from chassis.ids import new_id
from tests.conftest import NewDatabase

KAFKA_SECONDS = 60.0
POLL_MS = 500
# The tables of two services, as their migrations make them, and beside them what the proof looks at. Nothing
# in `effect` keeps an event from being applied twice, and nothing in `fact` from being lost.
SOURCE_PACKAGE, SINK_PACKAGE = "services.orders", "services.users"
SOURCE_TABLES = """
    CREATE TABLE proof_aggregate (id text PRIMARY KEY, sequence bigint NOT NULL DEFAULT 0);
    CREATE TABLE proof_fact (event_id text PRIMARY KEY, aggregate text NOT NULL, sequence bigint NOT NULL);
"""
SINK_TABLES = """
    CREATE TABLE proof_effect (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id text NOT NULL, aggregate text NOT NULL, sequence bigint NOT NULL
    );
"""


class Fact(NamedTuple):
    """An event as one of the places has it."""

    event_id: str
    aggregate: str
    sequence: int


class Published(NamedTuple):
    """An event in Kafka's log."""

    fact: Fact
    partition: int


@dataclass(frozen=True)
class World:
    """Where everything is."""

    source_dsn: str
    sink_dsn: str
    servers: str
    topic: str
    group: str

    async def facts(self) -> list[Fact]:
        """What was committed."""
        return await self._facts(
            self.source_dsn, "SELECT event_id, aggregate, sequence FROM proof_fact ORDER BY 2, 3"
        )

    async def effects(self) -> list[Fact]:
        """What was applied, in the order in which it was."""
        return await self._facts(
            self.sink_dsn, "SELECT event_id, aggregate, sequence FROM proof_effect ORDER BY position"
        )

    async def in_outbox(self) -> int:
        """How many events are not published."""
        return await number(self.source_dsn, "SELECT count(*) FROM outbox")

    async def applied(self) -> int:
        """How many effects there are."""
        return await number(self.sink_dsn, "SELECT count(*) FROM proof_effect")

    async def committed(self) -> int:
        """How many events were committed."""
        return await number(self.source_dsn, "SELECT count(*) FROM proof_fact")

    async def parked(self) -> int:
        """How many events are among the dead letters."""
        return await number(self.sink_dsn, "SELECT count(*) FROM dead_letter")

    async def marks(self) -> dict[str, int]:
        """The inbox's high-water mark of each aggregate."""
        async with await psycopg.AsyncConnection.connect(self.sink_dsn) as connection:
            found = await connection.execute(
                "SELECT aggregate, sequence FROM inbox WHERE consumer = %s", (self.group,)
            )
            return {aggregate.rsplit("/", 1)[1]: sequence for aggregate, sequence in await found.fetchall()}

    async def published(self) -> list[Published]:
        """Everything in Kafka's log, in the order of each partition."""
        reader = AIOKafkaConsumer(
            bootstrap_servers=self.servers, auto_offset_reset="earliest", metadata_max_age_ms=500
        )
        await reader.start()
        try:
            async with asyncio.timeout(KAFKA_SECONDS):
                reader.subscribe([self.topic])
                return await _read_to_the_end(reader)
        finally:
            await reader.stop()

    async def members(self) -> int:
        """How many consumers Kafka counts in the group, once the group is at rest; 0 while it is not."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            (response,) = await admin.describe_consumer_groups([self.group])
            (group,) = response.groups
            state, members = group[2], group[5]
            return len(members) if state == "Stable" else 0
        finally:
            await admin.close()

    async def _facts(self, dsn: str, query: str) -> list[Fact]:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            found = await connection.execute(query.encode())
            return [Fact(*row) for row in await found.fetchall()]


async def _read_to_the_end(reader: AIOKafkaConsumer) -> list[Published]:
    found: list[Published] = []
    while not reader.assignment():
        await reader.getmany(timeout_ms=POLL_MS, max_records=1)
    partitions = list(reader.assignment())
    await reader.seek_to_beginning(*partitions)
    ends = await reader.end_offsets(partitions)
    while any([await reader.position(partition) < ends[partition] for partition in partitions]):
        for records in (await reader.getmany(timeout_ms=POLL_MS)).values():
            for record in records:
                event = from_record(record)
                fact = Fact(event.id, event.aggregate_id, event.sequence)
                found.append(Published(fact, record.partition))
    return found


async def number(dsn: str, query: str) -> int:
    """The one number that a query returns."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
        assert row is not None
        return int(row[0])


@asynccontextmanager
async def new_world(new_database: NewDatabase, servers: str) -> AsyncIterator[World]:
    """An empty world of its own."""
    world = World(
        source_dsn=new_database(SOURCE_PACKAGE),
        sink_dsn=new_database(SINK_PACKAGE),
        servers=servers,
        topic=f"sagacity.proof.{new_id()}",
        group=f"proof.{new_id()}",
    )
    for dsn, tables in ((world.source_dsn, SOURCE_TABLES), (world.sink_dsn, SINK_TABLES)):
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(tables.encode())
    yield world
