"""Statements that only read one order; lists are `services.orders.history.listing`."""

from uuid import UUID

from chassis.postgres import Database, Transaction, statement
from services.orders.domain import Order, OrderNotFoundError
from services.orders.store.rows import REPLY, order_from_json

_GET = statement(
    "get_order",
    f"SELECT {REPLY} AS reply FROM orders o WHERE id = %(id)s",  # noqa: S608 - constants of this package
)


async def order_by_id(source: Database | Transaction, order_id: UUID) -> Order:
    """Reads one order.

    Raises:
        OrderNotFoundError: there is none.
    """
    rows = await source.fetch(_GET, {"id": order_id})
    if not rows:
        raise OrderNotFoundError
    return order_from_json(rows[0]["reply"])
