"""Which orders a client asks to list: the query string -> ListOrders, with errors in the client's words."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.models import OrderQuery
from gateway.problems import FieldError, ProblemError, malformed
from sagacity.orders.v1 import orders_pb2

_SORTS: Final[Mapping[str, orders_pb2.OrderSort.ValueType]] = {
    "newest": orders_pb2.ORDER_SORT_CREATE_TIME_DESC,
    "oldest": orders_pb2.ORDER_SORT_CREATE_TIME_ASC,
    "total": orders_pb2.ORDER_SORT_TOTAL_DESC,
}


def orders_wanted(query: OrderQuery, *, caller_id: str) -> orders_pb2.ListOrdersRequest:
    """Makes the request.

    Args:
        query: What the client asks for.
        caller_id: Whose orders they are where the client does not say.

    Raises:
        ProblemError: 400 for parameters that do not go together.
    """
    _require_consistent(query)
    user_id = "" if query.everybody == "true" else query.user_id or caller_id
    states = [orders_pb2.OrderState.Value(f"ORDER_STATE_{state.upper()}") for state in sorted({*query.state})]
    return orders_pb2.ListOrdersRequest(
        page_size=query.page_size,
        page_token=query.page_token,
        user_id=user_id,
        # One goes as before there were several: an orders process of that time would not see the others.
        state=states[0] if len(states) == 1 else orders_pb2.ORDER_STATE_UNSPECIFIED,
        states=states if len(states) > 1 else (),
        created_from=_stamp(query.created_from),
        created_before=_stamp(query.created_before),
        total=_total(query),
        order_by=_SORTS[query.sort],
    )


def _require_consistent(query: OrderQuery) -> None:
    by_total = query.sort == "total"
    if query.user_id is not None and query.everybody == "true":
        raise _wrong("user_id", "not with everybody=true")
    if by_total and query.currency is None:
        raise _wrong("currency", "is needed with sort=total")
    for name in ("currency", "min_total_minor", "max_total_minor"):
        if not by_total and getattr(query, name) is not None:
            raise _wrong(name, "only with sort=total")
    for name in ("created_from", "created_before"):
        if by_total and getattr(query, name) is not None:
            raise _wrong(name, "not with sort=total")
    least, most = query.min_total_minor, query.max_total_minor
    if least is not None and most is not None and least > most:
        raise _wrong("max_total_minor", "must not be less than min_total_minor")


def _wrong(field: str, message: str) -> ProblemError:
    return malformed(f"Malformed: {field}.", FieldError(field, message))


def _total(query: OrderQuery) -> orders_pb2.TotalRange | None:
    if query.currency is None:
        return None
    return orders_pb2.TotalRange(
        currency_code=query.currency,
        min_minor_units=query.min_total_minor,
        max_minor_units=query.max_total_minor,
    )


def _stamp(text: str | None) -> Timestamp | None:
    if text is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(text))
    return stamp
