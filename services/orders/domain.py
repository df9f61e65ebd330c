"""Orders as values, the one table of their transitions, the rules of their lines and quotes. Pure: no I/O."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from typing_extensions import override

# What the wire allows in either direction; sums are held to it, so that no amount overflows on its way.
MAX_AMOUNT_MINOR = 1_000_000_000_000
DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 200

# Crockford's base32 alphabet (crockford.com/base32.html): no I, L, O, U that people mistake for others.
ORDER_NUMBER_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ORDER_NUMBER_PREFIX = "SG"
ORDER_NUMBER_GROUP = 4
# 40 bits are enough for most orders; whoever meets a collision gets 20 bits more, up to 100.
ORDER_NUMBER_LENGTHS = (8, 12, 16, 20)


class OrderState(StrEnum):
    """Where an order stands."""

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"


class RefundState(StrEnum):
    """How much of an order's money went back."""

    NONE = "NONE"
    PARTIAL = "PARTIAL"
    FULL = "FULL"


# The only statement of what may follow what. Statements take their conditions from here, and the constraint
# order_history_transition mirrors it in the database.
TRANSITIONS: Mapping[OrderState, frozenset[OrderState]] = MappingProxyType(
    {
        OrderState.PENDING: frozenset({OrderState.CONFIRMED, OrderState.REJECTED}),
        OrderState.CONFIRMED: frozenset({OrderState.SHIPPED, OrderState.CANCELLED}),
        OrderState.SHIPPED: frozenset({OrderState.DELIVERED}),
        OrderState.DELIVERED: frozenset(),
        OrderState.REJECTED: frozenset(),
        OrderState.CANCELLED: frozenset(),
    }
)
INITIAL_STATE = OrderState.PENDING


class OrdersError(Exception):
    """Something that this context refuses."""


class OrderNotFoundError(OrdersError):
    """There is no such order, or it is none of the caller's business."""


class OrderExistsError(OrdersError):
    """Another saga's order has this id."""


class OrderNumberTakenError(OrdersError):
    """Another order has this number: try the next."""


class NotAllowedError(OrdersError):
    """The caller may not ask for this."""


class TransitionRefusedError(OrdersError):
    """The order's state does not allow what was asked.

    Attributes:
        state: where the order stands.
        wanted: where it was to go.
    """

    def __init__(self, state: OrderState, wanted: OrderState) -> None:
        self.state, self.wanted = state, wanted
        super().__init__(f"an order that is {state} cannot become {wanted}")


class InvalidLinesError(OrdersError):
    """The lines are not such as an order can have."""


class InvalidQuoteError(OrdersError):
    """The amounts of a quote do not belong together."""


class CurrencyMismatchError(OrdersError):
    """Amounts of different currencies meet."""


class CurrencyUnknownError(OrdersError):
    """ISO 4217 has no such currency, or it has no minor unit."""


