"""ListOrders: what a list has, in which order, and that no list looks at everything."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from chassis.errors import Fault
from chassis.identity import Caller
from chassis.ids import new_id
from chassis.postgres import Database, statement
from sagacity.orders.v1 import orders_pb2 as pb
from services.orders.domain import OrderState
from services.orders.history import generations, listing
from services.orders.history.listing import HistoryNotReadyError, read_page
from services.orders.history.search import OrderSearch, OrderSort, Position, TotalRange
from tests.integration.orders.shop import USERS, fill_shop

pytestmark = pytest.mark.integration

ORDERS = 24_000
PAGE = 50
# A page of each of the six states, with the newest ones that come from the orders themselves, and some slack.
MAX_ROWS_LOOKED_AT = 6 * (PAGE + 1) + (PAGE + 1) * 2 + listing.NEWEST_MAX * 3
USER = UUID("00000000-0000-7000-9000-000000000007")
START = datetime(2026, 1, 1, tzinfo=UTC)
MIDDLE = START + timedelta(minutes=ORDERS // 4)
SUPPORT = Caller("gateway", new_id(), "support")

_USERS: list[dict[str, Any]] = [{}, {"user_id": USER}, {"user_id": UUID(int=1)}]
_STATES: list[dict[str, Any]] = [
    {},
    {"states": frozenset({OrderState.REJECTED})},
    {"states": frozenset({OrderState.DELIVERED, OrderState.SHIPPED, OrderState.CONFIRMED})},
]
_TIMES: list[dict[str, Any]] = [
    {},
    {"created_from": MIDDLE},
    {"created_before": MIDDLE},
    {"created_from": MIDDLE, "created_before": MIDDLE + timedelta(minutes=300)},
]
_TOTALS = [TotalRange("EUR", None, None), TotalRange("USD", 2_000, 2_100), TotalRange("EUR", 4_000, None)]
SEARCHES = [
    OrderSearch(**user, **states, **times, sort=sort)
    for user, states, times, sort in itertools.product(
        _USERS, _STATES, _TIMES, (OrderSort.NEWEST, OrderSort.OLDEST)
    )
] + [
    OrderSearch(**user, **states, total=total, sort=OrderSort.DEAREST)
    for user, states, total in itertools.product(_USERS, _STATES, _TOTALS)
]


@pytest.fixture(scope="module")
def shop_dsn(new_database: Callable[..., str]) -> str:
    dsn = new_database("services.orders")
    fill_shop(dsn, ORDERS)
    return dsn


async def build(database: Database) -> int:
    """Copy a new generation and switch to it, as the replicas do."""
    generation = await database.run(generations.begin_generation)
    while await generations.copy_batch(database, generation.number):
        pass
    assert await generations.switch_to(database, generation.number)
    return generation.number


@pytest.fixture(scope="module")
async def shop(shop_dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(shop_dsn, application_name="test")
    await build(opened)
    await opened.fetch(statement("analyze", "ANALYZE order_listing"), {})
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
async def stored(shop: Database) -> list[dict[str, Any]]:
    sql = "SELECT id, user_id, state, create_time, currency_code, total_minor FROM orders"
    return await shop.fetch(statement("of_a_test", sql), {})


async def whole_list(database: Database, search: OrderSearch, *, size: int, pages: int) -> list[UUID]:
    found: list[UUID] = []
    after: Position | None = None
    for _ in range(pages):
        page = await read_page(database, search, after, size=size)
        found += [order.id for order in page.orders]
        after = page.end
        if after is None:
            break
    return found


def expected(stored: list[dict[str, Any]], search: OrderSearch) -> list[UUID]:
    def wanted(row: dict[str, Any]) -> bool:
        if search.user_id not in (None, row["user_id"]) or row["state"] not in (
            search.states or set(OrderState)
        ):
            return False
        if search.total is None:
            low, high = search.created_from or listing.EARLIEST, search.created_before or listing.LATEST
            return bool(low <= row["create_time"] < high)
        low_total, high_total = search.total.min_minor or 0, search.total.max_minor or 10**12
        return bool(
            row["currency_code"] == search.total.currency_code
            and row["total_minor"] is not None
            and low_total <= row["total_minor"] <= high_total
        )

    key = "total_minor" if search.total else "create_time"
    rows = sorted(filter(wanted, stored), key=lambda row: (row[key], row["id"]))
    ids = [row["id"] for row in rows]
    return ids if search.sort is OrderSort.OLDEST else ids[::-1]


async def test_every_list_has_the_orders_that_were_asked_for_in_its_order_page_by_page(
    shop: Database, stored: list[dict[str, Any]]
) -> None:
    lengths = set()
    for search in SEARCHES:
        wanted = expected(stored, search)
        found = await whole_list(shop, search, size=190, pages=4)
        assert found == wanted[: 190 * 4], search
        lengths.add(min(len(wanted), 200))
    assert {0, 200} < lengths


def explained(connection: psycopg.Connection, sql: str, params: dict[str, Any]) -> dict[str, Any]:
    """The plan as the pool's connections make it, with what it really looked at."""
    names = sorted(set(re.findall(r"%\((\w+)\)s", sql)))
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", sql)
    values = ", ".join(psycopg.sql.Literal(params[name]).as_string(connection) for name in names)
    for setting in ("plan_cache_mode = force_generic_plan", "jit = off", "enable_seqscan = off"):
        connection.execute(f"SET {setting}")
    connection.execute(f"PREPARE looked_for AS {numbered}")
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE looked_for({values})"
    row = connection.execute(explain).fetchone()
    connection.execute("DEALLOCATE looked_for")
    assert row is not None
    plan = row[0][0] if not isinstance(row[0], str) else json.loads(row[0])[0]
    return dict(plan["Plan"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def looked_at(plan: dict[str, Any]) -> int:
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(plan)
        if "Scan" in node["Node Type"] and "Relation Name" in node
    )


def test_no_list_looks_at_more_than_some_pages_of_the_orders(shop_dsn: str, shop: Database) -> None:
    bad = []
    with psycopg.connect(shop_dsn, autocommit=True) as connection:
        for search in SEARCHES:
            key = 3_000 if search.total else MIDDLE + timedelta(minutes=100)
            for after in (None, (key, UUID(int=0))):
                sql = listing.LISTS[search.user_id is not None, search.sort].sql
                plan = explained(connection, sql, listing.parameters(search, after, limit=PAGE + 1))
                scans = {
                    (node["Node Type"], node["Relation Name"])
                    for node in nodes(plan)
                    if node["Node Type"] == "Seq Scan" and node["Relation Name"] != "order_listing_head"
                }
                if scans or looked_at(plan) > MAX_ROWS_LOOKED_AT:
                    bad.append((search, after, looked_at(plan), scans))
    assert bad == []
    assert len(SEARCHES) > 90


async def test_the_newest_orders_are_listed_before_their_events_arrive(shop_dsn: str, shop: Database) -> None:
    fill_shop(shop_dsn, USERS * 2, series="0002")
    try:
        search = OrderSearch(user_id=USER, sort=OrderSort.OLDEST)
        rows = await shop.fetch(
            statement("of_a_test", "SELECT count(*) AS n FROM orders WHERE user_id = %(id)s"), {"id": USER}
        )
        before = len(await whole_list(shop, search, size=200, pages=9))
        await _make_newest(shop, "0002")
        found = await whole_list(shop, search, size=200, pages=9)
        assert (before, len(found)) == (rows[0]["n"] - 2, rows[0]["n"])
        assert len(set(found)) == len(found)
    finally:
        await shop.fetch(statement("of_a_test", "DELETE FROM orders WHERE order_number LIKE '%%-0002'"), {})


async def _make_newest(shop: Database, series: str) -> None:
    sql = "UPDATE orders SET create_time = create_time + '1 year' WHERE order_number LIKE %(like)s"
    await shop.fetch(statement("of_a_test", sql), {"like": f"%-{series}"})


async def test_an_order_that_has_gone_on_since_its_last_event_is_not_in_the_list_of_its_old_state(
    shop: Database, stored: list[dict[str, Any]]
) -> None:
    search = OrderSearch(states=frozenset({OrderState.CONFIRMED}), sort=OrderSort.OLDEST)
    wanted = expected(stored, search)[:5]
    ship = """
        UPDATE orders SET state = 'SHIPPED', carrier = 'DHL', tracking_number = '', sequence = 3
        WHERE id = %(id)s
    """
    undo = """
        UPDATE orders SET state = 'CONFIRMED', carrier = NULL, tracking_number = NULL, sequence = 2
        WHERE id = %(id)s
    """
    await shop.fetch(statement("of_a_test", ship), {"id": wanted[1]})
    try:
        page = await read_page(shop, search, None, size=3)
        assert [order.id for order in page.orders] == [wanted[0], wanted[2]]
        after = await read_page(shop, search, page.end, size=2)
        assert [order.id for order in after.orders] == wanted[3:5]
    finally:
        await shop.fetch(statement("of_a_test", undo), {"id": wanted[1]})


async def test_before_the_first_generation_is_there_a_list_is_not_shown_by_half(
    new_database: Callable[..., str],
) -> None:
    database = await Database.open(new_database("services.orders"), application_name="test")
    try:
        await database.fetch(
            statement("of_a_test", "UPDATE order_listing_head SET active_generation = 0"), {}
        )
        with pytest.raises(HistoryNotReadyError):
            await read_page(database, OrderSearch(), None, size=1)
    finally:
        await database.close()


async def test_a_list_is_of_the_active_generation(shop: Database, stored: list[dict[str, Any]]) -> None:
    search = OrderSearch(user_id=USER, sort=OrderSort.OLDEST)
    wanted = expected(stored, search)
    assert await whole_list(shop, search, size=200, pages=9) == wanted
    generation = await database_generation(shop)
    number = await build(shop)
    assert number == generation + 1
    assert await whole_list(shop, search, size=200, pages=9) == wanted
    while await generations.delete_batch(shop, generation, retired_for=timedelta(0)):
        pass
    left = "SELECT count(*) AS n FROM order_listing WHERE generation = %(g)s"
    assert (await shop.fetch(statement("of_a_test", left), {"g": generation}))[0]["n"] == 0
    assert generation not in [each.number for each in await generations.read_generations(shop)]
    assert await whole_list(shop, search, size=200, pages=9) == wanted


async def database_generation(shop: Database) -> int:
    return next(each.number for each in await generations.read_generations(shop) if each.active)


EUROS = pb.TotalRange(currency_code="EUR")
BY_TOTAL: dict[str, Any] = {"order_by": pb.ORDER_SORT_TOTAL_DESC}


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (BY_TOTAL, "total"),
        ({"total": EUROS}, "total"),
        ({"total": EUROS, "order_by": pb.ORDER_SORT_CREATE_TIME_ASC}, "total"),
        ({"total": pb.TotalRange(currency_code="eur"), **BY_TOTAL}, "total.currency_code"),
        (
            {"total": pb.TotalRange(currency_code="EUR", min_minor_units=-1), **BY_TOTAL},
            "total.min_minor_units",
        ),
        (
            {"total": pb.TotalRange(currency_code="EUR", min_minor_units=2, max_minor_units=1), **BY_TOTAL},
            "total.max_minor_units",
        ),
        ({"total": EUROS, "created_from": START, **BY_TOTAL}, "created_from"),
        ({"total": EUROS, "created_before": START, **BY_TOTAL}, "created_before"),
        ({"created_from": START, "created_before": START}, "created_before"),
        ({"states": [pb.ORDER_STATE_PENDING] * 2}, "states"),
        ({"states": [pb.ORDER_STATE_UNSPECIFIED]}, "states[0]"),
        ({"states": [77]}, "states[0]"),
        ({"order_by": 77}, "order_by"),
        ({"user_id": "me"}, "user_id"),
        ({"page_size": -1}, "page_size"),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_by_the_name_of_the_field(
    world: Any, wanted: dict[str, Any], field: str
) -> None:
    with pytest.raises(Fault) as caught:
        await world.call("gateway", "ListOrders", pb.ListOrdersRequest(**wanted), SUPPORT)
    assert caught.value.kind == "INVALID_ARGUMENT"
    assert [detail.subject for detail in caught.value.fields] == [field]


async def test_a_time_that_is_none_is_refused_by_the_name_of_the_field(world: Any) -> None:
    request = pb.ListOrdersRequest()
    request.created_before.seconds = 10**15
    with pytest.raises(Fault) as caught:
        await world.call("gateway", "ListOrders", request, SUPPORT)
    assert [detail.subject for detail in caught.value.fields] == ["created_before"]


async def test_the_wire_carries_every_filter(world: Any) -> None:
    saga = world.saga()
    await saga.sold()
    another = world.saga(user_id=saga.user_id)
    await another.create()
    mine: dict[str, Any] = {"user_id": str(saga.user_id)}

    async def ids(**wanted: Any) -> list[str]:
        request = pb.ListOrdersRequest(**mine, **wanted)
        return [order.id for order in (await world.call("gateway", "ListOrders", request, SUPPORT)).orders]

    sold, pending = str(saga.order_id), str(another.order_id)
    assert await ids() == await ids(order_by=pb.ORDER_SORT_CREATE_TIME_DESC) == [pending, sold]
    assert await ids(order_by=pb.ORDER_SORT_CREATE_TIME_ASC) == [sold, pending]
    assert await ids(**BY_TOTAL, total=EUROS) == [sold]
    cheap = pb.TotalRange(currency_code="EUR", max_minor_units=3_319)
    assert await ids(**BY_TOTAL, total=cheap) == []
    exact = pb.TotalRange(currency_code="EUR", min_minor_units=3_320, max_minor_units=3_320)
    assert await ids(**BY_TOTAL, total=exact) == [sold]
    assert await ids(states=[pb.ORDER_STATE_SHIPPED, pb.ORDER_STATE_PENDING]) == [pending]
    both = await ids(state=pb.ORDER_STATE_CONFIRMED, states=[pb.ORDER_STATE_PENDING])
    assert both == [pending, sold]
    placed = (await another.read()).create_time
    assert await ids(created_before=placed) == [sold]
    assert await ids(created_from=placed) == [pending]
    first = pb.ListOrdersRequest(**mine, order_by=pb.ORDER_SORT_CREATE_TIME_ASC, page_size=1)
    page = await world.call("gateway", "ListOrders", first, SUPPORT)
    first.page_token = page.next_page_token
    page = await world.call("gateway", "ListOrders", first, SUPPORT)
    assert ([order.id for order in page.orders], page.next_page_token) == ([pending], "")
