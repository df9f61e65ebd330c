import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chassis import migrations
from chassis.barrier import BARRIER_DDL
from chassis.consumer import INBOX_DDL
from chassis.outbox import BUCKETS, OUTBOX_DDL

pytestmark = pytest.mark.integration

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
