"""The consumer: Kafka's events into this context's database, each applied once, in order per aggregate.

Offsets are committed after the transaction that holds the effect and the inbox's mark, so that whatever
dies in between, an event comes again and is dropped as a duplicate. A batch is applied in one transaction;
where that fails, its events are taken one by one, retried a few times, and parked at last, so that one bad
event harms no other key.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from chassis import tracing
from chassis.cancellation import is_cancelled
from chassis.cloud_events import ReceivedEvent, from_record, full_jitter, unreadable
from chassis.consumer_letters import LettersWatch
from chassis.consumer_metrics import (
    APPLIED,
    DUPLICATES,
    GAPS,
    OUTAGE,
    OUTAGES,
    PARKED,
    REGRESSIONS,
    STOPPED,
    show_from_the_beginning,
)
from chassis.consumer_session import REBALANCE_TIMEOUT_MS, PartitionsGoneError, Session
from chassis.crash_points import crash_point
from chassis.errors import Fault
from chassis.inbox import INBOX_DDL, ConsumerState, GapError, Handler, Inbox, NotRunningError
from chassis.kafka import KafkaCluster
from chassis.kafka_refusals import reason
from chassis.postgres import Database

__all__ = ["INBOX_DDL", "Consumer", "Consumers", "GapError", "Handler", "ReceivedEvent"]

MAX_BATCH = 200
MAX_ATTEMPTS = 5
MAX_HALTS_IN_A_ROW = 20
POLL_MS = 500
# As in the relay: a transaction for ten events costs little more than one for a single event.
PACE_SECONDS = 0.05
STOP_TIMEOUT_SECONDS = 5.0
LAST_COMMIT_SECONDS = 1.0
BACKOFF_BASE_SECONDS = 0.1
BACKOFF_CAP_SECONDS = 10.0
# How soon a topic that is made after the start is seen.
METADATA_MAX_AGE_MS = 5_000
# What the inbox keeps of an event; ours are a tenth of it. An index cannot hold keys of any length.
MAX_NAME_LENGTH = 500
MAX_SEQUENCE = 2**63 - 1

# What the operators' surfaces do not take: a dead letter of such a name could not be asked for.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_log = structlog.get_logger(__name__)


class Consumers:
    """The consumers of a process, by name, for those who look at them and repair them."""

    def __init__(self) -> None:
        self._all: dict[str, Consumer] = {}

    def add(self, consumer: "Consumer") -> None:
        """Registers one."""
        self._all[consumer.inbox.consumer] = consumer

    def remove(self, consumer: "Consumer") -> None:
        """Forgets one."""
        self._all.pop(consumer.inbox.consumer, None)

    def find(self, name: str) -> "Consumer | None":
        """Returns the one of this name, if there is one."""
        return self._all.get(name)

    def all(self) -> "list[Consumer]":
        """Returns all of them, by name."""
        return [consumer for _, consumer in sorted(self._all.items())]


class Consumer:
    """Applies the events of some topics; members of one group share the partitions."""

    def __init__(
        self,
        database: Database,
        *,
        kafka: KafkaCluster,
        topics: Sequence[str],
        group: str,
        handlers: Mapping[str, Handler],
        generation: int = 1,
        registry: Consumers | None = None,
    ) -> None:
        """Makes it; `registry` has it while it runs."""
        self.inbox = Inbox(database, consumer=group, generation=generation, handlers=handlers)
        self.topics = topics
        self._kafka = kafka
        self._group = group
        self._database = database
        self._letters = LettersWatch(database, self.inbox)
        self._registry = registry or Consumers()
        self._failures = 0
        self._in_outage = False
        # The aggregates that failed since something was applied.
        self._halted_in_a_row: set[str] = set()
        self._caught_up = False
        self._draining = asyncio.Event()
        self._drained = asyncio.Event()
        show_from_the_beginning(group)

    async def run(self) -> None:
        """Consumes until it is cancelled or drained, whether Kafka and the database are there or not.

        After `MAX_HALTS_IN_A_ROW` aggregates in a row that failed it halts, in every process, for
        that is bad code and not bad data: it says so once, and waits to be resumed.
        """
        # aiokafka reports every attempt to connect; one line per outage, from here, says as much.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._registry.add(self)
        try:
            while not self._caught_up:
                await self._run_once()
        finally:
            OUTAGE.labels(self._group).set(0)
            self._registry.remove(self)
            # Only now, the connections closed and the group left, may a drainer end the process: a member
            # that goes without a word keeps its partitions from the others until its session runs out.
            self._drained.set()

    async def _run_once(self) -> None:
        try:
            if self._failures:
                # Kafka may be away for long; what nobody has handled is in the database.
                await self._letters.show()
            async with self._joined() as (kafka, session):
                await self._consume(kafka, session)
        except (Exception, asyncio.CancelledError) as error:
            # Whatever it is, the events are in Kafka still. It may be a CancelledError of aiokafka's own,
            # where a connection breaks while it waits.
            if is_cancelled():
                raise asyncio.CancelledError from error
            await self._show_outage(error)
            self._failures += 1
            await _back_off(self._failures)

    async def drain(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> bool:
        """Applies what the topics hold now, then ends `run`; False when the time-out came first.

        One that is paused or halted ends at once.
        """
        self._draining.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def _joined(self) -> AsyncIterator[tuple[AIOKafkaConsumer, Session]]:
        kafka = AIOKafkaConsumer(
            **self._kafka.client_options(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
        )
        session = Session(kafka, self._group)
        try:
            kafka.subscribe(self.topics, listener=session)
            await kafka.start()
            yield kafka, session
        finally:
            session.hide_lag(kafka.assignment())
            try:
                await session.commit_for_others(LAST_COMMIT_SECONDS)
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                        await kafka.stop()

    async def _consume(self, kafka: AIOKafkaConsumer, session: Session) -> None:
        while not self._caught_up:
            polled = await kafka.getmany(timeout_ms=POLL_MS, max_records=MAX_BATCH)
            epoch = session.epoch
            try:
                for partition, records in polled.items():
                    await session.look_at(epoch, partition, records)
                    await self._apply(session, epoch, partition, records)
            except PartitionsGoneError:
                continue
            except NotRunningError as stop:
                session.give_back(polled, epoch)
                await session.commit()
                await self._wait_while_stopped(kafka, session, stop.state)
                continue
            await session.commit()
            await session.show_lag()
            await self._letters.show()
            self._failures = 0
            await self._show_outage(session.silence)
            if polled and sum(map(len, polled.values())) < MAX_BATCH:
                await asyncio.sleep(PACE_SECONDS)
            if not polled and self._draining.is_set() and await _caught_up(kafka):
                self._caught_up = True

    async def _wait_while_stopped(
        self, kafka: AIOKafkaConsumer, session: Session, state: ConsumerState
    ) -> None:
        """Stays in the group with the offsets as they are, until an operator says that it may go on."""
        _log.warning("consumer_stopped", group=self._group, state=state)
        try:
            while state is not ConsumerState.RUNNING and not self._draining.is_set():
                self._show_stopped(state)
                # Each time anew, for a rebalance gives partitions that are not paused.
                kafka.pause(*kafka.assignment())
                # Who asks for nothing for too long is put out of the group.
                polled = await kafka.getmany(timeout_ms=POLL_MS, max_records=MAX_BATCH)
                session.give_back(polled, session.epoch)
                await session.show_lag()
                await self._letters.show()
                state = await self.inbox.state()
                await self._show_outage(session.silence)
        finally:
            # However it ends, cancelled or by an outage: an alarm that it left standing would never end.
            self._show_stopped(ConsumerState.RUNNING)
        self._caught_up = state is not ConsumerState.RUNNING
        self._halted_in_a_row.clear()
        kafka.resume(*kafka.paused())
        _log.info("consumer_continues", group=self._group)

    async def _apply(
        self, session: Session, epoch: int, partition: TopicPartition, records: Sequence[Any]
    ) -> None:
        events = []
        for record in records:
            try:
                events.append(_read(record))
            except ValueError as error:
                await self._park(session, epoch, unreadable(record), error)
        try:
            await self._apply_together(session, epoch, events)
        except (NotRunningError, PartitionsGoneError):
            raise
        except Exception:  # noqa: BLE001  # which of them it was is found out one by one
            for event in events:
                await self._apply_alone(session, epoch, event)
                session.applied(partition, event.offset)
        session.applied(partition, records[-1].offset)

    async def _apply_together(self, session: Session, epoch: int, events: list[ReceivedEvent]) -> None:
        if not events:
            return
        async with session.transaction(epoch):
            result = await self.inbox.apply(events)
        crash_point("consumer.after_apply")
        APPLIED.labels(self._group).inc(result.applied)
        DUPLICATES.labels(self._group).inc(result.duplicates)
        PARKED.labels(self._group).inc(result.parked)
        for event in result.other_facts:
            REGRESSIONS.labels(self._group, "sequence").inc()
            _log.error(
                "sequence_went_back", group=self._group, aggregate=event.aggregate, sequence=event.sequence
            )
        if result.applied:
            self._halted_in_a_row.clear()

    async def _apply_alone(self, session: Session, epoch: int, event: ReceivedEvent) -> None:
        attempts = 0
        waits = 0
        while True:
            try:
                await self._apply_together(session, epoch, [event])
            except (NotRunningError, PartitionsGoneError):
                raise
            except GapError as error:
                # What is missing does not come by waiting.
                if await self._park(session, epoch, event, error):
                    GAPS.labels(self._group).inc()
                return
            except Exception as error:  # noqa: BLE001  # a handler may raise anything; it is parked in the end
                waits += 1
                # A database that is away is not the event's fault, however long it lasts.
                attempts += await self._is_database_there()
                if attempts >= MAX_ATTEMPTS:
                    await self._park(session, epoch, event, error)
                    return
                await _back_off(waits)
            else:
                return

    async def _park(self, session: Session, epoch: int, event: ReceivedEvent, error: Exception) -> bool:
        async with session.transaction(epoch):
            if not await self.inbox.park(event, repr(error)):
                return False
        PARKED.labels(self._group).inc()
        with tracing.handed_on(event.traceparent):
            _log.error(
                "event_parked",
                group=self._group,
                aggregate=event.aggregate,
                event_id=event.id,
                error=repr(error),
            )
        self._halted_in_a_row.add(event.aggregate)
        if len(self._halted_in_a_row) >= MAX_HALTS_IN_A_ROW:
            await self.inbox.halt()
            _log.critical("consumer_halts", group=self._group, halts_in_a_row=MAX_HALTS_IN_A_ROW)
            raise NotRunningError(await self.inbox.state())
        return True

    def _show_stopped(self, state: ConsumerState) -> None:
        for each in ConsumerState.PAUSED, ConsumerState.HALTED:
            STOPPED.labels(self._group, each).set(state is each)

    async def _show_outage(self, error: BaseException | None) -> None:
        """Says once that an outage began, and once that it is over."""
        before, self._in_outage = self._in_outage, error is not None
        OUTAGE.labels(self._group).set(self._in_outage)
        if error is not None and not before:
            OUTAGES.labels(self._group).inc()
            said = await reason(self._kafka, error)
            _log.warning("consumer_halted", group=self._group, error=said)
        if error is None and before:
            _log.info("consumer_resumed", group=self._group)

    async def _is_database_there(self) -> bool:
        try:
            await self._database.ping()
        except Fault as away:
            await self._show_outage(away)
            return False
        return True


def _read(record: Any) -> ReceivedEvent:
    """Reads a record as an event that the inbox can keep; ValueError where it is none."""
    if record.value is None:
        raise ValueError("not an event of ours: a record without a value")
    event = from_record(record)
    names = (event.id, event.type, event.traceparent or "", event.aggregate)
    if not (event.id and event.type):
        raise ValueError("not an event of ours: it has no id or no type")
    if any(len(name) > MAX_NAME_LENGTH or _CONTROL.search(name) for name in names):
        raise ValueError("not an event of ours: a name in it is too long or has control characters")
    if event.sequence > MAX_SEQUENCE:
        raise ValueError("not an event of ours: its sequence is too large")
    return event


async def _caught_up(kafka: AIOKafkaConsumer) -> bool:
    partitions = list(kafka.assignment())
    ends = await kafka.end_offsets(partitions)
    return all([await kafka.position(partition) >= ends[partition] for partition in partitions])


async def _back_off(attempt: int) -> None:
    delay = full_jitter(attempt, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=BACKOFF_CAP_SECONDS)
    await asyncio.sleep(delay)
