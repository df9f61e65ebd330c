"""The barrier forgets what is beyond its horizon, and nothing that is forgotten can have an effect again."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from chassis import barrier
from chassis.barrier import BARRIER_HORIZON, SagaCall
from chassis.barrier_pruning import _PRUNE, PRUNING_MARGIN, BarrierPruning, prune
from chassis.clock import Clock, SystemClock
from chassis.errors import Fault
from chassis.ids import moment_of, new_id, uuid7_floor
from chassis.postgres import Database
from sagacity.common.v1.saga_step_pb2 import OPERATION_DO, SagaStep
from sagacity.inventory.v1.inventory_pb2 import CommitReservationRequest
from tests.integration.chassis.barrier_steps import DDL, act, as_refusal, do, effects, until

pytestmark = pytest.mark.integration

NOW = SystemClock().now()
FORGOTTEN = BARRIER_HORIZON + PRUNING_MARGIN
SECOND = timedelta(seconds=1)


class Standing(Clock):
    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    @override
    def now(self) -> datetime:
        return self.moment


@pytest.fixture
async def database(open_database: Any) -> Database:
    opened: Database = await open_database(DDL)
    return opened


def made(age: timedelta, number: int = 1) -> UUID:
    """Return the id of a saga of some age."""
    return UUID(int=uuid7_floor(NOW - age).int + number)


async def remember(database: Database, *sagas: UUID, step: str = "reservation") -> None:
    for saga_id in sagas:
        await do(database, SagaCall(saga_id, step, b"hash"))


async def remembered(database: Database, rows: Any) -> set[UUID]:
    return {row["saga_id"] for row in await rows(database, "SELECT saga_id FROM barrier")}


async def test_rows_beyond_the_horizon_and_its_margin_go_and_younger_ones_stay(
    database: Database, rows: Any
) -> None:
    old = [made(timedelta(days=400)), made(FORGOTTEN + SECOND)]
    young = [made(FORGOTTEN), made(BARRIER_HORIZON + SECOND), made(timedelta(days=1)), new_id()]
    await remember(database, *old, *young)
    await remember(database, *old, step="payment")
    assert await prune(database, NOW) == 4
    assert await remembered(database, rows) == set(young)
    assert await prune(database, NOW) == 0


async def test_a_batch_is_bounded_and_takes_the_oldest_first(database: Database, rows: Any) -> None:
    old = [made(FORGOTTEN + timedelta(days=day), day) for day in range(7, 0, -1)]
    await remember(database, *old)
    assert await prune(database, NOW, batch=3) == 3
    assert await remembered(database, rows) == set(old[3:])
    assert await prune(database, NOW, batch=3) == 3
    assert await prune(database, NOW, batch=3) == 1
    assert await remembered(database, rows) == set()


async def test_pruners_at_once_share_the_rows_and_wait_for_nobody(database: Database, rows: Any) -> None:
    old = [made(FORGOTTEN + SECOND, number) for number in range(1, 41)]
    await remember(database, *old)
    async with database.transaction() as tx:  # a row that somebody has in hand is left out
        call = SagaCall(old[0], "reservation", b"hash")
        await tx.fetch(barrier._LOCK, {"saga_id": call.saga_id, "step": call.step})
        pruned = await asyncio.gather(*(prune(database, NOW, batch=10) for _ in range(4)))
        while count := await prune(database, NOW, batch=10):
            pruned.append(count)
        assert sum(pruned) == 39
        assert await remembered(database, rows) == {old[0]}
    assert await prune(database, NOW) == 1


async def test_the_pruning_finds_its_rows_by_the_primary_key(database: Database, rows: Any) -> None:
    await rows(
        database,
        "INSERT INTO barrier (saga_id, step, outcome)"
        " SELECT ('01936f00-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 's', 'DONE'"
        " FROM generate_series(1, 20000) AS i",
    )
    await rows(database, "ANALYZE barrier")
    plan = await rows(database, f"EXPLAIN {_PRUNE.sql}", floor=uuid7_floor(NOW), batch=1_000)
    text = " ".join(row["QUERY PLAN"] for row in plan)
    assert "Index Scan using barrier_pkey" in text
    assert "Tid Scan" in text
    assert "Seq Scan" not in text
    assert "Sort" not in text


async def test_a_call_whose_row_was_pruned_is_too_old_and_has_no_effect_again(
    database: Database, rows: Any
) -> None:
    saga_id = new_id()
    request = CommitReservationRequest(
        saga_step=SagaStep(saga_id=str(saga_id), step="stock", operation=OPERATION_DO), reservation_id="r"
    )

    async def called(clock: Clock) -> dict[str, Any]:
        call = barrier.saga_call(request, clock=clock)
        return await barrier.do_once(database, call, act, as_refusal=as_refusal)

    assert await called(SystemClock()) == {"made": 1}
    later = Standing(moment_of(saga_id) + FORGOTTEN + SECOND)
    assert await prune(database, later.now()) == 1
    for _ in range(2):
        with pytest.raises(Fault, match="SAGA_TOO_OLD"):
            await called(later)
    assert await effects(database) == ["do"]
    assert await remembered(database, rows) == set()


async def test_no_clock_that_is_off_by_less_than_the_margin_answers_a_pruned_call(
    database: Database, rows: Any
) -> None:
    saga_id = new_id()
    request = CommitReservationRequest(saga_step=SagaStep(saga_id=str(saga_id), step="stock", operation=1))
    await remember(database, saga_id, step="stock")
    pruned_at = moment_of(saga_id) + FORGOTTEN + SECOND
    assert await prune(database, pruned_at) == 1
    for off in (timedelta(0), -timedelta(hours=23), timedelta(hours=23)):
        with pytest.raises(Fault, match="SAGA_TOO_OLD"):
            barrier.saga_call(request, clock=Standing(pruned_at + off))


async def test_the_loop_prunes_batch_after_batch_until_it_is_cancelled(database: Database, rows: Any) -> None:
    young = new_id()
    await remember(database, *(made(FORGOTTEN + SECOND, number) for number in range(1, 24)), young)

    async def only(saga_id: UUID) -> bool:
        return await remembered(database, rows) == {saga_id}

    task = asyncio.create_task(BarrierPruning(database, Standing(NOW), batch=5).run())
    await until(lambda: only(young))
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("broken", ["the table is away", "the database is away"])
async def test_the_loop_outlives_what_fails_and_says_so(open_database: Any, rows: Any, broken: str) -> None:
    database: Database = await open_database(DDL)
    other: Database = await open_database()
    await remember(database, made(FORGOTTEN + SECOND))
    if broken == "the table is away":
        await rows(database, "ALTER TABLE barrier RENAME TO hidden")
    else:
        await database.close()
    with capture_logs() as logs:

        async def failed_twice() -> bool:
            return [entry["event"] for entry in logs].count("barrier_pruning_failed") >= 2

        async def nothing_left() -> bool:
            return not await remembered(other, rows)

        task = asyncio.create_task(BarrierPruning(database, Standing(NOW), interval_seconds=0.001).run())
        await until(failed_twice)
        assert not task.done()
        if broken == "the table is away":
            await rows(other, "ALTER TABLE hidden RENAME TO barrier")
            await until(nothing_left)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
