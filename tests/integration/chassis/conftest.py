"""Databases with the tables of the chassis in them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from chassis import consumer as consumer_module
from chassis.cloud_events import to_message
from chassis.consumer import Consumer, Consumers, Handler
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from chassis.outbox import Event, append
from chassis.postgres import Database, Row, statement
from tests.integration.chassis.consuming import PLACED, record_effect

OpenDatabase = Callable[..., Awaitable[Database]]


@pytest.fixture
async def open_database(new_database: Any) -> AsyncIterator[OpenDatabase]:
    """Open pools on one fresh database: `await open_database(DDL, max_size=1)`."""
    async with AsyncExitStack() as stack:
        dsn = new_database()

        async def opened(ddl: str = "", *, max_size: int = 8, application_name: str = "tests") -> Database:
            if ddl:
                with psycopg.connect(dsn) as connection:
                    connection.execute(ddl.encode())
            database = await Database.open(dsn, application_name=application_name, max_size=max_size)
            stack.push_async_callback(database.close)
            return database

        yield opened


@pytest.fixture
def rows() -> Callable[..., Awaitable[list[Row]]]:
    """Run SQL text: `await rows(database, "SELECT ...", name=value)`."""

    async def run(database: Database, text: str, **params: Any) -> list[Row]:
        return await database.fetch(statement("test", text), params)

    return run


@pytest.fixture
def topic() -> str:
    """Return a topic of this test's own."""
    return f"sagacity.test.{new_id()}"


@pytest.fixture
def publish() -> Callable[..., Awaitable[None]]:
    """Commit an event to an outbox: `await publish(database, "key", sequence)`."""

    async def run(database: Database, key: str, sequence: int, payload: bytes = b"payload") -> None:
        async with database.transaction() as tx:
            await append(tx, event(key, payload), sequence=sequence)

    return run


def event(key: str, payload: bytes) -> Event:
    """Return an event of an order."""
    return Event(
        id=new_id(),
        aggregate_type="order",
        aggregate_id=key,
        type="sagacity.orders.v1.OrderPlaced",
        payload=payload,
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


@asynccontextmanager
async def ran(program: Any) -> AsyncIterator[None]:
    """Run a relay or a consumer beside the block, and end it after."""
    task = asyncio.create_task(program.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def running() -> Any:
    """Run a relay or a consumer: `async with running(relay): ...`."""
    return ran


@pytest.fixture
async def read_topic(kafka_bootstrap_servers: str) -> Callable[..., Awaitable[list[Any]]]:
    """Read a topic's first `count` records."""

    async def run(topic: str, count: int, servers: str = kafka_bootstrap_servers) -> list[Any]:
        reader = AIOKafkaConsumer(
            topic, bootstrap_servers=servers, auto_offset_reset="earliest", metadata_max_age_ms=500
        )
        await reader.start()
        records: list[Any] = []
        try:
            async with asyncio.timeout(30):
                while len(records) < count:
                    for batch in (await reader.getmany(timeout_ms=100)).values():
                        records.extend(batch)
        finally:
            await reader.stop()
        return records

    return run


@pytest.fixture
def new_event() -> Callable[[str, bytes], Event]:
    """Make an event: `new_event("key", b"payload")`."""
    return event


@pytest.fixture
def group(topic: str) -> str:
    """Return a consumer group of this test's own."""
    return f"{topic}-group"


@pytest.fixture
def new_consumer(
    kafka_bootstrap_servers: str, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Consumer]:
    """Make a member of the test's group that is quick to try again."""
    monkeypatch.setattr(consumer_module, "BACKOFF_BASE_SECONDS", 0.001)
    monkeypatch.setattr(consumer_module, "POLL_MS", 50)

    def make(
        database: Database,
        handler: Handler = record_effect,
        *,
        servers: str = kafka_bootstrap_servers,
        registry: Consumers | None = None,
    ) -> Consumer:
        return Consumer(
            database,
            kafka=KafkaCluster(servers),
            topics=[topic],
            group=group,
            handlers={PLACED: handler},
            registry=registry,
        )

    return make


@pytest.fixture
async def producer(kafka_bootstrap_servers: str) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer of records of any kind."""
    made = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers, enable_idempotence=True)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def send(producer: AIOKafkaProducer, topic: str) -> Callable[..., Awaitable[None]]:
    """Put events on the topic as a relay would: `await send(("key", 1), ("key", 2, b"payload"))`."""

    async def run(*events: Any, event_type: str = PLACED, **changes: Any) -> None:
        for key, sequence, *payload in events:
            message = message_of(key, sequence, *payload, event_type=event_type, topic=topic)
            await producer.send_and_wait(topic, **(message | changes))

    return run


def message_of(
    key: str, sequence: int, payload: bytes = b"", *, event_type: str = PLACED, topic: str
) -> dict[str, Any]:
    """Return key, value and headers of an event's message."""
    row = {
        "id": new_id(),
        "type": event_type,
        "occurred_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "aggregatetype": "order",
        "aggregateid": key,
        "sequence": sequence,
        "payload": payload,
        "traceparent": None,
    }
    return to_message(row, source=topic)
