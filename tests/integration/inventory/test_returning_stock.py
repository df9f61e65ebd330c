"""Sold units come back: by Restock while the reservation stays, and what is left by ReleaseReservation."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

import psycopg
import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from chassis.postgres import statement
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import (
    ReservationNotCommittedError,
    ReservationState,
    ReturnTooLargeError,
)

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


async def test_units_that_come_back_are_on_hand_again_and_remembered_per_line(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 3), ("B-1", 2))
    assert await order.restock(("A-1", 1)) is COMMITTED
    assert await world.stock("A-1") == (8, 0)
    assert await world.stock("B-1") == (8, 0)
    assert await returned(world, order) == {"A-1": 1, "B-1": 0}
    await invariants_hold()


async def test_a_reservation_is_returned_once_all_units_of_all_lines_came_back(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 3), ("B-1", 2))
    assert await order.restock(("A-1", 3)) is COMMITTED
    assert await order.restock(("B-1", 1)) is COMMITTED
    assert await order.restock(("B-1", 1)) is RETURNED
    assert await returned(world, order) == {"A-1": 3, "B-1": 2}
    assert await world.stock("A-1") == (10, 0)
    assert await world.stock("B-1") == (10, 0)
    await invariants_hold()


async def test_lines_of_one_sku_are_summed_before_they_are_compared(world: Any) -> None:
    order = await sold(world, ("A-1", 3))
    with pytest.raises(ReturnTooLargeError) as caught:
        await order.restock(("A-1", 2), ("A-1", 2))
    assert caught.value.excess == (("A-1", 4, 3),)
    assert await order.restock(("A-1", 2), ("A-1", 1)) is RETURNED


async def test_a_return_publishes_what_came_back_with_the_next_sequence(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("B-1", 2), ("A-1", 3))
    world.wakes.clear()
    await order.restock(("B-1", 1), ("A-1", 2))
    row = (await world.events())[-1]
    event = events_pb2.StockReturned.FromString(row["payload"])
    assert (row["type"], row["sequence"]) == ("sagacity.inventory.v1.StockReturned", 3)
    assert row["aggregateid"] == event.reservation_id == str(order.reservation_id)
    assert event.order_id == str(order.order_id)
    assert [(line.sku, line.quantity) for line in event.lines] == [("A-1", 2), ("B-1", 1)]
    assert len(world.wakes) == 1
    await invariants_hold()


async def test_a_return_writes_a_movement_for_each_sku(world: Any) -> None:
    order = await sold(world, ("A-1", 3), ("B-1", 2))
    other = world.order(("A-1", 4))
    await other.reserve()
    await order.restock(("A-1", 1), ("B-1", 2))
    rows = await world.rows(
        "SELECT sku, delta, reason, on_hand_after, reserved_after FROM stock_movement"
        " WHERE caller = 'orchestrator' ORDER BY sku"
    )
    reason = f"came back from order {order.order_id}"
    assert [tuple(row.values()) for row in rows] == [("A-1", 1, reason, 8, 4), ("B-1", 2, reason, 10, 0)]


async def test_no_lines_come_back_without_a_trace(world: Any, invariants_hold: Any) -> None:
    order = await sold(world, ("A-1", 3))
    events = await world.events()
    assert await order.restock() is COMMITTED
    assert await world.order(("A-1", 1)).restock() is None
    assert await world.events() == events
    assert await world.stock("A-1") == (7, 0)
    await invariants_hold()


async def test_more_than_was_sold_does_not_come_back_and_every_sku_of_which_that_is_so_is_listed(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 3), ("B-1", 2), ("C-1", 1))
    await order.restock(("B-1", 1))
    await world.product("D-1", stock=1)
    with pytest.raises(ReturnTooLargeError) as caught:
        await order.restock(("D-1", 1), ("A-1", 3), ("B-1", 2), ("NEVER", 1), ("C-1", 9))
    assert caught.value.excess == (("B-1", 2, 1), ("C-1", 9, 1), ("D-1", 1, 0), ("NEVER", 1, 0))
    assert await returned(world, order) == {"A-1": 0, "B-1": 1, "C-1": 0}
    assert await world.stock("A-1") == (7, 0)
    await invariants_hold()


async def test_a_refused_return_is_not_stored_so_that_it_can_succeed_after_a_repair(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("A-1", stock=10)
    order = world.order(("A-1", 2))
    await order.reserve()
    saga_id = new_id()
    for _ in range(2):
        with pytest.raises(ReservationNotCommittedError):
            await order.restock(("A-1", 2), saga_id=saga_id)
    assert await world.rows("SELECT * FROM barrier WHERE saga_id = %(id)s", id=saga_id) == []
    await order.commit()
    assert await order.restock(("A-1", 2), saga_id=saga_id) is RETURNED
    assert await order.restock(("A-1", 2), saga_id=saga_id) is RETURNED
    await invariants_hold()


async def test_sixteen_duplicates_bring_the_units_back_once(world: Any, invariants_hold: Any) -> None:
    order = await sold(world, ("A-1", 8), ("B-1", 8))
    saga_id = new_id()
    answers = await asyncio.gather(
        *(order.restock(("B-1", 1), ("A-1", 2), saga_id=saga_id) for _ in range(16))
    )
    assert answers == [COMMITTED] * 16
    assert await returned(world, order) == {"A-1": 2, "B-1": 1}
    assert await world.stock("A-1") == (4, 0)
    await invariants_hold()


async def test_sixteen_returns_of_what_is_sold_once_bring_it_back_once(
    world: Any, invariants_hold: Any
) -> None:
    order = await sold(world, ("A-1", 3))
    answers = await asyncio.gather(*(order.restock(("A-1", 1)) for _ in range(16)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, ReservationState)].count(COMMITTED) == 2
    assert answers.count(RETURNED) == 1
    refusals = [answer for answer in answers if isinstance(answer, Exception)]
    assert {type(refusal) for refusal in refusals} == {ReservationNotCommittedError}
    assert await world.stock("A-1") == (10, 0)
    await invariants_hold()


async def test_a_call_with_other_lines_is_not_the_call_that_came_before(world: Any) -> None:
    order = await sold(world, ("A-1", 3))
    saga_id = new_id()
    await order.restock(("A-1", 1), saga_id=saga_id)
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await order.restock(("A-1", 2), saga_id=saga_id)
    assert await world.stock("A-1") == (8, 0)


async def test_returns_of_many_orders_in_any_order_of_skus_do_not_get_in_each_others_way(
    world: Any, invariants_hold: Any
) -> None:
    skus = [f"S-{number}" for number in range(6)]
    for sku in skus:
        await world.product(sku, stock=100)
    orders = [world.order(*((sku, 2) for sku in skus)) for _ in range(12)]
    for order in orders:
        await order.reserve()
        await order.commit()
    lines = [(sku, 1) for sku in skus]
    answers = await asyncio.gather(
        *(order.restock(*(lines if number % 2 else lines[::-1])) for number, order in enumerate(orders)),
        *(order.cancel() for order in orders[::3]),
        *(world.adjust(sku, 1) for sku in skus),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers if isinstance(answer, Exception)} <= {
        ReservationNotCommittedError
    }
    await invariants_hold()


# ReleaseReservation as a step of its own.


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


# What the schema forbids.


@pytest.mark.parametrize(
    ("sql", "constraint"),
    [
        ("UPDATE reservation_line SET returned = 4 WHERE sku = 'A-1'", "reservation_line_returned"),
        ("UPDATE reservation_line SET returned = -1 WHERE sku = 'A-1'", "reservation_line_returned"),
        ("UPDATE reservation_line SET returned = quantity", "reservation_returned_agrees"),
        ("UPDATE reservation SET state = 'RETURNED'", "reservation_returned_agrees"),
        ("UPDATE reservation SET state = 'GONE'", "reservation_state_check"),
    ],
)
async def test_the_schema_lets_no_state_and_returned_units_contradict_each_other(
    world: Any, sql: str, constraint: str
) -> None:
    await sold(world, ("A-1", 3), ("B-1", 2))
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        await world.rows(sql)
    assert caught.value.diag.constraint_name == constraint


async def test_what_is_returned_stays_so_in_the_schema(world: Any) -> None:
    order = await sold(world, ("A-1", 3))
    await order.restock(("A-1", 3))
    for sql in (
        "UPDATE reservation SET state = 'COMMITTED'",
        "UPDATE reservation SET state = 'RELEASED'",
        "UPDATE reservation_line SET returned = 2",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await world.rows(sql)
    assert await returned(world, order) == {"A-1": 3}


async def test_the_schema_lets_nothing_come_back_of_what_is_only_held(world: Any) -> None:
    await world.product("A-1", stock=10)
    await world.order(("A-1", 3)).reserve()
    with pytest.raises(psycopg.errors.CheckViolation):
        await world.rows("UPDATE reservation_line SET returned = 1")
