"""CancelOrder, AssertCanFulfil, MarkShipped: what becomes of an order that was sold."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from sagacity.common.v1.money_pb2 import Money
from sagacity.common.v1.saga_step_pb2 import OPERATION_UNDO
from sagacity.orders.v1 import events_pb2
from sagacity.orders.v1 import orders_pb2 as pb

pytestmark = pytest.mark.integration

SOLD = [(1, "OrderPlaced"), (2, "OrderConfirmed")]
# How an order gets into each state in which it is neither cancelled nor shipped.
WAYS: dict[str, Callable[[Any], list[Awaitable[Any]]]] = {
    "PENDING": lambda saga: [saga.create()],
    "REJECTED": lambda saga: [saga.create(), saga.reject()],
    "CANCELLED": lambda saga: [saga.create(), saga.confirm(), saga.another().cancel()],
    "SHIPPED": lambda saga: [saga.create(), saga.confirm(), saga.another().ship()],
}


async def refused(call: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await call
    return caught.value


async def sold(world: Any) -> Any:
    """Return another saga about an order that is sold."""
    saga = world.saga()
    await saga.sold()
    return saga.another()


async def arrange(world: Any, state: str) -> Any:
    saga = world.saga()
    for call in WAYS[state](saga):
        await call
    return saga.another()


async def facts(world: Any, saga: Any, kind: Any) -> list[Any]:
    rows = await world.rows(
        "SELECT payload FROM outbox WHERE aggregateid = %(id)s AND type = %(type)s ORDER BY position",
        id=str(saga.order_id),
        type=kind.DESCRIPTOR.full_name,
    )
    return [kind.FromString(row["payload"]) for row in rows]


async def test_a_cancelled_order_says_why_and_what_the_next_steps_need(world: Any) -> None:
    placing = world.saga()
    confirmed = await placing.sold()
    saga = placing.another()
    order = await saga.cancel(reason="Ordered twice")
    assert (order.state, order.cancellation_reason) == (pb.ORDER_STATE_CANCELLED, "Ordered twice")
    assert (order.payment_id, order.reservation_id) == (str(placing.payment_id), str(placing.reservation_id))
    assert (order.lines, order.quote) == (confirmed.lines, confirmed.quote)
    assert not order.HasField("shipment")
    assert await saga.read() == order
    assert await saga.history() == [(1, "PENDING"), (2, "CONFIRMED"), (3, "CANCELLED")]
    assert await saga.events() == [*SOLD, (3, "OrderCancelled")]
    assert await saga.barrier() == {"cancellation": "DONE"}
    assert await facts(world, saga, events_pb2.OrderCancelled) == [
        events_pb2.OrderCancelled(
            order_id=str(saga.order_id),
            user_id=str(saga.user_id),
            total=Money(currency_code="EUR", minor_units=3_320),
            refunded=Money(currency_code="EUR", minor_units=0),
        )
    ]


async def test_a_cancelled_order_tells_what_had_gone_back_before(world: Any) -> None:
    saga = await sold(world)
    await saga.refund(300)
    order = await saga.another().cancel()
    assert order.refunded.minor_units == 300
    assert order.refund_state == pb.REFUND_STATE_PARTIAL
    assert await saga.history() == [(1, "PENDING"), (2, "CONFIRMED"), (4, "CANCELLED")]
    assert [fact.refunded.minor_units for fact in await facts(world, saga, events_pb2.OrderCancelled)] == [
        300
    ]


async def test_its_customer_cancels_an_order_and_nobody_else_does(world: Any) -> None:
    saga = await sold(world)
    before = await saga.read()
    stranger = str(new_id())
    for _ in range(2):
        fault = await refused(saga.cancel(user_id=stranger))
        assert (fault.kind, fault.reason, fault.recorded) == ("NOT_FOUND", "ORDER_NOT_FOUND", True)
    assert await saga.read() == before
    assert (await saga.another().cancel(user_id=str(saga.user_id))).state == pb.ORDER_STATE_CANCELLED


async def test_an_order_that_there_is_not_is_refused_everywhere_and_only_the_pivot_records_it(
    world: Any,
) -> None:
    saga = world.saga()
    for call, recorded in (
        (saga.cancel, True),
        (saga.assert_can_fulfil, False),
        (saga.ship, False),
        (saga.quote_refund, False),
        (lambda: saga.refund(1), False),
    ):
        for _ in range(2):
            fault = await refused(call())
            assert (fault.kind, fault.reason, fault.recorded) == ("NOT_FOUND", "ORDER_NOT_FOUND", recorded)
    assert await saga.barrier() == {"cancellation": "REFUSED"}


@pytest.mark.parametrize("state", list(WAYS))
async def test_an_order_that_is_not_confirmed_is_neither_cancelled_nor_shipped(
    world: Any, state: str
) -> None:
    saga = await arrange(world, state)
    before = await saga.read()
    events = await saga.events()
    for call, recorded in ((saga.cancel, True), (saga.assert_can_fulfil, False), (saga.ship, False)):
        for _ in range(2):
            fault = await refused(call())
            assert (fault.kind, fault.reason) == ("FAILED_PRECONDITION", "ORDER_NOT_CONFIRMED")
            assert (fault.domain, fault.recorded) == ("sagacity.orders", recorded)
            assert state in fault.message
    assert await saga.read() == before
    assert await saga.events() == events
    assert await saga.barrier() == {"cancellation": "REFUSED"}


async def test_a_refused_cancel_is_remembered_and_a_refused_shipment_is_decided_anew(world: Any) -> None:
    placing = world.saga()
    await placing.create()
    saga = placing.another()
    assert (await refused(saga.cancel())).recorded
    assert not (await refused(saga.ship())).recorded
    await placing.confirm()
    assert (await refused(saga.cancel())).reason == "ORDER_NOT_CONFIRMED"
    assert (await saga.ship()).state == pb.ORDER_STATE_SHIPPED
    assert await saga.barrier() == {"cancellation": "REFUSED", "shipment": "DONE"}


async def test_an_order_that_can_be_shipped_is_returned_and_left_as_it_is(world: Any) -> None:
    saga = await sold(world)
    order = await saga.assert_can_fulfil()
    assert order == await saga.read()
    assert (order.state, order.quote.total.minor_units) == (pb.ORDER_STATE_CONFIRMED, 3_320)
    assert await saga.barrier() == {}


@pytest.mark.parametrize("tracking_number", ["JD014600003", ""])
async def test_a_shipped_order_says_how_it_travels(world: Any, tracking_number: str) -> None:
    saga = await sold(world)
    shipment = pb.Shipment(carrier="Österreichische Post", tracking_number=tracking_number)
    order = await saga.ship(shipment=shipment)
    assert (order.state, order.shipment) == (pb.ORDER_STATE_SHIPPED, shipment)
    assert await saga.read() == order
    assert await saga.history() == [(1, "PENDING"), (2, "CONFIRMED"), (3, "SHIPPED")]
    assert await saga.events() == [*SOLD, (3, "OrderShipped")]
    assert await facts(world, saga, events_pb2.OrderShipped) == [
        events_pb2.OrderShipped(
            order_id=str(saga.order_id),
            user_id=str(saga.user_id),
            carrier=shipment.carrier,
            tracking_number=tracking_number,
        )
    ]


@pytest.mark.parametrize(
    "calls", list(itertools.permutations(["cancel", "cancel again", "ship", "ship again"]))
)
async def test_every_permutation_of_cancel_and_ship_has_one_effect_that_of_the_first(
    world: Any, calls: tuple[str, ...]
) -> None:
    saga = await sold(world)
    other = saga.another()
    first = calls[0].split()[0]
    answers = []
    for name in calls:
        call = saga.cancel() if name.startswith("cancel") else other.ship()
        if name.startswith(first):
            answers.append(await call)
        else:
            fault = await refused(call)
            assert (fault.reason, fault.recorded) == ("ORDER_NOT_CONFIRMED", name.startswith("cancel"))
    assert answers[0] == answers[1] == await saga.read()
    assert len(await saga.history()) == len(await saga.events()) == 3


async def test_the_same_step_with_another_request_is_refused(world: Any) -> None:
    saga = await sold(world)
    await saga.refund(1)
    await saga.ship()
    assert (await refused(saga.refund(2))).reason == "REQUEST_CHANGED"
    assert (await refused(saga.ship(shipment=pb.Shipment(carrier="UPS")))).reason == "REQUEST_CHANGED"


async def test_none_of_these_steps_has_an_undo(world: Any) -> None:
    saga = await sold(world)
    for step, call in (("cancellation", saga.cancel), ("shipment", saga.ship)):
        fault = await refused(call(saga_step=saga.step(step, OPERATION_UNDO)))
        assert (fault.kind, fault.reason) == ("INVALID_ARGUMENT", "OPERATION_WRONG")
    fault = await refused(saga.refund(1, saga_step=saga.step("record", OPERATION_UNDO)))
    assert (fault.kind, fault.reason) == ("INVALID_ARGUMENT", "OPERATION_WRONG")
    assert await saga.barrier() == {}


async def test_every_commit_wakes_the_relay(world: Any) -> None:
    saga = await sold(world)
    for call in (lambda: saga.refund(1), saga.ship):
        before = len(world.wakes)
        await call()
        assert len(world.wakes) == before + 1


GARBAGE_REASONS = ["", "x" * 501, "two\nlines", "\0"]


@pytest.mark.parametrize("reason", GARBAGE_REASONS)
async def test_a_reason_that_is_none_is_refused_before_anything_is_read(world: Any, reason: str) -> None:
    saga = await sold(world)
    for call in (saga.cancel, functools.partial(saga.refund, 1)):
        fault = await refused(call(reason=reason))
        assert fault.kind == "INVALID_ARGUMENT"
        assert {field.subject for field in fault.fields} == {"reason"}
    assert await saga.barrier() == {}


async def test_the_longest_reason_and_shipment_are_kept_to_the_letter(world: Any) -> None:
    saga = await sold(world)
    reason = "ÿ🛒" * 250
    assert (await saga.another().refund(1, reason=reason)).refunds[0].reason == reason
    longest = pb.Shipment(carrier="Ü" * 100, tracking_number="9" * 100)
    assert (await saga.ship(shipment=longest)).shipment == longest
    other = await sold(world)
    assert (await other.cancel(reason=reason)).cancellation_reason == reason


@pytest.mark.parametrize("order_id", ["", "x", "00000000-0000-0000-0000-00000000000g", "a" * 10_000])
async def test_what_is_no_order_id_is_refused(world: Any, order_id: str) -> None:
    requests: dict[str, Any] = {
        "CancelOrder": pb.CancelOrderRequest,
        "AssertCanFulfil": pb.AssertCanFulfilRequest,
        "MarkShipped": pb.MarkShippedRequest,
        "QuoteRefund": pb.QuoteRefundRequest,
        "RecordRefund": pb.RecordRefundRequest,
    }
    for method, request in requests.items():
        fault = await refused(world.call("orchestrator", method, request(order_id=order_id)))
        assert fault.kind == "INVALID_ARGUMENT"
        assert "order_id" in [field.subject for field in fault.fields]


@pytest.mark.parametrize(
    "shipment",
    [
        None,
        pb.Shipment(),
        pb.Shipment(carrier="x" * 101),
        pb.Shipment(carrier="DHL", tracking_number="x" * 101),
        pb.Shipment(carrier="DHL\r\n"),
    ],
)
async def test_what_is_no_shipment_is_refused(world: Any, shipment: pb.Shipment | None) -> None:
    saga = await sold(world)
    assert (await refused(saga.ship(shipment=shipment))).kind == "INVALID_ARGUMENT"
    assert await saga.barrier() == {}
