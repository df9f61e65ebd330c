"""A cancelled order's stock comes back by ReleaseReservation as a step, alone and beside Restock."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

import pytest

from chassis.ids import new_id
from chassis.postgres import statement
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import ReservationNotCommittedError, ReservationState

pytestmark = pytest.mark.integration

STOCK_LOCK = statement("lock_all_stock", "SELECT sku FROM stock ORDER BY sku FOR UPDATE")
COMMITTED, RETURNED, RELEASED = (
    ReservationState.COMMITTED,
    ReservationState.RETURNED,
    ReservationState.RELEASED,
)


async def sold(world: Any, *lines: tuple[str, int], stock: int = 10) -> Any:
    for sku in sorted({sku for sku, _ in lines}):
        await world.product(sku, stock=stock)
    order = world.order(*lines)
    await order.reserve()
    await order.commit()
    return order


async def returned(world: Any, order: Any) -> dict[str, int]:
    reservation = await world.reservations.reservation(order.reservation_id)
    return {line.sku: line.returned for line in reservation.lines}


async def waiting(world: Any, count: int) -> None:
    """Wait until so many connections wait for a lock."""
    async with asyncio.timeout(30):
        while True:
            rows = await world.rows(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            if len(rows) >= count:
                return
            await asyncio.sleep(0)


async def test_a_cancellation_gives_everything_back_and_says_why(world: Any, invariants_hold: Any) -> None:
    order = await sold(world, ("A-1", 3), ("B-1", 2))
    assert await order.cancel() is RELEASED
    assert await world.stock("A-1") == (10, 0)
    assert await world.stock("B-1") == (10, 0)
    event = events_pb2.StockReleased.FromString((await world.events())[-1]["payload"])
    assert event.reason == events_pb2.RELEASE_REASON_ORDER_CANCELLED
    assert event.order_id == str(order.order_id)
    await invariants_hold()


async def test_a_cancellation_gives_back_only_what_had_not_come_back(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 3), ("B-1", 2))
    await order.restock(("A-1", 2), ("B-1", 2))
    assert await order.cancel() is RELEASED
    assert await world.stock("A-1") == (10, 0)
    assert await world.stock("B-1") == (10, 0)
    assert await returned(world, order) == {"A-1": 2, "B-1": 2}
    await invariants_hold()


async def test_sixteen_duplicates_of_a_cancellation_give_the_stock_back_once(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 3))
    saga_id = new_id()
    assert await asyncio.gather(*(order.cancel(saga_id) for _ in range(16))) == [RELEASED] * 16
    assert await asyncio.gather(*(order.cancel() for _ in range(16))) == [RELEASED] * 16
    assert await world.stock("A-1") == (10, 0)
    await invariants_hold()


async def test_a_cancellation_and_the_undo_of_the_reserve_have_rows_of_their_own(world: Any) -> None:
    order = await sold(world, ("A-1", 3))
    saga_id = new_id()
    assert await order.cancel(saga_id) is RELEASED
    assert await order.release() is RELEASED
    rows = await world.rows("SELECT saga_id, step, outcome, undo_reply FROM barrier ORDER BY step")
    assert [(row["step"], row["outcome"], row["undo_reply"]) for row in rows] == [
        ("reservation", "DONE", {"state": "RELEASED"}),
        ("stock", "DONE", None),
        ("stock_release", "DONE", None),
    ]
    assert rows[2]["saga_id"] == saga_id
    assert await world.stock("A-1") == (10, 0)


async def test_a_cancellation_that_waits_for_a_return_gives_back_what_is_left(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 5), ("B-1", 2))
    async with world.database.transaction() as tx:
        await tx.fetch(STOCK_LOCK, {})
        restock = asyncio.create_task(order.restock(("A-1", 2)))
        await waiting(world, 1)
        cancel = asyncio.create_task(order.cancel())
        await waiting(world, 2)
    assert await restock is COMMITTED
    assert await cancel is RELEASED
    assert await world.stock("A-1") == (10, 0)
    assert await world.stock("B-1") == (10, 0)
    await invariants_hold()


async def test_an_undo_that_waits_for_a_return_of_everything_gives_nothing_back(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 5))
    async with world.database.transaction() as tx:
        await tx.fetch(STOCK_LOCK, {})
        restock = asyncio.create_task(order.restock(("A-1", 5)))
        await waiting(world, 1)
        undo = asyncio.create_task(order.release())
        await waiting(world, 2)
    assert await restock is RETURNED
    assert await undo is RETURNED
    assert await world.stock("A-1") == (10, 0)
    await invariants_hold()


async def test_a_return_that_waits_for_a_cancellation_is_refused(world: Any, invariants_hold: Any) -> None:
    order = await sold(world, ("A-1", 5))
    async with world.database.transaction() as tx:
        await tx.fetch(STOCK_LOCK, {})
        cancel = asyncio.create_task(order.cancel())
        await waiting(world, 1)
        restock = asyncio.create_task(order.restock(("A-1", 2)))
        await waiting(world, 2)
    assert await cancel is RELEASED
    with pytest.raises(ReservationNotCommittedError):
        await restock
    assert await world.stock("A-1") == (10, 0)
    await invariants_hold()


async def test_returns_and_cancellations_at_once_give_every_unit_back_once(
    world: Any, invariants_hold: Any
) -> None:
    for number in range(20):
        order = await sold(world, (f"A-{number}", 5), (f"B-{number}", 2))
        saga_ids = new_id(), new_id(), new_id()
        results = await asyncio.gather(
            order.restock((f"A-{number}", 2), saga_id=saga_ids[0]),
            order.cancel(saga_ids[1]),
            order.restock((f"B-{number}", 2), (f"A-{number}", 3), saga_id=saga_ids[2]),
            order.release(),
            order.restock((f"A-{number}", 2), saga_id=saga_ids[0]),
            order.cancel(saga_ids[1]),
            return_exceptions=True,
        )
        refusals = {type(result) for result in results if isinstance(result, Exception)}
        assert refusals <= {ReservationNotCommittedError}
        assert await world.stock(f"A-{number}") == (10, 0)
        assert await world.stock(f"B-{number}") == (10, 0)
    await invariants_hold()


@pytest.mark.parametrize(
    "verbs", sorted(set(permutations(("restock", "restock", "cancel", "cancel", "undo")))), ids=" ".join
)
async def test_in_any_order_every_unit_comes_back_once(
    world: Any, invariants_hold: Any, verbs: tuple[str, ...]
) -> None:
    """P4, P3: each of the two sagas calls twice, and the undo of the reserve comes late."""
    order = await sold(world, ("A-1", 5), ("B-1", 2))
    returning, cancelling = new_id(), new_id()
    for number, verb in enumerate(verbs):
        if verb == "restock":
            gone = {"cancel", "undo"} & set(verbs[:number])
            try:
                answer = await order.restock(("A-1", 2), saga_id=returning)
            except ReservationNotCommittedError:
                answer = None
            # Refused where the stock had been given back, unless it had come back before that.
            assert (answer is None) == bool(gone and "restock" not in verbs[: first(verbs)])
        else:
            assert await (order.cancel(cancelling) if verb == "cancel" else order.release()) is RELEASED
    assert await world.stock("A-1") == (10, 0)
    assert await world.stock("B-1") == (10, 0)
    await invariants_hold()


def first(verbs: tuple[str, ...]) -> int:
    """Return where the first verb stands that gives everything back."""
    return min(verbs.index("cancel"), verbs.index("undo"))
