"""What services see of those who receive their server's log: a held horizon, slots, commits that wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from typing import Any

import grpc.aio
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr
from structlog.testing import capture_logs

from chassis import outbox_slot, readiness, replication_slots
from chassis.errors import Fault
from chassis.grpc_server import build_server
from chassis.identity import Verifier, new_key_pair
from chassis.lifecycle import Lifecycle
from chassis.outbox import OUTBOX_DDL
from chassis.outbox_backlog import backlog
from chassis.postgres import Database, Transaction, statement
from chassis.process import start_readiness
from chassis.readiness import READINESS_SERVICE
from chassis.telemetry import REGISTRY
from deploy.local.postgres import Access, LocalPostgres
from services.inventory.config import InventorySettings
from tests.e2e.eventually import eventually
from tests.integration.chassis.standing_by import NOTHING, Standby

SLOT = "archive"
TOPIC = "sagacity.refused.v1"
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


WRITE = statement("written", "SELECT pg_logical_emit_message(true, 'test', 'x')")


async def write(transaction: Transaction) -> None:
    await transaction.fetch(WRITE, {})


async def looks_at_commits() -> float:
    return value("statement_seconds_count", statement="commits_waiting") or 0.0


def want(admin: psycopg.Connection[Any], standby: str) -> None:
    admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'".encode())
    admin.execute("SELECT pg_reload_conf()")


@asynccontextmanager
async def process(access: Access) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """What a process has of this beside its pool; yields whether it says that it is ready."""
    server = build_server(
        domain="sagacity.test", policies={}, verifier=Verifier({"keys": [new_key_pair("gateway")[1]]})
    )
    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        await start_readiness(life, InventorySettings(database_dsn=SecretStr(access.service_dsn)), server)
        port = await server.start("127.0.0.1:0")
        life.on_stop(server.stop)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

            async def is_ready() -> bool:
                request = health_pb2.HealthCheckRequest(service=READINESS_SERVICE)
                answer = await health_pb2_grpc.HealthStub(channel).Check(request)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            try:
                yield is_ready
            finally:
                life.stopping.set()
                await life.drain()


@pytest.mark.integration
async def test_commits_that_wait_are_told_though_they_hold_every_connection_of_the_pool(
    server: LocalPostgres, access: Access, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication_slots, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(readiness, "PERIOD_SECONDS", 0.05)
    over = asyncio.Event()

    async def waiting() -> float | None:
        return value("commits_waiting", database="orders")

    async def acknowledged() -> float | None:
        row = admin.execute("SELECT (pg_current_wal_lsn() - '0/0')::bigint").fetchone()
        assert row is not None
        standby.acknowledge(row[0])
        return await waiting()

    async def commit_on() -> None:
        # The server is told of the setting a moment later.
        while not over.is_set():
            await pool.run(write)

    async with process(access) as is_ready, AsyncExitStack() as stack:
        pool = await Database.open(access.service_dsn, application_name="orders", max_size=2)
        stack.push_async_callback(pool.close)
        await eventually(waiting, until=lambda number: number == 0)
        stack.callback(want, admin, "")
        want(admin, "archive")
        commits = [asyncio.create_task(commit_on()) for _ in range(2)]
        stack.callback(over.set)
        await eventually(waiting, until=lambda number: number == 2)
        with pytest.raises(Fault):
            await pool.ping()
        assert await is_ready()
        # One that is connected and acknowledges nothing is no help.
        standby = stack.enter_context(closing(Standby(server.admin_dsn, name="archive")))
        seen = await looks_at_commits()
        await eventually(looks_at_commits, until=lambda number: number > seen + 1)
        assert await waiting() == 2
        over.set()
        await eventually(acknowledged, until=lambda number: number == 0)
        await asyncio.gather(*commits)


@pytest.mark.integration
async def test_a_server_that_does_not_say_where_its_log_ends_has_its_refusal_logged_once_and_is_asked_on(
    server: LocalPostgres,
    database: Database,
    admin: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replication_slots, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(outbox_slot, "REFRESH_SECONDS", 0.05)
    before = await looks_at_commits()

    async def horizon() -> float | None:
        return value("outbox_oldest_transaction_seconds", topic=TOPIC)

    async def active() -> float | None:
        return value("replication_slot_active", slot=SLOT)

    with ExitStack() as stack:
        there = stack.enter_context(psycopg.connect(server.admin_dsn, dbname="orders", autocommit=True))
        stack.callback(there.execute, "GRANT EXECUTE ON FUNCTION pg_current_wal_lsn() TO PUBLIC")
        there.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn() FROM PUBLIC")
        logs = stack.enter_context(capture_logs())
        async with asyncio.TaskGroup() as group:
            life = Lifecycle(group)
            life.start(replication_slots.watch(database), name="replication slots")
            life.start(outbox_slot.watch(database, TOPIC), name="outbox slot")
            admin.execute("SELECT pg_create_physical_replication_slot(%s)", [SLOT])
            await eventually(looks_at_commits, until=lambda number: number > before + 3)
            await eventually(horizon, until=lambda seconds: seconds == 0)
            assert await active() is None
            there.execute("GRANT EXECUTE ON FUNCTION pg_current_wal_lsn() TO PUBLIC")
            assert await eventually(active, until=lambda shown: shown == 0) == 0
            assert life.death is None
            life.stopping.set()
            await life.drain()
    said = [(entry["event"], entry["look"]) for entry in logs]
    assert sorted(said) == [("look_refused", "replication slots"), ("look_refused", "slot of the outbox")]
    assert "pg_current_wal_lsn" in logs[0]["error"]
