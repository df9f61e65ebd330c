"""Bugs that others shipped: the checker has to find each, else it proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from typing_extensions import override

from chassis.cloud_events import ReceivedEvent, from_record, to_message
from chassis.crash_points import crash_point
from chassis.inbox import Handler
from chassis.kafka import KafkaCluster
from chassis.postgres import Database, Row, statement
from tests.e2e.eventually import eventually

POLL_SECONDS = 0.02
POLL_MS = 200
AUTO_COMMIT_MS = 50
BATCH = 100

_AFTER = statement(
    "planted_after",
    """
    SELECT position, id, aggregatetype, aggregateid, type, payload, sequence, occurred_at, traceparent
    FROM outbox WHERE position > %(last)s::bigint ORDER BY position LIMIT %(limit)s::int
    """,
)
_KNOWN = statement(
    "planted_known",
    """
    SELECT sequence FROM inbox
    WHERE consumer = %(consumer)s::text AND generation = 1 AND aggregate = %(aggregate)s::text
    """,
)
_MARK = statement(
    "planted_mark",
    """
    INSERT INTO inbox (consumer, generation, aggregate, sequence)
    VALUES (%(consumer)s::text, 1, %(aggregate)s::text, %(sequence)s::bigint)
    ON CONFLICT (consumer, generation, aggregate) DO UPDATE SET sequence = excluded.sequence
    """,
)


class CursorRelay:
    """Remembers the last position that it has seen, and so never sees who commits a lower one later."""

    def __init__(self, database: Database, servers: str, topic: str) -> None:
        self._database = database
        self._servers = servers
        self._topic = topic

    async def run(self) -> None:
        """Publish until cancelled."""
        producer = AIOKafkaProducer(bootstrap_servers=self._servers, enable_idempotence=True, acks="all")
        await producer.start()
        last = 0
        try:
            while True:
                rows = await self._database.fetch(_AFTER, {"last": last, "limit": BATCH})
                await self._publish(producer, rows)
                last = max([last, *(row["position"] for row in rows)])
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await producer.stop()

    async def _publish(self, producer: AIOKafkaProducer, rows: list[Row]) -> None:
        sent = [await producer.send(self._topic, **to_message(row, source=self._topic)) for row in rows]
        await asyncio.gather(*sent)


class _Naive:
    """What both consumers below share: one event at a time, an inbox, offsets."""

    auto_commit = False

    def __init__(
        self,
        database: Database,
        *,
        kafka: KafkaCluster,
        topics: Sequence[str],
        group: str,
        handlers: Mapping[str, Handler],
    ) -> None:
        self._database = database
        self._kafka = kafka
        self._topics = topics
        self._group = group
        self._handlers = handlers

    async def run(self) -> None:
        """Consume until cancelled."""
        kafka = AIOKafkaConsumer(
            *self._topics,
            **self._kafka.client_options(),
            group_id=self._group,
            enable_auto_commit=self.auto_commit,
            auto_commit_interval_ms=AUTO_COMMIT_MS,
            auto_offset_reset="earliest",
            metadata_max_age_ms=500,
        )
        await kafka.start()
        try:
            while True:
                for partition, records in (await kafka.getmany(timeout_ms=POLL_MS)).items():
                    await self.take(kafka, partition, records)
        finally:
            await kafka.stop()

    async def take(
        self, kafka: AIOKafkaConsumer, partition: Any, records: Sequence[ConsumerRecord[bytes, bytes]]
    ) -> None:
        """Apply what came of one partition."""
        raise NotImplementedError

    async def known(self, event: ReceivedEvent) -> bool:
        """Whether the inbox has it."""
        key = {"consumer": self._group, "aggregate": event.aggregate}
        rows = await self._database.fetch(_KNOWN, key)
        return bool(rows) and bool(rows[0]["sequence"] >= event.sequence)

    async def handle(self, event: ReceivedEvent) -> None:
        """Have the effect, in a transaction of its own."""
        async with self._database.transaction() as tx:
            await self._handlers[event.type](tx, event)

    async def mark(self, event: ReceivedEvent) -> None:
        """Move the mark, in another one."""
        key = {"consumer": self._group, "aggregate": event.aggregate, "sequence": event.sequence}
        await self._database.fetch(_MARK, key)


class ForgetfulConsumer(_Naive):
    """Has the effect in one transaction and moves the mark in the next: killed in between, it repeats."""

    @override
    async def take(
        self, kafka: AIOKafkaConsumer, partition: Any, records: Sequence[ConsumerRecord[bytes, bytes]]
    ) -> None:
        """Apply, then mark, then commit the offset."""
        for event in map(from_record, records):
            if await self.known(event):
                continue
            await self.handle(event)
            crash_point("planted.before_mark")
            await self.mark(event)
        await kafka.commit({partition: records[-1].offset + 1})


class AutoCommittingConsumer(_Naive):
    """Lets the library commit offsets by the clock: what dies with a batch in hand never applies it."""

    auto_commit = True

    @override
    async def take(
        self, kafka: AIOKafkaConsumer, partition: Any, records: Sequence[ConsumerRecord[bytes, bytes]]
    ) -> None:
        """Apply and mark; the clock has committed the batch meanwhile, as it does to slow handlers."""

        async def committed() -> int:
            return (await kafka.committed(partition)) or 0

        await eventually(committed, until=lambda offset: offset > records[-1].offset)
        crash_point("planted.committed")
        for event in map(from_record, records):
            if not await self.known(event):
                await self.handle(event)
                await self.mark(event)
