"""The relay: publishes the outbox to Kafka, each event at least once, those of one aggregate in order.

A relay owns buckets by lease rows, whose times are the database's. It takes the unpublished rows of its
buckets in position order, sends them, and deletes what Kafka acknowledged; there is no cursor, which would
lose what commits late. A batch is what came while the last one was being sent. At most one event of an
aggregate is under way, so that one which fails stops those behind it with the same key and nothing else.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidMessageError, MessageSizeTooLargeError, RecordTooLargeError

from chassis import ids
from chassis.cloud_events import full_jitter, to_message
from chassis.errors import Fault
from chassis.postgres import Database, Row, statement
from chassis.telemetry import counter

MAX_BATCH = 500
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

PUBLISHED = counter("sagacity_relay_published", "Events that Kafka acknowledged", "topic")
OUTAGES = counter("sagacity_relay_outages", "Times that publishing came to a halt", "topic")
STUCK = counter("sagacity_relay_stuck", "Attempts at events that Kafka will not take", "topic")

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
    )
    SELECT position, id, aggregatetype, aggregateid, type, payload, sequence, occurred_at, traceparent
    FROM outbox
    WHERE bucket = ANY(ARRAY(SELECT bucket FROM held WHERE live))
        AND position <> ALL(%(published)s::bigint[]) AND aggregateid <> ALL(%(stuck)s::text[])
    ORDER BY position LIMIT %(limit)s
    """,
)
# What is wrong with one event, and would be wrong again; everything else is wrong with Kafka, and passes.
_UNSENDABLE = (MessageSizeTooLargeError, RecordTooLargeError, InvalidMessageError)
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Stuck:
    attempts: int
    retry_at: float


class Relay:
    """Publishes one database's outbox to one topic; several may run, and share the buckets by leases."""

    def __init__(self, database: Database, *, bootstrap_servers: str, topic: str, owner: str) -> None:
        self._database = database
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        # New at every start: a process that comes back is not the one that held the lease.
        self._owner = f"{owner}/{ids.new_id()}"
        self._held: dict[int, int] = {}
        self._published: list[int] = []
        self._stuck: dict[str, _Stuck] = {}
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
        rows = await self._database.fetch(_LEASE, {"owner": self._owner, "seconds": LEASE_SECONDS})
        held = {row["bucket"]: row["epoch"] for row in rows}
        if held != self._held:
            self._held = held
            self._wake.set()

    async def _publish(self) -> None:
        while True:
            try:
                async with self._producer() as producer:
                    await self._publish_with(producer)
            except Exception as error:  # noqa: BLE001  # whatever it is, the events are safe and are tried again
                if not self._failures:
                    OUTAGES.labels(self._topic).inc()
                    _log.warning("relay_halted", topic=self._topic, error=repr(error))
                self._failures += 1
            delay = full_jitter(
                self._failures, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=BACKOFF_CAP_SECONDS
            )
            await asyncio.sleep(delay)

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        # A new one after each failure: an idempotent producer whose batch expired has a hole in its numbers.
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            enable_idempotence=True,
            acks="all",
            request_timeout_ms=int(DELIVERY_TIMEOUT_SECONDS * 1000),
        )
        try:
            await producer.start()
            yield producer
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                    await producer.stop()

    async def _publish_with(self, producer: AIOKafkaProducer) -> None:
        while True:
            self._wake.clear()
            batch = await self._advance()
            for turn, wave in enumerate(_waves(batch)):
                # From the second turn on, who is stuck became so in this batch: no event may overtake
                # another.
                await self._send(
                    producer, [row for row in wave if not turn or row["aggregateid"] not in self._stuck]
                )
            if len(batch) == MAX_BATCH:
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
        }
        rows = await self._database.fetch(_ADVANCE, params)
        self._published = []
        return rows

    def _stuck_now(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        return [key for key, stuck in self._stuck.items() if stuck.retry_at > now]

    async def _send(self, producer: AIOKafkaProducer, wave: list[Row]) -> None:
        sent: dict[asyncio.Future[object], Row] = {}
        outage: BaseException | None = None
        for row in wave:
            try:
                sent[await producer.send(self._topic, **to_message(row, source=self._topic))] = row
            except _UNSENDABLE as error:
                self._hold_back(row, error)
            except Exception as error:  # noqa: BLE001  # raised below, once what was sent is accounted for
                outage = error
                break
        if sent:
            # Bounded here as well: a producer whose own task died settles nothing.
            _, unsettled = await asyncio.wait(sent, timeout=DELIVERY_TIMEOUT_SECONDS * 2)
            outage = TimeoutError("Kafka did not answer") if unsettled else outage
        for future, row in sent.items():
            outage = self._settle(future, row) or outage
        if outage:
            raise outage
        self._recovered()

    def _settle(self, future: asyncio.Future[object], row: Row) -> BaseException | None:
        if not future.done():
            return None
        error = future.exception()
        if isinstance(error, _UNSENDABLE):
            self._hold_back(row, error)
            return None
        if error is None:
            self._published.append(row["position"])
            self._stuck.pop(row["aggregateid"], None)
            PUBLISHED.labels(self._topic).inc()
        return error

    def _hold_back(self, row: Row, error: Exception) -> None:
        key = row["aggregateid"]
        if len(self._stuck) >= MAX_STUCK_KEYS and key not in self._stuck:
            raise error  # not a few bad events: an outage
        attempts = self._stuck[key].attempts + 1 if key in self._stuck else 1
        if attempts == 1:
            _log.error(
                "relay_key_stuck", topic=self._topic, key=key, event_id=str(row["id"]), error=repr(error)
            )
        STUCK.labels(self._topic).inc()
        delay = full_jitter(attempts, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=STUCK_KEY_CAP_SECONDS)
        self._stuck[key] = _Stuck(attempts, asyncio.get_running_loop().time() + max(delay, POLL_SECONDS))

    def _recovered(self) -> None:
        if self._failures:
            self._failures = 0
            _log.info("relay_resumed", topic=self._topic)


def _waves(batch: list[Row]) -> Iterator[list[Row]]:
    # The first event of each aggregate, then the second of each, ...
    waves: list[list[Row]] = []
    seen: dict[str, int] = {}
    for row in batch:
        turn = seen.get(row["aggregateid"], 0)
        seen[row["aggregateid"]] = turn + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append(row)
    yield from waves
