from __future__ import annotations

from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from chassis import migrations
from chassis.ids import new_id

pytestmark = pytest.mark.integration

PRODUCT = """
    INSERT INTO product (sku, name, description, category, currency_code, price_minor, active, version,
        sequence, create_time, update_time)
    VALUES ('A-1', 'A', '', '', 'EUR', 1, true, 1, 1, now(), now())
"""
STOCK = "INSERT INTO stock (sku, on_hand, reserved) VALUES (%s, 10, 0)"
SELL = "UPDATE stock SET on_hand = on_hand - 1"
RESERVATION = """
    INSERT INTO reservation (id, order_id, state, expire_time, sequence, create_time, update_time)
    VALUES (%s, %s, %s, now(), 1, now(), now())
"""
LINE = """
    INSERT INTO reservation_line (reservation_id, sku, name, quantity, currency_code, price_minor)
    VALUES (%s, 'A-1', 'A', 3, 'EUR', 1)
"""


def upgrade_to(dsn: str, revision: str) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
    config = migrations.configuration("services.inventory")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def write_as_before(connection: psycopg.Connection, state: str) -> None:
    reservation_id = new_id()
    connection.execute(RESERVATION, (reservation_id, new_id(), state))
    connection.execute(LINE, (reservation_id,))


def test_reservations_of_before_have_nothing_returned_and_the_code_of_before_goes_on(
    new_database: Any,
) -> None:
    dsn = new_database()
    upgrade_to(dsn, "0001")
    states = ["HELD", "COMMITTED", "RELEASED", "EXPIRED"]
    with psycopg.connect(dsn) as connection:
        connection.execute(PRODUCT)
        for state in states:
            write_as_before(connection, state)
    migrations.upgrade("services.inventory", dsn)
    with psycopg.connect(dsn) as connection:
        for state in states:
            write_as_before(connection, state)
        connection.execute("UPDATE reservation SET state = 'RELEASED' WHERE state = 'COMMITTED'")
        rows = connection.execute("SELECT DISTINCT returned FROM reservation_line").fetchall()
        open_checks = connection.execute(
            "SELECT conname FROM pg_constraint WHERE NOT convalidated"
        ).fetchall()
    assert rows == [(0,)]
    assert open_checks == []


def test_stock_of_before_is_never_low_and_what_the_code_of_before_does_is_published(
    new_database: Any,
) -> None:
    dsn = new_database()
    upgrade_to(dsn, "0003")
    with psycopg.connect(dsn) as connection:
        connection.execute(PRODUCT)
        connection.execute(STOCK, ("A-1",))
    migrations.upgrade("services.inventory", dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(PRODUCT.replace("A-1", "B-1"))
        connection.execute(STOCK, ("B-1",))
        connection.execute(SELL)
        assert connection.execute("SELECT FROM outbox").fetchall() == []
        connection.execute("UPDATE stock SET low_stock_threshold = 9")
        connection.execute(SELL)
        rows = connection.execute("SELECT aggregateid, type, sequence FROM outbox ORDER BY 1").fetchall()
    low = "sagacity.inventory.v1.StockLow"
    assert rows == [("A-1", low, 2), ("B-1", low, 2)]


def test_crossings_are_published_with_and_without_the_function_that_knows_of_traces(
    new_database: Any,
) -> None:
    dsn = new_database()
    upgrade_to(dsn, "0006")
    with psycopg.connect(dsn) as connection:
        connection.execute(PRODUCT)
        connection.execute(STOCK, ("A-1",))
        connection.execute("UPDATE stock SET low_stock_threshold = 10")
        connection.execute(SELL)
    migrations.upgrade("services.inventory", dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE stock SET on_hand = 10")
        rows = connection.execute(
            "SELECT type, sequence, traceparent FROM outbox ORDER BY position"
        ).fetchall()
    assert rows == [("sagacity.inventory.v1.StockLow", 2, None), ("sagacity.inventory.v1.StockBack", 3, None)]
