from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from chassis.barrier import BARRIER_HORIZON, MAX_AHEAD
from chassis.clock import SystemClock
from chassis.ids import new_id, uuid7_floor
from sagacity.inventory.v1 import inventory_pb2
from tests.integration.inventory.calls import SUPPORT, Client, reserve_fields, restock_fields, sell, step

pytestmark = pytest.mark.integration

MINUTE = timedelta(minutes=1)


async def test_units_come_back_line_by_line_until_the_reservation_is_returned(client: Client) -> None:
    await client.product("A-1", stock=5)
    await client.product("B-1", stock=5)
    reservation_id = await sell(client, ("A-1", 3), ("B-1", 1))
    fields = restock_fields(reservation_id, ("A-1", 1), ("A-1", 1), saga_id=new_id())
    for _ in range(2):
        answer = await client.call("Restock", "orchestrator", **fields)
        assert answer.state == inventory_pb2.RESERVATION_STATE_COMMITTED
    read = (await client.call("GetReservation", SUPPORT, reservation_id=reservation_id)).reservation
    assert [(line.sku, line.quantity, line.returned) for line in read.lines] == [("A-1", 3, 2), ("B-1", 1, 0)]
    rest = restock_fields(reservation_id, ("A-1", 1), ("B-1", 1))
    answer = await client.call("Restock", "orchestrator", **rest)
    assert answer.state == inventory_pb2.RESERVATION_STATE_RETURNED
    read = (await client.call("GetReservation", SUPPORT, reservation_id=reservation_id)).reservation
    assert read.state == inventory_pb2.RESERVATION_STATE_RETURNED
    assert (await client.call("GetStock", SUPPORT, sku="A-1")).stock.on_hand == 5


async def test_the_refusals_of_a_return_carry_their_reasons_and_are_not_recorded(client: Client) -> None:
    await client.product("A-1", stock=5)
    await client.product("B-1", stock=5)
    fault = await client.refused("Restock", "orchestrator", **restock_fields(str(new_id()), ("A-1", 1)))
    assert (fault.kind, fault.reason, fault.recorded) == ("NOT_FOUND", "RESERVATION_NOT_FOUND", False)
    held = reserve_fields(("A-1", 1))
    await client.call("Reserve", "orchestrator", **held)
    fault = await client.refused(
        "Restock", "orchestrator", **restock_fields(held["reservation_id"], ("A-1", 1))
    )
    assert (fault.kind, fault.reason) == ("FAILED_PRECONDITION", "RESERVATION_NOT_COMMITTED")
    reservation_id = await sell(client, ("A-1", 2), ("B-1", 1))
    too_much = restock_fields(reservation_id, ("B-1", 2), ("A-1", 2), ("C-1", 1))
    fault = await client.refused("Restock", "orchestrator", **too_much)
    assert (fault.kind, fault.reason, fault.recorded) == ("FAILED_PRECONDITION", "RETURN_TOO_LARGE", False)
    assert [(detail.subject, detail.description) for detail in fault.subjects] == [
        ("B-1", "requested 2, sold 1"),
        ("C-1", "requested 1, sold 0"),
    ]


async def test_no_lines_come_back_of_whatever_reservation(client: Client) -> None:
    answer = await client.call("Restock", "orchestrator", **restock_fields(str(new_id())))
    assert answer.state == inventory_pb2.RESERVATION_STATE_UNSPECIFIED


async def test_a_cancelled_order_gives_its_stock_back_by_a_step_of_another_saga(client: Client) -> None:
    await client.product("A-1", stock=5)
    reservation_id = await sell(client, ("A-1", 3))
    await client.call("Restock", "orchestrator", **restock_fields(reservation_id, ("A-1", 1)))
    fields = {"saga_step": step("stock_release"), "reservation_id": reservation_id}
    for _ in range(2):
        answer = await client.call("ReleaseReservation", "orchestrator", **fields)
        assert answer.state == inventory_pb2.RESERVATION_STATE_RELEASED
    assert (await client.call("GetStock", SUPPORT, sku="A-1")).stock.on_hand == 5
    never = {"saga_step": step("stock_release"), "reservation_id": str(new_id())}
    answer = await client.call("ReleaseReservation", "orchestrator", **never)
    assert answer.state == inventory_pb2.RESERVATION_STATE_UNSPECIFIED


@pytest.mark.parametrize("method", ["Reserve", "CommitReservation", "ReleaseReservation", "Restock"])
async def test_every_step_of_a_saga_beyond_the_horizon_is_refused_and_nothing_is_stored(
    client: Client, world: Any, method: str
) -> None:
    await client.product("A-1", stock=5)
    now = SystemClock().now()
    reserve = reserve_fields(("A-1", 1))
    fields = reserve if method == "Reserve" else {"reservation_id": str(new_id())}
    for saga_id, kind, reason in (
        (uuid7_floor(now - BARRIER_HORIZON - MINUTE), "FAILED_PRECONDITION", "SAGA_TOO_OLD"),
        (uuid7_floor(now + MAX_AHEAD + MINUTE), "INVALID_ARGUMENT", "SAGA_STEP_INVALID"),
        (UUID("919108f7-52d1-4320-9bac-f847db4148a8"), "INVALID_ARGUMENT", "SAGA_STEP_INVALID"),
    ):
        call = fields | {"saga_step": step("a_step", saga_id=saga_id)}
        fault = await client.refused(method, "orchestrator", **call)
        assert (fault.kind, fault.reason, fault.recorded) == (kind, reason, False)
    assert await world.rows("SELECT * FROM barrier") == []


@pytest.mark.parametrize("method", ["Reserve", "Restock"])
async def test_a_do_that_says_undo_is_refused(client: Client, method: str) -> None:
    fields = reserve_fields(("A-1", 1)) if method == "Reserve" else restock_fields(str(new_id()), ("A-1", 1))
    fault = await client.refused(method, "orchestrator", **fields | {"saga_step": step("a_step", "UNDO")})
    assert (fault.kind, fault.fields[0].subject) == ("INVALID_ARGUMENT", "saga_step.operation")
