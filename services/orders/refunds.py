"""The refund policy: what goes back for which units. Pure: no I/O.

- A unit is worth its share of what the goods cost, which is subtotal - discount + tax, by its price; what the
  units of one line are worth is rounded half up to a minor unit. Shipping is no part of it.
- Never more than the total less what went back already.
- Whoever gives back the last units of an order gets all that is left of its total, shipping included.
- By amount any part of what is left goes back, and no unit is counted as returned.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.orders.domain import (
    CurrencyMismatchError,
    InvalidLinesError,
    Money,
    Order,
    OrderItem,
    OrdersError,
    OrderState,
    RefundState,
    Sale,
    merge_items,
)

REFUNDABLE = frozenset({OrderState.CONFIRMED, OrderState.SHIPPED, OrderState.DELIVERED})
# An order is read with all its refunds: past this only who gives back all that is left gets another one.
MAX_REFUNDS = 100


class OrderNotRefundableError(OrdersError):
    """Nothing of this order can go back, whatever is asked for."""


class InvalidRefundError(OrdersError):
    """No order can have such a refund."""


class RefundExistsError(OrdersError):
    """There is another refund of this id."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A SKU of which more is to go back than is left: units."""

    sku: str
    wanted: int
    left: int


class RefundTooLargeError(OrdersError):
    """More is to go back than is left.

    Attributes:
        shortages: the units that are too many, by SKU; none where it is the amount.
    """

    def __init__(self, message: str, shortages: tuple[Shortage, ...] = ()) -> None:
        self.shortages = shortages
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class RefundQuote:
    """What a refund gives back, for which units; no units where it is by amount."""

    amount: Money
    lines: tuple[OrderItem, ...]


def require_valid(lines: Iterable[OrderItem], amount: Money | None) -> None:
    """Refuses what can be a refund of no order.

    Args:
        lines: by line; none where it is by amount, or all that is left.
        amount: by amount; None where it is by line, or all that is left.

    Raises:
        InvalidRefundError: both are given, or the amount is not above 0.
    """
    if amount is None:
        return
    if tuple(lines):
        raise InvalidRefundError("a refund is by line or by amount, not both")
    require_positive(amount)


def require_positive(amount: Money) -> None:
    """Refuses an amount that gives nothing back.

    Raises:
        InvalidRefundError: it is not above 0.
    """
    if amount.minor_units <= 0:
        raise InvalidRefundError("the amount of a refund is above 0")


def quote_refund(order: Order, lines: tuple[OrderItem, ...], amount: Money | None) -> RefundQuote:
    """Computes what a refund gives back: by line, by amount, or all that is left where neither is given.

    Args:
        order: as it stands.
        lines: units of its SKUs; those of one SKU are summed.
        amount: in its currency.

    Raises:
        InvalidRefundError: as `require_valid`; or the units alone are worth less than half a minor unit.
        OrderNotRefundableError: the order's state does not allow it, or it has had too many refunds.
        InvalidLinesError: a SKU is not the order's.
        CurrencyMismatchError: the amount is in another currency.
        RefundTooLargeError: more is asked for than is left, or nothing is.
    """
    require_valid(lines, amount)
    sale = sale_of(order)
    everything = not lines and amount is None
    if len(order.refunds) >= MAX_REFUNDS and not everything:
        raise OrderNotRefundableError(f"after {MAX_REFUNDS} refunds only all that is left goes back")
    if amount is not None:
        require_fits(order, sale, amount, ())
        return RefundQuote(amount, ())
    left = sale.quote.total - order.refunded
    if left.minor_units == 0:
        raise RefundTooLargeError("nothing is left to go back")
    rest = units_left(order, sale)
    if everything:
        return RefundQuote(left, _items(rest))
    lines = merge_items(lines)
    _require_units(rest, lines)
    if lines == _items(rest):
        return RefundQuote(left, lines)
    return RefundQuote(_worth(sale, lines, at_most=left), lines)


def require_recordable(order: Order, amount: Money, lines: tuple[OrderItem, ...]) -> RefundState:
    """Refuses to record a refund that the order cannot have had; it need not be what was quoted.

    Args:
        order: as it stands, locked.
        amount: what went back.
        lines: for which units; those of one SKU are summed.

    Returns:
        How much of the order's money went back with it.

    Raises:
        InvalidRefundError: the amount is not above 0.
        OrderNotRefundableError: the order's state does not allow it.
        InvalidLinesError: a SKU is not the order's.
        CurrencyMismatchError: the amount is in another currency.
        RefundTooLargeError: more went back than was left, of the money or of the units.
    """
    require_positive(amount)
    sale = sale_of(order)
    require_fits(order, sale, amount, merge_items(lines))
    return RefundState.FULL if order.refunded + amount == sale.quote.total else RefundState.PARTIAL


def sale_of(order: Order) -> Sale:
    """Returns what was sold by an order of which money can go back.

    Raises:
        OrderNotRefundableError: nothing was, or it is undone.
    """
    if order.sale is None or order.state not in REFUNDABLE:
        raise OrderNotRefundableError(f"nothing of an order that is {order.state} can go back")
    return order.sale


def require_fits(order: Order, sale: Sale, amount: Money, lines: tuple[OrderItem, ...]) -> None:
    """Refuses an amount or units of which the order has less left; `lines` has each SKU once.

    Raises:
        CurrencyMismatchError: the amount is in another currency.
        RefundTooLargeError: there is less left.
        InvalidLinesError: a SKU is not the order's.
    """
    if amount.currency_code != order.currency_code:
        raise CurrencyMismatchError(f"the order is in {order.currency_code}, not in {amount.currency_code}")
    left = sale.quote.total - order.refunded
    if left < amount:
        raise RefundTooLargeError(f"{amount} are to go back, but only {left} are left")
    _require_units(units_left(order, sale), lines)


def units_left(order: Order, sale: Sale) -> dict[str, int]:
    """Units by SKU, each SKU of the sale, that no refund by line was for."""
    left = {line.sku: line.quantity for line in sale.lines}
    for refund in order.refunds:
        for item in refund.lines:
            left[item.sku] -= item.quantity
    return left


def _items(units: dict[str, int]) -> tuple[OrderItem, ...]:
    return merge_items(OrderItem(sku, quantity) for sku, quantity in units.items() if quantity > 0)


def _require_units(left: dict[str, int], lines: tuple[OrderItem, ...]) -> None:
    strangers = [item.sku for item in lines if item.sku not in left]
    if strangers:
        raise InvalidLinesError(f"not in the order: {', '.join(strangers)}")
    shortages = tuple(
        Shortage(item.sku, item.quantity, left[item.sku]) for item in lines if item.quantity > left[item.sku]
    )
    if shortages:
        raise RefundTooLargeError("more units are to go back than are left", shortages)


def _worth(sale: Sale, lines: tuple[OrderItem, ...], *, at_most: Money) -> Money:
    quote = sale.quote
    prices = {line.sku: line.unit_price.minor_units for line in sale.lines}
    goods = (quote.subtotal - quote.discount + quote.tax).minor_units
    subtotal = quote.subtotal.minor_units
    # Where all is free, no unit has a share: what was paid for sending it goes back with the last one.
    worth = sum(
        (2 * goods * prices[item.sku] * item.quantity + subtotal) // (2 * subtotal) if subtotal else 0
        for item in lines
    )
    if worth == 0:
        raise InvalidRefundError("these units alone are worth nothing: give them back together with others")
    return Money(at_most.currency_code, min(worth, at_most.minor_units))
