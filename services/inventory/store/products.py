"""Statements on products and their stock."""

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import errors

from chassis import tracing
from chassis.postgres import Database, Row, Transaction, statement
from services.inventory.domain import (
    Money,
    Product,
    ProductChange,
    ProductNotFoundError,
    RequestIdReusedError,
    Stock,
    StockAdjustment,
)

_REQUEST_ID_KEY = "stock_movement_caller_request_id_key"
_COLUMNS = """p.sku, p.name, p.description, p.category, p.currency_code, p.price_minor, p.active, p.version,
    p.create_time, p.update_time"""
_SELECT = (
    f"SELECT {_COLUMNS}, s.on_hand - s.reserved AS available, s.low_stock_threshold"  # noqa: S608  # a constant of this module
    " FROM product p JOIN stock s ON s.sku = p.sku"
)
_ON_SALE = "p.active OR %(include_inactive)s::boolean"

PRODUCT = statement("product", f"{_SELECT} WHERE p.sku = %(sku)s")
# The join is not locked: an order that waits for nobody but its stock must not wait for an edit of the text.
# NO KEY: a stock movement refers to its product while the stock is locked; it must not wait for an edit that
# may in turn wait for the stock, to change the threshold.
LOCK_PRODUCT = statement("lock_product", f"{_SELECT} WHERE p.sku = %(sku)s FOR NO KEY UPDATE OF p")
# Two statements, so that each has an index in whose order it reads.
ALL_PRODUCTS = statement(
    "all_products",
    f"{_SELECT} WHERE p.sku > %(after)s AND ({_ON_SALE}) ORDER BY p.sku LIMIT %(limit)s::bigint",
)
PRODUCTS_OF_CATEGORY = statement(
    "products_of_category",
    f"{_SELECT} WHERE p.category = %(category)s AND p.sku > %(after)s AND ({_ON_SALE})"
    " ORDER BY p.sku LIMIT %(limit)s::bigint",
)
# The insert locks the row; its sequence is therefore that of the fact that tells of it.
INSERT_PRODUCT = statement(
    "insert_product",
    f"""
    WITH added AS (
        INSERT INTO product AS p (sku, name, description, category, currency_code, price_minor, active,
            version, sequence, create_time, update_time)
        VALUES (%(sku)s, %(name)s, %(description)s, %(category)s, %(currency_code)s, %(price_minor)s, true, 1,
            1, %(now)s, %(now)s)
        ON CONFLICT (sku) DO NOTHING
        RETURNING {_COLUMNS}, p.sequence
    ), stocked AS (
        INSERT INTO stock (sku, on_hand, reserved) SELECT sku, 0, 0 FROM added
    )
    SELECT added.*, 0 AS available, 0 AS low_stock_threshold FROM added
    """,  # noqa: S608  # constants of this module
)
UPDATE_PRODUCT = statement(
    "update_product",
    f"""
    UPDATE product p SET
        name = coalesce(%(name)s::text, p.name),
        description = coalesce(%(description)s::text, p.description),
        category = coalesce(%(category)s::text, p.category),
        currency_code = coalesce(%(currency_code)s::char(3), p.currency_code),
        price_minor = coalesce(%(price_minor)s::bigint, p.price_minor),
        active = coalesce(%(active)s::boolean, p.active),
        version = p.version + 1,
        update_time = %(now)s
    FROM stock s
    WHERE p.sku = %(sku)s AND s.sku = p.sku
    RETURNING {_COLUMNS}, s.on_hand - s.reserved AS available, s.low_stock_threshold
    """,  # noqa: S608  # constants of this module
)
# A trigger publishes the crossing, where it is one (docs/adr/0017); it sees the newest row, and so does this.
# It finds the trace that is named here: the UPDATE has no row before the part that it joins has its own.
SET_THRESHOLD = statement(
    "set_low_stock_threshold",
    """
    WITH traced AS MATERIALIZED (SELECT set_config('sagacity.traceparent', %(traceparent)s::text, true))
    UPDATE stock SET low_stock_threshold = %(low_stock_threshold)s::bigint
    FROM traced
    WHERE sku = %(sku)s AND low_stock_threshold <> %(low_stock_threshold)s::bigint
    """,
)
STOCK = statement("stock", "SELECT sku, on_hand, reserved FROM stock WHERE sku = %(sku)s")
LOCK_STOCK = statement(
    "lock_stock", "SELECT sku, on_hand, reserved FROM stock WHERE sku = %(sku)s FOR UPDATE"
)
MOVEMENT = statement(
    "movement",
    """
    SELECT sku, delta, reason, on_hand_after, reserved_after
    FROM stock_movement WHERE caller = %(caller)s AND request_id = %(request_id)s
    """,
)
MOVE_STOCK = statement(
    "move_stock",
    """
    WITH traced AS MATERIALIZED (
        SELECT set_config('sagacity.traceparent', %(traceparent)s::text, true)
    ), moved AS (
        UPDATE stock SET on_hand = %(on_hand)s FROM traced WHERE sku = %(sku)s RETURNING on_hand, reserved
    )
    INSERT INTO stock_movement
        (id, sku, delta, reason, caller, request_id, on_hand_after, reserved_after, create_time)
    SELECT %(id)s, %(sku)s, %(delta)s, %(reason)s, %(caller)s, %(request_id)s, on_hand, reserved, %(now)s
    FROM moved
    """,
)


