from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import psycopg
import pytest

from chassis.ids import new_id
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import (
    EtagMismatchError,
    InvalidFieldsError,
    Money,
    ProductChange,
    ProductNotFoundError,
    RequestIdReusedError,
    SkuTakenError,
    StockWouldBeNegativeError,
)

pytestmark = pytest.mark.integration


async def test_a_new_product_is_on_sale_without_stock_and_is_published(world: Any) -> None:
    product = await world.product("A-1", price=499)
    assert (product.active, product.available, product.unit_price) == (True, 0, Money("EUR", 499))
    assert await world.catalogue.product("A-1") == product
    [row] = await world.rows("SELECT * FROM outbox")
    event = events_pb2.ProductCreated.FromString(row["payload"])
    assert (row["aggregatetype"], row["aggregateid"], row["sequence"]) == ("product", "A-1", 1)
    assert (event.sku, event.name, event.unit_price.minor_units) == ("A-1", "Name of A-1", 499)


async def test_of_many_products_with_one_sku_one_is_added(world: Any) -> None:
    results = await asyncio.gather(*(world.product("A-1") for _ in range(8)), return_exceptions=True)
    assert Counter(type(result) for result in results)[SkuTakenError] == 7
    assert len(await world.rows("SELECT id FROM outbox")) == 1


async def test_an_update_changes_what_is_named_and_the_etag(world: Any) -> None:
    before = await world.product("A-1", stock=7)
    after = await world.catalogue.update_product(
        "A-1", ProductChange(name="New", unit_price=Money("USD", 5)), etag=before.etag
    )
    assert (after.name, after.unit_price, after.category) == ("New", Money("USD", 5), before.category)
    assert after.available == 7
    assert after.etag != before.etag
    assert after.update_time > before.update_time
    assert after.create_time == before.create_time
    assert await world.catalogue.product("A-1") == after


async def test_an_update_of_what_changed_meanwhile_is_refused(world: Any) -> None:
    before = await world.product("A-1")
    update = world.catalogue.update_product
    results = await asyncio.gather(
        *(update("A-1", ProductChange(name=f"{n}"), etag=before.etag) for n in range(6)),
        return_exceptions=True,
    )
    assert Counter(type(result) for result in results)[EtagMismatchError] == 5


async def test_values_that_a_product_cannot_have_are_refused(world: Any) -> None:
    await world.product("A-1")
    with pytest.raises(InvalidFieldsError):
        await world.catalogue.update_product("A-1", ProductChange(name=""))
    with pytest.raises(InvalidFieldsError):
        await world.product("lower case")
    with pytest.raises(InvalidFieldsError):
        await world.product("A-2", currency_code="XXY")


async def test_an_archived_product_stays_archived_until_it_is_put_on_sale_again(world: Any) -> None:
    await world.product("A-1")
    archived = await world.catalogue.archive_product("A-1")
    assert not archived.active
    assert await world.catalogue.archive_product("A-1") == archived
    assert (await world.catalogue.update_product("A-1", ProductChange(active=True))).active


async def test_what_does_not_exist_is_not_found(world: Any) -> None:
    catalogue = world.catalogue
    for awaitable in (
        catalogue.product("NO"),
        catalogue.stock("NO"),
        catalogue.archive_product("NO"),
        catalogue.update_product("NO", ProductChange(name="x")),
        world.adjust("NO", 1),
    ):
        with pytest.raises(ProductNotFoundError):
            await awaitable


async def test_stock_is_added_and_taken_and_each_movement_is_kept(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1")
    await world.adjust("A-1", 10, reason="delivery")
    await world.adjust("A-1", -3, reason="broken")
    assert await world.stock("A-1") == (7, 0)
    rows = await world.rows("SELECT delta, reason, on_hand_after FROM stock_movement ORDER BY create_time")
    assert [tuple(row.values()) for row in rows] == [(10, "delivery", 10), (-3, "broken", 7)]
    await invariants_hold()


async def test_a_request_that_comes_again_changes_nothing_and_gets_the_first_answer(
    world: Any, invariants_hold: Any
) -> None:
    await world.product("A-1")
    request_id = new_id()
    stocks = await asyncio.gather(*(world.adjust("A-1", 10, request_id=request_id) for _ in range(12)))
    await world.adjust("A-1", 5)
    assert await world.adjust("A-1", 10, request_id=request_id) == stocks[0]
    assert {stock.on_hand for stock in stocks} == {10}
    assert await world.stock("A-1") == (15, 0)
    await invariants_hold()


async def test_a_request_id_that_came_with_another_request_is_refused(world: Any) -> None:
    await world.product("A-1")
    await world.product("B-1")
    request_id = new_id()
    await world.adjust("A-1", 10, request_id=request_id)
    for sku, delta, reason in (("B-1", 10, "count"), ("A-1", 11, "count"), ("A-1", 10, "other")):
        with pytest.raises(RequestIdReusedError):
            await world.adjust(sku, delta, request_id=request_id, reason=reason)
    assert await world.stock("B-1") == (0, 0)


async def test_one_request_id_for_two_products_at_once_moves_one_of_them(
    world: Any, invariants_hold: Any
) -> None:
    for number in range(10):
        skus = (f"A-{number}", f"B-{number}")
        for sku in skus:
            await world.product(sku)
        request_id = new_id()
        results = await asyncio.gather(
            *(world.adjust(sku, 1, request_id=request_id) for sku in skus), return_exceptions=True
        )
        assert Counter(type(result).__name__ for result in results) == {
            "Stock": 1,
            "RequestIdReusedError": 1,
        }
    await invariants_hold()


async def test_stock_that_is_held_cannot_be_taken_away(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=10)
    await world.order(("A-1", 4)).reserve()
    with pytest.raises(StockWouldBeNegativeError):
        await world.adjust("A-1", -7)
    assert (await world.adjust("A-1", -6)).available == 0
    await invariants_hold()


async def test_adjustments_beside_orders_keep_the_books(world: Any, invariants_hold: Any) -> None:
    await world.product("A-1", stock=30)

    async def sell() -> None:
        order = world.order(("A-1", 1))
        await order.reserve()
        await order.commit()

    results = await asyncio.gather(
        *(sell() for _ in range(40)),
        *(world.adjust("A-1", delta) for delta in (5, -2) * 10),
        return_exceptions=True,
    )
    known = {"INSUFFICIENT_STOCK", "StockWouldBeNegativeError"}
    failures = [result for result in results if isinstance(result, BaseException)]
    assert {getattr(failure, "reason", type(failure).__name__) for failure in failures} <= known
    await invariants_hold()


@pytest.mark.parametrize("change", ["on_hand = -1", "reserved = -1", "reserved = on_hand + 1"])
async def test_the_database_itself_refuses_stock_that_cannot_be(world: Any, change: str) -> None:
    await world.product("A-1", stock=1)
    with pytest.raises(psycopg.errors.CheckViolation):
        await world.rows(f"UPDATE stock SET {change}")  # noqa: S608 - the changes above
