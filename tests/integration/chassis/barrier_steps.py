"""Effects and calls that the tests of the barrier share."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chassis import barrier
from chassis.barrier import BARRIER_DDL, SagaCall
from chassis.errors import Detail, Fault, FaultKind
from chassis.postgres import Database, Transaction, statement

EFFECTS = "CREATE TABLE effects (what text NOT NULL);"
DDL = BARRIER_DDL + EFFECTS
INSERT_EFFECT = statement("effect", "INSERT INTO effects VALUES (%(what)s)")
SELECT_EFFECTS = statement("effects", "SELECT what FROM effects ORDER BY what")
START = statement(
    "start",
    "INSERT INTO barrier (saga_id, step, outcome, request_hash)"
    " VALUES (%(saga_id)s, %(step)s, 'IN_PROGRESS', %(request_hash)s)",
)
WAITING = statement(
    "waiting",
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
)


class SoldOutError(Exception):
    pass


def as_refusal(error: Exception) -> Fault | None:
    if isinstance(error, SoldOutError):
        details = (Detail("sku-1", "none left"),)
        return Fault(FaultKind.FAILED_PRECONDITION, "SOLD_OUT", "none left", subjects=details)
    return error if isinstance(error, Fault) else None


def other_request(call: SagaCall) -> SagaCall:
    return SagaCall(call.saga_id, call.step, b"another")


async def effects(database: Database) -> list[str]:
    return [row["what"] for row in await database.fetch(SELECT_EFFECTS, {})]


async def act(tx: Transaction) -> dict[str, Any]:
    await tx.fetch(INSERT_EFFECT, {"what": "do"})
    return {"made": 1}


async def compensate(tx: Transaction) -> dict[str, Any]:
    await tx.fetch(INSERT_EFFECT, {"what": "undo"})
    return {"undone": 1}


async def refuse(tx: Transaction) -> dict[str, Any]:
    await tx.fetch(INSERT_EFFECT, {"what": "half"})
    raise SoldOutError


async def do(database: Database, call: SagaCall, effect: Any = act) -> dict[str, Any]:
    return await barrier.do_once(database, call, effect, as_refusal=as_refusal)


async def undo(database: Database, call: SagaCall, effect: Any = compensate) -> dict[str, Any]:
    return await barrier.undo_once(database, call, effect)


async def start(database: Database, call: SagaCall) -> None:
    """Leave the step in progress, as the first half of a call to a provider does."""
    key = {"saga_id": call.saga_id, "step": call.step, "request_hash": call.request_hash}
    await database.fetch(START, key)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again until the condition holds."""
    async with asyncio.timeout(30):
        while True:
            if await condition():
                return
            await asyncio.sleep(0)


async def someone_waits_for_a_lock(database: Database) -> None:
    await until(lambda: database.fetch(WAITING, {}))
