"""The pricing policy: what lines cost at an address. Pure: no I/O.

The figures are the shop's own, in major units of whatever currency the order is in. Prices are net; tax comes
on top.

- Discount: 10 % off a subtotal of 200.00 and more.
- Shipping: by zone, flat; free from an amount of goods after discount. Zone EU: 4.90, free from 50.00. Zone
  EXPORT: 14.90, free from 150.00. Another country is not served.
- Tax: the standard VAT rate of the country of destination on goods and shipping, rounded half up once, on the
  sum. Exports out of the European Union are zero-rated.
- Sources of the tax rules: rates as the European Commission publishes them ("Taxes in Europe" database), in
  force in January 2026; distance sales are taxed where the parcel ends (Directive 2006/112/EC, Article 33);
  exports are exempt (Article 146). Territories with rates of their own are not told apart.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType

from services.orders.domain import (
    CurrencyMismatchError,
    Money,
    OrderLine,
    OrdersError,
    Quote,
    merge_lines,
    subtotal_of,
)

DISCOUNT_FROM = Decimal("200.00")
DISCOUNT_BASIS_POINTS = 1_000


@dataclass(frozen=True, slots=True)
class Zone:
    """What sending to a group of countries costs, and from which amount of goods it is free: major units."""

    shipping: Decimal
    free_from: Decimal


EU = Zone(shipping=Decimal("4.90"), free_from=Decimal("50.00"))
EXPORT = Zone(shipping=Decimal("14.90"), free_from=Decimal("150.00"))

# Basis points by ISO 3166 country (Greece is GR here, and EL in the Commission's tables).
VAT_BASIS_POINTS: Mapping[str, int] = MappingProxyType(
    {
        "AT": 2000,
        "BE": 2100,
        "BG": 2000,
        "CY": 1900,
        "CZ": 2100,
        "DE": 1900,
        "DK": 2500,
        "EE": 2400,
        "ES": 2100,
        "FI": 2550,
        "FR": 2000,
        "GR": 2400,
        "HR": 2500,
        "HU": 2700,
        "IE": 2300,
        "IT": 2200,
        "LT": 2100,
        "LU": 1700,
        "LV": 2100,
        "MT": 1800,
        "NL": 2100,
        "PL": 2300,
        "PT": 2300,
        "RO": 2100,
        "SE": 2500,
        "SI": 2200,
        "SK": 2300,
    }
)
EXPORT_COUNTRIES = frozenset({"AU", "CA", "CH", "GB", "IS", "JP", "LI", "NO", "NZ", "US"})


class CountryNotServedError(OrdersError):
    """We do not send there.

    Attributes:
        country_code: ISO 3166-1 alpha-2.
    """

    def __init__(self, country_code: str) -> None:
        self.country_code = country_code
        super().__init__(f"we do not send to {country_code}")


class PriceChangedError(OrdersError):
    """The customer expects to pay another amount.

    Attributes:
        expected: what they said.
        total: what it costs.
    """

    def __init__(self, expected: Money, total: Money) -> None:
        self.expected, self.total = expected, total
        super().__init__(f"expected {expected}, but it costs {total}")


def quote(lines: Iterable[OrderLine], *, country_code: str, exponent: int) -> Quote:
    """Computes what lines cost, sent to a country.

    Args:
        lines: what is sold; lines of one SKU are summed.
        country_code: where it goes, ISO 3166-1 alpha-2.
        exponent: decimals of the lines' currency, by ISO 4217.

    Raises:
        InvalidLinesError: there is no line, or one that cannot be sold.
        CurrencyMismatchError: the lines are not of one currency.
        AmountTooLargeError: it costs more than an order may.
        CountryNotServedError: we do not send there.
    """
    subtotal = subtotal_of(merge_lines(lines))
    zone, tax_basis_points = destination(country_code)

    def amount(major_units: Decimal) -> Money:
        minor_units = major_units.scaleb(exponent).quantize(Decimal(1), ROUND_HALF_UP)
        return Money(subtotal.currency_code, int(minor_units))

    nothing = Money(subtotal.currency_code, 0)
    discount = subtotal.portion(DISCOUNT_BASIS_POINTS) if subtotal >= amount(DISCOUNT_FROM) else nothing
    goods = subtotal - discount
    shipping = nothing if goods >= amount(zone.free_from) else amount(zone.shipping)
    tax = (goods + shipping).portion(tax_basis_points)
    return Quote(subtotal, discount, shipping, tax, goods + shipping + tax)


def destination(country_code: str) -> tuple[Zone, int]:
    """Returns a country's zone and its tax rate in basis points.

    Raises:
        CountryNotServedError: we do not send there.
    """
    if country_code in VAT_BASIS_POINTS:
        return EU, VAT_BASIS_POINTS[country_code]
    if country_code in EXPORT_COUNTRIES:
        return EXPORT, 0
    raise CountryNotServedError(country_code)


def require_expected(quoted: Quote, expected_total: Money | None) -> None:
    """Refuses a total that is not what the customer expects, in either direction; None: they did not say.

    Raises:
        PriceChangedError: the amounts differ.
        CurrencyMismatchError: the currencies do.
    """
    if expected_total is None:
        return
    if expected_total.currency_code != quoted.total.currency_code:
        raise CurrencyMismatchError(
            f"{expected_total.currency_code} is expected, the lines are in {quoted.total.currency_code}"
        )
    if expected_total != quoted.total:
        raise PriceChangedError(expected_total, quoted.total)
