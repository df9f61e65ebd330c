"""A CancelledError of aiokafka's own, where a connection breaks while it waits, is an outage and no stop."""

import asyncio
from typing import Any

import pytest

from chassis.consumer import Consumer
from chassis.kafka import KafkaCluster
from chassis.outbox import OUTBOX_DDL
from chassis.relay import Relay
from tests.integration.chassis.consuming import DDL, effects, until

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

DRAIN_SECONDS = 30.0


def broken_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[bool]:
    """Let the first call of a method raise what nobody asked for; empty once it has."""
    method, left = getattr(owner, name), [True]

    async def call(self: Any, *args: Any) -> None:
        if left:
            left.pop()
            raise asyncio.CancelledError
        await method(self, *args)

    monkeypatch.setattr(owner, name, call)
    return left


async def test_a_consumer_goes_on(
    *, open_database: Any, new_consumer: Any, send: Any, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = broken_once(monkeypatch, Consumer, "_consume")
    database = await open_database(DDL)
    await send(("a", 1))

    async def done() -> bool:
        return await effects(database) == {"a": [1]}

    async with running(new_consumer(database)):
        await until(done)
    assert left == []


async def test_a_relay_goes_on(
    *,
    open_database: Any,
    publish: Any,
    running: Any,
    kafka_bootstrap_servers: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = broken_once(monkeypatch, Relay, "_publish_with")
    database = await open_database(OUTBOX_DDL)
    relay = Relay(database, kafka=KafkaCluster(kafka_bootstrap_servers), topic=topic, owner="orders")
    await publish(database, "order-1", 1)
    async with running(relay):
        assert await relay.drain(DRAIN_SECONDS)
    assert left == []
