import asyncio
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chassis import migrations
from chassis.barrier import BARRIER_DDL
from chassis.consumer import INBOX_DDL
from chassis.outbox import BUCKETS, OUTBOX_DDL
from tests.conftest import ENVIRONMENT
from tests.e2e.eventually import eventually

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
END_SECONDS = 60

FIRST = '''
"""First."""
from alembic import op
from chassis.barrier import BARRIER_DDL
from chassis.consumer import INBOX_DDL
from chassis.outbox import OUTBOX_DDL

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(BARRIER_DDL)
    op.execute(OUTBOX_DDL)
    op.execute(INBOX_DDL)
'''
SECOND = '''
"""Second."""
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("CREATE TABLE counted (n bigint)")
    op.execute("SELECT pg_sleep(0.2)")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY counted_n ON counted (n)")
'''
THIRD = '''
"""Third."""
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE TABLE made_before_the_wait (n bigint)")
    op.execute("ALTER TABLE counted ADD COLUMN more bigint")
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make an importable package that holds two migrations."""
    versions = tmp_path / "pretend" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "pretend" / "__init__.py").write_text("")
    (versions / "0001_initial.py").write_text(FIRST)
    (versions / "0002_index.py").write_text(SECOND)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pretend", raising=False)
    return "pretend"


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {row[0] for row in found}


def test_an_upgrade_makes_the_tables_of_the_chassis_and_again_changes_nothing(
    new_database: Any, package: str
) -> None:
    dsn = new_database()
    migrations.upgrade(package, dsn)
    migrations.upgrade(package, dsn)
    made = {"barrier", "outbox", "outbox_lease", "inbox", "dead_letter", "counted"}
    assert tables(dsn) == made | {"alembic_version"}
    with psycopg.connect(dsn) as connection:
        leases = connection.execute("SELECT count(*) FROM outbox_lease").fetchone()
    assert leases == (BUCKETS,)


def test_two_migrators_at_once_end_well_even_with_a_concurrent_index(new_database: Any, package: str) -> None:
    dsn = new_database()
    failures: list[BaseException] = []

    def migrate() -> None:
        try:
            migrations.upgrade(package, dsn)
        except Exception as error:  # noqa: BLE001 - a thread's failure has to be carried over
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert "counted" in tables(dsn)


def test_a_migrator_that_waits_too_long_for_another_says_so(
    new_database: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_WAIT_SECONDS", 0.0)
    dsn = new_database()
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (migrations.LOCK_KEY,))
        with pytest.raises(TimeoutError):
            migrations.upgrade(package, dsn)


def test_a_package_without_migrations_is_an_error(new_database: Any) -> None:
    with pytest.raises(FileNotFoundError):
        migrations.upgrade("chassis", new_database())


def test_the_command_reads_the_dsn_from_the_settings(
    new_database: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = new_database()
    monkeypatch.setenv("SAGACITY_PRETEND_DATABASE_DSN", dsn)
    monkeypatch.setattr(sys, "argv", ["migrations", package])
    migrations.main()
    assert "barrier" in tables(dsn)


def test_the_ddl_of_the_chassis_needs_no_escaping() -> None:
    """It goes through `op.execute`, where a colon would be a parameter."""
    for ddl in (BARRIER_DDL, OUTBOX_DDL, INBOX_DDL):
        assert not {":", "%"} & set(ddl)


def waiting(dsn: str) -> list[int]:
    """Return the server's processes that migrate and wait for a lock."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'migrations' AND wait_event_type = 'Lock'"
        ).fetchall()
    return [row[0] for row in rows]


async def test_a_migrator_that_is_told_to_stop_leaves_nothing_that_waits(
    new_database: Any, package: str, tmp_path: Path
) -> None:
    dsn = new_database()
    migrations.upgrade(package, dsn)
    (tmp_path / package / "migrations" / "versions" / "0003_more.py").write_text(THIRD)
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE counted")
        migrator = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "chassis.migrations", package),
            env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{tmp_path}", "SAGACITY_PRETEND_DATABASE_DSN": dsn},
            stderr=subprocess.PIPE,
        )
        ask = partial(asyncio.to_thread, waiting, dsn)
        await eventually(ask)
        migrator.terminate()
        async with asyncio.timeout(END_SECONDS):
            _, said = await migrator.communicate()
        assert migrator.returncode == migrations.STOPPED_EXIT_CODE, said
        # The lock is still held: whoever waited for it has been told, and did not run out of patience.
        assert waiting(dsn) == []
    assert tables(dsn).isdisjoint({"made_before_the_wait"})
    migrations.upgrade(package, dsn)
    assert "made_before_the_wait" in tables(dsn)


def test_a_migrator_that_is_killed_lets_go_long_before_its_lock_times_out(new_database: Any) -> None:
    assert migrations.CLIENT_CHECK_MS <= migrations.DDL_LOCK_TIMEOUT_MS / 4
    with migrations._connect(new_database()) as connection:
        row = connection.execute(
            "SELECT setting FROM pg_settings WHERE name = 'client_connection_check_interval'"
        ).fetchone()
    assert row == (str(migrations.CLIENT_CHECK_MS),)
