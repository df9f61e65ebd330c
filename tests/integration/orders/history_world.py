"""Replicas of the order-history projection on one database and a real Kafka, and who changes the orders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from chassis.barrier import SagaCall
from chassis.clock import SystemClock
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from chassis.postgres import Database, statement
from chassis.relay import Relay
from services.orders import rpc
from services.orders.app import Orders, Wish
from services.orders.domain import (
    Money,
    OrderItem,
    OrderLine,
    PostalAddress,
    Quote,
    Rejection,
    Sale,
    Shipment,
)
from services.orders.events import TOPIC
from services.orders.history import generations
from services.orders.history.generations import Generation
from services.orders.history.rebuilding import OrderHistory, OrderHistoryProjection
from services.orders.refunds import RefundQuote

# Reached only where something is wrong.
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.02
# Kafka's word for the high watermark of a partition.
UP_TO_THE_END = -1
ADDRESS = PostalAddress("Ada", "Unter den Linden 1", "", "Berlin", "", "10117", "DE")
LINES = (OrderLine("LAMP", "Lamp", 1, Money("EUR", 1_000)),)

_COLUMNS = generations.COLUMNS.replace("order_id", "order_id AS id")
# What the projection must be, computed from the orders; and what it is.
_SHOULD = f"SELECT {generations.COLUMNS.replace('order_id', 'id')} FROM orders ORDER BY id"  # noqa: S608
_IS = f"""
    SELECT {_COLUMNS} FROM order_listing
    WHERE generation = %(generation)s AND order_id IN (SELECT id FROM orders) ORDER BY order_id
"""  # noqa: S608


def euro(amount: int) -> Money:
    return Money("EUR", amount)


@dataclass
class Writer:
    """Places orders and does things to them, the same for the same seed but for ids and times."""

    app: Orders
    random: Random
    orders: int = 0

    async def write(self) -> None:
        order_id, user_id = new_id(), new_id()
        wish = Wish(order_id=order_id, user_id=user_id, items=[OrderItem("LAMP", 1)], currency_code="EUR")
        saga = new_id()
        await self.app.create_order(SagaCall(saga, "order", b"1"), wish)
        self.orders += 1
        match self.random.randrange(6):
            case 0:
                await self.app.reject_order(SagaCall(saga, "order", b"1"), wish, Rejection("NO", "No"))
            case 1:
                pass
            case fate:
                sale = Sale(LINES, _quote(), ADDRESS, new_id(), new_id())
                await self.app.confirm_order(SagaCall(saga, "confirmation", b"1"), order_id, user_id, sale)
                await self._after_sale(fate, order_id)

    async def _after_sale(self, fate: int, order_id: UUID) -> None:
        call = SagaCall(new_id(), "later", b"1")
        if fate == 2:
            await self.app.cancel_order(call, order_id, None, "Why")
        elif fate == 3:
            await self.app.mark_shipped(call, order_id, Shipment("DHL", ""))
        elif fate == 4:
            quoted = RefundQuote(euro(self.random.choice([100, 1_000])), ())
            await self.app.record_refund(call, order_id, refund_id=new_id(), quoted=quoted, reason="Why")

    async def write_until(self, done: asyncio.Event) -> None:
        while not done.is_set():
            await self.write()


def _quote() -> Quote:
    return Quote(euro(1_000), euro(0), euro(0), euro(0), euro(1_000))


@dataclass
class HistoryWorld:
    """One database, what publishes its events, and what an operator does."""

    database: Database
    dsn: str
    servers: str
    projection: OrderHistoryProjection
    writer: Writer

    async def rows(self, sql: str, **params: Any) -> list[dict[str, Any]]:
        return await self.database.fetch(statement("of_a_test", sql), params)

    async def rebuild(self) -> int:
        building = (await self.database.run(self.projection.rebuild)).building_generation
        assert building is not None
        return building

    async def generation(self, number: int) -> Generation | None:
        found = await generations.read_generations(self.database)
        return next((each for each in found if each.number == number), None)

    async def active(self) -> int:
        return (await self.projection.status(self.database)).active_generation

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():  # noqa: ASYNC110 - the database tells nobody
                await asyncio.sleep(POLL_SECONDS)

    async def differences(self, generation: int) -> list[Any]:
        """What a generation has that the orders do not say, and the reverse."""
        should = [tuple(row.values()) for row in await self.rows(_SHOULD)]
        found = [tuple(row.values()) for row in await self.rows(_IS, generation=generation)]
        return sorted(set(should) ^ set(found)) + ([] if len(found) == len(set(found)) else [found])

    async def until_equal(self, generation: int) -> None:
        async def equal() -> bool:
            return await self.differences(generation) == []

        try:
            await self.until(equal)
        except TimeoutError:
            raise AssertionError((await self.differences(generation))[:4]) from None

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run a replica's part of the projection, until the block ends or its task is cancelled."""
        history = OrderHistory(self.database, kafka=KafkaCluster(self.servers))
        task = asyncio.create_task(history.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})


async def empty_topic(servers: str) -> None:
    """Delete what worlds before wrote: a generation reads the topic from its beginning, as one shop's.

    Of other shops' orders it would see the ends without the beginnings, and halt at so many gaps.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        (topic,) = await admin.describe_topics([TOPIC])
        partitions = [TopicPartition(TOPIC, each["partition"]) for each in topic["partitions"]]
        await admin.delete_records(dict.fromkeys(partitions, RecordsToDelete(UP_TO_THE_END)))
    finally:
        await admin.close()


@asynccontextmanager
async def history_world(dsn: str, servers: str, *, seed: int = 1) -> AsyncIterator[HistoryWorld]:
    """Open the world, with a topic that is empty: the events of its orders are published all the time."""
    await empty_topic(servers)
    database = await Database.open(dsn, application_name="orders", max_size=16)
    relay = Relay(database, kafka=KafkaCluster(servers), topic=TOPIC, owner="orders")
    app = Orders(
        database=database,
        clock=SystemClock(),
        new_id=new_id,
        as_refusal=rpc.translate,
        published=relay.wake,
    )
    relaying = asyncio.create_task(relay.run())
    try:
        yield HistoryWorld(
            database,
            dsn,
            servers,
            OrderHistoryProjection(),
            Writer(app, Random(seed)),  # noqa: S311 - fates of a test
        )
    finally:
        relaying.cancel()
        await asyncio.wait({relaying})
        await database.close()
