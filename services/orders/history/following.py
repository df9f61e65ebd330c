"""The rows of one generation follow the context's own events: facts about orders -> `order_listing`."""

from collections.abc import Mapping
from uuid import UUID

from chassis.consumer import Handler, ReceivedEvent
from chassis.postgres import Row, Transaction, statement
from sagacity.orders.v1 import events_pb2
from services.orders.domain import OrderState, RefundState

# What events of releases before these fields existed do not say, the orders do.
_PLACE = statement(
    "list_placed_order",
    """
    INSERT INTO order_listing (generation, order_id, user_id, order_number, state, refund_state,
        currency_code, refunded_minor, sequence, create_time, update_time)
    SELECT %(generation)s, placed.id, %(user_id)s::uuid,
        COALESCE(NULLIF(%(order_number)s::text, ''), o.order_number, ''), %(state)s, %(refund_state)s,
        COALESCE(NULLIF(%(currency_code)s::text, ''), o.currency_code, ''), 0, %(sequence)s,
        %(now)s::timestamptz, %(now)s::timestamptz
    FROM (SELECT %(order_id)s::uuid AS id) AS placed LEFT JOIN orders AS o ON o.id = placed.id
    ON CONFLICT (generation, order_id) DO NOTHING
    """,
)
_CHANGE = statement(
    "list_changed_order",
    """
    UPDATE order_listing SET
        state = COALESCE(%(state)s::text, state),
        refund_state = COALESCE(%(refund_state)s::text, refund_state),
        total_minor = COALESCE(%(total_minor)s::bigint, total_minor),
        refunded_minor = COALESCE(%(refunded_minor)s::bigint, refunded_minor),
        sequence = %(sequence)s,
        update_time = %(now)s::timestamptz
    WHERE generation = %(generation)s AND order_id = %(order_id)s::uuid AND sequence < %(sequence)s
    RETURNING order_id
    """,
)
_STATES: Mapping[str, OrderState] = {
    events_pb2.OrderRejected.DESCRIPTOR.full_name: OrderState.REJECTED,
    events_pb2.OrderCancelled.DESCRIPTOR.full_name: OrderState.CANCELLED,
    events_pb2.OrderShipped.DESCRIPTOR.full_name: OrderState.SHIPPED,
}


class OrderNotListedError(Exception):
    """A fact about an order whose first fact has not been applied, or that has been applied itself."""


def handlers(generation: int) -> Mapping[str, Handler]:
    """What each event does to the rows of a generation; others do nothing."""

    async def placed(tx: Transaction, event: ReceivedEvent) -> None:
        fact = events_pb2.OrderPlaced.FromString(event.payload)
        row = {
            "user_id": UUID(fact.user_id),
            "order_number": fact.order_number,
            "currency_code": fact.currency_code,
            "state": OrderState.PENDING,
            "refund_state": RefundState.NONE,
        }
        await tx.fetch(_PLACE, row | _key(generation, event))

    async def confirmed(tx: Transaction, event: ReceivedEvent) -> None:
        total = events_pb2.OrderConfirmed.FromString(event.payload).total
        await _change(tx, generation, event, state=OrderState.CONFIRMED, total_minor=total.minor_units)

    async def gone_on(tx: Transaction, event: ReceivedEvent) -> None:
        await _change(tx, generation, event, state=_STATES[event.type])

    async def refunded(tx: Transaction, event: ReceivedEvent) -> None:
        fact = events_pb2.OrderRefunded.FromString(event.payload)
        back, total = fact.refunded.minor_units, fact.total.minor_units
        state = RefundState.FULL if back == total else RefundState.PARTIAL
        await _change(tx, generation, event, refund_state=state, refunded_minor=back)

    return {
        events_pb2.OrderPlaced.DESCRIPTOR.full_name: placed,
        events_pb2.OrderConfirmed.DESCRIPTOR.full_name: confirmed,
        events_pb2.OrderRefunded.DESCRIPTOR.full_name: refunded,
        **dict.fromkeys(_STATES, gone_on),
    }


async def _change(tx: Transaction, generation: int, event: ReceivedEvent, **columns: object) -> None:
    nothing: Row = dict.fromkeys(("state", "refund_state", "total_minor", "refunded_minor"))
    if not await tx.fetch(_CHANGE, nothing | columns | _key(generation, event)):
        raise OrderNotListedError(event.aggregate_id)


def _key(generation: int, event: ReceivedEvent) -> Row:
    return {
        "generation": generation,
        "order_id": UUID(event.aggregate_id),
        "sequence": event.sequence,
        "now": event.occurred_at,
    }
