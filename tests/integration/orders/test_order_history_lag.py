"""A rebuilt generation is complete when its consumer has read what the topic held, and not before."""

from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from chassis.consumer_lag import read_lags
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from chassis.postgres import Database
from services.orders.events import TOPIC
from services.orders.history.generations import consumer_of
from services.orders.history.rebuilding import OrderHistory

pytestmark = [pytest.mark.integration, pytest.mark.kafka]


async def test_a_generation_has_caught_up_only_when_its_group_has_committed_what_the_topic_held(
    new_database: Callable[..., str], kafka_bootstrap_servers: str
) -> None:
    number = new_id().int % 10**12 + 1_000  # a group of this test's own
    group = consumer_of(number)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers)
    await producer.start()
    await producer.send_and_wait(TOPIC, b"something", key=b"a")
    partitions = await producer.partitions_for(TOPIC)
    await producer.stop()

    async def commit(offsets: dict[int, int]) -> None:
        kafka = AIOKafkaConsumer(
            bootstrap_servers=kafka_bootstrap_servers, group_id=group, enable_auto_commit=False
        )
        await kafka.start()
        kafka.assign([TopicPartition(TOPIC, each) for each in offsets])
        await kafka.commit({TopicPartition(TOPIC, each): at for each, at in offsets.items()})
        await kafka.stop()

    await commit(dict.fromkeys(partitions, 0))
    database = await Database.open(new_database("services.orders"), application_name="tests")
    history = OrderHistory(database, kafka=KafkaCluster(kafka_bootstrap_servers))
    assert not await history._has_caught_up(number)
    lags = (await read_lags(KafkaCluster(kafka_bootstrap_servers), {group: [TOPIC]}))[group]
    await commit({each.partition: each.end for each in lags})
    assert await history._has_caught_up(number)
    await database.close()
