"""Which orders a list has and in which order, and what goes together. Pure: no I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.orders.domain import OrdersError, OrderState


class OrderSort(StrEnum):
    """How a list is sorted."""

    NEWEST = "NEWEST"
    OLDEST = "OLDEST"
    DEAREST = "DEAREST"


class InvalidSearchError(OrdersError):
    """Filters that do not go together.

    Attributes:
        field: the field of the request that is wrong.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class TotalRange:
    """Totals of one currency, in minor units; None: no bound."""

    currency_code: str
    min_minor: int | None
    max_minor: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSearch:
    """Which orders are listed, and how they are sorted; None and no states: whatever it is."""

    user_id: UUID | None = None
    states: frozenset[OrderState] = frozenset()
    created_from: datetime | None = None
    created_before: datetime | None = None
    total: TotalRange | None = None
    sort: OrderSort = OrderSort.NEWEST


# Where a page ended: the time or the total that the list is sorted by, and the order.
Position = tuple[datetime | int, UUID]


def require_valid(search: OrderSearch) -> None:
    """Refuses what no index could find without looking at everything, and ranges that hold nothing.

    Raises:
        InvalidSearchError: naming the field.
    """
    by_total = search.sort is OrderSort.DEAREST
    if by_total and search.total is None:
        raise InvalidSearchError("total", "a list by total needs a total with its currency")
    if search.total is not None and not by_total:
        raise InvalidSearchError("total", "only a list that is sorted by total can be filtered by it")
    if by_total and search.created_from is not None:
        raise InvalidSearchError("created_from", "a list by total cannot be filtered by time")
    if by_total and search.created_before is not None:
        raise InvalidSearchError("created_before", "a list by total cannot be filtered by time")
    _require_some(search)


def _require_some(search: OrderSearch) -> None:
    if (
        search.created_from is not None
        and search.created_before is not None
        and search.created_from >= search.created_before
    ):
        raise InvalidSearchError("created_before", "must be later than created_from")
    total = search.total
    if (
        total is not None
        and total.min_minor is not None
        and total.max_minor is not None
        and total.min_minor > total.max_minor
    ):
        raise InvalidSearchError("total.max_minor_units", "must not be less than min_minor_units")