class AmountTooLargeError(OrdersError):
    """An amount is larger than any order's may be."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in whole minor units of an ISO 4217 currency. Amounts of two currencies never mix.

    Raises:
        CurrencyMismatchError: from any arithmetic or comparison across currencies.
        AmountTooLargeError: from arithmetic whose result no order may have.
    """

    currency_code: str
    minor_units: int

    def __add__(self, other: "Money") -> "Money":
        return self._checked(self.minor_units + self._of_same_currency(other))

    def __sub__(self, other: "Money") -> "Money":
        return self._checked(self.minor_units - self._of_same_currency(other))

    def __mul__(self, factor: int) -> "Money":
        return self._checked(self.minor_units * factor)

    def __lt__(self, other: "Money") -> bool:
        return self.minor_units < self._of_same_currency(other)

    def __ge__(self, other: "Money") -> bool:
        return self.minor_units >= self._of_same_currency(other)

    @override
    def __str__(self) -> str:
        return f"{self.minor_units} {self.currency_code} minor units"

    def portion(self, basis_points: int) -> "Money":
        """Returns so many ten-thousandths of a non-negative amount, rounded half up to a minor unit."""
        return self._checked((self.minor_units * basis_points * 2 + 10_000) // 20_000)

    def _of_same_currency(self, other: "Money") -> int:
        if other.currency_code != self.currency_code:
            raise CurrencyMismatchError(f"{self.currency_code} and {other.currency_code} do not mix")
        return other.minor_units

    def _checked(self, minor_units: int) -> "Money":
        if abs(minor_units) > MAX_AMOUNT_MINOR:
            raise AmountTooLargeError(f"more than {MAX_AMOUNT_MINOR} minor units of {self.currency_code}")
        return Money(self.currency_code, minor_units)


@dataclass(frozen=True, slots=True)
class OrderItem:
    """What a customer asks for: so many units of a product."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class OrderLine:
    """A snapshot of a product as it was sold."""

    sku: str
    name: str
    quantity: int
    unit_price: Money

    @property
    def line_total(self) -> Money:
        """The unit price times the units."""
        return self.unit_price * self.quantity


@dataclass(frozen=True, slots=True)
class PostalAddress:
    """Where an order goes; fields that a country does not use are empty."""

    recipient: str
    line1: str
    line2: str
    city: str
    region: str
    postal_code: str
    country_code: str


@dataclass(frozen=True, slots=True)
class Quote:
    """What an order costs; all amounts are of one currency."""

    subtotal: Money
    discount: Money
    shipping: Money
    tax: Money
    total: Money


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an order was rejected: an UPPER_SNAKE code and a sentence for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Shipment:
    """How an order travels; the carrier may have no number for it."""

    carrier: str
    tracking_number: str


@dataclass(frozen=True, slots=True)
class OrderRefund:
    """Money of an order that went back, and the units that it was for: none where it was by amount."""

    id: UUID
    amount: Money
    lines: tuple[OrderItem, ...]
    reason: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Sale:
    """What makes an order complete: what was sold for how much, to where, its payment and reservation."""

    lines: tuple[OrderLine, ...]
    quote: Quote
    shipping_address: PostalAddress
    payment_id: UUID
    reservation_id: UUID


@dataclass(frozen=True, slots=True)
class Order:
    """An order.

    Attributes:
        sale: there from CONFIRMED on.
        rejection: there when REJECTED.
        cancellation_reason: there when CANCELLED.
        shipment: there from SHIPPED on.
        refunded: the sum of `refunds`, which are in the order in which they were recorded.
    """

    id: UUID
    order_number: str
    user_id: UUID
    state: OrderState
    refund_state: RefundState
    items: tuple[OrderItem, ...]
    currency_code: str
    sale: Sale | None
    rejection: Rejection | None
    cancellation_reason: str | None
    shipment: Shipment | None
    refunded: Money
    refunds: tuple[OrderRefund, ...]
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A fact about an order: the state that it entered, or a refund, and the state that it had then.

    Attributes:
        sequence: the order's own number of the fact, from 1 without gaps.
        refund: its id and amount; None where the fact is the state.
    """

    sequence: int
    state: OrderState
    time: datetime
    refund: tuple[UUID, Money] | None


def require_transition(state: OrderState, wanted: OrderState) -> None:
    """Refuses what the table of transitions does not have.

    Raises:
        TransitionRefusedError: the order cannot go there from where it stands.
    """
    if wanted not in TRANSITIONS[state]:
        raise TransitionRefusedError(state, wanted)


def states_before(wanted: OrderState) -> tuple[OrderState, ...]:
    """The states from which an order may go to `wanted`."""
    return tuple(state for state, following in TRANSITIONS.items() if wanted in following)


def order_numbers(order_id: UUID) -> Iterator[str]:
    """The numbers for people that an order may have, shortest first: use the first that no other order has.

    The same order always gets the same candidates, so that a repeated call picks the same one.
    """
    bits = int.from_bytes(hashlib.sha256(order_id.bytes).digest())
    for length in ORDER_NUMBER_LENGTHS:
        digits = "".join(ORDER_NUMBER_ALPHABET[(bits >> 5 * place) & 31] for place in range(length))
        groups = [digits[at : at + ORDER_NUMBER_GROUP] for at in range(0, length, ORDER_NUMBER_GROUP)]
        yield "-".join((ORDER_NUMBER_PREFIX, *groups))


def merge_items(items: Iterable[OrderItem]) -> tuple[OrderItem, ...]:
    """Sums the quantities of each SKU; one item per SKU, in the order of the SKUs' code points."""
    quantities: dict[str, int] = {}
    for item in items:
        quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
    return tuple(OrderItem(sku, quantities[sku]) for sku in sorted(quantities))


def merge_lines(lines: Iterable[OrderLine]) -> tuple[OrderLine, ...]:
    """Sums the quantities of each SKU; one line per SKU, in the order of the SKUs' code points.

    Raises:
        InvalidLinesError: lines of one SKU differ in name or price, a price is negative, or there is no line.
    """
    merged: dict[str, OrderLine] = {}
    for line in lines:
        if line.unit_price.minor_units < 0:
            raise InvalidLinesError(f"the price of {line.sku} is negative")
        first = merged.get(line.sku, line)
        if (first.name, first.unit_price) != (line.name, line.unit_price):
            raise InvalidLinesError(f"{line.sku} comes twice, with different names or prices")
        before = first.quantity if line.sku in merged else 0
        merged[line.sku] = OrderLine(line.sku, line.name, before + line.quantity, line.unit_price)
    if not merged:
        raise InvalidLinesError("there is no line")
    return tuple(merged[sku] for sku in sorted(merged))


def items_of(lines: Iterable[OrderLine]) -> tuple[OrderItem, ...]:
    """What a customer must have asked for to be sold these lines."""
    return merge_items(OrderItem(line.sku, line.quantity) for line in lines)


def subtotal_of(lines: tuple[OrderLine, ...]) -> Money:
    """The sum of the line totals, at least one.

    Raises:
        CurrencyMismatchError: the lines are not of one currency.
        AmountTooLargeError: the sum is more than an order may cost.
    """
    total = lines[0].line_total
    for line in lines[1:]:
        total += line.line_total
    return total


def require_consistent(quote: Quote, lines: tuple[OrderLine, ...], currency_code: str) -> None:
    """Refuses a quote whose amounts do not follow from its lines and from each other.

    Raises:
        InvalidQuoteError: subtotal or total is not the sum of its parts, or a part is negative or too large.
        CurrencyMismatchError: an amount is not of the order's currency.
    """
    parts = (quote.subtotal, quote.discount, quote.shipping, quote.tax, quote.total)
    if any(
        amount.currency_code != currency_code for amount in (*parts, *(line.unit_price for line in lines))
    ):
        raise CurrencyMismatchError(f"an amount is not in {currency_code}, the currency of the order")
    if any(amount.minor_units < 0 for amount in parts):
        raise InvalidQuoteError("an amount of the quote is negative")
    if quote.subtotal < quote.discount:
        raise InvalidQuoteError("the discount is more than the subtotal")
    if quote.subtotal != subtotal_of(lines):
        raise InvalidQuoteError("the subtotal is not the sum of the lines")
    if quote.total != quote.subtotal - quote.discount + quote.shipping + quote.tax:
        raise InvalidQuoteError("the total is not subtotal - discount + shipping + tax")
