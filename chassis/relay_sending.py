"""How a batch of the outbox gets to Kafka: in order per aggregate, whole record batches at a time.

All events of an aggregate go to one partition, so order per partition is order per aggregate. Kafka takes a
record batch whole or not at all, and the next one of its partition is sent only when it was acknowledged: so
several events of an aggregate may be under way in one record batch, and nothing overtakes what failed.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidMessageError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from chassis import tracing
from chassis.cancellation import is_cancelled
from chassis.cloud_events import to_message
from chassis.postgres import Row

# A topic takes a mebibyte unless it is told otherwise; one event may be so large, a batch of them need not.
MAX_RECORD_BYTES = 1_000_000
MAX_RECORD_BATCH_BYTES = 256 * 1024
# The hash of a key costs as much as all the rest of its message, and keys come in runs.
MAX_KNOWN_KEYS = 8_192
# How often, and how long each time, a task that was told to end is waited for.
CANCEL_ATTEMPTS = 10
CANCEL_SECONDS = 0.1
# What is wrong with an event, and would be wrong again; everything else is wrong with Kafka, and passes.
UNSENDABLE = (MessageSizeTooLargeError, RecordTooLargeError, RecordListTooLargeError, InvalidMessageError)

_partitioner = DefaultPartitioner()


@dataclass(slots=True)
class Outcome:
    """What became of a batch; what is in neither list was not tried, or nobody knows.

    Attributes:
        published: What Kafka acknowledged.
        refused: Events that Kafka will not take, the first of their keys.
        suspected: Events that were refused together; at least one of them is bad, or they are too many.
        spent: Whether Kafka refused a record batch, after which it takes no later one of this producer.
        failure: What is wrong with Kafka, if anything.
    """

    published: list[Row] = field(default_factory=list)
    refused: list[tuple[Row, Exception]] = field(default_factory=list)
    suspected: list[Row] = field(default_factory=list)
    spent: bool = False
    failure: BaseException | None = None


@dataclass(slots=True)
class Sending:
    """One batch on its way.

    Attributes:
        producer: An idempotent one, with nothing else under way.
        topic: Where the events go.
        alone_up_to: Events with positions up to here each get a record batch of their own.
        patience_seconds: How long Kafka may take for one record batch.
        outcome: What became of it so far.
    """

    producer: AIOKafkaProducer
    topic: str
    alone_up_to: int
    patience_seconds: float
    outcome: Outcome = field(default_factory=Outcome)
    # Keys of which an event was refused: nothing behind it may overtake it.
    _halted: set[str] = field(default_factory=set)
    # By position, of the events that are in a record batch under way.
    _spans: dict[int, tracing.Span] = field(default_factory=dict)

    async def send(self, batch: Sequence[Row]) -> Outcome:
        """Sends events that are in the order of their positions; returns when all that can be known is.

        Raises:
            Exception: Kafka does not tell the topic's partitions; nothing was sent.
        """
        partitions = sorted(await self.producer.partitions_for(self.topic))
        lanes: dict[int, deque[Row]] = {}
        for row in batch:
            partition = partition_of(row["aggregateid"], tuple(partitions))
            lanes.setdefault(partition, deque()).append(row)
        async with asyncio.TaskGroup() as group:
            # The first record batches of all partitions are made before any is sent, and share a request.
            for partition, rows in lanes.items():
                group.create_task(self._send_lane(partition, rows))
        return self.outcome

    async def _send_lane(self, partition: int, rows: deque[Row]) -> None:
        while rows:
            records, taken = self._next(rows)
            if not taken:
                continue
            try:
                await self._deliver(records, partition)
            except UNSENDABLE as error:
                self._end_spans(taken, error)
                self.outcome.spent = True
                if len(taken) == 1:
                    self._refuse(taken[0], error)
                else:
                    self.outcome.suspected += taken
                return
            except (Exception, asyncio.CancelledError) as error:
                self._end_spans(taken, error)
                if is_cancelled():
                    raise
                # Told to the relay once all lanes are accounted for; it may be aiokafka's own CancelledError.
                self.outcome.failure = error
                return
            self.outcome.published += taken
            self._end_spans(taken)

    def _next(self, rows: deque[Row]) -> tuple[BatchBuilder, list[Row]]:
        # The next record batch of a partition, and what is in it.
        records = self.producer.create_batch()
        taken: list[Row] = []
        while rows:
            row = rows[0]
            if row["aggregateid"] in self._halted:
                rows.popleft()
                continue
            message = self._message(row)
            if message is None:
                rows.popleft()
                continue
            alone = row["position"] <= self.alone_up_to
            if (alone and taken) or records.append(timestamp=None, **message) is None:
                break
            taken.append(rows.popleft())
            if alone:
                break
        records.close()
        return records, taken

    def _message(self, row: Row) -> dict[str, Any] | None:
        # None for an event of which there is none that Kafka takes; it is refused then.
        try:
            message = to_message(self._traced(row), source=self.topic)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this event's, and stays so
            self._refuse(row, error)
            return None
        if too_large(message):
            self._refuse(row, RecordTooLargeError(f"more than {MAX_RECORD_BYTES} bytes"))
            return None
        return message

    def _traced(self, row: Row) -> Row:
        """The row, handing on the span of its sending where there is one."""
        position = row["position"]
        span = self._spans.get(position) or tracing.event_sent(
            self.topic, event_id=str(row["id"]), event_type=row["type"], traceparent=row["traceparent"]
        )
        if span.traceparent is None:
            return row
        self._spans[position] = span
        return row | {"traceparent": span.traceparent}

    def _end_spans(self, rows: Sequence[Row], error: BaseException | None = None) -> None:
        for row in rows if self._spans else ():
            span = self._spans.pop(row["position"], tracing.NOTHING)
            if error is not None:
                span.fail(type(error).__name__)
            span.end()

    async def _deliver(self, records: BatchBuilder, partition: int) -> None:
        delivery = await self.producer.send_batch(records, self.topic, partition=partition)
        # Bounded here as well: an idempotent producer tries for ever, and one whose task died says nothing.
        await asyncio.wait([delivery], timeout=self.patience_seconds)
        if not delivery.done():
            delivery.add_done_callback(_forget)
            raise TimeoutError("Kafka did not answer")
        delivery.result()

    def _refuse(self, row: Row, error: Exception) -> None:
        self._end_spans([row], error)
        self._halted.add(row["aggregateid"])
        self.outcome.refused.append((row, error))


async def stop(producer: AIOKafkaProducer, within_seconds: float) -> None:
    """Ends a producer: what it has is delivered first, where Kafka takes it in time."""
    try:
        async with asyncio.timeout(within_seconds):
            await producer.stop()
    except TimeoutError:
        # Left alone, an idempotent producer tries for ever, and delivers when its successor has long done so.
        sender = producer._sender.sender_task  # noqa: SLF001  # stop() leaves it, and nothing else ends it
        if sender:
            await _cancelled(sender)
        await producer.client.close()


async def _cancelled(task: asyncio.Task[object]) -> None:
    # Again and again: it waits with asyncio.wait_for, which before Python 3.12 may lose a cancellation
    # (CPython issue 86296).
    for _ in range(CANCEL_ATTEMPTS):
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        if done:
            return


@lru_cache(maxsize=MAX_KNOWN_KEYS)
def partition_of(key: str, partitions: tuple[int, ...]) -> int:
    """Returns the partition of an aggregate: the one that Kafka's clients choose for this key by default."""
    chosen: int = _partitioner(key.encode(), partitions, partitions)
    return chosen


def too_large(message: dict[str, Any]) -> bool:
    """Whether a message is more than a topic takes."""
    size: int = DefaultRecordBatchBuilder.estimate_size_in_bytes(**message)
    return size > MAX_RECORD_BYTES


def _forget(delivery: asyncio.Future[object]) -> None:
    # Asked for, so that nobody warns that it was not.
    if not delivery.cancelled():
        delivery.exception()
