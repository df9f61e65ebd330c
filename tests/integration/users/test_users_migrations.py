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

# As the code of 0001 writes them.
USER = """
    INSERT INTO users (id, email, display_name, role, state, password_hash, version, create_time)
    VALUES (%s, %s, 'Ada', 'CUSTOMER', %s, '$argon2id$', 1, now())
"""
COUNT = """
    INSERT INTO customer_statistics AS s (user_id, orders_placed, orders_confirmed, orders_rejected)
    VALUES (%s, 1, 1, 0)
    ON CONFLICT (user_id) DO UPDATE SET orders_placed = s.orders_placed + excluded.orders_placed
"""
STATES = ["ACTIVE", "BLOCKED", "DEACTIVATED"]


def upgrade_to(dsn: str, revision: str) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
    config = migrations.configuration("services.users")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def write_as_before(connection: psycopg.Connection) -> None:
    for state in STATES:
        user_id = new_id()
        connection.execute(USER, (user_id, f"{user_id}@example.com", state))
        for _ in range(2):
            connection.execute(COUNT, (user_id,))


def test_users_of_before_stay_as_they_are_and_the_code_of_before_goes_on(new_database: Any) -> None:
    dsn = new_database()
    upgrade_to(dsn, "0001")
    with psycopg.connect(dsn) as connection:
        write_as_before(connection)
        before = connection.execute(
            "SELECT id, email, display_name, state, password_hash FROM users"
        ).fetchall()
    migrations.upgrade("services.users", dsn)
    with psycopg.connect(dsn) as connection:
        sql = "SELECT id, email, display_name, state, password_hash FROM users WHERE deactivate_time IS NULL"
        assert connection.execute(sql).fetchall() == before
        write_as_before(connection)
        cancelled = connection.execute("SELECT DISTINCT orders_cancelled FROM customer_statistics").fetchall()
        assert cancelled == [(0,)]
        assert connection.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated").fetchall() == []
        assert connection.execute("SELECT indexrelid FROM pg_index WHERE NOT indisvalid").fetchall() == []


def test_an_index_that_a_migrator_left_unfinished_is_made_again(new_database: Any) -> None:
    dsn = new_database()
    upgrade_to(dsn, "0002")
    with psycopg.connect(dsn) as connection:
        # What a CREATE INDEX CONCURRENTLY leaves that was killed.
        connection.execute("CREATE INDEX users_active_admin ON users (create_time)")
    migrations.upgrade("services.users", dsn)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT pg_get_indexdef('users_active_admin'::regclass)").fetchone()
    assert row is not None
    assert "(id) WHERE" in row[0]
