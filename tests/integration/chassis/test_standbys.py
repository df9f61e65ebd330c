"""What services see of those who receive their server's log: a held horizon, slots, missing standbys."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest

from chassis import replication_slots
from chassis.outbox import OUTBOX_DDL
from chassis.outbox_backlog import backlog
from chassis.postgres import Database
from chassis.replication_slots import missing_standbys
from chassis.telemetry import REGISTRY
from deploy.local.postgres import Access, LocalPostgres
from tests.e2e.eventually import eventually
from tests.integration.chassis.standing_by import NOTHING, Standby

SLOT = "archive"
SLOTS = "FROM pg_replication_slots WHERE NOT temporary"
NEXT = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """A server of its own: a standby holds the rows of all its databases, and commits wait for it."""
    postgres = LocalPostgres(tmp_path_factory.mktemp("standbys"), fsync=False)
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.kill()


@pytest.fixture(scope="module")
def access(server: LocalPostgres) -> Access:
    """A database with an outbox."""
    access = server.create_database("orders")
    with psycopg.connect(access.owner_dsn) as owner:
        owner.execute(OUTBOX_DDL.encode())
    return access


@pytest.fixture
async def database(access: Access) -> AsyncIterator[Database]:
    """That database as its service has it: the role may change rows, and is told nothing of others."""
    opened = await Database.open(access.service_dsn, application_name="orders")
    yield opened
    await opened.close()


@pytest.fixture
async def admin(server: LocalPostgres) -> AsyncIterator[psycopg.Connection[Any]]:
    """A superuser, who leaves no slot behind."""
    with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
        yield connection

        async def left() -> Any:
            connection.execute(f"SELECT pg_drop_replication_slot(slot_name) {SLOTS} AND NOT active".encode())
            return connection.execute(f"SELECT count(*) {SLOTS}".encode()).fetchone()

        # The server sees a moment later that a reader has gone.
        await eventually(left, until=lambda row: row == (0,))


def next_transaction(admin: psycopg.Connection[Any]) -> int:
    row = admin.execute(NEXT).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.integration
@pytest.mark.parametrize("slot", ["", SLOT], ids=["without a slot", "with a slot"])
async def test_a_standby_that_reads_old_rows_holds_the_horizon_until_it_does_not(
    slot: str, server: LocalPostgres, database: Database, admin: psycopg.Connection[Any]
) -> None:
    async def held() -> float | None:
        return (await backlog(database)).oldest_transaction_seconds

    await eventually(held, until=lambda seconds: seconds is None)
    if slot:
        admin.execute("SELECT pg_create_physical_replication_slot(%s)", [slot])
    with closing(Standby(server.admin_dsn, name="standby", slot=slot)) as standby:
        standby.still_reads(next_transaction(admin))
        # Somebody goes on meanwhile.
        admin.execute("SELECT pg_current_xact_id()")
        first = await eventually(held, until=lambda seconds: seconds is not None)
        assert first is not None
        await eventually(held, until=lambda seconds: seconds is not None and seconds > first)
        standby.still_reads(NOTHING)
        assert await eventually(held, until=lambda seconds: seconds is None) is None


@pytest.mark.integration
async def test_the_slot_of_a_standby_that_is_gone_holds_the_horizon_on(
    server: LocalPostgres, database: Database, admin: psycopg.Connection[Any]
) -> None:
    async def held() -> float | None:
        return (await backlog(database)).oldest_transaction_seconds

    async def is_read() -> Any:
        return admin.execute("SELECT active FROM pg_replication_slots").fetchone()

    admin.execute("SELECT pg_create_physical_replication_slot(%s)", [SLOT])
    with closing(Standby(server.admin_dsn, name="standby", slot=SLOT)) as standby:
        standby.still_reads(next_transaction(admin))
        admin.execute("SELECT pg_current_xact_id()")
        await eventually(held, until=lambda seconds: seconds is not None)
    await eventually(is_read, until=lambda row: row == (False,))
    assert await held() is not None
    admin.execute("SELECT pg_drop_replication_slot(%s)", [SLOT])
    assert await held() is None


@pytest.mark.integration
async def test_a_standby_that_reads_nothing_old_holds_nothing_however_long_nobody_writes(
    server: LocalPostgres, database: Database, admin: psycopg.Connection[Any]
) -> None:
    with closing(Standby(server.admin_dsn, name="standby")) as standby:

        async def said_and_seen() -> tuple[Any, float | None]:
            standby.still_reads(next_transaction(admin))
            said = admin.execute("SELECT count(backend_xmin) FROM pg_stat_activity WHERE datname IS NULL")
            return said.fetchone(), (await backlog(database)).oldest_transaction_seconds

        assert await eventually(said_and_seen, until=lambda found: found == ((1,), None))


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"sagacity_{name}", labels)


@pytest.mark.integration
async def test_slots_are_shown_while_they_are_there_and_whether_somebody_reads_them(
    server: LocalPostgres,
    database: Database,
    admin: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_slots, "REFRESH_SECONDS", 0.05)

    async def seen() -> tuple[float | None, float | None]:
        return value("replication_slot_active", slot=SLOT), value("replication_slot_kept_bytes", slot=SLOT)

    watching = asyncio.create_task(replication_slots.watch(database))
    try:
        admin.execute("SELECT pg_create_physical_replication_slot(%s, true)", [SLOT])
        # As a base backup makes one; it is gone with its session, and of no use to anybody.
        admin.execute("SELECT pg_create_physical_replication_slot('pg_basebackup_1', true, true)")
        _, before = await eventually(seen, until=lambda found: found[0] == 0)
        admin.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000))")
        await eventually(seen, until=lambda found: (found[1] or 0) > (before or 0) + 900_000)
        with closing(Standby(server.admin_dsn, name="standby", slot=SLOT)):
            await eventually(seen, until=lambda found: found[0] == 1)
        await eventually(seen, until=lambda found: found[0] == 0)
        admin.execute("SELECT pg_drop_replication_slot(%s)", [SLOT])
        await eventually(seen, until=lambda found: found == (None, None))
        assert value("replication_slot_active", slot="pg_basebackup_1") is None
    finally:
        watching.cancel()
        await asyncio.wait({watching})


@pytest.mark.integration
async def test_the_standbys_that_commits_wait_for_are_missed_until_they_are_there(
    server: LocalPostgres,
    database: Database,
    admin: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_slots, "REFRESH_SECONDS", 0.05)

    async def missing() -> float | None:
        return value("synchronous_standbys_missing", database="orders")

    def want(names: str) -> None:
        admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
        admin.execute("SELECT pg_reload_conf()")

    watching = asyncio.create_task(replication_slots.watch(database))
    with ExitStack() as stack:
        stack.callback(watching.cancel)
        stack.callback(want, "")
        await eventually(missing, until=lambda number: number == 0)
        want("ANY 2 (archive, archive2)")
        await eventually(missing, until=lambda number: number == 2)
        stack.enter_context(closing(Standby(server.admin_dsn, name="archive")))
        await eventually(missing, until=lambda number: number == 1)
        stack.enter_context(closing(Standby(server.admin_dsn, name="somebody")))
        stack.enter_context(closing(Standby(server.admin_dsn, name="archive2")))
        assert await eventually(missing, until=lambda number: number == 0) == 0
    await asyncio.wait({watching})


@pytest.mark.parametrize(
    ("wanted", "connected", "missing"),
    [
        ("", [], 0),
        ("  ", ["archive"], 0),
        ("archive", [], 1),
        ("archive", ["Archive"], 0),
        ("archive, other", ["other"], 0),
        ("archive", ["other", "pg_basebackup"], 1),
        ("*", [], 1),
        ("*", ["whoever"], 0),
        ("ANY 1 (archive, archive2)", ["archive2"], 0),
        ("ANY 1 (archive, archive2)", [], 1),
        ("first 2 (a, b, c)", ["c"], 1),
        ('2 ("a", "b")', ["a", "b"], 0),
        ("FIRST 3 (*)", ["a"], 2),
    ],
)
def test_what_a_server_wants_is_compared_with_who_is_there(
    wanted: str, connected: list[str], missing: int
) -> None:
    assert missing_standbys(wanted, connected) == missing
