"""Topics as a bystander reads them: in no group, without keeping offsets, without making topics by asking."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from chassis.kafka import KafkaCluster
from chassis.kafka_refusals import reason
from cli.failures import CommandError, ExitCode
from cli.output import safe

MAX_BATCH = 500
POLL_MS = 250
# How soon a topic or partition that is made meanwhile is seen.
LOOK_SECONDS = 2.0
CONNECT_SECONDS = 10.0
STOP_SECONDS = 5.0


class Reader:
    """Reads all partitions of some topics, from where it is told on."""

    def __init__(self, kafka: AIOKafkaConsumer, admin: AIOKafkaAdminClient, topics: Collection[str]) -> None:
        self._kafka = kafka
        self._admin = admin
        self._topics = topics
        self._partitions: set[TopicPartition] = set()

    @property
    def missing(self) -> list[str]:
        """The topics that are not there yet."""
        there = {partition.topic for partition in self._partitions}
        return [topic for topic in self._topics if topic not in there]

    async def begin(self, *, back: int | None) -> None:
        """Start `back` records before the end of each partition; None: at the first one that there is."""
        await self._look()
        if back is None:
            return
        partitions = list(self._partitions)
        first = await self._kafka.beginning_offsets(partitions)
        ends = await self._kafka.end_offsets(partitions)
        for partition in partitions:
            self._kafka.seek(partition, max(first[partition], ends[partition] - back))

    async def batches(self) -> AsyncIterator[list[Any]]:
        """Records as they come, for ever; a batch is in the order of time, and may be empty."""
        loop = asyncio.get_running_loop()
        look_at = loop.time() + LOOK_SECONDS
        while True:
            yield await self._poll()
            if loop.time() >= look_at:
                # While the broker is away there is nothing new to see.
                with suppress(KafkaError):
                    await self._look()
                look_at = loop.time() + LOOK_SECONDS

    async def until_now(self) -> AsyncIterator[list[Any]]:
        """Records up to what the partitions held when this was called."""
        ends = await self._kafka.end_offsets(list(self._partitions))
        while not all([await self._kafka.position(partition) >= end for partition, end in ends.items()]):
            polled = await self._poll()
            yield [record for record in polled if record.offset < ends[_partition_of(record)]]

    async def last(self, count: int, wanted: Callable[[Any], bool]) -> list[Any]:
        """The newest records that are wanted, the oldest of them first, up to now."""
        kept: defaultdict[TopicPartition, deque[Any]] = defaultdict(lambda: deque(maxlen=count))
        async for batch in self.until_now():
            for record in filter(wanted, batch):
                kept[_partition_of(record)].append(record)
        return _by_time(kept.values())[-count:]

    async def _poll(self) -> list[Any]:
        if not self._partitions:
            await asyncio.sleep(POLL_MS / 1000)
            return []
        polled = await self._kafka.getmany(timeout_ms=POLL_MS, max_records=MAX_BATCH)
        return _by_time(polled.values())

    async def _look(self) -> None:
        """Take in the partitions that are new; they are read from their first record."""
        described = await self._admin.describe_topics()
        found = {
            TopicPartition(topic["topic"], partition["partition"])
            for topic in described
            if topic["topic"] in self._topics
            for partition in topic["partitions"]
        }
        new = found - self._partitions
        if not new:
            return
        positions = {partition: await self._kafka.position(partition) for partition in self._partitions}
        self._partitions |= new
        self._kafka.assign(list(self._partitions))
        for partition, position in positions.items():
            self._kafka.seek(partition, position)


@asynccontextmanager
async def reading(kafka: KafkaCluster, topics: Collection[str]) -> AsyncIterator[Reader]:
    """Connect to the broker.

    Raises:
        CommandError: UNAVAILABLE where it does not answer.
    """
    # aiokafka reports every attempt to connect.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    options = kafka.client_options()
    reader = AIOKafkaConsumer(**options, enable_auto_commit=False, auto_offset_reset="earliest")
    admin = AIOKafkaAdminClient(**options)
    try:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await reader.start()
                await admin.start()
        except (KafkaError, OSError) as error:
            raise await _away(kafka, error) from None
        yield Reader(reader, admin, topics)
    except KafkaError as error:
        raise await _away(kafka, error) from None
    finally:
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(STOP_SECONDS):
                await reader.stop()
                await admin.close()


async def _away(kafka: KafkaCluster, error: Exception) -> CommandError:
    said = safe(await reason(kafka, error))
    message = f"Kafka at {kafka.bootstrap_servers} does not answer ({said})"
    return CommandError(ExitCode.UNAVAILABLE, "KAFKA_UNAVAILABLE", message)


def _partition_of(record: Any) -> TopicPartition:
    return TopicPartition(record.topic, record.partition)


def _by_time(partitions: Iterable[Iterable[Any]]) -> list[Any]:
    """Merge records by time; those of a partition stay in their order wherever the clock stood."""
    return list(heapq.merge(*partitions, key=lambda record: record.timestamp))
