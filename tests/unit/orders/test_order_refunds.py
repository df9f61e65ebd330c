"""The refund policy: what goes back for which units, and what cannot."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orders.domain import (
    CurrencyMismatchError,
    InvalidLinesError,
    Money,
    Order,
    OrderItem,
    OrderLine,
    OrderRefund,
    OrdersError,
    OrderState,
    PostalAddress,
    Quote,
    RefundState,
    Sale,
    items_of,
    merge_lines,
)
from services.orders.pricing import EXPORT_COUNTRIES, VAT_BASIS_POINTS, quote
from services.orders.refunds import (
    MAX_REFUNDS,
    InvalidRefundError,
    OrderNotRefundableError,
    RefundQuote,
    RefundTooLargeError,
    Shortage,
    quote_refund,
    require_recordable,
)
from services.orders.rpc import translate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOBODY = UUID(int=0)
NOWHERE = PostalAddress("Ada", "1", "", "Berlin", "", "10117", "DE")


def euro(minor_units: int) -> Money:
    return Money("EUR", minor_units)


def sold(lines: Sequence[OrderLine], amounts: Quote, *, state: OrderState = OrderState.CONFIRMED) -> Order:
    lines = merge_lines(lines)
    return Order(
        id=NOBODY,
        order_number="SG-0000-0000",
        user_id=NOBODY,
        state=state,
        refund_state=RefundState.NONE,
        items=items_of(lines),
        currency_code="EUR",
        sale=Sale(lines, amounts, NOWHERE, NOBODY, NOBODY),
        rejection=None,
        cancellation_reason=None,
        shipment=None,
        refunded=euro(0),
        refunds=(),
        create_time=NOW,
        update_time=NOW,
    )


def recorded(order: Order, refund: RefundQuote) -> Order:
    """Return the order as it stands once the refund is recorded."""
    state = require_recordable(order, refund.amount, refund.lines)
    entry = OrderRefund(NOBODY, refund.amount, refund.lines, "broken", NOW)
    refunds = (*order.refunds, entry)
    return replace(order, refunded=order.refunded + refund.amount, refunds=refunds, refund_state=state)


def lamps_and_bulbs() -> Order:
    """Goods of 23.00, tax of 5.30, shipping of 4.90."""
    lines = [OrderLine("LAMP", "Lamp", 2, euro(1_000)), OrderLine("BULB", "Bulb", 3, euro(100))]
    return sold(lines, Quote(*map(euro, (2_300, 0, 490, 530, 3_320))))


def units(**quantities: int) -> tuple[OrderItem, ...]:
    return tuple(OrderItem(sku, quantity) for sku, quantity in quantities.items())


def total(order: Order) -> int:
    assert order.sale is not None
    return order.sale.quote.total.minor_units


@st.composite
def orders(draw: st.DrawFn) -> Order:
    """Draw orders as they are sold, and some whose amounts are odd but add up."""
    lines = [
        OrderLine(sku, sku, draw(st.integers(1, 5)), euro(draw(st.integers(0, 3_000))))
        for sku in draw(st.lists(st.sampled_from("ABCD"), min_size=1, unique=True))
    ]
    priced = quote(
        lines, country_code=draw(st.sampled_from(sorted(EXPORT_COUNTRIES | {*VAT_BASIS_POINTS}))), exponent=2
    )
    if draw(st.booleans()):
        discount = euro(draw(st.integers(0, priced.subtotal.minor_units)))
        rest = priced.subtotal - discount + priced.shipping + priced.tax
        priced = replace(priced, discount=discount, total=rest)
    return sold(lines, priced, state=draw(st.sampled_from([OrderState.CONFIRMED, OrderState.DELIVERED])))


@st.composite
def splits(draw: st.DrawFn) -> tuple[Order, list[OrderItem]]:
    """Draw an order and all its units, in parts and in any order."""
    order = draw(orders())
    parts = []
    for item in order.items:
        left = item.quantity
        while left:
            part = draw(st.integers(1, left))
            parts.append(OrderItem(item.sku, part))
            left -= part
    return order, draw(st.permutations(parts))


@pytest.mark.parametrize(
    ("lines", "amount"),
    [
        (units(LAMP=1), 1_230),
        (units(LAMP=2), 2_461),
        (units(BULB=1), 123),
        (units(BULB=3), 369),
        (units(LAMP=1, BULB=2), 1_230 + 246),
        (units(LAMP=2, BULB=3), 3_320),
        ((), 3_320),
    ],
)
def test_units_are_worth_their_share_and_all_of_them_the_total(
    lines: tuple[OrderItem, ...], amount: int
) -> None:
    refund = quote_refund(lamps_and_bulbs(), lines, None)
    assert refund.amount == euro(amount)
    assert set(refund.lines) == set(lines or units(LAMP=2, BULB=3))


def test_half_a_minor_unit_is_rounded_up_and_never_past_what_is_left() -> None:
    order = sold([OrderLine("PIN", "Pin", 4, euro(1))], Quote(*map(euro, (4, 2, 0, 0, 2))))
    for left in (2, 1):
        refund = quote_refund(order, units(PIN=1), None)
        assert refund.amount == euro(1), left
        order = recorded(order, refund)
    assert order.refund_state is RefundState.FULL
    with pytest.raises(RefundTooLargeError, match="nothing is left"):
        quote_refund(order, units(PIN=1), None)


def test_lines_of_one_sku_are_summed() -> None:
    order = lamps_and_bulbs()
    twice = quote_refund(order, (*units(LAMP=1), *units(LAMP=1)), None)
    assert twice == quote_refund(order, units(LAMP=2), None)
    with pytest.raises(RefundTooLargeError):
        quote_refund(order, (*units(LAMP=2), *units(LAMP=1)), None)


def test_by_amount_no_unit_is_returned_and_what_is_left_bounds_the_units() -> None:
    order = lamps_and_bulbs()
    by_amount = quote_refund(order, (), euro(3_000))
    assert by_amount == RefundQuote(euro(3_000), ())
    order = recorded(order, by_amount)
    assert quote_refund(order, units(LAMP=1), None).amount == euro(320)
    assert quote_refund(order, (), None) == RefundQuote(euro(320), units(BULB=3, LAMP=2))


def test_the_last_units_bring_all_that_is_left() -> None:
    order = recorded(lamps_and_bulbs(), quote_refund(lamps_and_bulbs(), units(LAMP=2), None))
    last = quote_refund(order, units(BULB=3), None)
    assert last.amount == euro(3_320 - 2_461)
    assert recorded(order, last).refund_state is RefundState.FULL


def test_what_cost_nothing_but_its_way_goes_back_with_the_last_unit() -> None:
    order = sold([OrderLine("GIFT", "Gift", 2, euro(0))], Quote(*map(euro, (0, 0, 490, 93, 583))))
    with pytest.raises(InvalidRefundError, match="worth nothing"):
        quote_refund(order, units(GIFT=1), None)
    assert quote_refund(order, units(GIFT=2), None).amount == euro(583)


REFUSALS: dict[str, tuple[tuple[OrderItem, ...], Money | None, type[OrdersError]]] = {
    "both": (units(LAMP=1), euro(1), InvalidRefundError),
    "no amount": ((), euro(0), InvalidRefundError),
    "a negative amount": ((), euro(-1), InvalidRefundError),
    "another currency": ((), Money("USD", 1), CurrencyMismatchError),
    "a unit of money too many": ((), euro(3_321), RefundTooLargeError),
    "a unit too many": (units(LAMP=3), None, RefundTooLargeError),
    "another product": (units(LAMP=1, SOFA=1), None, InvalidLinesError),
}


@pytest.mark.parametrize(("lines", "amount", "refusal"), REFUSALS.values(), ids=list(REFUSALS))
def test_what_an_order_cannot_give_back_is_refused(
    lines: tuple[OrderItem, ...], amount: Money | None, refusal: type[OrdersError]
) -> None:
    with pytest.raises(refusal):
        quote_refund(lamps_and_bulbs(), lines, amount)
    if amount is None or not lines:
        with pytest.raises(refusal):
            require_recordable(lamps_and_bulbs(), amount or euro(1), lines)


def test_too_many_units_are_refused_by_the_name_of_every_sku() -> None:
    with pytest.raises(RefundTooLargeError) as caught:
        quote_refund(lamps_and_bulbs(), units(LAMP=3, BULB=4), None)
    assert caught.value.shortages == (Shortage("BULB", 4, 3), Shortage("LAMP", 3, 2))
    fault = translate(caught.value)
    assert fault is not None
    assert fault.reason == "REFUND_TOO_LARGE"
    assert [detail.subject for detail in fault.subjects] == ["BULB", "LAMP"]


@pytest.mark.parametrize("state", list(OrderState))
def test_money_goes_back_from_orders_that_stand_confirmed_shipped_or_delivered(state: OrderState) -> None:
    order = replace(lamps_and_bulbs(), state=state)
    if state in {OrderState.CONFIRMED, OrderState.SHIPPED, OrderState.DELIVERED}:
        assert quote_refund(order, (), None).amount == euro(3_320)
        assert require_recordable(order, euro(3_320), ()) is RefundState.FULL
        return
    for refused in (
        lambda: quote_refund(order, (), None),
        lambda: require_recordable(order, euro(1), ()),
    ):
        with pytest.raises(OrderNotRefundableError, match=str(state)):
            refused()


def test_after_so_many_refunds_only_all_that_is_left_goes_back() -> None:
    order = lamps_and_bulbs()
    for _ in range(MAX_REFUNDS):
        order = recorded(order, quote_refund(order, (), euro(1)))
    for lines, amount in (((), euro(1)), (units(LAMP=1), None)):
        with pytest.raises(OrderNotRefundableError, match=str(MAX_REFUNDS)):
            quote_refund(order, lines, amount)
    assert quote_refund(order, (), None).amount == euro(3_320 - MAX_REFUNDS)
    # What was made is recorded, whatever could have been asked for.
    assert require_recordable(order, euro(1), ()) is RefundState.PARTIAL


@given(splits())
def test_a_whole_refund_by_lines_in_any_split_ends_at_exactly_the_total(
    split: tuple[Order, list[OrderItem]],
) -> None:
    order, parts = split
    # Units that alone are worth nothing go back together with the next ones.
    together: tuple[OrderItem, ...] = ()
    for part in parts:
        if order.refund_state is RefundState.FULL or not total(order):
            break
        together = (*together, part)
        try:
            refund = quote_refund(order, together, None)
        except InvalidRefundError:
            continue
        assert refund.amount.minor_units > 0
        order, together = recorded(order, refund), ()
        assert order.refunded.minor_units <= total(order)
    assert order.refunded.minor_units == total(order)
    with pytest.raises(RefundTooLargeError):
        quote_refund(order, (), None)


@given(orders(), st.data())
def test_no_mixture_of_refunds_gives_back_less_than_nothing_or_more_than_the_total(
    order: Order, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 6))):
        before = order.refunded.minor_units
        by_amount = data.draw(st.booleans())
        lines = tuple(OrderItem(item.sku, data.draw(st.integers(1, item.quantity))) for item in order.items)
        amount = euro(data.draw(st.integers(-1, total(order) + 1))) if by_amount else None
        try:
            refund = quote_refund(order, () if by_amount else lines[: data.draw(st.integers(0, 4))], amount)
        except (InvalidRefundError, RefundTooLargeError):
            continue
        order = recorded(order, refund)
        assert 0 <= before < order.refunded.minor_units <= total(order)
        assert (order.refund_state is RefundState.FULL) == (order.refunded.minor_units == total(order))


@given(orders())
def test_all_that_is_left_is_the_whole_order_at_first(order: Order) -> None:
    if not total(order):
        with pytest.raises(RefundTooLargeError):
            quote_refund(order, (), None)
        return
    refund = quote_refund(order, (), None)
    assert refund == RefundQuote(euro(total(order)), order.items)
    assert refund == quote_refund(order, order.items, None)
