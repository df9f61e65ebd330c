"""Sold units come back by Restock, while the reservation stays."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import (
    ReservationNotCommittedError,
    ReservationState,
    ReturnTooLargeError,
)

pytestmark = pytest.mark.integration

COMMITTED, RETURNED = ReservationState.COMMITTED, ReservationState.RETURNED


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
