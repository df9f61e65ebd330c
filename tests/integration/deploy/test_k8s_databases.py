"""What the PostgreSQL of `deploy/k8s/overlays/local` runs at its first start, on a real server."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chassis.migrations import upgrade
from deploy.k8s import make_secrets
from deploy.local.postgres import LocalPostgres, find_binaries
from deploy.local.programs import PROGRAMS, Program
from deploy.local.secret_files import SecretFiles

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[3] / "deploy" / "k8s" / "overlays" / "local" / "servers" / "databases.sh"
SCRIPT_SECONDS = 60
WITH_DATABASE = [program for program in PROGRAMS if program.database]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> make_secrets.Contents:
    return make_secrets.servers(SecretFiles(tmp_path_factory.mktemp("secrets")))


@pytest.fixture(scope="module")
def server(
    contents: make_secrets.Contents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalPostgres]:
    """Yield a server on which the script has run as the image's entrypoint would run it."""
    started = LocalPostgres(tmp_path_factory.mktemp("pg"), fsync=False)
    started.start()
    mounted = tmp_path_factory.mktemp("mounted")
    for key, value in contents["postgresql"].items():
        (mounted / key).write_text(value, "utf-8")
    admin = conninfo_to_dict(started.admin_dsn)
    environment = {
        "PATH": f"{find_binaries()}{os.pathsep}{os.defpath}",
        "PGHOST": str(admin["host"]),
        "PGPORT": str(admin["port"]),
        "PGPASSWORD": str(admin["password"]),
        "SAGACITY_SECRETS": str(mounted),
    }
    subprocess.run(["sh", str(SCRIPT)], env=environment, check=True, timeout=SCRIPT_SECONDS)
    yield started
    started.kill()


def here(dsn: str, server: LocalPostgres, **changes: str) -> str:
    """Return the DSN of a Secret with the address of this server in place of the cluster's."""
    return make_conninfo(dsn, host="127.0.0.1", port=server.port, **changes)


@pytest.mark.parametrize("program", WITH_DATABASE, ids=lambda program: program.name)
def test_the_owner_migrates_and_the_workload_changes_rows_only(
    program: Program, server: LocalPostgres, contents: make_secrets.Contents
) -> None:
    assert program.package is not None
    upgrade(program.package, here(contents[f"{program.name}-migrations"]["dsn"], server))
    with psycopg.connect(
        here(contents[f"{program.name}-database"]["dsn"], server), autocommit=True
    ) as service:
        tables = service.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert len(tables) > 1
        rights = "SELECT has_table_privilege(%s, 'SELECT') AND has_table_privilege(%s, 'INSERT')"
        assert all(service.execute(rights, [table, table]).fetchone() == (True,) for (table,) in tables)
        for ddl in ("CREATE TABLE more (n int)", f"DROP TABLE {tables[0][0]}", f"TRUNCATE {tables[0][0]}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(ddl.encode())


def test_a_role_of_one_context_may_not_connect_to_the_database_of_another(
    server: LocalPostgres, contents: make_secrets.Contents
) -> None:
    for secret in ("orders-database", "orders-migrations"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(here(contents[secret]["dsn"], server, dbname="payments"))
