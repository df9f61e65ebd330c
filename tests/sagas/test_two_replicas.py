"""P6: two replicas that take the same sagas from each other, on real participants: nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chassis.ids import new_id
from chassis.postgres import statement
from orchestrator.entries import TERMINAL_STATES
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.leases import Leases
from orchestrator.saga import Operation, Saga
from tests.sagas.engine import Engine
from tests.sagas.faults import Half, Trouble, Troubled
from tests.sagas.worlds import ALL, WORLDS, books_of

pytestmark = pytest.mark.integration

SAGAS = 8
ROUNDS = 25
PATIENCE_SECONDS = 30.0
LEASE_SECONDS = 3_600.0
# Whoever drives them: they are nobody's now, and the old owner does not know.
STEAL = statement(
    "steal",
    "UPDATE saga SET owner = NULL, epoch = epoch + 1, next_run = clock_timestamp()"
    " WHERE state IN ('RUNNING', 'COMPENSATING') RETURNING id",
)


@asynccontextmanager
async def another(engine: Engine, troubled: Troubled) -> AsyncIterator[tuple[Engine, Executor, Leases]]:
    """Another replica on the same journal."""
    journal = Journal(engine.database, f"another-{new_id()}")
    await journal.renew(LEASE_SECONDS)
    task = asyncio.create_task(journal.run())
    replica = Engine(engine.contexts, journal, engine.database)
    async with replica.driving(troubled) as executor:
        yield replica, executor, Leases(journal, executor, lease_seconds=LEASE_SECONDS)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def slow(engine: Engine, definition: Saga[Any]) -> Troubled:
    """Participants whose answers get lost, so that there is something to be taken over."""
    troubled = Troubled(engine.contexts.participants, definition)
    for step in definition.all_steps():
        troubled.expect(Half(step.name, Operation.DO), Trouble.LOST_TWICE)
    return troubled


@pytest.mark.parametrize("definition", ALL, ids=lambda definition: definition.kind)
async def test_sagas_that_change_hands_all_the_time_do_everything_once(
    engine: Engine, definition: Saga[Any]
) -> None:
    world = WORLDS[definition.kind, definition.version]
    cases = [await world(engine.contexts, engine.run) for _ in range(SAGAS)]
    first, second = slow(engine, definition), slow(engine, definition)
    async with another(engine, first) as one, another(engine, second) as two:
        ids = await asyncio.gather(
            *(one[0].begin(one[1], case) for case in cases[::2]),
            *(two[0].begin(two[1], case) for case in cases[1::2]),
        )
        for number in range(ROUNDS):
            await engine.database.fetch(STEAL, {})
            await (one, two)[number % 2][2].sweep()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await engine.database.fetch(STEAL, {}):
                await one[2].sweep()
                await asyncio.gather(*(one[1].wait(saga_id, 0.2) for saga_id in ids))
        ends = [(await engine.journal.standing(saga_id)).state for saga_id in ids]
    assert set(ends) <= TERMINAL_STATES
    ordered = [*cases[::2], *cases[1::2]]
    assert [await books_of(engine.contexts, case) for case in ordered] == [
        case.ends[end] for case, end in zip(ordered, ends, strict=True)
    ]
    assert await engine.broken() == []
    # It did happen: sagas were taken from their owners more often than there are sagas.
    rows = await engine.database.fetch(
        statement("epochs", "SELECT sum(epoch - 1)::int AS taken FROM saga WHERE id = ANY (%(ids)s::uuid[])"),
        {"ids": list(ids)},
    )
    assert rows[0]["taken"] > SAGAS
