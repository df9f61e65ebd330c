"""Pages of orders: which ones by the active generation, each as it stands now.

One statement per page, and so one moment: the newest orders of the list's user, or of all, come from the
orders themselves, so that who has just placed one sees it; the others are found by `order_listing`, which
follows with a small delay. What is returned is read from the orders, and dropped where its state is none that
is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from chassis.postgres import Database, Row, Statement, statement
from services.orders.domain import MAX_AMOUNT_MINOR, Order, OrdersError, OrderState
from services.orders.history.search import OrderSearch, OrderSort, Position
from services.orders.store.rows import REPLY, order_from_json

# So many orders of a list, the newest, are never late.
NEWEST_MAX = 100

EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
# No order has this id: as the second half of a bound it makes the lower one inclusive, the upper one not.
NO_ID = UUID(int=0)


class HistoryNotReadyError(OrdersError):
    """The projection is being built for the first time."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some orders of a list, and where it goes on: None where it ends."""

    orders: tuple[Order, ...]
    end: Position | None


def _list(*, of_user: bool, sort: OrderSort) -> Statement:
    key = "total_minor" if sort is OrderSort.DEAREST else "create_time"
    key_type = "bigint" if sort is OrderSort.DEAREST else "timestamptz"
    way = "ASC" if sort is OrderSort.OLDEST else "DESC"
    mine = "user_id = %(user_id)s::uuid" if of_user else "true"
    # The second half says nothing new, but without it PostgreSQL would not see that the partial index fits.
    currency = "currency_code = %(currency_code)s::char(3) AND total_minor IS NOT NULL"
    currency = currency if sort is OrderSort.DEAREST else "true"
    bounds = f"""
        ({key}, {{id}}) > (%(low)s::{key_type}, %(low_id)s::uuid)
        AND ({key}, {{id}}) < (%(high)s::{key_type}, %(high_id)s::uuid)
    """
    # By state, one index scan each, as no index has several states in the order of the list.
    sql = f"""
        WITH newest AS MATERIALIZED (
            SELECT id, state, create_time, currency_code, total_minor FROM orders
            WHERE {mine} ORDER BY create_time DESC, id DESC LIMIT {NEWEST_MAX}
        ), page AS (
            SELECT id, {key} AS key FROM newest
            WHERE state = ANY(%(states)s::text[]) AND {currency} AND {bounds.format(id="id")}
            UNION ALL
            SELECT found.order_id, found.key
            FROM unnest(%(states)s::text[]) AS wanted (state) CROSS JOIN LATERAL (
                SELECT order_id, {key} AS key FROM order_listing
                WHERE generation = (SELECT active_generation FROM order_listing_head WHERE singleton)
                    AND {mine} AND order_listing.state = wanted.state AND {currency}
                    AND {bounds.format(id="order_id")}
                    AND order_id NOT IN (SELECT id FROM newest)
                ORDER BY {key} {way}, order_id {way} LIMIT %(limit)s
            ) AS found
            ORDER BY key {way}, id {way} LIMIT %(limit)s
        )
        SELECT head.active_generation, page.id, page.key, CASE WHEN o.id IS NOT NULL THEN {REPLY} END AS reply
        FROM order_listing_head AS head LEFT JOIN page ON true LEFT JOIN orders AS o ON o.id = page.id
        WHERE head.singleton
        ORDER BY page.key {way}, page.id {way}
    """  # noqa: S608 - constants of this module
    return statement(f"list_orders_{sort.lower()}{'_of_user' if of_user else ''}", sql)


# One statement per list, each with an index that fits: a plan for all of them would fit none.
LISTS: Mapping[tuple[bool, OrderSort], Statement] = {
    (of_user, sort): _list(of_user=of_user, sort=sort) for of_user in (False, True) for sort in OrderSort
}


def parameters(search: OrderSearch, after: Position | None, *, limit: int) -> Row:
    """The parameters of the statement of a list, from the order after a position on; None: from the first."""
    low: Position
    high: Position
    if search.sort is OrderSort.DEAREST:
        assert search.total is not None
        most = search.total.max_minor
        low = search.total.min_minor or 0, NO_ID
        high = (MAX_AMOUNT_MINOR if most is None else most) + 1, NO_ID
    else:
        low = search.created_from or EARLIEST, NO_ID
        high = search.created_before or LATEST, NO_ID
    if after is not None and search.sort is OrderSort.OLDEST:
        low = after
    elif after is not None:
        high = after
    return {
        "user_id": search.user_id,
        "states": sorted(search.states or OrderState),
        "currency_code": search.total.currency_code if search.total else None,
        "low": low[0],
        "low_id": low[1],
        "high": high[0],
        "high_id": high[1],
        "limit": limit,
    }


async def read_page(database: Database, search: OrderSearch, after: Position | None, *, size: int) -> Page:
    """Reads at most `size` orders of a valid search; fewer may come although the list goes on.

    Raises:
        HistoryNotReadyError: there is no generation to read yet.
    """
    # One more than the page has: whether there is a next one.
    rows = await database.fetch(
        LISTS[search.user_id is not None, search.sort], parameters(search, after, limit=size + 1)
    )
    if not rows[0]["active_generation"]:
        raise HistoryNotReadyError
    found = [row for row in rows if row["id"] is not None]
    states = search.states or frozenset(OrderState)
    orders = tuple(order_from_json(row["reply"]) for row in found[:size] if row["reply"] is not None)
    end = (found[size - 1]["key"], found[size - 1]["id"]) if len(found) > size else None
    return Page(tuple(order for order in orders if order.state in states), end)
