"""How far consumers are, as Kafka has it: what their groups have committed, and where the topics end.

It is asked from outside of the groups, so that any replica can say it of all partitions, and nobody's
partitions are moved by looking.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from chassis.kafka import KafkaCluster

ANSWER_SECONDS = 5.0
NEVER_COMMITTED = -1
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a group is in one partition; `committed` is NEVER_COMMITTED where it committed nothing."""

    topic: str
    partition: int
    committed: int
    end: int
    lag: int


async def read_lags(
    kafka: KafkaCluster, groups: Mapping[str, Sequence[str]]
) -> dict[str, list[PartitionLag]]:
    """Reads how far each group is in its topics, by topic and partition; topics that are not there have none.

    Args:
        kafka: Where Kafka is.
        groups: The topics of each group.

    Raises:
        KafkaError: Kafka does not answer, or refuses.
        OSError: As KafkaError.
        TimeoutError: As KafkaError.
    """
    async with asyncio.timeout(ANSWER_SECONDS), AsyncExitStack() as stack:
        options = kafka.client_options()
        reader = AIOKafkaConsumer(**options)
        stack.push_async_callback(reader.stop)
        await reader.start()
        admin = AIOKafkaAdminClient(**options)
        stack.push_async_callback(admin.close)
        await admin.start()
        return await _read(reader, admin, groups)


async def known_lags(
    kafka: KafkaCluster, groups: Mapping[str, Sequence[str]]
) -> dict[str, list[PartitionLag]]:
    """As `read_lags`; nothing where Kafka does not answer, or there is nobody to ask about."""
    if not groups:
        return {}
    try:
        return await read_lags(kafka, groups)
    except (KafkaError, OSError, TimeoutError) as error:
        _log.warning("lag_not_known", error=repr(error))
        return {}


async def _read(
    reader: AIOKafkaConsumer, admin: AIOKafkaAdminClient, groups: Mapping[str, Sequence[str]]
) -> dict[str, list[PartitionLag]]:
    # Only those that are there: asking for another one would make it.
    topics = {topic for of_group in groups.values() for topic in of_group} & await reader.topics()
    partitions = sorted(
        TopicPartition(described["topic"], partition["partition"])
        for described in (await admin.describe_topics(sorted(topics)) if topics else [])
        for partition in described["partitions"]
    )
    if not partitions:
        return {group: [] for group in groups}
    reader.assign(partitions)
    ends = await reader.end_offsets(partitions)
    # What the topic keeps no longer is behind nobody.
    begins = await reader.beginning_offsets(partitions)
    found = {}
    for group, of_group in groups.items():
        own = [each for each in partitions if each.topic in of_group]
        # By their names: asked for all that a group has, the embedded broker answers with nothing at all.
        committed = await admin.list_consumer_group_offsets(group, partitions=own) if own else {}
        found[group] = [
            _lag(each, committed[each].offset if each in committed else NEVER_COMMITTED, begins, ends)
            for each in own
        ]
    return found


def _lag(
    partition: TopicPartition,
    committed: int,
    begins: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> PartitionLag:
    end = ends[partition]
    lag = max(0, end - max(committed, begins[partition]))
    return PartitionLag(partition.topic, partition.partition, committed, end, lag)
