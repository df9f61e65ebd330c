"""QuoteRefund and RecordRefund: what goes back, and what is written down of it."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest

from chassis.errors import Fault
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1 import events_pb2
from sagacity.orders.v1 import orders_pb2 as pb

pytestmark = pytest.mark.integration

TOTAL = 3_320


async def refused(call: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await call
    return caught.value


async def sold(world: Any) -> Any:
    """Return another saga about an order that is sold."""
    saga = world.saga()
    await saga.sold()
    return saga.another()


def back(sku: str, quantity: int) -> pb.RefundLine:
    return pb.RefundLine(sku=sku, quantity=quantity)


def euro(minor_units: int) -> Money:
    return Money(currency_code="EUR", minor_units=minor_units)


async def test_a_quote_of_all_that_is_left_names_what_the_next_steps_need(world: Any) -> None:
    placing = world.saga()
    await placing.sold()
    saga = placing.another()
    assert await saga.quote_refund() == pb.QuoteRefundResponse(
        amount=euro(TOTAL),
        lines=[back("BULB", 3), back("LAMP", 2)],
        payment_id=str(placing.payment_id),
        reservation_id=str(placing.reservation_id),
        user_id=str(placing.user_id),
    )
    assert await saga.barrier() == {}


async def test_a_quote_is_by_line_or_by_amount(world: Any) -> None:
    saga = await sold(world)
    by_line = await saga.quote_refund(lines=[back("LAMP", 1), back("BULB", 1), back("BULB", 1)])
    assert (by_line.amount, list(by_line.lines)) == (euro(1_230 + 246), [back("BULB", 2), back("LAMP", 1)])
    by_amount = await saga.quote_refund(amount=euro(TOTAL))
    assert (by_amount.amount, list(by_amount.lines)) == (euro(TOTAL), [])


async def test_a_recorded_refund_is_part_of_the_order_and_of_every_list(world: Any) -> None:
    saga = await sold(world)
    order = await saga.refund(1_230, back("LAMP", 1), reason="It flickers")
    assert (order.state, order.refund_state) == (pb.ORDER_STATE_CONFIRMED, pb.REFUND_STATE_PARTIAL)
    assert order.refunded == euro(1_230)
    [refund] = order.refunds
    assert (refund.id, refund.amount, refund.reason) == (str(saga.refund_id), euro(1_230), "It flickers")
    assert list(refund.lines) == [back("LAMP", 1)]
    assert refund.create_time == order.update_time
    assert await saga.read() == order
    request = pb.ListOrdersRequest(user_id=str(saga.user_id))
    assert list((await world.call("gateway", "ListOrders", request, saga.customer)).orders) == [order]
    assert await saga.history() == [(1, "PENDING"), (2, "CONFIRMED")]
    assert await saga.events() == [(1, "OrderPlaced"), (2, "OrderConfirmed"), (3, "OrderRefunded")]


async def test_an_order_of_which_nothing_went_back_has_no_refunds(world: Any) -> None:
    saga = world.saga()
    for order in (await saga.create(), await saga.confirm(), await saga.read()):
        assert not order.HasField("refunded")
        assert list(order.refunds) == []


async def test_refunds_are_numbered_with_the_facts_and_each_says_what_went_back_so_far(world: Any) -> None:
    saga = await sold(world)
    await saga.refund(1_000)
    other = saga.another()
    await other.ship()
    order = await other.refund(TOTAL - 1_000, back("LAMP", 2), back("BULB", 3))
    assert order.refund_state == pb.REFUND_STATE_FULL
    assert [refund.id for refund in order.refunds] == [str(saga.refund_id), str(other.refund_id)]
    assert [sequence for sequence, _ in await saga.history()] == [1, 2, 4]
    assert (await saga.events())[2:] == [(3, "OrderRefunded"), (4, "OrderShipped"), (5, "OrderRefunded")]
    rows = await world.rows(
        "SELECT payload FROM outbox WHERE aggregateid = %(id)s AND sequence IN (3, 5) ORDER BY position",
        id=str(saga.order_id),
    )
    ids = {"order_id": str(saga.order_id), "user_id": str(saga.user_id)}
    assert [events_pb2.OrderRefunded.FromString(row["payload"]) for row in rows] == [
        events_pb2.OrderRefunded(
            **ids, refund_id=refund_id, amount=euro(amount), refunded=euro(so_far), total=euro(TOTAL)
        )
        for refund_id, amount, so_far in (
            (str(saga.refund_id), 1_000, 1_000),
            (str(other.refund_id), TOTAL - 1_000, TOTAL),
        )
    ]


async def test_units_that_went_back_are_not_quoted_again(world: Any) -> None:
    saga = await sold(world)
    await saga.refund(1_230, back("LAMP", 1))
    rest = await saga.quote_refund()
    assert (rest.amount, list(rest.lines)) == (euro(TOTAL - 1_230), [back("BULB", 3), back("LAMP", 1)])
    fault = await refused(saga.quote_refund(lines=[back("LAMP", 2), back("BULB", 4)]))
    assert (fault.kind, fault.reason) == ("FAILED_PRECONDITION", "REFUND_TOO_LARGE")
    assert [(detail.subject, detail.description) for detail in fault.subjects] == [
        ("BULB", "4 are to go back, 3 are left"),
        ("LAMP", "2 are to go back, 1 are left"),
    ]


async def test_when_all_went_back_nothing_is_left(world: Any) -> None:
    saga = await sold(world)
    await saga.refund(TOTAL)
    for wanted in ({}, {"amount": euro(1)}, {"lines": [back("LAMP", 1)]}):
        assert (await refused(saga.quote_refund(**wanted))).reason == "REFUND_TOO_LARGE"
    fault = await refused(saga.another().refund(1))
    assert (fault.kind, fault.reason, fault.recorded) == ("FAILED_PRECONDITION", "REFUND_TOO_LARGE", False)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "both": ({"lines": [back("LAMP", 1)], "amount": euro(1)}, "INVALID_ARGUMENT", "REFUND_INVALID"),
    "nothing": ({"amount": euro(0)}, "INVALID_ARGUMENT", "REFUND_INVALID"),
    "a negative amount": ({"amount": euro(-(10**12))}, "INVALID_ARGUMENT", "REFUND_INVALID"),
    "another currency": (
        {"amount": Money(currency_code="USD", minor_units=1)},
        "INVALID_ARGUMENT",
        "CURRENCY_MISMATCH",
    ),
    "another product": ({"lines": [back("SOFA", 1)]}, "INVALID_ARGUMENT", "LINES_INVALID"),
    "too much": ({"amount": euro(TOTAL + 1)}, "FAILED_PRECONDITION", "REFUND_TOO_LARGE"),
    "as much as there can be": ({"amount": euro(10**12)}, "FAILED_PRECONDITION", "REFUND_TOO_LARGE"),
    "a unit too many": ({"lines": [back("LAMP", 3)]}, "FAILED_PRECONDITION", "REFUND_TOO_LARGE"),
    "as many units as there can be": (
        {"lines": [back("LAMP", 1_000_000)] * 100},
        "FAILED_PRECONDITION",
        "REFUND_TOO_LARGE",
    ),
}


@pytest.mark.parametrize(("wanted", "kind", "reason"), WRONG.values(), ids=list(WRONG))
async def test_what_the_order_cannot_give_back_is_neither_quoted_nor_recorded(
    world: Any, wanted: dict[str, Any], kind: str, reason: str
) -> None:
    saga = await sold(world)
    order = await saga.read()
    fault = await refused(saga.quote_refund(**wanted))
    assert (fault.kind, fault.reason) == (kind, reason)
    if len(wanted) == 1:
        for _ in range(2):
            fault = await refused(saga.refund(1, **wanted))
            assert (fault.kind, fault.reason, fault.recorded) == (kind, reason, False)
    assert await saga.read() == order
    assert await saga.barrier() == {}


MALFORMED: dict[str, dict[str, Any]] = {
    "no units": {"lines": [back("LAMP", 0)]},
    "units that overflow": {"lines": [back("LAMP", 2**63 - 1)]},
    "a name that is no SKU": {"lines": [back("lamp; --", 1)]},
    "more lines than an order has": {"lines": [back("LAMP", 1)] * 101},
    "money that overflows": {"amount": euro(2**63 - 1)},
    "no currency": {"amount": Money(minor_units=1)},
}


@pytest.mark.parametrize("wanted", MALFORMED.values(), ids=list(MALFORMED))
async def test_what_is_no_refund_at_all_is_refused_by_its_field(world: Any, wanted: dict[str, Any]) -> None:
    saga = await sold(world)
    for call in (saga.quote_refund, functools.partial(saga.refund, 1)):
        fault = await refused(call(**wanted))
        assert fault.kind == "INVALID_ARGUMENT"
        assert fault.fields[0].subject.startswith(next(iter(wanted)))
    assert await saga.barrier() == {}


@pytest.mark.parametrize("state", ["PENDING", "REJECTED", "CANCELLED"])
async def test_an_order_that_is_not_sold_or_is_undone_gives_nothing_back(world: Any, state: str) -> None:
    saga = world.saga()
    await saga.create()
    if state == "REJECTED":
        await saga.reject()
    if state == "CANCELLED":
        await saga.confirm()
        await saga.another().cancel()
    for call in (saga.quote_refund, functools.partial(saga.refund, 1)):
        fault = await refused(call())
        assert (fault.kind, fault.reason) == ("FAILED_PRECONDITION", "ORDER_NOT_REFUNDABLE")
        assert not fault.recorded
        assert state in fault.message
    assert "record" not in await saga.barrier()


async def test_an_order_that_is_on_its_way_or_arrived_gives_back(world: Any) -> None:
    saga = await sold(world)
    await saga.ship()
    assert (await saga.refund(1)).state == pb.ORDER_STATE_SHIPPED
    await world.rows(
        """
        WITH delivered AS (
            UPDATE orders SET state = 'DELIVERED', sequence = sequence + 1 WHERE id = %(id)s RETURNING *
        ), history AS (
            INSERT INTO order_history (order_id, sequence, previous_state, state, at)
            SELECT id, sequence, 'SHIPPED', state, now() FROM delivered
        )
        INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at)
        SELECT id, 'order', id::text, 'of.a.Test', '', sequence, 0, now() FROM delivered
        """,
        id=saga.order_id,
    )
    assert (await saga.quote_refund()).amount == euro(TOTAL - 1)
    order = await saga.another().refund(TOTAL - 1)
    assert (order.state, order.refund_state) == (pb.ORDER_STATE_DELIVERED, pb.REFUND_STATE_FULL)


async def test_a_refusal_is_not_stored_so_that_the_same_call_works_once_its_cause_is_gone(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    refund = saga.another()
    assert (await refused(refund.refund(1))).reason == "ORDER_NOT_REFUNDABLE"
    await saga.confirm()
    assert (await refund.refund(1)).refunded == euro(1)
    assert await refund.barrier() == {"record": "DONE"}


@pytest.mark.parametrize("calls", list(itertools.permutations(["one", "one again", "two", "two again"])))
async def test_every_permutation_of_two_refunds_and_their_duplicates_records_each_once(
    world: Any, calls: tuple[str, ...]
) -> None:
    sagas = {"one": await sold(world)}
    sagas["two"] = sagas["one"].another()
    answers: dict[str, pb.Order] = {}
    for name in calls:
        who = name.split()[0]
        answer = await sagas[who].refund(1_500 if who == "one" else 1_200)
        assert answers.setdefault(who, answer) == answer
    order = await sagas["one"].read()
    assert order.refunded == euro(2_700)
    assert {refund.id for refund in order.refunds} == {str(saga.refund_id) for saga in sagas.values()}
    assert len(order.refunds) == 2
    assert len(await sagas["one"].events()) == 4


async def test_another_sagas_refund_of_that_id_is_refused_whichever_order_it_is_of(world: Any) -> None:
    one, elsewhere = await sold(world), await sold(world)
    order = await one.refund(1)
    for other in (one.another(), elsewhere):
        before = await other.read()
        fault = await refused(other.refund(1, refund_id=str(one.refund_id)))
        assert (fault.kind, fault.reason, fault.recorded) == ("ALREADY_EXISTS", "REFUND_EXISTS", False)
        assert await other.read() == before
    assert await one.read() == order


async def test_a_hundred_refunds_are_read_in_their_order_and_only_all_that_is_left_follows(
    world: Any,
) -> None:
    saga = await sold(world)
    refunds = [saga.another() for _ in range(100)]
    for refund in refunds:
        await refund.refund(1)
    assert [refund.id for refund in (await saga.read()).refunds] == [str(r.refund_id) for r in refunds]
    assert (await refused(saga.quote_refund(amount=euro(1)))).reason == "ORDER_NOT_REFUNDABLE"
    assert (await saga.quote_refund()).amount == euro(TOTAL - 100)


@pytest.mark.parametrize("refund_id", ["", "x", "01a1feda-d37f-7239-a544-03842b691d2"])
async def test_what_is_no_refund_id_is_refused(world: Any, refund_id: str) -> None:
    saga = await sold(world)
    fault = await refused(saga.refund(1, refund_id=refund_id))
    assert (fault.kind, fault.fields[0].subject) == ("INVALID_ARGUMENT", "refund_id")
