"""Writers that interleave: some commit late, some roll back; what was committed is noted beside it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from chassis.clock import SystemClock
from chassis.ids import new_id
from chassis.outbox import Event, append
from chassis.postgres import Database, Transaction, statement
from sagacity.orders.v1 import events_pb2
from tests.events.world import World

AGGREGATES = 200
LATE_SHARE, LATE_SECONDS = 0.1, 0.2
ROLLED_BACK_SHARE = 0.05
# A writer waits for those who are behind, so that the backlog stays within what a test can wait for.
PAUSE_SECONDS = 0.02
MAX_AHEAD = 2_000

_NEXT = statement(
    "proof_next",
    """
    INSERT INTO proof_aggregate (id, sequence) VALUES (%(id)s::text, 1)
    ON CONFLICT (id) DO UPDATE SET sequence = proof_aggregate.sequence + 1
    RETURNING sequence
    """,
)
_NOTE = statement(
    "proof_note",
    "INSERT INTO proof_fact (event_id, aggregate, sequence)"
    " VALUES (%(event_id)s::text, %(aggregate)s::text, %(sequence)s::bigint)",
)


class RolledBackError(Exception):
    """A writer changed its mind."""


@dataclass
class Writers:
    """So many writers on one database, until they are told that it is enough and have written enough."""

    world: World
    seed: int
    writers: int
    events: int
    written: int = 0
    late: int = 0
    rolled_back: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Write at least `events`, and go on until `enough` is set."""
        database = await Database.open(
            self.world.source_dsn, application_name="writers", max_size=self.writers
        )
        try:
            async with asyncio.TaskGroup() as group:
                for seed in range(self.seed, self.seed + self.writers):
                    rng = random.Random(seed)  # noqa: S311 - it chooses what writers do
                    group.create_task(self._write(database, rng))
        finally:
            await database.close()

    async def _write(self, database: Database, rng: random.Random) -> None:
        while self.written < self.events or not self.enough.is_set():
            if self.written - await self.world.applied() > MAX_AHEAD:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            try:
                async with database.transaction() as tx:
                    await self._change(tx, rng)
            except RolledBackError:
                self.rolled_back += 1
            else:
                self.written += 1
            await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS))

    async def _change(self, tx: Transaction, rng: random.Random) -> None:
        aggregate = f"proof-{rng.randrange(AGGREGATES)}"
        ((sequence),) = [row["sequence"] for row in await tx.fetch(_NEXT, {"id": aggregate})]
        fact = events_pb2.OrderPlaced(order_id=aggregate)
        event = Event(
            id=new_id(),
            aggregate_type="order",
            aggregate_id=aggregate,
            type=fact.DESCRIPTOR.full_name,
            payload=fact.SerializeToString(),
            occurred_at=SystemClock().now(),
        )
        await append(tx, event, sequence=sequence)
        await tx.fetch(_NOTE, {"event_id": str(event.id), "aggregate": aggregate, "sequence": sequence})
        if rng.random() < ROLLED_BACK_SHARE:
            raise RolledBackError
        if rng.random() < LATE_SHARE:
            self.late += 1
            await asyncio.sleep(rng.uniform(0, LATE_SECONDS))
