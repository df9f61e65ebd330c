from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chassis.errors import Fault
from sagacity.inventory.v1 import events_pb2
from services.inventory.app.expiry import ExpirySweeper
from services.inventory.app.reservations import EXPIRY_BATCH
from services.inventory.domain import ReservationState

pytestmark = pytest.mark.integration


async def refused(awaitable: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await awaitable
    return caught.value


async def held(world: Any, *lines: tuple[str, int]) -> Any:
    for sku, _ in lines:
        await world.product(sku, stock=10)
    order = world.order(*lines)
    await order.reserve()
    return order


async def state(world: Any, order: Any) -> ReservationState:
    return ReservationState((await world.reservations.reservation(order.reservation_id)).state)


async def test_a_commit_sells_what_was_held(world: Any, invariants_hold: Any) -> None:
    order = await held(world, ("A-1", 2), ("B-1", 3))
    assert await order.commit() is ReservationState.COMMITTED
    assert await world.stock("A-1") == (8, 0)
    assert await world.stock("B-1") == (7, 0)
    assert await state(world, order) is ReservationState.COMMITTED
    await invariants_hold()


async def test_a_commit_publishes_which_order_it_is_for(world: Any) -> None:
    order = await held(world, ("A-1", 2))
    await order.commit()
    row = (await world.events())[-1]
    event = events_pb2.StockCommitted.FromString(row["payload"])
    assert (row["type"], row["sequence"]) == ("sagacity.inventory.v1.StockCommitted", 2)
    assert (event.reservation_id, event.order_id) == (str(order.reservation_id), str(order.order_id))


async def test_a_commit_that_comes_again_sells_nothing_more(world: Any, invariants_hold: Any) -> None:
    order = await held(world, ("A-1", 2))
    states = await asyncio.gather(*(order.commit() for _ in range(20)))
    assert set(states) == {ReservationState.COMMITTED}
    assert await world.stock("A-1") == (8, 0)
    await invariants_hold()


async def test_another_step_that_commits_what_is_sold_changes_nothing(
    world: Any, invariants_hold: Any
) -> None:
    order = await held(world, ("A-1", 2))
    await order.commit()
    again = world.reservations.commit_reservation(order.call("stock_again"), order.reservation_id)
    assert await again is ReservationState.COMMITTED
    assert await world.stock("A-1") == (8, 0)
    await invariants_hold()


async def test_a_hold_past_its_time_is_not_sold_even_before_the_sweep(
    world: Any, invariants_hold: Any
) -> None:
    order = await held(world, ("A-1", 2))
    await world.run_out(order)
    fault = await refused(order.commit())
    assert (fault.kind, fault.reason, fault.recorded) == ("FAILED_PRECONDITION", "RESERVATION_EXPIRED", True)
    assert await world.reservations.expire_due() == 1
    assert (await refused(order.commit())).reason == "RESERVATION_EXPIRED"
    assert await world.stock("A-1") == (10, 0)
    await invariants_hold()


async def test_an_expired_hold_is_not_sold(world: Any) -> None:
    order = await held(world, ("A-1", 2))
    await world.run_out(order)
    await world.reservations.expire_due()
    assert (await refused(order.commit())).reason == "RESERVATION_EXPIRED"


async def test_a_released_reservation_is_not_sold(world: Any, invariants_hold: Any) -> None:
    order = await held(world, ("A-1", 2))
    await order.release()
    fault = await refused(order.commit())
    assert (fault.kind, fault.reason, fault.recorded) == ("FAILED_PRECONDITION", "RESERVATION_RELEASED", True)
    await invariants_hold()


async def test_a_reservation_that_never_was_is_not_sold(world: Any) -> None:
    fault = await refused(world.order(("A-1", 1)).commit())
    assert (fault.kind, fault.reason, fault.recorded) == ("NOT_FOUND", "RESERVATION_NOT_FOUND", True)


async def test_the_release_of_a_hold_makes_it_available_and_says_so(world: Any, invariants_hold: Any) -> None:
    order = await held(world, ("A-1", 2), ("B-1", 3))
    assert await order.release() is ReservationState.RELEASED
    assert await world.stock("A-1") == (10, 0)
    assert await world.stock("B-1") == (10, 0)
    row = (await world.events())[-1]
    event = events_pb2.StockReleased.FromString(row["payload"])
    assert event.reason == events_pb2.RELEASE_REASON_ORDER_UNDONE
    assert (event.order_id, row["sequence"]) == (str(order.order_id), 2)
    await invariants_hold()


async def test_both_steps_of_a_saga_release_what_was_sold_and_only_one_gives_it_back(
    world: Any, invariants_hold: Any
) -> None:
    order = await held(world, ("A-1", 2))
    await order.commit()
    assert await order.release("stock") is ReservationState.RELEASED
    assert await world.stock("A-1") == (10, 0)
    assert await order.release("reservation") is ReservationState.RELEASED
    assert await order.release("reservation") is ReservationState.RELEASED
    assert await world.stock("A-1") == (10, 0)
    assert [row["sequence"] for row in await world.events()] == [1, 2, 3]
    await invariants_hold()


async def test_releases_of_both_steps_at_once_give_the_stock_back_once(
    world: Any, invariants_hold: Any
) -> None:
    for number in range(10):
        order = await held(world, (f"A-{number}", 2), (f"B-{number}", 1))
        await order.commit()
        steps = ["stock", "reservation"] * 4
        states = await asyncio.gather(*(order.release(step) for step in steps))
        assert set(states) == {ReservationState.RELEASED}
        assert await world.stock(f"A-{number}") == (10, 0)
    await invariants_hold()


async def test_the_release_of_an_expired_hold_succeeds_and_gives_nothing_back(
    world: Any, invariants_hold: Any
) -> None:
    order = await held(world, ("A-1", 2))
    await world.run_out(order)
    await world.reservations.expire_due()
    assert await order.release() is ReservationState.EXPIRED
    assert await world.stock("A-1") == (10, 0)
    assert len(await world.events()) == 2
    await invariants_hold()


async def test_the_release_of_a_refused_reserve_succeeds(world: Any) -> None:
    order = world.order(("A-1", 1))
    await refused(order.reserve())
    assert await order.release() is None


async def test_a_duplicate_reserve_at_the_same_time_as_its_undo_leaves_nothing_held(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("A-1", stock=10)
    for _ in range(30):
        order = world.order(("A-1", 2))
        results = await asyncio.gather(
            order.reserve(), order.release(), order.reserve(), order.release(), return_exceptions=True
        )
        reasons = {result.reason for result in results if isinstance(result, Fault)}
        assert reasons <= {"TOMBSTONED"}
        assert await world.stock("A-1") == (10, 0)
    await invariants_hold()


async def test_the_sweep_expires_what_is_due_and_nothing_else(world: Any, invariants_hold: Any) -> None:
    due = await held(world, ("A-1", 2), ("B-1", 3))
    fresh = world.order(("A-1", 4))
    await fresh.reserve()
    sold = world.order(("B-1", 1))
    await sold.reserve()
    await sold.commit()
    for order in (due, sold):
        await world.run_out(order)

    assert await world.reservations.expire_due() == 1

    assert await state(world, due) is ReservationState.EXPIRED
    assert await world.stock("A-1") == (10, 4)
    assert await world.stock("B-1") == (9, 0)
    row = (await world.events())[-1]
    event = events_pb2.StockReleased.FromString(row["payload"])
    assert event.reason == events_pb2.RELEASE_REASON_HOLD_EXPIRED
    assert (event.reservation_id, event.order_id) == (str(due.reservation_id), str(due.order_id))
    assert await world.reservations.expire_due() == 0
    await invariants_hold()


async def test_sweepers_at_once_and_commits_beside_them_end_each_hold_once(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("A-1", stock=1000)
    await world.product("B-1", stock=1000)
    orders = [world.order(("A-1", 1), ("B-1", 2)) for _ in range(2 * EXPIRY_BATCH + 10)]
    await asyncio.gather(*(order.reserve() for order in orders))
    late = orders[::2]
    await asyncio.gather(*(world.run_out(order) for order in late))
    *commits, _, _, _ = await asyncio.gather(
        *(order.commit() for order in orders),
        *(world.reservations.expire_due() for _ in range(3)),
        return_exceptions=True,
    )
    reasons = [getattr(result, "reason", result) for result in commits]
    assert reasons == ["RESERVATION_EXPIRED", ReservationState.COMMITTED] * (len(orders) // 2)
    while await world.reservations.expire_due():
        pass
    assert await world.stock("A-1") == (1000 - len(orders) // 2, 0)
    await invariants_hold()


async def test_the_sweeper_goes_on_until_it_is_cancelled(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=1000)
    orders = [world.order(("A-1", 1)) for _ in range(EXPIRY_BATCH + 5)]
    await asyncio.gather(*(order.reserve() for order in orders))
    await world.rows("UPDATE reservation SET expire_time = now()")
    sweeper = asyncio.create_task(ExpirySweeper(world.reservations, interval_seconds=0.01).run())
    while await world.stock("A-1") != (1000, 0):  # noqa: ASYNC110 - the database has no event to wait for
        await asyncio.sleep(0)
    sweeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeper
    await invariants_hold()
