"""Brings one context's database to its newest schema: `python -m chassis.migrations services.orders`.

A package keeps its history in `<package>/migrations/versions/NNNN_name.py` and nothing beside it: the Alembic
environment is the same for all and lives in `chassis/alembic_environment/env.py`.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from chassis.config import ProcessSettings

LOCK_KEY = 0x5A6A_C17E
LOCK_WAIT_SECONDS = 600.0
LOCK_POLL_SECONDS = 0.2
# A migration that waits for a table's lock makes every later reader wait behind it: so not for long.
DDL_LOCK_TIMEOUT_MS = 10_000
# How soon PostgreSQL notices that a migrator was killed while it waits, and lets go of what that held.
CLIENT_CHECK_MS = 2_000
STOPPED_EXIT_CODE = 128 + signal.SIGTERM


def upgrade(package: str, dsn: str) -> None:
    """Runs every migration of the package that the database has not seen; grants are not its business.

    Args:
        package: Importable name of the package that holds `migrations/versions`, such as `services.orders`.
        dsn: libpq connection string or URI of the owner of the schema.

    Raises:
        TimeoutError: Another migrator held the database for `LOCK_WAIT_SECONDS`.
        FileNotFoundError: The package has no migrations.
    """
    config = configuration(package)
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(dsn), poolclass=NullPool)
    with _only_one_migrator(dsn), engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def configuration(package: str) -> Config:
    """Returns the Alembic configuration of a package, without a database.

    Raises:
        FileNotFoundError: The package has no migrations.
    """
    versions = Path(str(resources.files(package).joinpath("migrations", "versions")))
    if not versions.is_dir():
        raise FileNotFoundError(f"{package} has no migrations/versions")
    config = Config()
    environment = resources.files("chassis").joinpath("alembic_environment")
    config.set_main_option("script_location", _escaped(str(environment)))
    config.set_main_option("version_locations", _escaped(str(versions)))
    config.set_main_option("path_separator", "newline")
    return config


def _escaped(path: str) -> str:
    return path.replace("%", "%%")


def _connect(dsn: str) -> psycopg.Connection:
    options = f"-c lock_timeout={DDL_LOCK_TIMEOUT_MS} -c client_connection_check_interval={CLIENT_CHECK_MS}"
    return psycopg.connect(dsn, options=options, application_name="migrations")


@contextmanager
def _only_one_migrator(dsn: str) -> Iterator[None]:
    # Asked for again and again instead of waited for: a statement that waits holds a snapshot, and the
    # CREATE INDEX CONCURRENTLY of the migrator that holds the lock would wait for that snapshot in turn.
    give_up_at = time.monotonic() + LOCK_WAIT_SECONDS
    with psycopg.connect(dsn, autocommit=True, application_name="migrations lock") as connection:
        while not _try_lock(connection):
            if time.monotonic() > give_up_at:
                raise TimeoutError("another migrator holds this database")
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,)).fetchone()
    return row is not None and bool(row[0])


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Make SIGTERM end what is inside as an exit does: connections are closed, a statement is cancelled.

    Of itself it would be ignored by a container's process 1, and elsewhere leave the statement running.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.stderr.write("stopped; the migration under way is undone, run it again\n")
    sys.exit(STOPPED_EXIT_CODE)


def main() -> None:
    """Upgrades the database of the package that the command line names; its DSN comes from the settings."""
    parser = argparse.ArgumentParser(prog="python -m chassis.migrations", description=main.__doc__)
    parser.add_argument("package", help="such as services.orders")
    package: str = parser.parse_args().package

    class MigrationSettings(ProcessSettings):
        process = package.rpartition(".")[2]

    with _stopped_by_sigterm():
        upgrade(package, MigrationSettings.read().required("database_dsn"))


if __name__ == "__main__":
    main()
