"""What each replica does for the projection: it copies, follows, switches and deletes generations.

Which generation needs what is in the database, and each step is one transaction: so replicas share the work,
and one that dies leaves nothing but work for the others.
"""

import asyncio
from datetime import timedelta
from functools import partial

import structlog
from aiokafka.errors import KafkaError

from chassis import consumer_metrics
from chassis.cancellation import is_cancelled
from chassis.consumer import Consumer, Consumers
from chassis.consumer_lag import read_lags
from chassis.errors import Fault
from chassis.kafka import KafkaCluster
from chassis.postgres import Database, Transaction
from chassis.projections import ProjectionState, ProjectionStatus
from services.orders.events import TOPIC
from services.orders.history import generations as store
from services.orders.history.following import handlers
from services.orders.history.generations import Generation, GenerationState

LOOK_SECONDS = 1.0
# Orders are changed meanwhile, by the same database.
COPY_PACE_SECONDS = 0.02
DELETE_PACE_SECONDS = 0.05
DELETE_BATCHES_PER_LOOK = 20
# A consumer of a retired generation that has not heard of it yet may still write; nobody reads what it does.
RETIRED_FOR = timedelta(seconds=30)
# What a consumer has not applied yet when it counts as caught up: about one batch.
MAX_SWITCH_LAG = 200
STOP_SECONDS = 8.0

_RETIRED = GenerationState.RETIRED
_log = structlog.get_logger(__name__)


class OrderHistoryProjection:
    """The projection as an operator sees it: a `chassis.projections.Projection`."""

    name = "order-history"

    async def rebuild(self, tx: Transaction) -> ProjectionStatus:
        """Begins a new generation, which the replicas build; where one is being built, that one goes on."""
        await store.begin_generation(tx)
        return await self.status(tx)

    async def status(self, source: Database | Transaction) -> ProjectionStatus:
        """Tells where it stands."""
        found = [each for each in await store.read_generations(source) if each.state != _RETIRED]
        active = next((each for each in found if each.active), None)
        building = next((each for each in found if not each.active), None)
        shown = building or active
        state = ProjectionState.SERVING
        if building:
            copying = building.state is GenerationState.COPYING
            state = ProjectionState.COPYING if copying else ProjectionState.CATCHING_UP
        return ProjectionStatus(
            name=self.name,
            state=state,
            active_generation=active.number if active else 0,
            building_generation=building.number if building else None,
            copied=shown.copied if shown else 0,
            begin_time=shown.create_time if shown else None,
            switch_time=active.switch_time if active else None,
        )


class OrderHistory:
    """Keeps the generations of the projection; run one in each replica."""

    def __init__(
        self, database: Database, *, kafka: KafkaCluster, consumers: Consumers | None = None
    ) -> None:
        """Makes it; without Kafka (no servers) nothing follows, and a copy is what there is.

        `consumers` has those of its generations while they run.
        """
        self._registry = consumers
        self._database = database
        self._kafka = kafka
        self._consumers: dict[int, asyncio.Task[None]] = {}
        # Where the topic ended when a generation was first seen to follow: it has to come as far as that.
        self._targets: dict[int, dict[int, int]] = {}
        # Generations of which it was said that something holds them up.
        self._held_up: set[int] = set()
        self._wake = asyncio.Event()
        self._failing = False

    async def run(self) -> None:
        """Does what is to be done until it is cancelled, whether the database and Kafka are there or not."""
        try:
            while True:
                try:
                    await self._look()
                    self._failing = False
                except (Fault, KafkaError, OSError, TimeoutError, asyncio.CancelledError) as error:
                    # Kafka's client lets its own CancelledError out, where it is closed while it waits.
                    if is_cancelled():
                        raise
                    if not self._failing:
                        _log.warning("order_history_waits", error=repr(error))
                    self._failing = True
                await self._pause()
        finally:
            await self._stop(set(self._consumers))

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _look(self) -> None:
        found = await store.read_generations(self._database)
        following = {each.number for each in found if each.state is GenerationState.FOLLOWING}
        ended = {number for number, task in self._consumers.items() if task.done()}
        retired = self._consumers.keys() - following
        for number in retired:
            # Once it has ended, for until then it counts; no consumer of this group comes again.
            self._consumers[number].add_done_callback(partial(_forget, store.consumer_of(number)))
        await self._stop(ended | retired)
        if self._kafka:
            for number in following - self._consumers.keys():
                self._consumers[number] = asyncio.create_task(self._consumer(number).run())
        is_first = not any(each.active for each in found)
        for each in found:
            if each.state is GenerationState.COPYING:
                await self._copy(each)
            elif each.state is GenerationState.RETIRED:
                await self._delete(each)
            elif not each.active:
                await self._switch(each, is_first=is_first)

    def _consumer(self, number: int) -> Consumer:
        return Consumer(
            self._database,
            kafka=self._kafka,
            topics=[TOPIC],
            group=store.consumer_of(number),
            handlers=handlers(number),
            generation=number,
            registry=self._registry,
        )

    async def _copy(self, generation: Generation) -> None:
        while await store.copy_batch(self._database, generation.number):  # noqa: ASYNC110 - a pace, no poll
            await asyncio.sleep(COPY_PACE_SECONDS)
        self._wake.set()

    async def _delete(self, generation: Generation) -> None:
        for _ in range(DELETE_BATCHES_PER_LOOK):
            if not await store.delete_batch(self._database, generation.number, retired_for=RETIRED_FOR):
                return
            await asyncio.sleep(DELETE_PACE_SECONDS)

    async def _switch(self, generation: Generation, *, is_first: bool) -> None:
        number = generation.number
        # Before the first one there is nothing to read at all: a copy that is late is better.
        if not is_first and not await self._is_complete(number):
            return
        if await store.switch_to(self._database, number):
            _log.info("order_history_switched", generation=number, copied=generation.copied)
            self._wake.set()
        self._targets.pop(number, None)

    async def _is_complete(self, number: int) -> bool:
        if halted := await store.halted_keys(self._database, number):
            if number not in self._held_up:
                _log.warning("order_history_not_switched", generation=number, halted_keys=halted)
            self._held_up.add(number)
            return False
        self._held_up.discard(number)
        return not self._kafka or await self._has_caught_up(number)

    async def _has_caught_up(self, number: int) -> bool:
        group = store.consumer_of(number)
        lags = (await read_lags(self._kafka, {group: [TOPIC]}))[group]
        target = self._targets.setdefault(number, {each.partition: each.end for each in lags})
        # What the topic keeps no longer counts as done: nobody commits behind its beginning.
        reached = all(each.end - each.lag >= target.get(each.partition, 0) for each in lags)
        return reached and sum(each.lag for each in lags) <= MAX_SWITCH_LAG

    async def _stop(self, numbers: set[int]) -> None:
        tasks = [self._consumers.pop(number) for number in numbers]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)


def _forget(group: str, _ended: asyncio.Task[None]) -> None:
    consumer_metrics.forget(group)
