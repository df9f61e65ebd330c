"""Brings one context's database to its newest schema: `python -m chassis.migrations services.orders`.

A package keeps its history in `<package>/migrations/versions/NNNN_name.py` and nothing beside it: the Alembic
environment is the same for all and lives in `chassis/alembic_environment/env.py`.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

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
    return psycopg.connect(
        dsn, options=f"-c lock_timeout={DDL_LOCK_TIMEOUT_MS}", application_name="migrations"
    )


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


def main() -> None:
    """Upgrades the database of the package that the command line names; its DSN comes from the settings."""
    parser = argparse.ArgumentParser(prog="python -m chassis.migrations", description=main.__doc__)
    parser.add_argument("package", help="such as services.orders")
    package: str = parser.parse_args().package

    class MigrationSettings(ProcessSettings):
        process = package.rpartition(".")[2]

    upgrade(package, MigrationSettings.read().required("database_dsn"))


if __name__ == "__main__":
    main()
