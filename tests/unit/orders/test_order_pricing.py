"""The pricing policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orders.app import EXPONENTS, quote_order
from services.orders.domain import (
    AmountTooLargeError,
    CurrencyMismatchError,
    CurrencyUnknownError,
    Money,
    OrderLine,
    Quote,
    merge_lines,
    require_consistent,
)
from services.orders.pricing import (
    EXPORT_COUNTRIES,
    VAT_BASIS_POINTS,
    CountryNotServedError,
    PriceChangedError,
)
from services.orders.rpc import translate

COUNTRIES = sorted(EXPORT_COUNTRIES | VAT_BASIS_POINTS.keys())


def price(
    minor_units: int, *, country: str = "DE", currency: str = "EUR", expected: Money | None = None
) -> Quote:
    line = OrderLine("LAMP", "Lamp", 1, Money(currency, minor_units))
    return quote_order([line], country_code=country, expected_total=expected)


def minor_units(quote: Quote) -> tuple[int, ...]:
    parts = (quote.subtotal, quote.discount, quote.shipping, quote.tax, quote.total)
    return tuple(part.minor_units for part in parts)


@pytest.mark.parametrize(
    ("subtotal", "country", "expected"),
    [
        (4_999, "DE", (4_999, 0, 490, 1_043, 6_532)),
        (5_000, "DE", (5_000, 0, 0, 950, 5_950)),
        (19_999, "AT", (19_999, 0, 0, 4_000, 23_999)),
        (20_000, "AT", (20_000, 2_000, 0, 3_600, 21_600)),
        (14_999, "CH", (14_999, 0, 1_490, 0, 16_489)),
        (16_000, "US", (16_000, 0, 0, 0, 16_000)),
        (0, "FI", (0, 0, 490, 125, 615)),
    ],
)
def test_the_documented_figures_are_charged(subtotal: int, country: str, expected: tuple[int, ...]) -> None:
    assert minor_units(price(subtotal, country=country)) == expected


@pytest.mark.parametrize(
    ("currency", "expected"), [("JPY", (10, 0, 5, 0, 15)), ("KWD", (10, 0, 14_900, 0, 14_910))]
)
def test_figures_follow_the_decimals_of_the_currency(currency: str, expected: tuple[int, ...]) -> None:
    country = "DE" if currency == "JPY" else "CH"
    quote = price(10, country=country, currency=currency)
    assert minor_units(quote)[:3] == expected[:3]


@given(
    lines=st.lists(
        st.builds(
            lambda sku, quantity, minor: (sku, quantity, minor),
            st.sampled_from("ABCDEFGH"),
            st.integers(1, 1_000),
            st.integers(0, 1_000_000),
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda line: line[0],
    ),
    country=st.sampled_from(COUNTRIES),
    currency=st.sampled_from(sorted(EXPONENTS)),
)
def test_every_quote_adds_up_and_would_be_confirmed(
    lines: list[tuple[str, int, int]], country: str, currency: str
) -> None:
    sold = [OrderLine(sku, sku, quantity, Money(currency, minor)) for sku, quantity, minor in lines]
    quote = quote_order(sold, country_code=country, expected_total=None)
    require_consistent(quote, merge_lines(sold), currency)


@given(subtotal=st.integers(0, 1_000_000), country=st.sampled_from(COUNTRIES))
def test_nobody_pays_less_than_nine_tenths_of_the_goods(subtotal: int, country: str) -> None:
    quote = price(subtotal, country=country)
    assert quote.total.minor_units * 10 >= subtotal * 9 - 5


def test_a_country_that_is_not_served_is_refused_by_name() -> None:
    with pytest.raises(CountryNotServedError, match="AQ"):
        price(100, country="AQ")


def test_another_total_than_expected_is_refused_in_either_direction_naming_both() -> None:
    for expected in (5_949, 5_951):
        with pytest.raises(PriceChangedError) as caught:
            price(5_000, expected=Money("EUR", expected))
        fault = translate(caught.value)
        assert fault is not None
        assert fault.reason == "PRICE_CHANGED"
        assert "59.50 EUR" in fault.message
        assert f"59.{expected % 100} EUR" in fault.message


def test_the_expected_total_is_accepted() -> None:
    assert price(5_000, expected=Money("EUR", 5_950)).total == Money("EUR", 5_950)


def test_an_expected_total_in_another_currency_is_refused() -> None:
    with pytest.raises(CurrencyMismatchError):
        price(5_000, expected=Money("USD", 5_950))


def test_lines_of_two_currencies_are_refused() -> None:
    lines = [OrderLine("A", "a", 1, Money("EUR", 1)), OrderLine("B", "b", 1, Money("USD", 1))]
    with pytest.raises(CurrencyMismatchError):
        quote_order(lines, country_code="DE", expected_total=None)


@pytest.mark.parametrize("currency", ["ZZZ", "XAU", "XXX"])
def test_a_currency_without_a_minor_unit_is_refused(currency: str) -> None:
    with pytest.raises(CurrencyUnknownError):
        price(100, currency=currency)


def test_an_amount_that_overflows_is_refused() -> None:
    line = OrderLine("LAMP", "Lamp", 1_000_000, Money("EUR", 1_000_000_000_000))
    with pytest.raises(AmountTooLargeError):
        quote_order([line], country_code="DE", expected_total=None)
