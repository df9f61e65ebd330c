import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from chassis import postgres
from chassis.errors import Fault, FaultKind
from chassis.postgres import Database, statement

pytestmark = pytest.mark.integration

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0, small integer, document jsonb)"
ADD = statement("add", "INSERT INTO t (id) VALUES (%(id)s)")
COUNT = statement("count", "SELECT count(*) AS n FROM t")
LOCK = statement("lock", "SELECT n FROM t WHERE id = %(id)s FOR UPDATE")
BUMP = statement("bump", "UPDATE t SET n = n + 1 WHERE id = %(id)s RETURNING n")
CUT = statement("cut", "SELECT pg_terminate_backend(pg_backend_pid())")
CUT_OTHERS = statement(
    "cut_others",
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND application_name = 'victim'",
)
WAITING = statement(
    "waiting",
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
)


async def someone_waits_for_a_lock(database: Database) -> None:
    async with asyncio.timeout(10):
        while True:
            if await database.fetch(WAITING, {}):
                return
            await asyncio.sleep(0)


async def count(database: Database) -> int:
    return int((await database.fetch(COUNT, {}))[0]["n"])


async def test_a_statement_without_rows_returns_an_empty_list(open_database: Any) -> None:
    database = await open_database(TABLE)
    assert await database.fetch(ADD, {"id": 1}) == []


async def test_dicts_lists_and_numbers_find_their_types(open_database: Any, rows: Any) -> None:
    database = await open_database(TABLE)
    got = await rows(
        database,
        "INSERT INTO t (id, small, document) VALUES (%(id)s, %(small)s, %(document)s)"
        " RETURNING document, small = ANY(%(some)s) AS among, %(list)s::jsonb AS list",
        id=1,
        small=3,
        document={"a": [1]},
        some=[1, 3],
        list=Jsonb([1]),
    )
    assert got == [{"document": {"a": [1]}, "among": True, "list": [1]}]


async def test_a_statement_has_one_plan_whatever_the_size_of_its_numbers(
    open_database: Any, rows: Any
) -> None:
    database = await open_database(TABLE, max_size=1)
    for number in (1, 100_000, 10_000_000_000):
        await database.fetch(ADD, {"id": number})
    prepared = await rows(
        database,
        "SELECT count(*) AS n FROM pg_prepared_statements WHERE statement LIKE %(like)s",
        like="INSERT INTO t%",
    )
    assert prepared == [{"n": 1}]


