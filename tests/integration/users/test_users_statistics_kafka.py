"""Facts of orders come by a real Kafka, twice and to one consumer after the other, and count once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer
from google.protobuf.message import Message

from chassis import consumer as consumer_module
from chassis.cloud_events import to_message
from chassis.consumer import Consumer
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from chassis.postgres import Database
from services.users.domain import CustomerStatistics, Money
from services.users.store.statistics import statistics_of_user
from services.users.subscriber import HANDLERS
from tests.integration.users import order_facts as facts
from tests.integration.users.accounts import rows

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

PATIENCE_SECONDS = 60.0
DEAD = "SELECT error FROM dead_letter WHERE aggregate LIKE %(ending)s ORDER BY sequence"
Send = Callable[[UUID, int, Message], Awaitable[None]]
Consuming = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def topic() -> str:
    """A topic of this test's own."""
    return f"sagacity.test.{new_id()}"


@pytest.fixture
async def send(kafka_bootstrap_servers: str, topic: str) -> AsyncIterator[Send]:
    """Puts a fact on the topic as a relay would: `await send(order_id, sequence, fact)`."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers, enable_idempotence=True)
    await producer.start()

    async def run(order_id: UUID, sequence: int, fact: Message) -> None:
        row = {
            "id": new_id(),
            "type": fact.DESCRIPTOR.full_name,
            "occurred_at": datetime(2026, 3, 1, tzinfo=UTC),
            "aggregatetype": "order",
            "aggregateid": str(order_id),
            "sequence": sequence,
            "payload": fact.SerializeToString(),
            "traceparent": None,
        }
        await producer.send_and_wait(topic, **to_message(row, source=topic))

    yield run
    await producer.stop()


@pytest.fixture
def consuming(
    database: Database, kafka_bootstrap_servers: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> Consuming:
    """Consumes the topic beside a block: `async with consuming(): ...`."""
    monkeypatch.setattr(consumer_module, "BACKOFF_BASE_SECONDS", 0.001)

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        consumer = Consumer(
            database,
            kafka=KafkaCluster(kafka_bootstrap_servers),
            topics=[topic],
            group=f"{topic}-group",
            handlers=HANDLERS,
        )
        task = asyncio.create_task(consumer.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return run


async def becomes(database: Database, wanted: CustomerStatistics) -> bool:
    """Whether a customer's statistics are these before the patience is at its end."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await statistics_of_user(database, wanted.user_id) != wanted:  # noqa: ASYNC110 - PostgreSQL tells nobody
            await asyncio.sleep(0.01)
    return True


async def test_an_order_that_is_bought_refunded_and_cancelled_counts_once(
    database: Database, send: Send, consuming: Consuming
) -> None:
    customer, order_id = new_id(), new_id()
    history = [
        facts.placed(order_id, customer),
        facts.confirmed(order_id, customer, 1234),
        facts.refunded(order_id, customer, 200),
    ]
    for _ in range(2):
        for sequence, fact in enumerate(history, start=1):
            await send(order_id, sequence, fact)
    bought = CustomerStatistics(
        customer, orders_placed=1, orders_confirmed=1, amount_spent=(Money("EUR", 1034),)
    )
    async with consuming():
        assert await becomes(database, bought)
    # Another consumer takes over, and all of it comes once more.
    history.append(facts.cancelled(order_id, customer, total=1234, refunded=200))
    for sequence, fact in enumerate(history, start=1):
        await send(order_id, sequence, fact)
    async with consuming():
        assert await becomes(
            database,
            CustomerStatistics(
                customer,
                orders_placed=1,
                orders_confirmed=1,
                orders_cancelled=1,
                amount_spent=(Money("EUR", 0),),
            ),
        )


async def test_a_refund_of_what_was_never_bought_is_put_aside_and_holds_up_nobody_else(
    database: Database, send: Send, consuming: Consuming
) -> None:
    customer, strange, ordinary = new_id(), new_id(), new_id()
    # Of somebody else: who has spent something can get some of it back, whichever partition is read first.
    other = new_id()
    await send(strange, 1, facts.refunded(strange, other, 1))
    await send(strange, 2, facts.cancelled(strange, other, total=1, refunded=1))
    await send(ordinary, 1, facts.placed(ordinary, customer))
    await send(ordinary, 2, facts.confirmed(ordinary, customer, 1234))
    async with consuming():
        assert await becomes(
            database,
            CustomerStatistics(
                customer, orders_placed=1, orders_confirmed=1, amount_spent=(Money("EUR", 1234),)
            ),
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (put_aside := await rows(database, DEAD, ending=f"%/{strange}")):  # noqa: ASYNC110 - nor here
                await asyncio.sleep(0.01)
    assert "NeverSpentError" in put_aside[0]["error"]
