"""One stay in a consumer group: which records are still ours to apply, and how far each partition is.

A rebalance takes partitions away while a transaction is under way. Whoever applies does so inside of
`transaction`; the group waits in `on_partitions_revoked` until that has ended, or been given up, and the
offsets of what was applied are committed. What was read before is stale then, and refused.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from typing_extensions import override

from chassis.cancellation import is_cancelled
from chassis.consumer_metrics import LAG, REGRESSIONS

# A transaction that takes longer is given up; so is, after less, one that a rebalance waits for.
APPLY_SECONDS = 20.0
REVOKE_SECONDS = 5.0
COMMIT_SECONDS = 5.0
# How long the group waits for a member to give its partitions back: more than all of the above together.
REBALANCE_TIMEOUT_MS = 45_000
LAG_SECONDS = 5.0
LAG_TIMEOUT_SECONDS = 2.0
_log = structlog.get_logger(__name__)

Polled = Mapping[TopicPartition, Sequence[Any]]


class PartitionsGoneError(Exception):
    """What was read belongs to somebody else now; nothing was changed."""


class Session(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """The partitions of one member, from when it joins until it leaves."""

    def __init__(self, kafka: AIOKafkaConsumer, group: str) -> None:
        self._kafka = kafka
        self._group = group
        # Rises when partitions are taken away: what was read in an earlier epoch is not to be applied.
        self.epoch = 0
        self._applying = asyncio.Lock()
        self._deadline: asyncio.Timeout | None = None
        self._next: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._lag_due = 0.0
        # Why Kafka did not answer when it was asked last; None: it did. Polling does not tell: while a broker
        # is away there is nothing to read, as where nothing was sent.
        self.silence: Exception | None = None

    @override
    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Holds the rebalance up until nothing is being applied and the offsets are committed."""
        loop = asyncio.get_running_loop()
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(min(self._deadline.when() or 0, loop.time() + REVOKE_SECONDS))
        async with self._applying:
            self.epoch += 1
            await self.commit_for_others()
            self._next.clear()
            self._committed.clear()
            self.hide_lag(revoked)

    @override
    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Nothing: a partition is looked at with its first records."""

    @asynccontextmanager
    async def transaction(self, epoch: int) -> AsyncIterator[None]:
        """Applies inside of the block what was read in an epoch.

        Raises:
            PartitionsGoneError: The epoch is over.
            TimeoutError: It took too long, or a rebalance waited for it.
        """
        async with self._applying:
            if epoch != self.epoch:
                raise PartitionsGoneError
            try:
                async with asyncio.timeout(APPLY_SECONDS) as deadline:
                    self._deadline = deadline
                    yield
            except TimeoutError as error:
                raise TimeoutError(str(error) or "it took too long") from error
            finally:
                self._deadline = None

    async def look_at(self, epoch: int, partition: TopicPartition, records: Sequence[Any]) -> None:
        """Counts it where Kafka gives records again that it had committed offsets behind.

        Raises:
            PartitionsGoneError: The epoch in which they were read is over.
        """
        known = self._next.get(partition)
        if known is None:
            known = await self._kafka.committed(partition) or 0
        if epoch != self.epoch:
            raise PartitionsGoneError
        if partition not in self._next:
            self._committed[partition] = known
        first = records[0].offset
        if first < known:
            REGRESSIONS.labels(self._group, "offset").inc()
            _log.error("offsets_went_back", group=self._group, partition=partition, offset=first, known=known)
        self._next[partition] = first

    def applied(self, partition: TopicPartition, offset: int) -> None:
        """Notes that everything up to this offset is dealt with."""
        self._next[partition] = offset + 1

    async def commit(self) -> None:
        """Commits the offsets of what was applied.

        A member that has lost the partition meanwhile cannot: its new owner gets these events again, and
        drops them.
        """
        due = {each: at for each, at in self._next.items() if at != self._committed.get(each)}
        if not due:
            return
        epoch = self.epoch
        with suppress(CommitFailedError, IllegalStateError):
            await self._kafka.commit(due)
            if epoch == self.epoch:
                self._committed.update(due)

    async def commit_for_others(self, within_seconds: float = COMMIT_SECONDS) -> None:
        """As `commit`, before partitions go; where it fails or takes long, they get some events again."""
        try:
            async with asyncio.timeout(within_seconds):
                await self.commit()
        except (KafkaError, TimeoutError, asyncio.CancelledError) as error:
            # aiokafka has CancelledErrors of its own, where a connection breaks.
            if is_cancelled():
                raise
            _log.warning("offsets_not_committed", group=self._group, error=repr(error))

    def give_back(self, polled: Polled, epoch: int) -> None:
        """Lets Kafka give records again that were not applied."""
        if epoch != self.epoch:
            return
        for partition, records in polled.items():
            with suppress(IllegalStateError):
                at = max(self._next.get(partition, 0), records[0].offset)
                self._kafka.seek(partition, at)

    async def show_lag(self) -> None:
        """Refreshes the lag of this member's partitions, and whether Kafka answers, now and then."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._lag_due:
            return
        self._lag_due = loop.time() + LAG_SECONDS
        try:
            async with asyncio.timeout(LAG_TIMEOUT_SECONDS):
                await self._ask_for_lag()
        except IllegalStateError:
            pass  # the partitions went meanwhile
        except TimeoutError:
            self.silence = TimeoutError("Kafka does not answer")
        except KafkaError as error:
            self.silence = error
        else:
            self.silence = None

    async def _ask_for_lag(self) -> None:
        partitions = self._kafka.assignment()
        if not partitions:
            # Another member has them; what this one can say is whether Kafka is there.
            await self._kafka.topics()
            return
        ends = await self._kafka.end_offsets(partitions)
        for each in partitions & self._kafka.assignment():
            at = self._next.get(each)
            if at is None:
                at = await self._kafka.position(each)
            LAG.labels(self._group, each.topic, each.partition).set(max(0, ends[each] - at))

    def hide_lag(self, partitions: Collection[TopicPartition]) -> None:
        """Shows nothing of partitions that another member may have now."""
        for each in partitions:
            with suppress(KeyError):
                LAG.remove(self._group, each.topic, each.partition)
