"""The consumer: Kafka's events into this context's database, each applied once, in order per aggregate.

Offsets are committed after the transaction that holds the effect and the inbox's mark, so that whatever
dies in between, an event comes again and is dropped as a duplicate. A batch is applied in one transaction;
where that fails, its events are taken one by one, retried a few times, and parked at last, so that one bad
event harms no other key.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError

from chassis.cloud_events import ReceivedEvent, from_record, full_jitter, unreadable
from chassis.errors import Fault
from chassis.inbox import INBOX_DDL, GapError, Handler, Inbox
from chassis.postgres import Database
from chassis.telemetry import counter

__all__ = ["INBOX_DDL", "Consumer", "GapError", "Handler", "ReceivedEvent"]

MAX_BATCH = 200
MAX_ATTEMPTS = 5
MAX_HALTS_IN_A_ROW = 20
POLL_MS = 500
# As in the relay: a transaction for ten events costs little more than one for a single event.
PACE_SECONDS = 0.05
STOP_TIMEOUT_SECONDS = 5.0
BACKOFF_BASE_SECONDS = 0.1
BACKOFF_CAP_SECONDS = 10.0
# How soon a topic that is made after the start is seen.
METADATA_MAX_AGE_MS = 5_000

APPLIED = counter("sagacity_consumer_applied", "Events that were applied", "group")
DUPLICATES = counter("sagacity_consumer_duplicates", "Events that had been applied before", "group")
PARKED = counter("sagacity_consumer_parked", "Events that went to the dead letters", "group")
OUTAGES = counter("sagacity_consumer_outages", "Times that consuming came to a halt", "group")
_log = structlog.get_logger(__name__)


class TooManyHaltedError(Exception):
    """So many events in a row could not be applied that it must be the code."""


class Consumer:
    """Applies the events of some topics; members of one group share the partitions."""

    def __init__(
        self,
        database: Database,
        *,
        bootstrap_servers: str,
        topics: Sequence[str],
        group: str,
        handlers: Mapping[str, Handler],
        generation: int = 1,
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topics = topics
        self._group = group
        self._database = database
        self._inbox = Inbox(database, consumer=group, generation=generation, handlers=handlers)
        self._failures = 0
        self._halts_in_a_row = 0
        self._caught_up = False
        self._draining = asyncio.Event()
        self._drained = asyncio.Event()

    async def run(self) -> None:
        """Consumes until it is cancelled or drained, whether Kafka and the database are there or not.

        After `MAX_HALTS_IN_A_ROW` events in a row that could not be applied it consumes no more, for that is
        bad code and not bad data: it says so once, and waits to be stopped.
        """
        # aiokafka reports every attempt to connect; one line per outage, from here, says as much.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        try:
            while not self._caught_up:
                await self._run_once()
        finally:
            # Only now, the connections closed and the group left, may a drainer end the process: a member
            # that goes without a word keeps its partitions from the others until its session runs out.
            self._drained.set()

    async def _run_once(self) -> None:
        try:
            async with self._kafka() as kafka:
                await self._consume(kafka)
        except TooManyHaltedError:
            _log.critical("consumer_stopped", group=self._group, halts_in_a_row=self._halts_in_a_row)
            await self._draining.wait()
            self._caught_up = True
        except Exception as error:  # noqa: BLE001  # whatever it is, the events are in Kafka still
            if not self._failures:
                OUTAGES.labels(self._group).inc()
                _log.warning("consumer_halted", group=self._group, error=repr(error))
            self._failures += 1
            await _back_off(self._failures)

    async def drain(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> bool:
        """Applies what the topics hold now, then ends `run`; False when the time-out came first."""
        self._draining.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def _kafka(self) -> AsyncIterator[AIOKafkaConsumer]:
        kafka = AIOKafkaConsumer(
            *self._topics,
            bootstrap_servers=self._bootstrap_servers,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        try:
            await kafka.start()
            yield kafka
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                    await kafka.stop()

    async def _consume(self, kafka: AIOKafkaConsumer) -> None:
        while True:
            polled = await kafka.getmany(timeout_ms=POLL_MS, max_records=MAX_BATCH)
            for partition, records in polled.items():
                await self._apply(records)
                # A rebalance took the partition: its new owner gets these events again, and drops them.
                with suppress(CommitFailedError, IllegalStateError):
                    await kafka.commit({partition: records[-1].offset + 1})
            if self._failures:
                self._failures = 0
                _log.info("consumer_resumed", group=self._group)
            if polled and sum(map(len, polled.values())) < MAX_BATCH:
                await asyncio.sleep(PACE_SECONDS)
            if not polled and self._draining.is_set() and await _caught_up(kafka):
                self._caught_up = True
                return

    async def _apply(self, records: Sequence[Any]) -> None:
        events = []
        for record in records:
            try:
                events.append(from_record(record))
            except ValueError as error:
                await self._park(unreadable(record), error)
        try:
            await self._apply_together(events)
        except Exception:  # noqa: BLE001  # which of them it was is found out one by one
            for event in events:
                await self._apply_alone(event)

    async def _apply_together(self, events: list[ReceivedEvent]) -> None:
        result = await self._inbox.apply(events)
        APPLIED.labels(self._group).inc(result.applied)
        DUPLICATES.labels(self._group).inc(result.duplicates)
        PARKED.labels(self._group).inc(result.parked)
        if result.applied:
            self._halts_in_a_row = 0

    async def _apply_alone(self, event: ReceivedEvent) -> None:
        attempts = 0
        waits = 0
        while True:
            try:
                await self._apply_together([event])
            except Exception as error:  # noqa: BLE001  # a handler may raise anything; it is parked in the end
                waits += 1
                # A database that is away is not the event's fault, however long it lasts.
                attempts += await self._is_database_there()
                if attempts >= MAX_ATTEMPTS:
                    await self._park(event, error)
                    return
                await _back_off(waits)
            else:
                return

    async def _park(self, event: ReceivedEvent, error: Exception) -> None:
        await self._inbox.park(event, repr(error))
        PARKED.labels(self._group).inc()
        _log.error("event_parked", group=self._group, aggregate=event.aggregate, error=repr(error))
        self._halts_in_a_row += 1
        if self._halts_in_a_row >= MAX_HALTS_IN_A_ROW:
            raise TooManyHaltedError

    async def _is_database_there(self) -> bool:
        try:
            await self._database.ping()
        except Fault:
            return False
        return True


async def _caught_up(kafka: AIOKafkaConsumer) -> bool:
    partitions = list(kafka.assignment())
    ends = await kafka.end_offsets(partitions)
    return all([await kafka.position(partition) >= ends[partition] for partition in partitions])


async def _back_off(attempt: int) -> None:
    delay = full_jitter(attempt, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=BACKOFF_CAP_SECONDS)
    await asyncio.sleep(delay)
