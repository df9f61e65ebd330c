"""Products, stock, reservations: what they are and which rules they keep. Pure; no I/O."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
MAX_NAME_LENGTH = 200
MAX_DESCRIPTION_LENGTH = 4000
MAX_CATEGORY_LENGTH = 100
MAX_LOW_STOCK_THRESHOLD = 1_000_000_000
CHANGEABLE_FIELDS = frozenset(
    {"name", "description", "category", "unit_price", "active", "low_stock_threshold"}
)

_SKU = re.compile(r"[A-Z0-9][A-Z0-9._-]{0,63}\Z")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f]")


class InventoryError(Exception):
    """A rule of this context says no."""


class ProductNotFoundError(InventoryError):
    """There is no such product."""


class SkuTakenError(InventoryError):
    """There is a product with this SKU already."""


class EtagMismatchError(InventoryError):
    """The product changed since the caller read it."""


class StockWouldBeNegativeError(InventoryError):
    """More would be taken away than can be ordered now."""


class RequestIdReusedError(InventoryError):
    """The same request id came before, with another request."""


class ReservationNotFoundError(InventoryError):
    """There is no such reservation."""


class ReservationExistsError(InventoryError):
    """The reservation's id is taken, or its order has a reservation already, by another call."""


class ReservationNotCommittedError(InventoryError):
    """Nothing of the reservation is sold, so nothing of it can come back."""


class ReturnTooLargeError(InventoryError):
    """More would come back than is sold.

    Attributes:
        excess: SKU, units that would come back, units that are sold; one triple per SKU, in SKU order.
    """

    def __init__(self, excess: Iterable[tuple[str, int, int]]) -> None:
        self.excess = tuple(excess)
        super().__init__("; ".join(f"{sku}: {back} of {sold} sold" for sku, back, sold in self.excess))


class InvalidFieldsError(InventoryError):
    """Values that a product cannot have.

    Attributes:
        problems: Field path and what is wrong with it, one pair each.
    """

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in self.problems))


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in whole minor units of an ISO 4217 currency."""

    currency_code: str
    minor_units: int


@dataclass(frozen=True, slots=True)
class Product:
    """Something that we sell.

    Attributes:
        version: Counts its changes.
        available: Units that can be ordered now.
        low_stock_threshold: Fewer available units than this are low; 0: never.
    """

    sku: str
    name: str
    description: str
    category: str
    unit_price: Money
    active: bool
    version: int
    create_time: datetime
    update_time: datetime
    available: int
    low_stock_threshold: int

    @property
    def etag(self) -> str:
        """Changes with every change of the product."""
        return f"v{self.version}"


@dataclass(frozen=True, slots=True)
class ProductChange:
    """New values of a product; None leaves a value as it is."""

    name: str | None = None
    description: str | None = None
    category: str | None = None
    unit_price: Money | None = None
    active: bool | None = None
    low_stock_threshold: int | None = None


@dataclass(frozen=True, slots=True)
class Stock:
    """Units on hand, and of those the units that are held for open orders."""

    sku: str
    on_hand: int
    reserved: int

    @property
    def available(self) -> int:
        """Units that can be ordered."""
        return self.on_hand - self.reserved

    def adjusted(self, delta: int) -> "Stock":
        """Returns the stock with `delta` units more (or less) on hand.

        Raises:
            StockWouldBeNegativeError: What is held would no longer be covered.
        """
        if self.available + delta < 0:
            raise StockWouldBeNegativeError(f"{self.sku}: asked to take {-delta}, available {self.available}")
        return replace(self, on_hand=self.on_hand + delta)


@dataclass(frozen=True, slots=True)
class StockAdjustment:
    """A request to change the stock on hand. The pair (caller, request_id) names it for ever."""

    caller: str
    request_id: UUID
    sku: str
    delta: int
    reason: str


@dataclass(frozen=True, slots=True)
class WantedLine:
    """Units of a product that somebody wants."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class ReservedLine:
    """Units of a product with its name and price at the moment of the reservation.

    Attributes:
        returned: Units of `quantity` that came back after they were sold, while the reservation stayed.
    """

    sku: str
    name: str
    quantity: int
    unit_price: Money
    returned: int = 0


class ReservationState(StrEnum):
    """Where a reservation stands.

    HELD becomes COMMITTED, RELEASED or EXPIRED; COMMITTED may still become RELEASED, or RETURNED once all of
    its units came back one by one.
    """

    HELD = "HELD"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"
    RETURNED = "RETURNED"


