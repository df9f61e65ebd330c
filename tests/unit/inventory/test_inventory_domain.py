from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.inventory.domain import (
    InvalidFieldsError,
    Money,
    Product,
    ProductChange,
    Reservation,
    ReservationNotCommittedError,
    ReservationState,
    ReservedLine,
    ReturnTooLargeError,
    Stock,
    StockWouldBeNegativeError,
    WantedLine,
    check_change,
    check_sku,
    reservation_from_json,
    summed_lines,
)

EURO = frozenset({"EUR"})


def problems_of(change: ProductChange, prefix: str = "") -> dict[str, str]:
    with pytest.raises(InvalidFieldsError) as caught:
        check_change(change, known_currencies=EURO, prefix=prefix)
    return dict(caught.value.problems)


def test_lines_are_summed_per_sku_and_sorted_by_the_bytes_of_the_sku() -> None:
    lines = [WantedLine("B", 1), WantedLine("A-1", 2), WantedLine("B", 3), WantedLine("A.1", 1)]
    assert summed_lines(lines) == (WantedLine("A-1", 2), WantedLine("A.1", 1), WantedLine("B", 4))


def test_what_is_held_cannot_be_taken_away() -> None:
    stock = Stock("A-1", on_hand=10, reserved=4)
    assert stock.available == 6
    assert stock.adjusted(-6) == Stock("A-1", on_hand=4, reserved=4)
    with pytest.raises(StockWouldBeNegativeError):
        stock.adjusted(-7)


def test_the_etag_follows_the_version() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def product(version: int) -> Product:
        return Product("A", "A", "", "", Money("EUR", 1), True, version, now, now, 0, 0)  # noqa: FBT003

    assert product(1).etag == product(1).etag != product(2).etag


def test_values_within_their_limits_are_taken() -> None:
    change = ProductChange(
        "n" * 200, "two\nlines", "", Money("EUR", 0), active=False, low_stock_threshold=10**9
    )
    check_change(change, known_currencies=EURO)
    check_change(ProductChange(), known_currencies=EURO)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    change = ProductChange("", "\0", "a\nb", Money("EUR", -1))
    found = problems_of(change, prefix="product.")
    assert set(found) == {
        "product.name",
        "product.description",
        "product.category",
        "product.unit_price",
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (ProductChange(name="n" * 201), "name"),
        (ProductChange(name="a\tb"), "name"),
        (ProductChange(description="d" * 4001), "description"),
        (ProductChange(category="c" * 101), "category"),
        (ProductChange(unit_price=Money("XYZ", 1)), "unit_price"),
        (ProductChange(low_stock_threshold=-1), "low_stock_threshold"),
        (ProductChange(low_stock_threshold=10**9 + 1), "low_stock_threshold"),
    ],
)
def test_a_value_past_its_limit_is_refused(change: ProductChange, field: str) -> None:
    assert set(problems_of(change)) == {field}


@pytest.mark.parametrize("sku", ["", "a", "-A", "A" * 65, "A B", "A\n", "A\0"])
def test_what_can_be_no_sku_is_refused(sku: str) -> None:
    with pytest.raises(InvalidFieldsError):
        check_sku(sku, "sku")


def sold(*lines: tuple[str, int, int], state: ReservationState = ReservationState.COMMITTED) -> Reservation:
    """Return a reservation of lines of SKU, quantity, returned."""
    reserved = tuple(
        ReservedLine(sku, sku, quantity, Money("EUR", 1), returned) for sku, quantity, returned in lines
    )
    return Reservation(UUID(int=1), UUID(int=2), state, reserved, datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("back", "state"),
    [
        ([("A", 1)], "COMMITTED"),
        ([("A", 3)], "COMMITTED"),
        ([("A", 3), ("B", 1)], "RETURNED"),
        ([("B", 1)], "COMMITTED"),
        ([], "COMMITTED"),
    ],
)
def test_a_reservation_is_returned_with_its_last_unit(back: list[tuple[str, int]], state: str) -> None:
    reservation = sold(("A", 3, 0), ("B", 2, 1), ("C", 1, 1))
    assert reservation.state_after_return(WantedLine(*line) for line in back) == state


def test_a_return_that_is_too_large_names_every_such_sku_in_sku_order() -> None:
    back = [WantedLine("C", 1), WantedLine("B", 2), WantedLine("A", 3), WantedLine("X", 5)]
    with pytest.raises(ReturnTooLargeError, match="B: 2 of 1 sold; C: 1 of 0 sold") as caught:
        sold(("A", 3, 0), ("B", 2, 1), ("C", 1, 1)).state_after_return(back)
    assert caught.value.excess == (("B", 2, 1), ("C", 1, 0), ("X", 5, 0))


@pytest.mark.parametrize("state", [state for state in ReservationState if state != "COMMITTED"])
def test_nothing_comes_back_of_what_is_not_sold(state: ReservationState) -> None:
    with pytest.raises(ReservationNotCommittedError):
        sold(("A", 3, 0), state=state).state_after_return([WantedLine("A", 1)])


def test_a_reply_that_was_stored_before_units_could_come_back_has_none_returned() -> None:
    line = {"sku": "A", "name": "A", "quantity": 3, "currency_code": "EUR", "price_minor": 1}
    stored = {
        "id": str(UUID(int=1)),
        "order_id": str(UUID(int=2)),
        "state": "COMMITTED",
        "lines": [line],
        "expire_time": "2026-01-01T00:00:00+00:00",
    }
    assert reservation_from_json(stored) == sold(("A", 3, 0))
    assert reservation_from_json(stored | {"lines": [line | {"returned": 2}]}) == sold(("A", 3, 2))
