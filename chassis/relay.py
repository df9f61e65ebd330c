"""The relay: publishes the outbox to Kafka, each event at least once, those of one aggregate in order.

A relay owns buckets by lease rows, whose times are the database's. It takes the unpublished rows of its
buckets in position order, sends them, and deletes what Kafka acknowledged; there is no cursor, which would
lose what commits late. A batch is what came while the last one was being sent. An event that Kafka will not
take stops those behind it with the same key and nothing else.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaProducer

from chassis import ids, relay_metrics
from chassis.cancellation import is_cancelled
from chassis.cloud_events import full_jitter
from chassis.crash_points import crash_point
from chassis.errors import Fault
from chassis.kafka import KafkaCluster
from chassis.kafka_refusals import reason
from chassis.postgres import Database, Row, statement
from chassis.relay_sending import MAX_RECORD_BATCH_BYTES, Outcome, Sending, stop

MAX_BATCH = 2_000
MAX_BATCH_BYTES = 8 * 1024 * 1024
MAX_STUCK_KEYS = 1_000
LEASE_SECONDS = 6.0
LEASE_RENEWAL_SECONDS = 2.0
POLL_SECONDS = 1.0
# Nobody waits for an event, and a round costs the same for one as for fifty: so at most one every so often.
PACE_SECONDS = 0.05
DELIVERY_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 3.0
BACKOFF_BASE_SECONDS = 0.2
BACKOFF_CAP_SECONDS = 10.0
STUCK_KEY_CAP_SECONDS = 30.0
# A key that was due for so long and did not come again is another relay's by now, or its event is gone.
STUCK_KEY_MEMORY_SECONDS = 60.0

_LEASE = statement(
    "lease_outbox_buckets",
    """
    WITH free AS (
        SELECT bucket FROM outbox_lease WHERE owner = %(owner)s OR expires_at <= clock_timestamp()
        ORDER BY bucket FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox_lease AS lease
    SET owner = %(owner)s,
        epoch = lease.epoch + CASE WHEN lease.owner = %(owner)s THEN 0 ELSE 1 END,
        expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
    FROM free WHERE lease.bucket = free.bucket
    RETURNING lease.bucket, lease.epoch
    """,
)
_RELEASE = statement(
    "release_outbox_buckets", "UPDATE outbox_lease SET expires_at = '-infinity' WHERE owner = %(owner)s"
)
# Deletes what was published and takes what comes next, in one round trip. A relay that lost a bucket
# meanwhile deletes nothing of it: its owner publishes those events again, and consumers drop them.
_ADVANCE = statement(
    "advance_outbox",
    """
    WITH held AS MATERIALIZED (
        SELECT bucket, expires_at > clock_timestamp() AS live
        FROM outbox_lease JOIN unnest(%(buckets)s::int[], %(epochs)s::bigint[]) AS mine (bucket, epoch)
            USING (bucket, epoch)
        WHERE owner = %(owner)s
    ), deleted AS (
        DELETE FROM outbox WHERE position = ANY(%(published)s::bigint[])
            AND bucket = ANY(ARRAY(SELECT bucket FROM held))
    ), next AS (
        SELECT position, id, aggregatetype, aggregateid, type, payload, sequence, occurred_at, traceparent
        FROM outbox
        WHERE bucket = ANY(ARRAY(SELECT bucket FROM held WHERE live))
            AND position <> ALL(%(published)s::bigint[]) AND aggregateid <> ALL(%(stuck)s::text[])
        ORDER BY position LIMIT %(limit)s::bigint
    ), measured AS (
        SELECT *, sum(octet_length(payload)) OVER (ORDER BY position) - octet_length(payload) AS bytes_before
        FROM next
    )
    SELECT position, id, aggregatetype, aggregateid, type, payload, sequence, occurred_at, traceparent
    FROM measured WHERE bytes_before < %(max_bytes)s::bigint ORDER BY position
    """,
)
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Stuck:
    attempts: int
    retry_at: float


class Relay:
    """Publishes one database's outbox to one topic; several may run, and share the buckets by leases."""

    def __init__(self, database: Database, *, kafka: KafkaCluster, topic: str, owner: str) -> None:
        self._database = database
        self._kafka = kafka
        self._topic = topic
        # New at every start: a process that comes back is not the one that held the lease.
        self._owner = f"{owner}/{ids.new_id()}"
        self._held: dict[int, int] = {}
        self._held_until = 0.0
        self._published: list[int] = []
        self._stuck: dict[str, _Stuck] = {}
        # Up to this position events go to Kafka one by one: some that went together were refused.
        self._alone_up_to = 0
        self._failures = 0
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()

    def wake(self) -> None:
        """Says that an event was committed. Cheap; call it after every commit."""
        self._wake.set()

    async def drain(self, timeout_seconds: float) -> bool:
        """Waits until all that was committed before is published; False when the time-out came first."""
        self._drained.clear()
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Publishes until it is cancelled, whether Kafka is there or not; then gives its leases up."""
        # aiokafka reports every attempt to connect; one line per outage, from here, says as much.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_leases())
                group.create_task(self._publish())
                group.create_task(relay_metrics.watch(self._database, self._topic))
        finally:
            with suppress(Fault, TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                    await self._database.fetch(_RELEASE, {"owner": self._owner})

    async def _keep_leases(self) -> None:
        while True:
            # A database that is away: the leases lapse by its clock, and are taken again when it is back.
            with suppress(Fault):
                await self._claim()
            await asyncio.sleep(LEASE_RENEWAL_SECONDS)

    async def _claim(self) -> None:
        asked_at = time.monotonic()
        rows = await self._database.fetch(_LEASE, {"owner": self._owner, "seconds": LEASE_SECONDS})
        self._held_until = asked_at + LEASE_SECONDS
        held = {row["bucket"]: row["epoch"] for row in rows}
        if held != self._held:
            self._held = held
            self._wake.set()

    async def _publish(self) -> None:
        while True:
            try:
                async with self._producer() as producer:
                    await self._publish_with(producer)
            except (Exception, asyncio.CancelledError) as error:
                # Whatever it is, the events are safe and are tried again; also aiokafka's own CancelledError.
                if is_cancelled():
                    raise asyncio.CancelledError from error
                if not self._failures:
                    relay_metrics.OUTAGES.labels(self._topic).inc()
                    said = await reason(self._kafka, error)
                    _log.warning("relay_halted", topic=self._topic, error=said)
                self._failures += 1
                delay = full_jitter(
                    self._failures, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=BACKOFF_CAP_SECONDS
                )
                await asyncio.sleep(delay)

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        # A new one after each failure: an idempotent producer whose batch failed has a hole in its numbers.
        producer = AIOKafkaProducer(
            **self._kafka.client_options(),
            enable_idempotence=True,
            acks="all",
            max_batch_size=MAX_RECORD_BATCH_BYTES,
            request_timeout_ms=int(DELIVERY_TIMEOUT_SECONDS * 1000),
        )
        try:
            await producer.start()
            yield producer
        finally:
            await stop(producer, STOP_TIMEOUT_SECONDS)

    async def _publish_with(self, producer: AIOKafkaProducer) -> None:
        while True:
            self._wake.clear()
            held_until = self._held_until
            batch = await self._advance()
            # One that slept since it took the batch leaves it to whoever has had the leases meanwhile. Not by
            # the loop's clock, which stands still between two turns of the loop.
            if batch and time.monotonic() < held_until:
                crash_point("relay.before_send")
                sending = Sending(producer, self._topic, self._alone_up_to, DELIVERY_TIMEOUT_SECONDS * 2)
                outcome = await sending.send(batch)
                self._account_for(outcome)
                crash_point("relay.after_ack")
                if outcome.spent:
                    return
            if _is_full(batch):
                continue
            if batch:
                await asyncio.sleep(PACE_SECONDS)
                continue
            self._recovered()
            if not self._wake.is_set() and self._held and not self._stuck:
                self._drained.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()

    async def _advance(self) -> list[Row]:
        done, held = self._published, self._held
        params = {
            "owner": self._owner,
            "buckets": list(held.keys()),
            "epochs": list(held.values()),
            "published": done,
            "stuck": self._stuck_now(),
            "limit": MAX_BATCH,
            "max_bytes": MAX_BATCH_BYTES,
        }
        rows = await self._database.fetch(_ADVANCE, params)
        self._published = []
        return rows

    def _stuck_now(self) -> list[str]:
        now = time.monotonic()
        for key, stuck in list(self._stuck.items()):
            if stuck.retry_at < now - STUCK_KEY_MEMORY_SECONDS:
                del self._stuck[key]
        return [key for key, stuck in self._stuck.items() if stuck.retry_at > now]

    def _account_for(self, outcome: Outcome) -> None:
        self._published += [row["position"] for row in outcome.published]
        relay_metrics.PUBLISHED.labels(self._topic).inc(len(outcome.published))
        if self._stuck:
            for row in outcome.published:
                self._stuck.pop(row["aggregateid"], None)
        if outcome.spent:
            bad = [*outcome.suspected, *(row for row, _ in outcome.refused)]
            self._alone_up_to = max(self._alone_up_to, *(row["position"] for row in bad))
        for row, error in outcome.refused:
            self._hold_back(row, error)
        if outcome.failure:
            raise outcome.failure
        self._recovered()

    def _hold_back(self, row: Row, error: Exception) -> None:
        key = row["aggregateid"]
        if len(self._stuck) >= MAX_STUCK_KEYS and key not in self._stuck:
            raise error  # not a few bad events: an outage
        attempts = self._stuck[key].attempts + 1 if key in self._stuck else 1
        if attempts == 1:
            _log.error(
                "relay_key_stuck", topic=self._topic, key=key, event_id=str(row["id"]), error=repr(error)
            )
        relay_metrics.STUCK.labels(self._topic).inc()
        delay = full_jitter(attempts, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=STUCK_KEY_CAP_SECONDS)
        self._stuck[key] = _Stuck(attempts, time.monotonic() + max(delay, POLL_SECONDS))

    def _recovered(self) -> None:
        if self._failures:
            self._failures = 0
            _log.info("relay_resumed", topic=self._topic)


def _is_full(batch: list[Row]) -> bool:
    return len(batch) >= MAX_BATCH or sum(len(row["payload"]) for row in batch) >= MAX_BATCH_BYTES
