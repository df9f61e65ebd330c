"""A cancellation that comes while a statement ends is not lost, whichever way the race goes."""

import asyncio
from typing import Any

import pytest

from chassis.postgres import Database, statement

pytestmark = pytest.mark.integration

ONE = statement("one", "SELECT 1 AS n")
ROUNDS = 300


async def forever(database: Database, begun: asyncio.Event) -> None:
    while True:
        begun.set()
        await database.fetch(ONE, {})


@pytest.mark.parametrize("turns", range(6))
async def test_who_loops_over_statements_stops_when_cancelled(open_database: Any, turns: int) -> None:
    database = await open_database()
    for _ in range(ROUNDS // 6):
        begun = asyncio.Event()
        task = asyncio.create_task(forever(database, begun))
        await begun.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait({task})
        assert task.cancelled()
