from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.local.errors import LocalDeployError
from deploy.local.postgres import LocalPostgres

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pg")
    LocalPostgres(folder, fsync=False).prepare()
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "pg")


@pytest.fixture
def server(folder: Path) -> Iterator[LocalPostgres]:
    server = LocalPostgres(folder, fsync=False)
    yield server
    server.kill()


def test_what_was_committed_survives_a_kill_and_a_stop(server: LocalPostgres) -> None:
    server.start()
    owner = server.create_database("shop").owner_dsn
    with psycopg.connect(owner) as connection:
        connection.execute("CREATE TABLE t (n int)")
    for end, number in ((server.kill, 1), (server.stop, 2)):
        with psycopg.connect(owner) as connection:
            connection.execute("INSERT INTO t VALUES (%s)", [number])
        end()
        assert server.pid is None
        server.start()
    with psycopg.connect(owner) as connection:
        assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(1,), (2,)]


def test_the_service_role_changes_rows_but_no_schema_and_making_the_database_again_changes_nothing(
    server: LocalPostgres,
) -> None:
    server.start()
    access = server.create_database("shop")
    with psycopg.connect(access.owner_dsn) as owner:
        owner.execute("CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, n int)")
    assert server.create_database("shop") == access
    with psycopg.connect(access.service_dsn, autocommit=True) as service:
        service.execute("INSERT INTO t (n) VALUES (7)")
        assert service.execute("SELECT n FROM t").fetchall() == [(7,)]
        for ddl in ("CREATE TABLE u (n int)", "DROP TABLE t", "ALTER TABLE t ADD m int", "TRUNCATE t"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(ddl)


def test_a_role_of_one_context_may_not_connect_to_the_database_of_another(server: LocalPostgres) -> None:
    server.start()
    orders, payments = server.create_database("orders"), server.create_database("payments")
    for dsn in orders:
        crossed = psycopg.conninfo.make_conninfo(dsn, dbname="payments")
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(crossed)
    psycopg.connect(payments.service_dsn).close()


def test_a_stale_lock_file_is_no_obstacle(server: LocalPostgres, folder: Path) -> None:
    # Process 1 lives and is no PostgreSQL of ours: the server by itself would refuse.
    (folder / "pgdata" / "postmaster.pid").write_text(f"1\n{folder}\n", "utf-8")
    server.start()
    assert server.ready()


def test_a_folder_of_another_major_version_is_refused_in_one_sentence(
    server: LocalPostgres, folder: Path
) -> None:
    (folder / "pgdata" / "PG_VERSION").write_text("12\n", "utf-8")
    with pytest.raises(LocalDeployError, match="made by PostgreSQL 12"):
        server.start()


def test_a_folder_that_is_not_postgresqls_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "pgdata").mkdir()
    (tmp_path / "pgdata" / "holiday.jpg").touch()
    with pytest.raises(LocalDeployError, match="not a PostgreSQL data folder"):
        LocalPostgres(tmp_path).start()


def test_a_broken_folder_is_reported_with_the_servers_own_reason(server: LocalPostgres, folder: Path) -> None:
    (folder / "pgdata" / "global" / "pg_control").unlink()
    with pytest.raises(LocalDeployError, match=r"ended while it started.*pg_control") as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert server.pid is None
