"""A topic of Kafka, as the cut sees it: where its partitions begin and end, and what is between.

Every request has a bound (`REQUEST_SECONDS`), the whole has none: it takes as long as the topic is long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.producer.message_accumulator import BatchBuilder

from chassis.kafka import KafkaCluster

POLL_MS = 250
MAX_BATCH = 500
REQUEST_SECONDS = 60

Answer = TypeVar("Answer")


class Span(NamedTuple):
    """What a partition holds: the offsets from `begin` up to, and without, `end`."""

    begin: int
    end: int


async def spans(kafka: KafkaCluster, topic: str) -> dict[int, Span]:
    """Return what each partition of a topic holds now."""
    reader = AIOKafkaConsumer(topic, **kafka.client_options(), enable_auto_commit=False)
    try:
        await reader.start()
        partitions = list(reader.assignment())
        begins = await _within(reader.beginning_offsets(partitions), topic)
        ends = await _within(reader.end_offsets(partitions), topic)
        return {each.partition: Span(begins[each], ends[each]) for each in partitions}
    finally:
        await reader.stop()


async def cluster_id(kafka: KafkaCluster) -> str:
    """Return the id that Kafka gave itself."""
    admin = AIOKafkaAdminClient(**kafka.client_options())
    try:
        await admin.start()
        return str((await _within(admin.describe_cluster(), "cluster"))["cluster_id"])
    finally:
        await admin.close()


async def records(kafka: KafkaCluster, topic: str, within: Mapping[int, Span]) -> AsyncIterator[Any]:
    """Yield the records of `within`, each partition's in order.

    Raises:
        TimeoutError: there are more, and none has come for REQUEST_SECONDS.
    """
    ends = {TopicPartition(topic, each): span.end for each, span in within.items() if span.begin < span.end}
    if not ends:
        return
    reader = AIOKafkaConsumer(**kafka.client_options(), enable_auto_commit=False)
    reader.assign(list(ends))
    try:
        await reader.start()
        for partition in ends:
            reader.seek(partition, within[partition.partition].begin)
        while ends:
            for partition, batch in (await _next_batches(reader, list(ends), topic)).items():
                # What is published meanwhile is not ours to read.
                for record in batch:
                    if record.offset < ends[partition]:
                        yield record
                if await _within(reader.position(partition), topic) >= ends[partition]:
                    del ends[partition]
    finally:
        await reader.stop()


async def _next_batches(reader: AIOKafkaConsumer, partitions: list[TopicPartition], topic: str) -> Any:
    clock = asyncio.get_running_loop()
    until = clock.time() + REQUEST_SECONDS
    while clock.time() < until:
        if batches := await reader.getmany(*partitions, timeout_ms=POLL_MS, max_records=MAX_BATCH):
            return batches
    raise TimeoutError(f"{topic}: no record for {REQUEST_SECONDS} s, and there are more")


async def delete_before(kafka: KafkaCluster, topic: str, ends: Mapping[int, int]) -> None:
    """Delete what is before an offset in each partition, and nothing that came after it."""
    if not ends:
        return
    admin = AIOKafkaAdminClient(**kafka.client_options())
    try:
        await admin.start()
        until = {
            TopicPartition(topic, each): RecordsToDelete(before_offset=end) for each, end in ends.items()
        }
        # Offsets go on from there, so that groups find what is appended.
        await _within(admin.delete_records(until), topic)
    finally:
        await admin.close()


async def append(kafka: KafkaCluster, topic: str, messages: Iterable[Mapping[str, Any]]) -> None:
    """Append messages, each to its partition, in their order; on disk at Kafka's when it returns.

    A partition's next batch is sent when Kafka has the one before: where this ends in an error, each
    partition has the first ones of its messages, without a hole. (`producer.send` goes on behind a failed
    batch.)
    """
    producer = AIOKafkaProducer(**kafka.client_options(), enable_idempotence=True, acks="all")
    try:
        await producer.start()
        filling: dict[int, BatchBuilder] = {}
        for message in messages:
            record = dict(message)
            partition, timestamp = record.pop("partition"), record.pop("timestamp_ms", None)
            if partition not in filling:
                filling[partition] = producer.create_batch()
            if filling[partition].append(timestamp=timestamp, **record) is None:
                await _send(producer, filling[partition], topic, partition)
                filling[partition] = producer.create_batch()
                # An empty one takes a record of any size.
                filling[partition].append(timestamp=timestamp, **record)
        for partition, batch in filling.items():
            await _send(producer, batch, topic, partition)
    finally:
        await producer.stop()


async def _send(producer: AIOKafkaProducer, batch: BatchBuilder, topic: str, partition: int) -> None:
    batch.close()
    sent = await _within(producer.send_batch(batch, topic, partition=partition), topic)
    await _within(sent, topic)


async def _within(request: Awaitable[Answer], subject: str) -> Answer:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await request
    except TimeoutError as error:
        raise TimeoutError(f"{subject}: no answer for {REQUEST_SECONDS} s") from error
