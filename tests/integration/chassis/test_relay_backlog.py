"""How far an outbox is behind, read from the database."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chassis import outbox_backlog
from chassis.outbox import OUTBOX_DDL
from chassis.outbox_backlog import Backlog, backlog
from chassis.postgres import Database

pytestmark = pytest.mark.integration

PASSWORD = "reader"


@pytest.fixture
def dsn(new_database: Any) -> str:
    """A database with an outbox."""
    dsn: str = new_database()
    with psycopg.connect(dsn) as connection:
        connection.execute(OUTBOX_DDL.encode())
    return dsn


@pytest.fixture
def reader_dsn(dsn: str) -> Iterator[str]:
    """That database for a role that may read rows and nothing else, as little as the services may."""
    role = sql.Identifier(f"{conninfo_to_dict(dsn)['dbname']}_reader")
    with psycopg.connect(dsn) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
        admin.execute(sql.SQL("GRANT SELECT ON outbox TO {}").format(role))
    yield make_conninfo(dsn, user=role.as_string().strip('"'), password=PASSWORD)
    with psycopg.connect(dsn) as admin:
        admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


async def test_an_empty_outbox_has_nothing_waiting_and_no_age(open_database: Any) -> None:
    database = await open_database(OUTBOX_DDL)
    assert await backlog(database) == Backlog(0, None, None)


async def test_the_backlog_is_counted_and_as_old_as_its_oldest_event(
    open_database: Any, publish: Any, rows: Any
) -> None:
    database = await open_database(OUTBOX_DDL)
    for sequence in range(1, 4):
        await publish(database, "order-1", sequence)
    await rows(
        database,
        "UPDATE outbox SET occurred_at = clock_timestamp() - make_interval(mins => 20 * (3 - sequence)::int)",
    )
    seen = await backlog(database)
    assert seen.waiting == 3
    assert seen.oldest_age_seconds is not None
    assert 2_400 <= seen.oldest_age_seconds < 3_000


async def test_an_event_from_a_clock_that_is_ahead_has_no_negative_age(
    open_database: Any, publish: Any, rows: Any
) -> None:
    database = await open_database(OUTBOX_DDL)
    await publish(database, "order-1", 1)
    await rows(database, "UPDATE outbox SET occurred_at = clock_timestamp() + interval '5 minutes'")
    assert (await backlog(database)).oldest_age_seconds == 0.0


async def test_counting_stops_at_its_bound(
    open_database: Any, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_backlog, "MAX_WAITING", 2)
    database = await open_database(OUTBOX_DDL)
    for sequence in range(1, 6):
        await publish(database, "order-1", sequence)
    assert (await backlog(database)).waiting == 2


@pytest.mark.parametrize(
    "opening",
    ["CREATE TABLE mine ()", "SELECT FROM outbox"],
    ids=["a transaction that writes", "a snapshot that is held"],
)
async def test_a_transaction_that_holds_the_horizon_is_seen_until_it_ends(
    opening: str, open_database: Any, postgres_admin_dsn: str, rows: Any
) -> None:
    database = await open_database(OUTBOX_DDL)
    (where,) = await rows(database, "SELECT current_database() AS name")
    with psycopg.connect(postgres_admin_dsn, dbname=where["name"]) as session:
        session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        session.execute(opening.encode())
        first = (await backlog(database)).oldest_transaction_seconds
        second = (await backlog(database)).oldest_transaction_seconds
        assert first is not None
        assert second is not None
        assert second > first >= 0
    assert (await backlog(database)).oldest_transaction_seconds is None


async def test_a_session_that_only_idles_in_a_transaction_holds_nothing(
    open_database: Any, postgres_admin_dsn: str, rows: Any
) -> None:
    database = await open_database(OUTBOX_DDL)
    (where,) = await rows(database, "SELECT current_database() AS name")
    with psycopg.connect(postgres_admin_dsn, dbname=where["name"]) as session:
        session.execute("SELECT FROM outbox")
        assert (await backlog(database)).oldest_transaction_seconds is None


async def test_the_role_of_a_service_sees_a_transaction_of_another_role_hold_the_horizon(
    dsn: str, reader_dsn: str
) -> None:
    """It may not see when the transaction began, so it watches for how long it has been there."""
    database = await Database.open(reader_dsn, application_name="reader")
    try:
        with psycopg.connect(dsn) as session:
            session.execute("CREATE TABLE mine ()")
            first = (await backlog(database)).oldest_transaction_seconds
            second = (await backlog(database)).oldest_transaction_seconds
            assert first is not None
            assert second is not None
            assert second > first
    finally:
        await database.close()