async def product(database: Database, sku: str) -> Product:
    """Reads one product.

    Raises:
        ProductNotFoundError: There is none.
    """
    return _the_product(await database.fetch(PRODUCT, {"sku": sku}), sku)


async def lock_product(tx: Transaction, sku: str) -> Product:
    """Reads one product and keeps others from changing it.

    Raises:
        ProductNotFoundError: There is none.
    """
    return _the_product(await tx.fetch(LOCK_PRODUCT, {"sku": sku}), sku)


async def products(
    database: Database, *, after: str, category: str, include_inactive: bool, limit: int
) -> list[Product]:
    """Reads at most `limit` products behind a SKU, in SKU order; an empty category means all of them."""
    params = {"after": after, "category": category, "include_inactive": include_inactive, "limit": limit}
    rows = await database.fetch(PRODUCTS_OF_CATEGORY if category else ALL_PRODUCTS, params)
    return [_product(row) for row in rows]


async def insert_product(
    tx: Transaction, sku: str, change: ProductChange, now: datetime
) -> tuple[Product, int] | None:
    """Adds a product, without stock or threshold.

    Returns:
        It and the sequence of its event; None: the SKU is taken.
    """
    rows = await tx.fetch(INSERT_PRODUCT, _change_params(sku, change, now))
    return (_product(rows[0]), rows[0]["sequence"]) if rows else None


async def update_product(tx: Transaction, sku: str, change: ProductChange, now: datetime) -> Product:
    """Changes what is not None, but the threshold, of a product that the transaction has locked."""
    return _the_product(await tx.fetch(UPDATE_PRODUCT, _change_params(sku, change, now)), sku)


async def set_low_stock_threshold(tx: Transaction, sku: str, threshold: int) -> None:
    """Changes which stock is low; it waits for whoever changes the stock.

    Publishes StockLow or StockBack where what is available is low now and was not before, or the other way
    round, by the stock's trigger.
    """
    params = {"sku": sku, "low_stock_threshold": threshold, "traceparent": tracing.current()}
    await tx.fetch(SET_THRESHOLD, params)


async def stock(database: Database, sku: str) -> Stock:
    """Reads the stock of one product.

    Raises:
        ProductNotFoundError: There is no such product.
    """
    return _stock(await database.fetch(STOCK, {"sku": sku}), sku)


async def lock_stock(tx: Transaction, sku: str) -> Stock:
    """Reads the stock of one product and keeps others from changing it.

    Raises:
        ProductNotFoundError: There is no such product.
    """
    return _stock(await tx.fetch(LOCK_STOCK, {"sku": sku}), sku)


async def stock_after(tx: Transaction, adjustment: StockAdjustment) -> Stock | None:
    """Returns what the stock was after this adjustment, where it was made already.

    Raises:
        RequestIdReusedError: The caller gave this request id to another adjustment.
    """
    params = {"caller": adjustment.caller, "request_id": adjustment.request_id}
    rows = await tx.fetch(MOVEMENT, params)
    if not rows:
        return None
    row = rows[0]
    if (row["sku"], row["delta"], row["reason"]) != (adjustment.sku, adjustment.delta, adjustment.reason):
        raise RequestIdReusedError(str(adjustment.request_id))
    return Stock(row["sku"], row["on_hand_after"], row["reserved_after"])


async def move_stock(
    tx: Transaction, movement_id: UUID, adjustment: StockAdjustment, after: Stock, now: datetime
) -> None:
    """Writes the stock, which the transaction has locked, and the movement that led to it.

    Raises:
        RequestIdReusedError: At this moment the caller gave the request id to another product's adjustment.
    """
    params = {
        "id": movement_id,
        "sku": adjustment.sku,
        "delta": adjustment.delta,
        "reason": adjustment.reason,
        "caller": adjustment.caller,
        "request_id": adjustment.request_id,
        "on_hand": after.on_hand,
        "now": now,
        "traceparent": tracing.current(),
    }
    try:
        await tx.fetch(MOVE_STOCK, params)
    except errors.UniqueViolation as error:
        if error.diag.constraint_name == _REQUEST_ID_KEY:
            raise RequestIdReusedError(str(adjustment.request_id)) from error
        raise


def _change_params(sku: str, change: ProductChange, now: datetime) -> dict[str, Any]:
    return {
        "sku": sku,
        "name": change.name,
        "description": change.description,
        "category": change.category,
        "currency_code": change.unit_price.currency_code if change.unit_price else None,
        "price_minor": change.unit_price.minor_units if change.unit_price else None,
        "active": change.active,
        "now": now,
    }


def _the_product(rows: list[Row], sku: str) -> Product:
    if not rows:
        raise ProductNotFoundError(sku)
    return _product(rows[0])


def _product(row: Row) -> Product:
    return Product(
        sku=row["sku"],
        name=row["name"],
        description=row["description"],
        category=row["category"],
        unit_price=Money(row["currency_code"], row["price_minor"]),
        active=row["active"],
        version=row["version"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        available=row["available"],
        low_stock_threshold=row["low_stock_threshold"],
    )


def _stock(rows: list[Row], sku: str) -> Stock:
    if not rows:
        raise ProductNotFoundError(sku)
    return Stock(**rows[0])
