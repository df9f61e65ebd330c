"""What people look for and are shown, on the wire: lists, their page tokens, timelines."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.errors import Detail, Fault, FaultKind
from chassis.page_tokens import decode_page_token, encode_page_token
from chassis.timestamps import to_timestamp
from sagacity.orders.v1 import orders_pb2
from services.orders.domain import INITIAL_STATE, TimelineEntry
from services.orders.history.search import OrderSearch, OrderSort, Position, TotalRange
from services.orders.rpc.messages import STATE_NUMBERS, STATES, money_message

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# The year 9999: nothing later is a time.
MAX_MICROSECONDS = 253_402_300_799_999_999
# More digits are no amount of ours.
MAX_TOTAL_DIGITS = 13

SORTS: Mapping[orders_pb2.OrderSort.ValueType, OrderSort] = {
    orders_pb2.ORDER_SORT_UNSPECIFIED: OrderSort.NEWEST,
    orders_pb2.ORDER_SORT_CREATE_TIME_DESC: OrderSort.NEWEST,
    orders_pb2.ORDER_SORT_CREATE_TIME_ASC: OrderSort.OLDEST,
    orders_pb2.ORDER_SORT_TOTAL_DESC: OrderSort.DEAREST,
}


def domain_search(request: orders_pb2.ListOrdersRequest) -> OrderSearch:
    """Which orders are asked for.

    Raises:
        Fault: INVALID_ARGUMENT for a time that is none.
    """
    total = None
    if request.HasField("total"):
        total = TotalRange(
            request.total.currency_code,
            request.total.min_minor_units if request.total.HasField("min_minor_units") else None,
            request.total.max_minor_units if request.total.HasField("max_minor_units") else None,
        )
    states = {STATES[state] for state in request.states}
    if request.state:
        states.add(STATES[request.state])
    return OrderSearch(
        user_id=UUID(request.user_id) if request.user_id else None,
        states=frozenset(states),
        created_from=_time(request, "created_from"),
        created_before=_time(request, "created_before"),
        total=total,
        sort=SORTS[request.order_by],
    )


def read_token(token: str, search: OrderSearch, caller: UUID | None) -> Position | None:
    """Where the page before ended; None: there was none.

    Raises:
        Fault: INVALID_ARGUMENT for a token that is not ours, or of another list.
    """
    key: Callable[[str], Any] = _total if search.sort is OrderSort.DEAREST else _moment
    after = decode_page_token(token, _bound_to(search, caller), types=(key, UUID))
    return (after[0], after[1]) if after else None


def token_after(end: Position | None, search: OrderSearch, caller: UUID | None) -> str:
    """The token of the page that follows; empty where none does."""
    if end is None:
        return ""
    key = _microseconds(end[0]) if isinstance(end[0], datetime) else end[0]
    return encode_page_token((key, end[1]), _bound_to(search, caller))


def entry_message(entry: TimelineEntry) -> orders_pb2.TimelineEntry:
    """A fact of an order's timeline."""
    message = orders_pb2.TimelineEntry(
        sequence=entry.sequence,
        fact=_fact(entry),
        state=STATE_NUMBERS[entry.state],
        time=to_timestamp(entry.time),
    )
    if entry.refund:
        message.refund_id = str(entry.refund[0])
        message.amount.MergeFrom(money_message(entry.refund[1]))
    return message


def _fact(entry: TimelineEntry) -> orders_pb2.OrderFact.ValueType:
    if entry.refund:
        return orders_pb2.ORDER_FACT_REFUNDED
    if entry.state is INITIAL_STATE:
        return orders_pb2.ORDER_FACT_PLACED
    return orders_pb2.OrderFact.Value(f"ORDER_FACT_{entry.state}")


def _bound_to(search: OrderSearch, caller: UUID | None) -> tuple[object, ...]:
    chosen = (search.user_id, sorted(search.states), search.created_from, search.created_before)
    return (*chosen, search.total, search.sort, caller)


def _time(request: orders_pb2.ListOrdersRequest, field: str) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    stamp: Timestamp = getattr(request, field)
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        problem = Detail(field, "is not a time from the year 1 to 9999")
        raise Fault(
            FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", f"{field} is not a time", fields=(problem,)
        ) from None


def _moment(text: str) -> datetime:
    microseconds = int(text)
    if not 0 <= microseconds <= MAX_MICROSECONDS:
        raise ValueError("not a time of ours")
    return EPOCH + microseconds * MICROSECOND


def _total(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_TOTAL_DIGITS):
        raise ValueError("not a total of ours")
    return int(text)


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND
