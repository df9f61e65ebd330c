"""CreateOrder, ConfirmOrder, RejectOrder: what one saga does to an order, in any order of its calls."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from chassis.postgres import Database
from sagacity.common.v1.money_pb2 import Money
from sagacity.common.v1.saga_step_pb2 import OPERATION_DO, OPERATION_UNDO
from sagacity.orders.v1 import events_pb2
from sagacity.orders.v1 import orders_pb2 as pb
from services.orders import domain

pytestmark = pytest.mark.integration

PLACED_AND_REJECTED = [(1, "OrderPlaced"), (2, "OrderRejected")]


async def refused(call: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await call
    return caught.value


async def test_a_created_order_is_pending_with_its_items_summed_by_sku(world: Any) -> None:
    saga = world.saga(items=[pb.OrderItem(sku=sku, quantity=2) for sku in ("B", "A", "B")])
    order = await saga.create()
    assert order.state == pb.ORDER_STATE_PENDING
    assert order.refund_state == pb.REFUND_STATE_NONE
    assert [(item.sku, item.quantity) for item in order.items] == [("A", 2), ("B", 4)]
    assert order.order_number == next(domain.order_numbers(saga.order_id))
    assert order.create_time == order.update_time
    assert not order.HasField("quote")
    assert not order.HasField("rejection")
    assert await saga.read() == order
    assert await saga.events() == [(1, "OrderPlaced")]


async def test_a_confirmed_order_has_what_was_sold_paid_and_sent(world: Any) -> None:
    saga = world.saga()
    placed = await saga.create()
    order = await saga.confirm()
    assert order.state == pb.ORDER_STATE_CONFIRMED
    assert [line.sku for line in order.lines] == ["BULB", "LAMP"]
    assert [line.line_total.minor_units for line in order.lines] == [300, 2_000]
    assert order.quote.total.minor_units == 3_320
    assert order.shipping_address.city == "Berlin"
    assert (order.payment_id, order.reservation_id) == (str(saga.payment_id), str(saga.reservation_id))
    assert (order.order_number, order.create_time) == (placed.order_number, placed.create_time)
    assert order.update_time.ToDatetime() >= order.create_time.ToDatetime()
    assert await saga.read() == order
    assert await saga.history() == [(1, "PENDING"), (2, "CONFIRMED")]
    assert await saga.events() == [(1, "OrderPlaced"), (2, "OrderConfirmed")]


async def test_the_events_say_what_happened(world: Any) -> None:
    saga = world.saga()
    placed = await saga.create()
    await saga.confirm()
    rows = await world.rows(
        "SELECT payload FROM outbox WHERE aggregateid = %(id)s ORDER BY position", id=str(saga.order_id)
    )
    assert events_pb2.OrderPlaced.FromString(rows[0]["payload"]) == events_pb2.OrderPlaced(
        order_id=str(saga.order_id),
        user_id=str(saga.user_id),
        order_number=placed.order_number,
        currency_code="EUR",
        create_time=placed.create_time,
        items=[events_pb2.OrderedItem(sku=item.sku, quantity=item.quantity) for item in placed.items],
    )
    assert events_pb2.OrderConfirmed.FromString(rows[1]["payload"]) == events_pb2.OrderConfirmed(
        order_id=str(saga.order_id),
        user_id=str(saga.user_id),
        total=Money(currency_code="EUR", minor_units=3_320),
        payment_id=str(saga.payment_id),
    )


async def test_a_rejected_order_says_why(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    order = (await saga.reject()).order
    assert order.state == pb.ORDER_STATE_REJECTED
    assert order.rejection.reason == "INSUFFICIENT_STOCK"
    assert order.rejection.message == "LAMP: 2 wanted, 1 there"
    assert await saga.read() == order


async def test_every_commit_wakes_the_relay(world: Any) -> None:
    saga = world.saga()
    for call in (saga.create, saga.confirm):
        before = len(world.wakes)
        await call()
        assert len(world.wakes) == before + 1


@pytest.mark.parametrize(
    "calls", list(itertools.permutations(["create", "create again", "reject", "reject again"]))
)
async def test_every_permutation_of_create_and_reject_ends_rejected_with_one_effect_each(
    world: Any, calls: tuple[str, ...]
) -> None:
    saga = world.saga()
    created, rejected = [], []
    for name in calls:
        if name.startswith("reject"):
            rejected.append((await saga.reject()).order)
        elif calls[0].startswith("create"):
            created.append(await saga.create())
        else:
            fault = await refused(saga.create())
            assert (fault.reason, fault.recorded) == ("TOMBSTONED", True)
    assert all(order == created[0] for order in created)
    assert all(order == rejected[0] for order in rejected)
    assert rejected[0] == await saga.read()
    assert rejected[0].state == pb.ORDER_STATE_REJECTED
    assert [item.sku for item in rejected[0].items] == ["BULB", "LAMP"]
    assert await saga.history() == [(1, "PENDING"), (2, "REJECTED")]
    assert await saga.events() == PLACED_AND_REJECTED
    assert len(await saga.barrier()) == 1


async def test_a_call_that_comes_again_gets_the_same_answer_and_changes_nothing(world: Any) -> None:
    saga = world.saga()
    created = await saga.create()
    assert await saga.create() == created
    confirmed = await saga.confirm()
    assert await saga.confirm() == confirmed
    assert await saga.create() == created
    assert len(await saga.events()) == 2


async def test_the_same_step_with_another_request_is_refused(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    fault = await refused(saga.create(currency_code="USD"))
    assert fault.reason == "REQUEST_CHANGED"


async def test_another_sagas_order_of_that_id_is_a_recorded_refusal_and_stays_untouched(world: Any) -> None:
    first = world.saga()
    order = await first.create()
    second = world.saga(order_id=first.order_id)
    for _ in range(2):
        fault = await refused(second.create())
        assert (fault.kind, fault.reason, fault.recorded) == ("ALREADY_EXISTS", "ORDER_EXISTS", True)
    assert await second.barrier() == {"order": "REFUSED"}
    assert not (await second.reject()).HasField("order")
    assert await first.read() == order


async def test_a_reject_that_comes_first_leaves_another_sagas_order_of_that_id_alone(world: Any) -> None:
    first = world.saga()
    order = await first.create()
    second = world.saga(order_id=first.order_id)
    for _ in range(2):
        assert not (await second.reject()).HasField("order")
    assert (await refused(second.create())).reason == "TOMBSTONED"
    assert await first.read() == order


@pytest.mark.parametrize("landed", [True, False])
async def test_an_order_whose_number_is_taken_gets_a_longer_one(world: Any, landed: bool) -> None:
    saga, other = world.saga(), world.saga()
    await other.create()
    taken = next(domain.order_numbers(saga.order_id))
    await world.rows(
        "UPDATE orders SET order_number = %(taken)s WHERE id = %(id)s", taken=taken, id=other.order_id
    )
    order = await saga.create() if landed else (await saga.reject()).order
    assert order.order_number.startswith(f"{taken}-")
    assert len(order.order_number) == len(taken) + 5


async def test_an_order_that_nobody_created_cannot_be_confirmed(world: Any) -> None:
    saga = world.saga()
    for _ in range(2):
        fault = await refused(saga.confirm())
        assert (fault.kind, fault.reason, fault.recorded) == ("NOT_FOUND", "ORDER_NOT_FOUND", True)
    assert await saga.barrier() == {"confirmation": "REFUSED"}
    # The refusal is what the step remembers, whatever becomes of the order.
    await saga.create()
    assert (await refused(saga.confirm())).reason == "ORDER_NOT_FOUND"


async def test_another_users_order_cannot_be_confirmed(world: Any) -> None:
    saga = world.saga()
    order = await saga.create()
    fault = await refused(saga.confirm(user_id=str(new_id())))
    assert (fault.reason, fault.recorded) == ("ORDER_NOT_FOUND", True)
    assert await saga.read() == order


async def test_a_rejected_order_cannot_be_confirmed(world: Any) -> None:
    saga = world.saga()
    await saga.reject()
    fault = await refused(saga.confirm())
    assert (fault.kind, fault.reason, fault.recorded) == ("FAILED_PRECONDITION", "ORDER_NOT_PENDING", True)
    assert "REJECTED" in fault.message
    assert await saga.events() == PLACED_AND_REJECTED


async def test_a_confirmed_order_cannot_be_rejected_and_the_refusal_is_not_stored(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    order = await saga.confirm()
    for _ in range(2):
        fault = await refused(saga.reject())
        assert (fault.kind, fault.reason, fault.recorded) == (
            "FAILED_PRECONDITION",
            "ORDER_NOT_PENDING",
            False,
        )
    assert await saga.read() == order
    assert await saga.barrier() == {"order": "DONE", "confirmation": "DONE"}


def _line(sku: str, quantity: int, price: int, *, name: str = "", currency: str = "EUR") -> pb.OrderLine:
    money = Money(currency_code=currency, minor_units=price)
    return pb.OrderLine(sku=sku, name=name or f"Name of {sku}", quantity=quantity, unit_price=money)


def _quote(*amounts: int, currency: str = "EUR") -> pb.Quote:
    names = ("subtotal", "discount", "shipping", "tax", "total")
    values = {
        name: Money(currency_code=currency, minor_units=amount)
        for name, amount in zip(names, amounts, strict=True)
    }
    return pb.Quote(**values)


LAMPS, BULBS = _line("LAMP", 2, 1_000), _line("BULB", 3, 100)
WRONG_SALES = {
    "a line is missing": ({"lines": [LAMPS], "quote": _quote(2_000, 0, 0, 0, 2_000)}, "LINES_INVALID"),
    "a line is new": ({"lines": [LAMPS, BULBS, _line("EXTRA", 1, 0)]}, "LINES_INVALID"),
    "a quantity differs": ({"lines": [_line("LAMP", 1, 2_000), BULBS]}, "LINES_INVALID"),
    "two prices of one SKU": (
        {"lines": [_line("LAMP", 1, 900), _line("LAMP", 1, 1_100), BULBS]},
        "LINES_INVALID",
    ),
    "a negative price": ({"lines": [_line("LAMP", 2, -1_000), BULBS]}, "LINES_INVALID"),
    "the total does not add up": ({"quote": _quote(2_300, 0, 490, 530, 3_321)}, "QUOTE_INVALID"),
    "the subtotal is not the lines'": ({"quote": _quote(2_301, 0, 490, 530, 3_321)}, "QUOTE_INVALID"),
    "a negative discount": ({"quote": _quote(2_300, -1, 490, 530, 3_321)}, "QUOTE_INVALID"),
    "a line in another currency": (
        {"lines": [LAMPS, _line("BULB", 3, 100, currency="USD")]},
        "CURRENCY_MISMATCH",
    ),
    "all in another currency than the order": (
        {
            "lines": [_line("LAMP", 2, 1_000, currency="USD"), _line("BULB", 3, 100, currency="USD")],
            "quote": _quote(2_300, 0, 490, 530, 3_320, currency="USD"),
        },
        "CURRENCY_MISMATCH",
    ),
    "more than any order may cost": ({"lines": [_line("LAMP", 2, 10**12), BULBS]}, "AMOUNT_TOO_LARGE"),
}


@pytest.mark.parametrize(("changes", "reason"), WRONG_SALES.values(), ids=list(WRONG_SALES))
async def test_a_sale_that_is_not_the_orders_is_a_recorded_refusal(
    world: Any, changes: dict[str, Any], reason: str
) -> None:
    saga = world.saga()
    order = await saga.create()
    for _ in range(2):
        fault = await refused(saga.confirm(**changes))
        assert (fault.kind, fault.reason, fault.recorded) == ("INVALID_ARGUMENT", reason, True)
    assert await saga.read() == order
    assert (await saga.reject()).order.state == pb.ORDER_STATE_REJECTED


async def test_lines_of_one_sku_are_summed_when_they_are_confirmed(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    order = await saga.confirm(lines=[_line("LAMP", 1, 1_000), BULBS, _line("LAMP", 1, 1_000)])
    assert [(line.sku, line.quantity) for line in order.lines] == [("BULB", 3), ("LAMP", 2)]


async def test_the_other_half_of_a_step_is_refused(world: Any) -> None:
    saga = world.saga()
    assert (
        await refused(saga.create(saga_step=saga.step("order", OPERATION_UNDO)))
    ).reason == "OPERATION_WRONG"
    assert (
        await refused(saga.reject(saga_step=saga.step("order", OPERATION_DO)))
    ).reason == "OPERATION_WRONG"
    assert await saga.barrier() == {}


async def test_a_quote_needs_no_database(world: Any) -> None:
    request = pb.QuoteOrderRequest(
        lines=[LAMPS, BULBS],
        shipping_address={"recipient": "A", "line1": "1", "city": "B", "country_code": "DE"},  # type: ignore[arg-type]
    )
    # A pool that is closed answers nothing: whoever asked it would fail.
    closed = await Database.open("host=127.0.0.1 port=1", application_name="nowhere")
    await closed.close()
    open_database = world.app.database
    object.__setattr__(world.app, "database", closed)
    try:
        quoted = (await world.call("orchestrator", "QuoteOrder", request)).quote
    finally:
        object.__setattr__(world.app, "database", open_database)
    assert quoted == _quote(2_300, 0, 490, 530, 3_320)


async def test_a_quote_is_refused_with_both_totals_where_the_price_changed(world: Any) -> None:
    request = pb.QuoteOrderRequest(
        lines=[LAMPS, BULBS],
        shipping_address={"recipient": "A", "line1": "1", "city": "B", "country_code": "DE"},  # type: ignore[arg-type]
        expected_total=Money(currency_code="EUR", minor_units=3_000),
    )
    fault = await refused(world.call("orchestrator", "QuoteOrder", request))
    assert (fault.kind, fault.reason, fault.domain) == (
        "FAILED_PRECONDITION",
        "PRICE_CHANGED",
        "sagacity.orders",
    )
    assert fault.message == "the order costs 33.20 EUR, not 30.00 EUR as expected"
    assert not fault.recorded
