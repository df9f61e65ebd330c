"""The transition table, money, lines, quotes and order numbers of the orders context."""

import itertools
import re
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orders.domain import (
    INITIAL_STATE,
    MAX_AMOUNT_MINOR,
    TRANSITIONS,
    AmountTooLargeError,
    CurrencyMismatchError,
    InvalidLinesError,
    InvalidQuoteError,
    Money,
    OrderItem,
    OrderLine,
    OrderState,
    Quote,
    TransitionRefusedError,
    items_of,
    merge_items,
    merge_lines,
    order_numbers,
    require_consistent,
    require_transition,
    states_before,
)

ALLOWED = {
    (OrderState.PENDING, OrderState.CONFIRMED),
    (OrderState.PENDING, OrderState.REJECTED),
    (OrderState.CONFIRMED, OrderState.SHIPPED),
    (OrderState.CONFIRMED, OrderState.CANCELLED),
    (OrderState.SHIPPED, OrderState.DELIVERED),
}
amounts = st.integers(-MAX_AMOUNT_MINOR // 4, MAX_AMOUNT_MINOR // 4)
skus = st.sampled_from(["A", "B-1", "C.2", "Z_9"])
items = st.lists(st.builds(OrderItem, skus, st.integers(1, 1_000_000)), min_size=1, max_size=100)


def euro(minor_units: int) -> Money:
    return Money("EUR", minor_units)


@pytest.mark.parametrize(("state", "wanted"), list(itertools.product(OrderState, OrderState)))
def test_exactly_the_transitions_of_the_design_are_allowed(state: OrderState, wanted: OrderState) -> None:
    if (state, wanted) in ALLOWED:
        require_transition(state, wanted)
        assert state in states_before(wanted)
    else:
        with pytest.raises(TransitionRefusedError, match=f"{state} cannot become {wanted}"):
            require_transition(state, wanted)
        assert state not in states_before(wanted)


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    reached = {INITIAL_STATE}.union(*TRANSITIONS.values())
    assert set(TRANSITIONS) == set(OrderState) == reached


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a < b,
        lambda a, b: a >= b,
        lambda a, b: a > b,
    ],
)
def test_arithmetic_and_order_across_currencies_are_refused(
    operation: Callable[[Money, Money], object],
) -> None:
    with pytest.raises(CurrencyMismatchError):
        operation(euro(1), Money("USD", 1))


@given(amounts, amounts)
def test_money_adds_and_subtracts_like_its_minor_units(one: int, other: int) -> None:
    assert (euro(one) + euro(other)).minor_units == one + other
    assert euro(one) + euro(other) - euro(other) == euro(one)
    assert (euro(one) < euro(other)) == (one < other)


@given(st.integers(0, MAX_AMOUNT_MINOR), st.integers(0, 10_000))
def test_a_portion_is_within_half_a_minor_unit_and_halves_go_up(amount: int, basis_points: int) -> None:
    error = euro(amount).portion(basis_points).minor_units * 10_000 - amount * basis_points
    assert -5_000 < error <= 5_000


def test_an_amount_that_no_order_may_have_is_refused() -> None:
    with pytest.raises(AmountTooLargeError):
        euro(MAX_AMOUNT_MINOR) + euro(1)
    with pytest.raises(AmountTooLargeError):
        euro(MAX_AMOUNT_MINOR) * 2


@given(items)
def test_items_of_one_sku_are_summed_and_sorted_and_no_unit_is_lost(wished: list[OrderItem]) -> None:
    merged = merge_items(wished)
    assert [item.sku for item in merged] == sorted({item.sku for item in wished})
    assert sum(item.quantity for item in merged) == sum(item.quantity for item in wished)
    assert merge_items(reversed(wished)) == merge_items(merged) == merged


@given(items)
def test_lines_come_from_the_items_that_they_were_made_of(wished: list[OrderItem]) -> None:
    lines = merge_lines(OrderLine(item.sku, "name", item.quantity, euro(5)) for item in wished)
    assert items_of(lines) == merge_items(wished)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [OrderLine("A", "one", 1, euro(5)), OrderLine("A", "two", 1, euro(5))],
        [OrderLine("A", "one", 1, euro(5)), OrderLine("A", "one", 1, euro(6))],
        [OrderLine("A", "one", 1, euro(-5))],
    ],
)
def test_lines_that_contradict_each_other_are_refused(lines: list[OrderLine]) -> None:
    with pytest.raises(InvalidLinesError):
        merge_lines(lines)


LINES = (OrderLine("A", "one", 2, euro(500)), OrderLine("B", "two", 1, euro(1)))


@pytest.mark.parametrize(
    ("amounts_of_quote", "refusal"),
    [
        ((1001, 100, 490, 200, 1591), None),
        ((1002, 100, 490, 200, 1592), InvalidQuoteError),
        ((1001, 100, 490, 200, 1590), InvalidQuoteError),
        ((1001, -100, 490, 200, 1791), InvalidQuoteError),
        ((1001, 1002, 490, 200, 689), InvalidQuoteError),
        ((1001, 100, -1, 200, 1100), InvalidQuoteError),
    ],
)
def test_a_quote_must_follow_from_its_lines_and_its_parts(
    amounts_of_quote: tuple[int, int, int, int, int], refusal: type[Exception] | None
) -> None:
    quote = Quote(*map(euro, amounts_of_quote))
    if refusal is None:
        require_consistent(quote, LINES, "EUR")
    else:
        with pytest.raises(refusal):
            require_consistent(quote, LINES, "EUR")


def test_a_quote_in_another_currency_than_the_order_is_refused() -> None:
    quote = Quote(*map(euro, (1001, 0, 0, 0, 1001)))
    with pytest.raises(CurrencyMismatchError):
        require_consistent(quote, LINES, "USD")


@given(st.uuids())
def test_order_numbers_are_readable_grow_longer_and_are_always_the_same(order_id: UUID) -> None:
    numbers = list(order_numbers(order_id))
    assert numbers == list(order_numbers(order_id))
    assert [len(number) for number in numbers] == [12, 17, 22, 27]
    for number in numbers:
        assert re.fullmatch(r"SG(-[0-9A-HJKMNP-TV-Z]{4})+", number)
        assert number.startswith(numbers[0])


def test_ten_thousand_orders_hardly_ever_share_a_number() -> None:
    numbers = {next(order_numbers(UUID(int=place))) for place in range(10_000)}
    assert len(numbers) == 10_000
