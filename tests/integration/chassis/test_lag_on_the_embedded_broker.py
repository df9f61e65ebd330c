"""`make run` has the embedded broker, which knows less than Kafka: lag has to be known there, too."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from chassis.consumer_lag import NEVER_COMMITTED, read_lags
from chassis.kafka import KafkaCluster
from deploy.local.kafka import EmbeddedBroker

TOPIC = "sagacity.lag.v1"
MESSAGES = 5
READ = 3


async def test_the_lag_of_groups_is_known_on_the_embedded_broker(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker.log")
    await asyncio.to_thread(broker.start)
    try:
        servers = broker.bootstrap_servers
        async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
            for _ in range(MESSAGES):
                await producer.send_and_wait(TOPIC, b"", partition=0)
        partition = TopicPartition(TOPIC, 0)
        reader = AIOKafkaConsumer(bootstrap_servers=servers, group_id="reader", enable_auto_commit=False)
        reader.assign([partition])
        await reader.start()
        await reader.commit({partition: READ})
        await reader.stop()
        groups = {"reader": [TOPIC], "nobody": [TOPIC], "other": ["missing"]}
        found = await read_lags(KafkaCluster(servers), groups)
    finally:
        broker.kill()
    assert [(each.committed, each.end, each.lag) for each in found["reader"] if each.end] == [
        (READ, MESSAGES, MESSAGES - READ)
    ]
    assert [(each.committed, each.lag) for each in found["nobody"] if each.end] == [
        (NEVER_COMMITTED, MESSAGES)
    ]
    assert found["other"] == []
