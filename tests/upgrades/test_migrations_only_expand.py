"""Migrations that follow a release expand and block nobody for long; what was released stays as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from typing_extensions import override

from chassis.migrations import configuration, upgrade
from deploy.local.postgres import find_binaries
from tests.conftest import NewDatabase
from tests.upgrades.migration_rules import (
    RuleError,
    check_migration,
    new_migrations,
    upgrade_and_record,
)
from tests.upgrades.previous_release import PACKAGES, Release

pytestmark = pytest.mark.integration

DUMP_SECONDS = 30
FIRST = '''
"""First."""
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE counted (n bigint NOT NULL, name text)")
    op.execute("CREATE INDEX counted_name ON counted (name)")
'''
SECOND = '''
"""Second."""
from alembic import op

revision = "0002"
down_revision = "0001"
{contract}

def upgrade() -> None:
    op.execute("{statement}")
'''
CONCURRENTLY = '''
"""Second."""
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE counted ADD COLUMN note text")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY counted_note ON counted (note)")
'''


@pytest.mark.parametrize("package", PACKAGES)
def test_what_follows_the_release_only_expands(
    package: str, previous: Release, new_database: NewDatabase
) -> None:
    dsn = new_database()
    last = max(previous.migrations(package)).partition("_")[0]
    upgrade_and_record(package, dsn, last)
    for script in new_migrations(package, previous):
        check_migration(script, upgrade_and_record(package, dsn, script.revision), previous)
    with psycopg.connect(dsn) as connection:
        loose = connection.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated").fetchall()
        broken = connection.execute("SELECT indexrelid FROM pg_index WHERE NOT indisvalid").fetchall()
    assert (loose, broken) == ([], [])


@pytest.mark.parametrize("package", PACKAGES)
def test_what_was_released_is_frozen(package: str, previous: Release, new_database: NewDatabase) -> None:
    """The files themselves, and what they take from the chassis."""
    released = previous.migrations(package)
    scripts = ScriptDirectory.from_config(configuration(package)).walk_revisions()
    ours = {Path(script.path).name: Path(script.path).read_text("utf-8") for script in scripts}
    assert {name: ours.get(name) for name in released} == released
    theirs, mine = new_database(), new_database()
    previous.migrate(package, theirs)
    upgrade_and_record(package, mine, max(released).partition("_")[0])
    assert schema(mine) == schema(theirs)
    # And from there it is the same way for both.
    upgrade(package, theirs)
    upgrade(package, mine)
    assert schema(mine) == schema(theirs)


def schema(dsn: str) -> list[str]:
    command = [find_binaries() / "pg_dump", "--schema-only", "--no-owner", "-d", dsn]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DUMP_SECONDS)
    # Keys of a dump's own, different in each.
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith(("--", "\\"))]
    assert len(lines) > 20
    return lines


# The rules, on a package with one released migration and one that is new.


class Pretended(Release):
    """A release that has the first migration of the package `pretended`, and no other."""

    @override
    def migrations(self, package: str) -> dict[str, str]:
        return {"0001_first.py": FIRST}

    @property
    @override
    def version(self) -> str:
        return "0.2.0"


def check_second(text: str, folder: Path, dsn: str) -> None:
    versions = folder / "pretended" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "pretended" / "__init__.py").write_text("")
    (versions / "0001_first.py").write_text(FIRST)
    (versions / "0002_second.py").write_text(text)
    (script,) = new_migrations("pretended", Pretended(folder))
    upgrade_and_record("pretended", dsn, "0001")
    check_migration(script, upgrade_and_record("pretended", dsn, "0002"), Pretended(folder))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pretended", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE counted ADD COLUMN note text",
        "ALTER TABLE counted ADD COLUMN note text NOT NULL DEFAULT ''",
        "CREATE TABLE another (n bigint PRIMARY KEY); CREATE INDEX another_n ON another (n)",
        "ALTER TABLE counted ADD CONSTRAINT counted_n CHECK (n > 0) NOT VALID",
    ],
)
def test_what_expands_may_be_done(statement: str, folder: Path, new_database: NewDatabase) -> None:
    try:
        check_second(SECOND.format(statement=statement, contract=""), folder, new_database())
    except RuleError as error:
        pytest.fail(str(error))


def test_an_index_may_be_made_beside_those_who_write(folder: Path, new_database: NewDatabase) -> None:
    dsn = new_database()
    check_second(CONCURRENTLY, folder, dsn)
    with psycopg.connect(dsn) as connection:
        made = connection.execute("SELECT count(*) FROM pg_indexes WHERE indexname = 'counted_note'")
        assert made.fetchone() == (1,)


CONTRACTIONS = {
    "ALTER TABLE counted DROP COLUMN name": "ban-drop-column",
    "DROP TABLE counted": "ban-drop-table",
    "ALTER TABLE counted RENAME COLUMN name TO label": "renaming-column",
    "ALTER TABLE counted RENAME TO numbers": "renaming-table",
    "ALTER TABLE counted ADD COLUMN note text NOT NULL": "adding-required-field",
    "ALTER TABLE counted ALTER COLUMN name SET NOT NULL": "adding-not-nullable-field",
    "ALTER TABLE counted ALTER COLUMN n TYPE numeric": "changing-column-type",
}
BLOCKS = {
    "CREATE INDEX counted_n ON counted (n)": "require-concurrent-index-creation",
    "ALTER TABLE counted ADD CONSTRAINT counted_n CHECK (n > 0)": "constraint-missing-not-valid",
    "ALTER TABLE counted ADD COLUMN at timestamptz DEFAULT clock_timestamp()": "adding-field-with-default",
}


@pytest.mark.parametrize(("statement", "rule"), (CONTRACTIONS | BLOCKS).items())
def test_what_contracts_or_blocks_is_refused(
    statement: str, rule: str, folder: Path, new_database: NewDatabase
) -> None:
    with pytest.raises(RuleError, match=rule):
        check_second(SECOND.format(statement=statement, contract=""), folder, new_database())


@pytest.mark.parametrize("statement", CONTRACTIONS)
def test_what_the_release_before_needs_no_more_may_go(
    statement: str, folder: Path, new_database: NewDatabase
) -> None:
    text = SECOND.format(statement=statement, contract='contract = "0.2.0"\n')
    try:
        check_second(text, folder, new_database())
    except RuleError as error:
        pytest.fail(str(error))


def test_what_only_this_code_needs_no_more_may_not_go_yet(folder: Path, new_database: NewDatabase) -> None:
    text = SECOND.format(statement="DROP TABLE counted", contract='contract = "0.3.0"\n')
    with pytest.raises(RuleError, match=r"contract is '0\.3\.0'"):
        check_second(text, folder, new_database())


def test_who_contracts_may_not_block_either(folder: Path, new_database: NewDatabase) -> None:
    text = SECOND.format(statement="DROP INDEX counted_name", contract='contract = "0.2.0"\n')
    with pytest.raises(RuleError, match="require-concurrent-index-deletion"):
        check_second(text, folder, new_database())
