"""What became of one order: its history of states and its refunds, as one list by sequence."""

from datetime import datetime
from uuid import UUID

from chassis.barrier import Json
from chassis.postgres import Database, statement
from services.orders.domain import Money, Order, OrderNotFoundError, OrderState, TimelineEntry
from services.orders.store.rows import REPLY, order_from_json

# So many facts at most are read at once; who wants the rest asks again after the last one.
MAX_TIMELINE = 500

_TIMELINE = statement(
    "order_timeline",
    f"""
    SELECT {REPLY} AS reply, o.sequence AS order_sequence, COALESCE((
        SELECT jsonb_agg(to_jsonb(fact) ORDER BY fact.sequence) FROM (
            SELECT h.sequence, h.state, h.at, NULL::uuid AS refund_id, NULL::bigint AS amount_minor
            FROM order_history h WHERE h.order_id = o.id AND h.sequence > %(after)s
            UNION ALL
            SELECT r.sequence, (
                SELECT h.state FROM order_history h WHERE h.order_id = o.id AND h.sequence < r.sequence
                ORDER BY h.sequence DESC LIMIT 1
            ), r.create_time, r.id, r.amount_minor
            FROM order_refund r WHERE r.order_id = o.id AND r.sequence > %(after)s
            ORDER BY sequence LIMIT {MAX_TIMELINE}
        ) AS fact
    ), '[]') AS facts
    FROM orders o WHERE o.id = %(id)s
    """,  # noqa: S608 - constants of this package
)


async def timeline(
    database: Database, order_id: UUID, *, after: int
) -> tuple[Order, int, tuple[TimelineEntry, ...]]:
    """Reads an order, the sequence of its newest fact, and at most MAX_TIMELINE facts after a sequence.

    All are of one moment; the facts are oldest first.

    Raises:
        OrderNotFoundError: there is no such order.
    """
    rows = await database.fetch(_TIMELINE, {"id": order_id, "after": after})
    if not rows:
        raise OrderNotFoundError
    order = order_from_json(rows[0]["reply"])
    facts = tuple(_entry(fact, order.currency_code) for fact in rows[0]["facts"])
    return order, rows[0]["order_sequence"], facts


def _entry(fact: Json, currency_code: str) -> TimelineEntry:
    refund = None
    if fact["refund_id"] is not None:
        refund = UUID(fact["refund_id"]), Money(currency_code, fact["amount_minor"])
    return TimelineEntry(
        fact["sequence"], OrderState(fact["state"]), datetime.fromisoformat(fact["at"]), refund
    )
