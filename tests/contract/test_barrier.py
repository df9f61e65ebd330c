"""The barrier of the simulated participants answers as that of the services does, whatever comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chassis.ids import new_id
from chassis.postgres import Database
from tests.contract.barriers import Barrier, PostgresBarrier, SimulatedBarrier, sequences

pytestmark = pytest.mark.integration

BEFORE, AFTER = "payment", "points"


async def played(barrier: Barrier, step: str) -> dict[tuple[str, ...], tuple[list[str], list[str], str]]:
    """What each sequence is answered, which effects stay, and what is stored."""
    found = {}
    for sequence in sequences():
        saga_id = new_id()
        answers = [await barrier.operate(saga_id, step, operation) for operation in sequence]
        found[sequence] = (answers, await barrier.effects(saga_id), await barrier.outcome(saga_id, step))
    return found


@pytest.mark.parametrize("step", [BEFORE, AFTER])
async def test_whatever_comes_in_which_order_both_barriers_say_the_same(
    step: str, new_database: Callable[..., str]
) -> None:
    database = await Database.open(new_database(), application_name="barriers")
    try:
        real = PostgresBarrier(database, frozenset({AFTER}))
        await real.prepare()
        expected = await played(real, step)
    finally:
        await database.close()
    assert await played(SimulatedBarrier(frozenset({AFTER})), step) == expected
