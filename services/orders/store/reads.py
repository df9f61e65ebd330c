"""Statements that only read. Lists are pages by keyset: newest first, by time and id."""

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from chassis.postgres import Database, Statement, Transaction, statement
from services.orders.domain import Order, OrderFilter, OrderNotFoundError
from services.orders.store.rows import REPLY, order_from_json

# After every order there is: where the first page begins.
NEWEST = (datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))

_GET = statement(
    "get_order",
    f"SELECT {REPLY} AS reply FROM orders o WHERE id = %(id)s",  # noqa: S608 - constants of this package
)


def _list(name: str, *conditions: str) -> Statement:
    where = " AND ".join(
        (*conditions, "(create_time, id) < (%(before_time)s::timestamptz, %(before_id)s::uuid)")
    )
    return statement(
        name,
        f"SELECT {REPLY} AS reply FROM orders o WHERE {where}"  # noqa: S608 - constants of this module
        " ORDER BY create_time DESC, id DESC LIMIT %(limit)s",
    )


_OF_USER = "user_id = %(user_id)s::uuid"
_IN_STATE = "state = %(state)s::text"
# One statement per filter, each with an index that fits: a plan for all of them would fit none.
_LISTS: Mapping[tuple[bool, bool], Statement] = {
    (False, False): _list("list_orders"),
    (True, False): _list("list_orders_of_user", _OF_USER),
    (False, True): _list("list_orders_in_state", _IN_STATE),
    (True, True): _list("list_orders_of_user_in_state", _OF_USER, _IN_STATE),
}


async def order_by_id(source: Database | Transaction, order_id: UUID) -> Order:
    """Reads one order.

    Raises:
        OrderNotFoundError: there is none.
    """
    rows = await source.fetch(_GET, {"id": order_id})
    if not rows:
        raise OrderNotFoundError
    return order_from_json(rows[0]["reply"])


async def orders_before(
    database: Database, chosen: OrderFilter, position: tuple[datetime, UUID], *, limit: int
) -> list[Order]:
    """Reads at most `limit` orders that follow a position, newest first; `NEWEST` is before all of them."""
    params = {
        "user_id": chosen.user_id,
        "state": chosen.state,
        "before_time": position[0],
        "before_id": position[1],
        "limit": limit,
    }
    rows = await database.fetch(_LISTS[chosen.user_id is not None, chosen.state is not None], params)
    return [order_from_json(row["reply"]) for row in rows]
