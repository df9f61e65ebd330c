"""Facts of users and payments come by a real Kafka, and have their effect once; what is bad is put aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer
from google.protobuf.message import Message

from chassis import consumer as consumer_module
from chassis.cloud_events import to_message
from chassis.consumer import Consumer, Handler
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from sagacity.common.v1.money_pb2 import Money
from sagacity.payments.v1 import events_pb2 as payments_pb2
from sagacity.users.v1 import events_pb2 as users_pb2
from services.orders.subscribers import facts_of_payments, facts_of_users

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

PATIENCE_SECONDS = 30.0
AT = datetime(2026, 3, 1, tzinfo=UTC)
Send = Callable[..., Awaitable[None]]


@pytest.fixture
def topic() -> str:
    """A topic of this test's own."""
    return f"sagacity.test.{new_id()}"


@pytest.fixture
async def send(kafka_bootstrap_servers: str, topic: str) -> AsyncIterator[Send]:
    """Put a fact on the topic as a relay would: `await send(aggregate_id, sequence, fact)`."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers, enable_idempotence=True)
    await producer.start()
    ids: dict[tuple[str, int], UUID] = {}

    async def run(aggregate_id: str, sequence: int, fact: Message) -> None:
        row = {
            # The same fact again is the same event.
            "id": ids.setdefault((aggregate_id, sequence), new_id()),
            "type": fact.DESCRIPTOR.full_name,
            "occurred_at": AT,
            "aggregatetype": "subject",
            "aggregateid": aggregate_id,
            "sequence": sequence,
            "payload": fact.SerializeToString(),
            "traceparent": None,
        }
        await producer.send_and_wait(topic, **to_message(row, source=topic))

    yield run
    await producer.stop()


@pytest.fixture
def consuming(
    world: Any, kafka_bootstrap_servers: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Mapping[str, Handler]], Any]:
    """Consume the topic beside a block: `async with consuming(handlers): ...`."""
    monkeypatch.setattr(consumer_module, "BACKOFF_BASE_SECONDS", 0.001)

    @asynccontextmanager
    async def run(handlers: Mapping[str, Handler]) -> AsyncIterator[None]:
        consumer = Consumer(
            world.database,
            kafka=KafkaCluster(kafka_bootstrap_servers),
            topics=[topic],
            group=f"{topic}-group",
            handlers=handlers,
        )
        task = asyncio.create_task(consumer.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return run


async def until(world: Any, sql: str, **params: Any) -> list[dict[str, Any]]:
    """Wait until a query returns something, and return it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (rows := await world.rows(sql, **params)):  # noqa: ASYNC110 - PostgreSQL tells nobody
            await asyncio.sleep(0.01)
        return rows  # type: ignore[no-any-return]


def refunded(saga: Any, minor: int) -> payments_pb2.PaymentRefunded:
    """The provider gave back so much."""
    return payments_pb2.PaymentRefunded(
        payment_id=str(saga.payment_id),
        order_id=str(saga.order_id),
        amount=Money(currency_code="EUR", minor_units=minor),
        refund_id=str(new_id()),
        origin=payments_pb2.REFUND_ORIGIN_PROVIDER,
        provider_reason="DASHBOARD_REFUND",
    )


async def test_of_a_deactivated_user_the_open_orders_are_to_be_cancelled(
    world: Any, send: Send, consuming: Any
) -> None:
    saga = world.saga()
    await saga.sold()
    user_id = str(saga.user_id)
    registered = users_pb2.UserRegistered(user_id=user_id)
    deactivated = users_pb2.UserDeactivated(user_id=user_id)
    deactivated.deactivate_time.FromDatetime(AT)
    await send(user_id, 1, registered)
    await send(user_id, 2, deactivated)
    await send(user_id, 2, deactivated)
    async with consuming(facts_of_users(world.app)):
        rows = await until(
            world, "SELECT cause FROM cancellation_request WHERE order_id = %(id)s", id=saga.order_id
        )
    assert rows == [{"cause": "CUSTOMER_DEACTIVATED"}]
    sql = "SELECT deactivate_time FROM customer WHERE user_id = %(id)s"
    assert await world.rows(sql, id=saga.user_id) == [{"deactivate_time": AT}]


async def test_what_the_provider_gave_back_is_recorded_once_though_it_is_told_of_twice(
    world: Any, send: Send, consuming: Any
) -> None:
    saga, voided = world.saga(), world.saga()
    await asyncio.gather(saga.sold(), voided.sold())
    first, second = refunded(saga, 100), refunded(saga, 200)
    for _ in range(2):
        await send(str(saga.payment_id), 1, first)
        await send(str(saga.payment_id), 2, second)
    fact = payments_pb2.PaymentVoided(
        payment_id=str(voided.payment_id),
        order_id=str(voided.order_id),
        origin=payments_pb2.REFUND_ORIGIN_PROVIDER,
    )
    await send(str(voided.payment_id), 1, fact)
    async with consuming(facts_of_payments(world.app)):
        sql = "SELECT id FROM orders WHERE id = %(id)s AND refunded_minor = 300"
        await until(world, sql, id=saga.order_id)
        sql = "SELECT cause FROM cancellation_request WHERE order_id = %(id)s"
        assert await until(world, sql, id=voided.order_id) == [{"cause": "PAYMENT_VOIDED"}]
    assert [refund.id for refund in (await saga.read()).refunds] == [first.refund_id, second.refund_id]


async def test_what_does_not_fit_is_a_dead_letter_that_says_why_and_others_flow(
    world: Any, send: Send, consuming: Any, topic: str
) -> None:
    bad, good = world.saga(), world.saga()
    await asyncio.gather(bad.sold(), good.sold())
    await send(str(bad.payment_id), 1, refunded(bad, 1_000_000))
    await send(str(bad.payment_id), 2, refunded(bad, 1))
    await send(str(good.payment_id), 1, refunded(good, 1))
    async with consuming(facts_of_payments(world.app)):
        sql = "SELECT error FROM dead_letter WHERE topic = %(topic)s ORDER BY sequence"
        await until(world, f"{sql} OFFSET 1", topic=topic)
        await until(world, "SELECT id FROM orders WHERE id = %(id)s AND refunded_minor = 1", id=good.order_id)
    first, second = [row["error"] for row in await world.rows(sql, topic=topic)]
    assert "RefundTooLargeError('1000000 EUR minor units are to go back, but only 3320" in first
    assert "earlier event of this aggregate" in second
    assert (await bad.read()).refunded.minor_units == 0
