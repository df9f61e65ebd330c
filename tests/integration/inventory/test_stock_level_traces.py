"""StockLow and StockBack are in the trace of what took the stock across its threshold, and in no other."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chassis import tracing
from chassis.statements import Statement
from services.inventory.domain import ProductChange
from services.inventory.store import products, reservations, returns

pytestmark = pytest.mark.integration

WRITERS, ROUNDS = 4, 25
LOW, BACK = "StockLow", "StockBack"
# A statement like those of the release before: it names no trace. What the session has named before is told.
AS_BEFORE = "UPDATE stock SET reserved = 0 RETURNING current_setting('sagacity.traceparent', true) AS named"


def new_trace() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


async def told(world: Any, sku: str = "A-1") -> list[tuple[str, str | None]]:
    """Return each crossing of a product and the trace that it is in."""
    rows = await world.rows(
        "SELECT type, traceparent FROM outbox"
        " WHERE aggregatetype = 'product' AND aggregateid = %(sku)s AND sequence > 1 ORDER BY position",
        sku=sku,
    )
    return [(row["type"].removeprefix("sagacity.inventory.v1."), row["traceparent"]) for row in rows]


async def set_threshold(world: Any, threshold: int) -> None:
    await world.catalogue.update_product("A-1", ProductChange(low_stock_threshold=threshold))


async def stocked(world: Any) -> Any:
    """Have ten of a product that is low below five; return an order of six."""
    await world.product("A-1", stock=10)
    await set_threshold(world, 5)
    return world.order(("A-1", 6))


VERBS: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
    "reserve": lambda _, order: order.reserve(),
    "commit": lambda _, order: order.commit(),
    "undo": lambda _, order: order.release(),
    "cancel": lambda _, order: order.cancel(),
    "return": lambda _, order: order.restock(("A-1", 6)),
    "adjust": lambda world, _: world.adjust("A-1", -6),
    "set the threshold": lambda world, _: set_threshold(world, 11),
}
# What went before without a trace, what then takes the stock across, and which way.
CROSSINGS = [
    ((), "reserve", LOW),
    ((), "adjust", LOW),
    ((), "set the threshold", LOW),
    (("reserve",), "undo", BACK),
    (("reserve", "commit"), "undo", BACK),
    (("reserve", "commit"), "cancel", BACK),
    (("reserve", "commit"), "return", BACK),
]


@pytest.mark.parametrize(("before", "verb", "name"), CROSSINGS)
async def test_a_crossing_is_in_the_trace_of_what_made_it(
    world: Any, before: tuple[str, ...], verb: str, name: str
) -> None:
    order = await stocked(world)
    for earlier in before:
        await VERBS[earlier](world, order)
    known = await told(world)
    assert [trace for _, trace in known] == [None] * len(known)
    given = new_trace()
    with tracing.handed_on(given):
        await VERBS[verb](world, order)
    assert await told(world) == [*known, (name, given)]


async def test_a_product_that_begins_low_does_so_in_the_trace_of_its_creation(world: Any) -> None:
    given = new_trace()
    with tracing.handed_on(given):
        await world.product("A-1", threshold=5)
    assert await told(world) == [(LOW, given)]


async def test_one_trace_may_go_low_and_come_back(world: Any) -> None:
    """Where nothing is recorded, all that is done for a client has the same traceparent."""
    order, given = await stocked(world), new_trace()
    with tracing.handed_on(given):
        await order.reserve()
        await order.release()
    assert await told(world) == [(LOW, given), (BACK, given)]


async def test_every_product_that_an_order_takes_low_is_in_its_trace(world: Any) -> None:
    skus = ("A-1", "B-1", "C-1")
    for sku in skus:
        await world.product(sku, stock=10)
        await world.catalogue.update_product(sku, ProductChange(low_stock_threshold=10))
    order, given = world.order(*((sku, 1) for sku in skus)), new_trace()
    with tracing.handed_on(given):
        await order.reserve()
        await order.commit()
        await order.restock(*((sku, 1) for sku in skus))
    for sku in skus:
        assert await told(world, sku) == [(LOW, given), (BACK, given)]


async def test_the_expiry_of_a_hold_is_in_no_trace(world: Any) -> None:
    order, given = await stocked(world), new_trace()
    with tracing.handed_on(given):
        await order.reserve()
    await world.run_out(order)
    assert await world.reservations.expire_due() == 1
    assert await told(world) == [(LOW, given), (BACK, None)]
    assert [event["traceparent"] for event in await world.events()] == [given, None]


async def test_the_code_of_before_leaves_no_trace_of_others_on_a_crossing(world: Any) -> None:
    """Not even where both share a session, as behind PgBouncer."""
    order, given = await stocked(world), new_trace()
    with tracing.handed_on(given):
        await order.reserve()
    # Empty and not NULL: in this very session a trace was named, and has ended.
    assert await world.rows(AS_BEFORE) == [{"named": ""}]
    assert await told(world) == [(LOW, given), (BACK, None)]


async def test_a_trace_that_was_rolled_back_is_left_on_nothing(world: Any) -> None:
    await stocked(world)

    async def use_case(tx: Any) -> None:
        await products.set_low_stock_threshold(tx, "A-1", 11)
        raise ZeroDivisionError

    with tracing.handed_on(new_trace()), pytest.raises(ZeroDivisionError):
        await world.database.run(use_case)
    await set_threshold(world, 11)
    assert await told(world) == [(LOW, None)]


async def test_writers_at_once_have_each_crossing_in_the_trace_of_its_own_transaction(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("A-1", stock=WRITERS)
    await set_threshold(world, WRITERS)  # so that the first of them crosses, and the last

    async def buy_and_undo(*, traced: bool) -> None:
        for _ in range(ROUNDS):
            order = world.order(("A-1", 1))
            for verb in ("reserve", "undo"):
                with tracing.handed_on(new_trace() if traced else None):
                    await VERBS[verb](world, order)

    await asyncio.gather(*(buy_and_undo(traced=number % 2 > 0) for number in range(WRITERS)))
    # A fact of an order and the crossing that it made were written by one transaction.
    pairs = await world.rows(
        """
        SELECT level.traceparent AS level, fact.traceparent AS fact
        FROM outbox level JOIN outbox fact ON fact.xmin = level.xmin AND fact.aggregatetype = 'reservation'
        WHERE level.aggregatetype = 'product'
        """
    )
    assert len(pairs) == len(await told(world)) > 1
    assert [pair for pair in pairs if pair["level"] != pair["fact"]] == []
    await invariants_hold()


def test_every_statement_that_can_cross_names_its_trace() -> None:
    changing = [
        each
        for module in (products, reservations, returns)
        for each in vars(module).values()
        if isinstance(each, Statement) and re.search(r"UPDATE stock\b", each.sql)
    ]
    naming = {
        each.name for each in changing if "set_config('sagacity.traceparent', %(traceparent)s" in each.sql
    }
    assert naming == {"reserve", "release_reservation", "restock", "set_low_stock_threshold", "move_stock"}
    # A sale takes from both columns alike; no request begins an expiry.
    assert {each.name for each in changing} - naming == {"commit_reservation", "expire_due_reservations"}