async def test_the_server_knows_our_time_outs(open_database: Any, rows: Any) -> None:
    database = await open_database()
    settings = await rows(
        database,
        "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)",
        names=["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "jit", "TimeZone"],
    )
    assert {row["name"]: row["setting"] for row in settings} == {
        "statement_timeout": str(postgres.STATEMENT_TIMEOUT_MS),
        "lock_timeout": str(postgres.LOCK_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(postgres.IDLE_IN_TRANSACTION_TIMEOUT_MS),
        "jit": "off",
        "TimeZone": "UTC",
    }


async def test_who_may_not_block_others_for_long_has_shorter_time_outs(new_database: Any, rows: Any) -> None:
    patient = await Database.open(new_database(), application_name="tests", patience_seconds=2.4)
    settings = await rows(
        patient,
        "SELECT setting FROM pg_settings WHERE name = ANY(%(names)s)",
        names=["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"],
    )
    await patient.close()
    assert [row["setting"] for row in settings] == ["2400"] * 3


async def test_a_transaction_that_raises_leaves_nothing(open_database: Any) -> None:
    database = await open_database(TABLE)

    async def broken() -> None:
        async with database.transaction() as tx:
            await tx.fetch(ADD, {"id": 1})
            raise KeyError

    with pytest.raises(KeyError):
        await broken()
    assert await count(database) == 0


async def test_a_savepoint_undoes_only_what_is_inside(open_database: Any) -> None:
    database = await open_database(TABLE)

    async def collide(tx: postgres.Transaction) -> None:
        async with tx.savepoint():
            await tx.fetch(ADD, {"id": 2})
            await tx.fetch(ADD, {"id": 1})

    async with database.transaction() as tx:
        await tx.fetch(ADD, {"id": 1})
        with pytest.raises(errors.UniqueViolation):
            await collide(tx)
        await tx.fetch(ADD, {"id": 3})
    assert await count(database) == 2


async def test_a_unique_violation_passes_through(open_database: Any) -> None:
    database = await open_database(TABLE)
    await database.fetch(ADD, {"id": 1})
    with pytest.raises(errors.UniqueViolation):
        await database.fetch(ADD, {"id": 1})


async def test_a_deadlock_is_tried_again_until_both_have_their_way(open_database: Any) -> None:
    database = await open_database(TABLE)
    await database.fetch(ADD, {"id": 1})
    await database.fetch(ADD, {"id": 2})
    both_hold_one = asyncio.Barrier(2)
    attempts = 0

    async def bump_both(first: int, second: int) -> None:
        async def use_case(tx: postgres.Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await tx.fetch(BUMP, {"id": first})
            if attempts <= 2:
                await both_hold_one.wait()
            await tx.fetch(BUMP, {"id": second})

        await database.run(use_case)

    await asyncio.gather(bump_both(1, 2), bump_both(2, 1))
    assert attempts > 2, "there was no deadlock"
    for key in (1, 2):
        assert (await database.fetch(LOCK, {"id": key}))[0]["n"] == 2


async def test_a_serialization_failure_is_tried_again_a_bounded_number_of_times(open_database: Any) -> None:
    database = await open_database()
    attempts = 0

    async def use_case(tx: postgres.Transaction) -> None:
        nonlocal attempts
        attempts += 1
        fail = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'serialization_failure'; END $$"
        await tx.fetch(statement("fail", fail), {})

    with pytest.raises(Fault) as raised:
        await database.run(use_case)
    assert raised.value.kind is FaultKind.UNAVAILABLE
    assert raised.value.reason == "DATABASE_CONTENTION"
    assert attempts == postgres.MAX_ATTEMPTS


async def test_an_exhausted_pool_is_unavailable_and_soon_said_so(
    open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "POOL_WAIT_SECONDS", 0.05)
    database = await open_database(max_size=1)
    async with database.transaction():
        with pytest.raises(Fault) as raised:
            await database.ping()
    assert (raised.value.kind, raised.value.reason) == (FaultKind.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert raised.value.retry_after == timedelta(seconds=1)
    await database.ping()


async def test_a_database_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "POOL_WAIT_SECONDS", 0.1)
    database = await Database.open("host=127.0.0.1 port=1 dbname=none", application_name="none")
    try:
        with pytest.raises(Fault, match="DATABASE_UNAVAILABLE"):
            await database.ping()
    finally:
        await database.close()


async def test_a_connection_lost_in_a_transaction_is_unavailable_and_the_pool_recovers(
    open_database: Any,
) -> None:
    database = await open_database(TABLE, max_size=1)

    async def cut(tx: postgres.Transaction) -> None:
        await tx.fetch(ADD, {"id": 1})
        await tx.fetch(CUT, {})

    with pytest.raises(Fault, match="DATABASE_UNAVAILABLE"):
        await database.run(cut)
    assert await count(database) == 0


async def test_a_connection_lost_before_the_commit_arrives_is_never_a_success(open_database: Any) -> None:
    """F9: the COMMIT is sent into a connection that is dead."""
    database = await open_database(TABLE, application_name="victim")
    killer = await open_database()

    async def use_case(tx: postgres.Transaction) -> str:
        await tx.fetch(ADD, {"id": 1})
        await killer.fetch(CUT_OTHERS, {})
        return "done"

    with pytest.raises(Fault, match="DATABASE_UNAVAILABLE"):
        await database.run(use_case)
    assert await count(killer) == 0


async def test_idle_connections_that_the_server_cut_cost_no_caller_an_error(
    open_database: Any, rows: Any
) -> None:
    database = await open_database(TABLE, application_name="victim")
    killer = await open_database()
    await asyncio.gather(*(database.ping() for _ in range(8)))
    cut = [row["pid"] for row in await killer.fetch(CUT_OTHERS, {})]
    async with asyncio.timeout(10):
        while True:
            if not await rows(
                killer, "SELECT 1 AS n FROM pg_stat_activity WHERE pid = ANY(%(cut)s)", cut=cut
            ):
                break
            await asyncio.sleep(0)
    for _ in range(8):
        assert await rows(database, "SELECT 1 AS n") == [{"n": 1}]


async def test_a_lock_that_is_held_too_long_is_unavailable_and_changes_nothing(
    open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F10."""
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_MS", 50)
    database = await open_database(TABLE)
    await database.fetch(ADD, {"id": 1})
    async with database.transaction() as tx:
        await tx.fetch(LOCK, {"id": 1})
        with pytest.raises(Fault, match="DATABASE_UNAVAILABLE"):
            await database.fetch(BUMP, {"id": 1})
    assert (await database.fetch(BUMP, {"id": 1}))[0]["n"] == 1


async def test_an_idle_transaction_is_ended_and_unavailable(
    open_database: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "IDLE_IN_TRANSACTION_TIMEOUT_MS", 50)
    database = await open_database(TABLE, application_name="idler")
    observer = await open_database()

    async def idle(tx: postgres.Transaction) -> None:
        await tx.fetch(ADD, {"id": 1})
        idler = (
            "SELECT 1 AS n FROM pg_stat_activity WHERE application_name = 'idler' AND state LIKE 'idle in%%'"
        )
        while True:
            if not await rows(observer, idler):
                return
            await asyncio.sleep(0)

    with pytest.raises(Fault, match="DATABASE_UNAVAILABLE"):
        await database.run(idle)
    assert await count(observer) == 0


async def test_a_cancelled_task_leaves_its_connection_usable(open_database: Any) -> None:
    database = await open_database(TABLE, max_size=1)
    observer = await open_database()
    await database.fetch(ADD, {"id": 1})

    async with observer.transaction() as tx:
        await tx.fetch(LOCK, {"id": 1})
        task = asyncio.create_task(database.fetch(BUMP, {"id": 1}))
        await someone_waits_for_a_lock(observer)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await database.fetch(BUMP, {"id": 1}))[0]["n"] == 1


async def test_a_cancelled_transaction_is_rolled_back_and_its_connection_usable(open_database: Any) -> None:
    database = await open_database(TABLE, max_size=1)
    entered = asyncio.Event()

    async def hang(tx: postgres.Transaction) -> None:
        await tx.fetch(ADD, {"id": 1})
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(database.run(hang))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(database) == 0


async def test_an_open_pool_is_closed_without_remains(open_database: Any, new_database: Any) -> None:
    dsn = new_database()
    database = await Database.open(dsn, application_name="closing")
    await database.ping()
    await database.close()
    with pytest.raises(Fault, match="DATABASE_UNAVAILABLE"):
        await database.ping()
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT 1")