@dataclass(frozen=True, slots=True)
class Reservation:
    """Stock that is held, sold or was given back for one order."""

    id: UUID
    order_id: UUID
    state: ReservationState
    lines: tuple[ReservedLine, ...]
    expire_time: datetime

    def state_after_return(self, back: Iterable[WantedLine]) -> ReservationState:
        """Returns RETURNED where these lines, one per SKU, are all that is still sold, else COMMITTED.

        Raises:
            ReservationNotCommittedError: Nothing of it is sold.
            ReturnTooLargeError: More would come back than is sold; it lists every SKU of which that is so.
        """
        if self.state is not ReservationState.COMMITTED:
            raise ReservationNotCommittedError(f"{self.id} is {self.state}")
        sold = {line.sku: line.quantity - line.returned for line in self.lines}
        coming = {line.sku: line.quantity for line in back}
        excess = [(sku, coming[sku], sold.get(sku, 0)) for sku in sorted(coming)]
        excess = [(sku, quantity, limit) for sku, quantity, limit in excess if quantity > limit]
        if excess:
            raise ReturnTooLargeError(excess)
        all_back = all(coming.get(sku, 0) == units for sku, units in sold.items())
        return ReservationState.RETURNED if all_back else ReservationState.COMMITTED


@dataclass(frozen=True, slots=True)
class Hold:
    """What a reservation is asked for: lines summed per SKU in SKU order, one currency, and how long."""

    reservation_id: UUID
    order_id: UUID
    lines: tuple[WantedLine, ...]
    currency_code: str
    ttl: timedelta


def summed_lines(lines: Iterable[WantedLine]) -> tuple[WantedLine, ...]:
    """Returns one line per SKU with the sum of its quantities, in SKU order."""
    quantities: dict[str, int] = {}
    for line in lines:
        quantities[line.sku] = quantities.get(line.sku, 0) + line.quantity
    return tuple(WantedLine(sku, quantities[sku]) for sku in sorted(quantities))


def reservation_from_json(data: dict[str, Any]) -> Reservation:
    """Returns the reservation that a statement of the store wrote as jsonb."""
    lines = tuple(
        ReservedLine(
            line["sku"],
            line["name"],
            line["quantity"],
            Money(line["currency_code"], line["price_minor"]),
            line.get("returned", 0),
        )
        for line in data["lines"]
    )
    return Reservation(
        UUID(data["id"]),
        UUID(data["order_id"]),
        ReservationState(data["state"]),
        lines,
        datetime.fromisoformat(data["expire_time"]),
    )


def is_sku(text: str) -> bool:
    """Whether a product could have this SKU."""
    return _SKU.match(text) is not None


def check_sku(sku: str, field: str) -> None:
    """Refuses what can be no SKU.

    Raises:
        InvalidFieldsError: It names `field`.
    """
    if not is_sku(sku):
        raise InvalidFieldsError([(field, "must be 1 to 64 of A-Z, 0-9, '.', '_' and '-'")])


def check_change(change: ProductChange, *, known_currencies: frozenset[str], prefix: str = "") -> None:
    """Refuses values that a product cannot have.

    Args:
        change: What to check; None is not checked.
        known_currencies: ISO 4217 codes of the currencies that exist.
        prefix: Goes before the field names in the error.

    Raises:
        InvalidFieldsError: All that is wrong, not only the first.
    """
    problems = [
        (f"{prefix}{field}", problem)
        for field, problem in (
            ("name", _text_problem(change.name, minimum=1, maximum=MAX_NAME_LENGTH, one_line=True)),
            ("description", _text_problem(change.description, maximum=MAX_DESCRIPTION_LENGTH)),
            ("category", _text_problem(change.category, maximum=MAX_CATEGORY_LENGTH, one_line=True)),
            ("unit_price", _price_problem(change.unit_price, known_currencies)),
            ("low_stock_threshold", _threshold_problem(change.low_stock_threshold)),
        )
        if problem
    ]
    if problems:
        raise InvalidFieldsError(problems)


def _text_problem(text: str | None, *, maximum: int, minimum: int = 0, one_line: bool = False) -> str:
    if text is None:
        return ""
    if not minimum <= len(text) <= maximum:
        return f"must have {minimum} to {maximum} characters"
    if "\0" in text or (one_line and _CONTROL_CHARACTERS.search(text)):
        return "must not have control characters"
    return ""


def _price_problem(price: Money | None, known_currencies: frozenset[str]) -> str:
    if price is None:
        return ""
    if price.currency_code not in known_currencies:
        return "is in a currency that ISO 4217 does not list"
    return "must not be negative" if price.minor_units < 0 else ""


def _threshold_problem(threshold: int | None) -> str:
    if threshold is None or 0 <= threshold <= MAX_LOW_STOCK_THRESHOLD:
        return ""
    return f"must be 0 to {MAX_LOW_STOCK_THRESHOLD}"
