from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from chassis.topics import RETENTION_MS
from deploy.local.kafka import PARTITIONS, ApacheKafka, EmbeddedBroker


async def produce(bootstrap_servers: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, key=b"k")
    finally:
        await producer.stop()


@asynccontextmanager
async def consumer_of(bootstrap_servers: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        group_id=f"{topic}-group",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def retention_ms(bootstrap_servers: str, topic: str) -> int:
    """How long the topic keeps events, as the broker says."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    settings = {name: value for name, value, *_ in answer.resources[0][4]}
    return int(settings["retention.ms"])


async def test_the_embedded_broker_carries_an_event_and_says_what_it_is(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker.log")
    try:
        broker.start()
        await produce(broker.bootstrap_servers, "t", b"event")
        async with consumer_of(broker.bootstrap_servers, "t") as consumer:
            assert (await consumer.getone()).value == b"event"
    finally:
        broker.stop()
    assert broker.pid is None
    assert "development convenience" in broker.log.read_text("utf-8")


@pytest.mark.kafka
async def test_apache_kafka_keeps_its_port_and_its_events_over_a_kill(
    tmp_path: Path, kafka_jars: Path
) -> None:
    broker = ApacheKafka(tmp_path, jars=kafka_jars)
    try:
        broker.start()
        address = broker.bootstrap_servers
        await produce(address, "t", b"event")
        broker.kill()
        broker.start()
        assert broker.bootstrap_servers == address
        async with consumer_of(address, "t") as consumer:
            assert (await consumer.getone()).value == b"event"
            assert len(consumer.partitions_for_topic("t") or ()) == PARTITIONS
        assert await retention_ms(address, "t") == RETENTION_MS
    finally:
        broker.stop()
