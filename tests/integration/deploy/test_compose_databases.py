"""What a database of deploy/compose.yaml runs at its first start, and how it is asked, on a real server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chassis.migrations import upgrade
from deploy.compose.make_secrets import make_all
from deploy.local.postgres import LocalPostgres, find_binaries
from deploy.local.secret_files import SecretFiles

pytestmark = pytest.mark.integration

DEPLOY = Path(__file__).parents[3] / "deploy"
SCRIPT = (DEPLOY / "compose" / "create-roles.sql").read_text("utf-8")
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
# As the container's shell gets it.
HEALTH = SERVICES["orders-database"]["healthcheck"]["test"][1].replace("$$", "$")
COMMAND_SECONDS = 60


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> SecretFiles:
    return make_all(tmp_path_factory.mktemp("compose") / "secrets")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalPostgres]:
    """Yield a server with the empty database that the image's entrypoint has made."""
    started = LocalPostgres(tmp_path / "pg", fsync=False)
    started.start()
    with psycopg.connect(started.admin_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE orders")
    yield started
    started.kill()


def run(server: LocalPostgres, *command: str) -> bool:
    """Run a command as in the container; tell whether it went well."""
    admin = conninfo_to_dict(server.admin_dsn)
    environment = {
        "PATH": f"{find_binaries()}{os.pathsep}{os.defpath}",
        "PGHOST": str(admin["host"]),
        "PGPORT": str(admin["port"]),
        "PGPASSWORD": str(admin["password"]),
        "POSTGRES_DB": "orders",
    }
    return subprocess.run(command, env=environment, timeout=COMMAND_SECONDS, check=False).returncode == 0


def first_start(server: LocalPostgres, secrets: SecretFiles, folder: Path, script: str) -> bool:
    """Run the script as the entrypoint does."""
    file = folder / "create-roles.sql"
    file.write_text(script.replace("/run/secrets", str(secrets.folder)), "utf-8")
    return run(server, "psql", "--no-psqlrc", "-U", "postgres", "-d", "orders", "-f", str(file))


def is_healthy(server: LocalPostgres) -> bool:
    return run(server, "sh", "-c", HEALTH)


def test_a_database_with_its_roles_is_healthy_migrates_and_keeps_its_service_from_its_schema(
    server: LocalPostgres, secrets: SecretFiles, tmp_path: Path
) -> None:
    assert not is_healthy(server)
    assert first_start(server, secrets, tmp_path, SCRIPT)
    assert is_healthy(server)
    owner, service = (
        make_conninfo(secrets.text(f"orders_{role}-dsn"), host="127.0.0.1", port=server.port)
        for role in ("owner", "service")
    )
    upgrade("services.orders", owner)
    with psycopg.connect(service, autocommit=True) as connection:
        connection.execute("SELECT count(*) FROM orders")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE mine (id int)")


def test_a_first_start_that_was_cut_off_leaves_no_role_and_is_not_healthy(
    server: LocalPostgres, secrets: SecretFiles, tmp_path: Path
) -> None:
    first_start(server, secrets, tmp_path, SCRIPT.removesuffix("COMMIT;\n"))
    with psycopg.connect(server.admin_dsn) as connection:
        row = connection.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'orders%'").fetchone()
    assert row == (0,)
    assert not is_healthy(server)
