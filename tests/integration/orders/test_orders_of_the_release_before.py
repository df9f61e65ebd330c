"""What the release before wrote is read, and what it still writes during an upgrade is stored."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from chassis.ids import new_id
from chassis.migrations import configuration, upgrade
from sagacity.orders.v1 import orders_pb2 as pb

pytestmark = pytest.mark.integration

# What to_jsonb made of an order before it could be refunded, shipped or cancelled.
NEW_KEYS = ["refunded_minor", "cancellation_reason", "carrier", "tracking_number", "refunds"]
OLD_INSERT = """
    INSERT INTO orders (id, order_number, user_id, saga_id, state, refund_state, items, currency_code,
        sequence, create_time, update_time)
    VALUES (%(id)s, %(number)s, %(id)s, %(id)s, 'PENDING', 'NONE', '[{"sku": "LAMP", "quantity": 2}]', 'EUR',
        1, now(), now())
"""
OLD_CONFIRM = """
    UPDATE orders SET state = 'CONFIRMED', sequence = 2,
        lines = '[{"sku": "LAMP", "name": "Lamp", "quantity": 2, "unit_price_minor": 100}]',
        subtotal_minor = 200, discount_minor = 0, shipping_minor = 10, tax_minor = 20, total_minor = 230,
        shipping_address = '{}', payment_id = id, reservation_id = id
    WHERE id = %(id)s
"""


async def test_a_reply_that_was_stored_before_these_fields_existed_is_still_the_answer(world: Any) -> None:
    saga = world.saga()
    created, confirmed = await saga.create(), await saga.confirm()
    old = "UPDATE barrier SET reply = reply - %(keys)s::text[] WHERE saga_id = %(id)s RETURNING reply"
    for row in await world.rows(old, keys=NEW_KEYS, id=saga.saga_id):
        assert not row["reply"].keys() & set(NEW_KEYS)
    assert await saga.create() == created
    assert await saga.confirm() == confirmed
    assert confirmed.refund_state == pb.REFUND_STATE_NONE


async def test_a_stored_reply_stays_what_it_was_when_the_order_goes_on(world: Any) -> None:
    saga = world.saga()
    confirmed = await saga.sold()
    first, second = saga.another(), saga.another()
    refunded = await first.refund(100)
    shipped = await first.ship()
    await second.refund(200)
    assert await saga.confirm() == confirmed
    assert (await first.refund(100), await first.ship()) == (refunded, shipped)
    assert [refund.amount.minor_units for refund in shipped.refunds] == [100]


def _upgrade_to(dsn: str, revision: str) -> None:
    config = configuration("services.orders")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_old_orders_survive_the_upgrade_and_old_code_goes_on_after_it(new_database: Any) -> None:
    dsn = new_database()
    _upgrade_to(dsn, "0001")
    before, after = new_id(), new_id()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(OLD_INSERT, {"id": before, "number": "SG-0000-0001"})
        connection.execute(OLD_CONFIRM, {"id": before})
    upgrade("services.orders", dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(OLD_INSERT, {"id": after, "number": "SG-0000-0002"})
        connection.execute(OLD_CONFIRM, {"id": after})
        rows = connection.execute(
            "SELECT id, state, refund_state, refunded_minor, cancellation_reason, carrier FROM orders"
        ).fetchall()
        loose = connection.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated").fetchall()
    assert sorted(rows) == [(order, "CONFIRMED", "NONE", 0, None, None) for order in sorted((before, after))]
    assert loose == []
