"""A world under faults: relays and consumers are killed, stopped and replaced while twenty writers write."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from tests.e2e.eventually import eventually
from tests.events.checker import Broken, broken, duplicates
from tests.events.processes import Children
from tests.events.world import World, number
from tests.events.writers import Writers

WRITERS = 20
STEADY_CONSUMERS = 2
# At which passage of its crash point a process dies: soon, but not always at the first.
LAST_PASSAGE = 3
CONVERGE_SECONDS = 180.0
RELAY_POINTS = ("relay.after_ack", "relay.before_send")
CONSUMER_POINT = "consumer.after_apply"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    events: int
    relay_kills: int
    relay_stops: int
    consumer_kills: int
    rebalances: int


@dataclass
class Seen:
    """What the faults did."""

    sizes: Sizes
    events: int = 0
    late_commits: int = 0
    rolled_back: int = 0
    relay_kills: int = 0
    killed_after_ack: int = 0
    relay_stops: int = 0
    consumer_kills: int = 0
    rebalances: int = 0
    duplicates: int = 0

    @property
    def fired(self) -> Sizes:
        """How many of each fault have fired."""
        return Sizes(
            self.sizes.events, self.relay_kills, self.relay_stops, self.consumer_kills, self.rebalances
        )


async def under_faults(
    world: World, children: Children, sizes: Sizes, seed: int
) -> tuple[Seen, list[Broken]]:
    """Write under faults, heal everything, wait until all is applied, and check."""
    rng, seen = random.Random(seed), Seen(sizes)  # noqa: S311 - it chooses faults
    writers = Writers(world, seed, writers=WRITERS, events=sizes.events)
    for _ in range(STEADY_CONSUMERS):
        await children.start("consumer")
    async with asyncio.TaskGroup() as group:
        group.create_task(writers.run())
        faults = [
            group.create_task(_hurt_relays(world, children, seen, rng)),
            group.create_task(_hurt_consumers(world, children, seen, rng)),
        ]
        await asyncio.wait(faults)
        writers.enough.set()
    await _converged(world)
    seen.events, seen.late_commits, seen.rolled_back = writers.written, writers.late, writers.rolled_back
    seen.duplicates = duplicates(await world.published())
    return seen, await broken(world)


async def _converged(world: World) -> None:
    async def left() -> tuple[int, int]:
        return await world.in_outbox(), await world.committed() - await world.applied()

    await eventually(left, until=lambda left: left == (0, 0), within_seconds=CONVERGE_SECONDS)


async def _hurt_relays(world: World, children: Children, seen: Seen, rng: random.Random) -> None:
    for kill in range(seen.sizes.relay_kills):
        point = RELAY_POINTS[kill % len(RELAY_POINTS)]
        relay = await children.start("relay", crash_at=f"{point}:{rng.randint(1, LAST_PASSAGE)}")
        await relay.crashed()
        seen.relay_kills += 1
        seen.killed_after_ack += point == "relay.after_ack"
    for _ in range(seen.sizes.relay_stops):
        await _stop_and_continue(world, children, seen)
    await children.start("relay")


async def _stop_and_continue(world: World, children: Children, seen: Seen) -> None:
    """F7: a relay sleeps past its lease while another one works, and goes on."""
    epochs = await _epochs(world)
    sleeper = await children.start("relay")
    await _leases_move(world, epochs)
    sleeper.freeze()
    epochs = await _epochs(world)
    other = await children.start("relay")
    await _leases_move(world, epochs)
    sleeper.thaw()
    seen.relay_stops += 1
    await sleeper.stop()
    await other.stop()


async def _epochs(world: World) -> int:
    return await number(world.source_dsn, "SELECT sum(epoch) FROM outbox_lease")


async def _leases_move(world: World, since: int) -> None:
    await eventually(lambda: _epochs(world), until=lambda epochs: epochs > since)


async def _hurt_consumers(world: World, children: Children, seen: Seen, rng: random.Random) -> None:
    for _ in range(seen.sizes.consumer_kills):
        crash_at = f"{CONSUMER_POINT}:{rng.randint(1, LAST_PASSAGE)}"
        consumer = await children.start("consumer", crash_at=crash_at)
        await consumer.crashed()
        seen.consumer_kills += 1
    await _members(world, STEADY_CONSUMERS)
    while seen.rebalances < seen.sizes.rebalances:
        guest = await children.start("consumer")
        await _members(world, STEADY_CONSUMERS + 1)
        await guest.stop()
        await _members(world, STEADY_CONSUMERS)
        seen.rebalances += 2


async def _members(world: World, wanted: int) -> None:
    await eventually(world.members, until=lambda members: members == wanted)
