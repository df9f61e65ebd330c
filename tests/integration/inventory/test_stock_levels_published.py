from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from chassis.cloud_events import from_record
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from chassis.relay import Relay
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import ProductChange

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

WAIT_SECONDS = 30.0


async def read(servers: str, topic: str, count: int) -> list[Any]:
    reader = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
    await reader.start()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return [await reader.getone() for _ in range(count)]
    finally:
        await reader.stop()


async def test_the_relay_publishes_what_the_database_wrote_like_any_event(
    world: Any, kafka_bootstrap_servers: str
) -> None:
    topic = f"sagacity.test.{new_id()}"
    await world.product("A-1", stock=200)
    await world.catalogue.update_product("A-1", ProductChange(low_stock_threshold=150))
    await world.adjust("A-1", -51)
    await world.adjust("A-1", 1)
    relay = Relay(world.database, kafka=KafkaCluster(kafka_bootstrap_servers), topic=topic, owner="inventory")
    running = asyncio.create_task(relay.run())
    assert await relay.drain(WAIT_SECONDS)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    records = await read(kafka_bootstrap_servers, topic, 3)
    created, low, back = [from_record(record) for record in records]
    assert {record.key for record in records} == {b"A-1"}
    assert [message.sequence for message in (created, low, back)] == [1, 2, 3]
    headers = {name: value.decode() for name, value in records[1].headers}
    assert (headers["ce_type"], headers["ce_subject"]) == ("sagacity.inventory.v1.StockLow", "product/A-1")
    assert events_pb2.StockLow.FromString(records[1].value) == events_pb2.StockLow(
        sku="A-1", available=149, threshold=150
    )
    assert events_pb2.StockBack.FromString(records[2].value) == events_pb2.StockBack(
        sku="A-1", available=150, threshold=150
    )
