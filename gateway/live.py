"""Who waits for news of which order, and how many may.

A reader of Kafka only wakes those who wait for an order; what has become of it they ask the orders service,
after the last thing that they know. So nothing is lost with an event that was missed, none is told twice, and
without Kafka they look every few seconds instead.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final
from uuid import UUID

import structlog
from aiokafka import AIOKafkaConsumer

from chassis.cancellation import is_cancelled
from chassis.cloud_events import full_jitter
from chassis.kafka import KafkaCluster
from chassis.kafka_refusals import reason
from gateway.metrics import LIVE_STREAMS
from gateway.problems import Problem, ProblemError

TOPIC: Final = "sagacity.orders.v1"
# How often who waits looks all the same: with Kafka in case that an event was missed, without it always.
POLL_SECONDS: Final = 15.0
POLL_WITHOUT_KAFKA_SECONDS: Final = 3.0
MAX_BATCH: Final = 500
LOOK_SECONDS: Final = 5.0  # how often it is asked whether Kafka is there
START_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 3.0
FETCH_MS: Final = 500
METADATA_MAX_AGE_MS: Final = 5_000
STOP_SECONDS: Final = 5.0
BACKOFF_BASE_SECONDS: Final = 0.5
BACKOFF_CAP_SECONDS: Final = 10.0
RETRY_AFTER_SECONDS: Final = 10

_LOG: Final = structlog.get_logger(__name__)


class Watcher:
    """One who waits for news of an order."""

    def __init__(self) -> None:
        self.news = asyncio.Event()


class LiveUpdates:
    """What a gateway process has one of: the places of streams, and who is to be woken."""

    def __init__(self, *, max_streams: int, max_streams_per_user: int) -> None:
        """Makes it, with nobody waiting.

        Args:
            max_streams: At once in this process.
            max_streams_per_user: At once of one user in this process.
        """
        self.stopping = asyncio.Event()
        self._max_streams = max_streams
        self._max_streams_per_user = max_streams_per_user
        self._streams_of: Counter[UUID] = Counter()
        self._watchers: dict[str, set[Watcher]] = {}
        self._follows = False

    @property
    def poll_seconds(self) -> float:
        """How long to wait for news before looking all the same."""
        return POLL_SECONDS if self._follows else POLL_WITHOUT_KAFKA_SECONDS

    @contextmanager
    def place(self, user_id: UUID) -> Iterator[None]:
        """Takes one of the places for streams while the block runs.

        Raises:
            ProblemError: 429 where the user has too many, 503 where all together do or the process stops.
        """
        if self.stopping.is_set():
            raise _refused(503, "STOPPING", "This process is stopping: connect again.", seconds=1)
        if self._streams_of[user_id] >= self._max_streams_per_user:
            raise _refused(429, "TOO_MANY_STREAMS", "You have too many streams of updates open.")
        if self._streams_of.total() >= self._max_streams:
            raise _refused(503, "OVERLOADED", "Too many streams of updates are open.")
        self._streams_of[user_id] += 1
        LIVE_STREAMS.inc()
        try:
            yield
        finally:
            self._streams_of[user_id] -= 1
            if not self._streams_of[user_id]:
                del self._streams_of[user_id]
            LIVE_STREAMS.dec()

    @contextmanager
    def watch(self, order_id: str) -> Iterator[Watcher]:
        """Waits for news of an order while the block runs."""
        watcher = Watcher()
        watchers = self._watchers.setdefault(order_id, set())
        watchers.add(watcher)
        try:
            yield watcher
        finally:
            watchers.discard(watcher)
            if not watchers and self._watchers.get(order_id) is watchers:
                del self._watchers[order_id]

    async def end_streams(self) -> None:
        """Ends every stream: who reads it connects again, elsewhere."""
        self.stopping.set()
        self._wake_all()

    async def follow(self, kafka: KafkaCluster) -> None:
        """Wakes those whose orders Kafka tells of, until it is cancelled, whether Kafka is there or not."""
        # aiokafka reports every attempt to connect; one line per outage, from here, says as much.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        failures = 0
        while True:
            try:
                async with _reader(kafka) as reader:
                    failures = 0
                    await self._hear(reader)
            except (Exception, asyncio.CancelledError) as error:
                self._follows = False
                if is_cancelled():
                    raise
                # Whatever it is, the streams look by themselves. It may be a CancelledError: a client that is
                # closed while it waits for an answer lets its own out.
                if not failures:
                    _LOG.warning("live updates go without kafka", error=await reason(kafka, error))
                failures += 1
            await asyncio.sleep(
                full_jitter(failures, base_seconds=BACKOFF_BASE_SECONDS, cap_seconds=BACKOFF_CAP_SECONDS)
            )

    async def _hear(self, reader: AIOKafkaConsumer) -> None:
        self._follows = True
        self._wake_all()
        looks_at = time.monotonic() + LOOK_SECONDS
        while True:
            if time.monotonic() >= looks_at:
                # A broker that is away is silent, as one is that has nothing to tell.
                async with asyncio.timeout(ANSWER_SECONDS):
                    await reader.end_offsets(list(reader.assignment()))
                looks_at = time.monotonic() + LOOK_SECONDS
            polled = await reader.getmany(timeout_ms=FETCH_MS, max_records=MAX_BATCH)
            for records in polled.values():
                for record in records:
                    self.wake((record.key or b"").decode("utf-8", "replace"))

    def wake(self, order_id: str) -> None:
        """Tells those who watch an order that something has become of it."""
        for watcher in self._watchers.get(order_id, ()):
            watcher.news.set()

    def _wake_all(self) -> None:
        for order_id in self._watchers:
            self.wake(order_id)


def _refused(status: int, code: str, detail: str, *, seconds: int = RETRY_AFTER_SECONDS) -> ProblemError:
    return ProblemError(Problem(status, code, detail, headers={"Retry-After": str(seconds)}))


@asynccontextmanager
async def _reader(kafka: KafkaCluster) -> AsyncIterator[AIOKafkaConsumer]:
    # No group: every process hears everything, from now on.
    reader = AIOKafkaConsumer(
        TOPIC,
        **kafka.client_options(),
        auto_offset_reset="latest",
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
    )
    try:
        # A broker that is on its way may take a question and never answer it.
        async with asyncio.timeout(START_SECONDS):
            await reader.start()
            # What was told before is not heard: everybody looks once.
            if reader.assignment():
                await reader.seek_to_end()
        yield reader
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await reader.stop()
