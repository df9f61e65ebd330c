"""What a migration may do that follows a release: expand, and contract only what that release needs no more.

The statements are those that the migration really sends; squawk says what each of them does to others.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.script import Script, ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool

from chassis.migrations import configuration
from deploy.release.versions import numbers
from tests.upgrades.previous_release import REPOSITORY, Release

SQUAWK = REPOSITORY / ".venv" / "bin" / "squawk"
SQUAWK_SECONDS = 30
POSTGRES = "15"  # the oldest that is supported
# Beside those that are on by themselves.
INCLUDED = ("ban-disable-trigger", "ban-drop-index", "ban-drop-policy", "ban-revoke", "ban-set-schema")
# Style, or the migrator's business: it sets a lock_timeout, and runs each migration in a transaction.
EXCLUDED = (
    "prefer-robust-stmts",
    "prefer-bigint-over-int",
    "prefer-text-field",
    "require-timeout-settings",
    "require-lock-timeout",
    "require-statement-timeout",
)
# What takes away something that the release before may still need. The other rules are about locks.
CONTRACTING = (
    "ban-drop-",
    "renaming-",
    "changing-column-type",
    "adding-required-field",
    "adding-not-nullable-field",
    "ban-revoke",
    "ban-set-schema",
)
ANSWERED_WITH = {"version_num", "alembic_version", "pg_catalog"}


class RuleError(Exception):
    """A migration does what it may not; the message says which, where, and what."""


@dataclass
class Sent:
    """The statements of one migration, those in its transaction and those outside of any."""

    in_transaction: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)


def new_migrations(package: str, previous: Release) -> list[Script]:
    """The migrations of a package that the release before does not have, in their order."""
    known = previous.migrations(package)
    scripts = ScriptDirectory.from_config(configuration(package)).walk_revisions()
    return [script for script in reversed(list(scripts)) if Path(script.path).name not in known]


def upgrade_and_record(package: str, dsn: str, revision: str) -> Sent:
    """Bring a database to a revision of a package, and return what was sent for it."""
    sent = Sent()
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)

    @event.listens_for(engine, "before_cursor_execute")
    def record(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if not any(name in statement for name in ANSWERED_WITH):
            (sent.alone if cursor.connection.autocommit else sent.in_transaction).append(statement)

    config = configuration(package)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    return sent


def check_migration(script: Script, sent: Sent, previous: Release) -> None:
    """Check what a migration sent.

    Raises:
        RuleError: it contracts, and does not say which release needs what goes no more; or it blocks others.
    """
    contract = getattr(script.module, "contract", None)
    if contract is not None and numbers(contract) > numbers(previous.version):
        raise RuleError(
            f"{script.path}: contract is {contract!r}, and the release before, which runs beside this code "
            f"during an upgrade, is {previous.version}"
        )
    found = [
        f"{script.path}: {problem['rule_name']}: {problem['message']}"
        for problem in (*_problems(sent.in_transaction, alone=False), *_problems(sent.alone, alone=True))
        if not (contract and problem["rule_name"].startswith(CONTRACTING))
    ]
    if found:
        raise RuleError("\n".join(found))


def _problems(statements: list[str], *, alone: bool) -> list[dict[str, Any]]:
    sql = "".join(f"{statement.rstrip().rstrip(';')};\n" for statement in statements)
    command = [SQUAWK, "--reporter", "json", "--pg-version", POSTGRES, "--stdin-filepath", "migration.sql"]
    command += [f"--exclude={','.join(EXCLUDED)}", f"--include={','.join(INCLUDED)}"]
    command.append("--no-assume-in-transaction" if alone else "--assume-in-transaction")
    done = subprocess.run(
        command, input=sql, capture_output=True, text=True, check=False, timeout=SQUAWK_SECONDS
    )
    if not done.stdout.strip():
        assert done.returncode == 0, done.stderr
        return []
    return list(json.loads(done.stdout))
