"""Real servers for the tests: PostgreSQL and Kafka from the environment, from Docker, or started here.

`new_database(package=None)` is a plain call: it returns the DSN of a fresh database, migrated with the
migrations of `package` ("services.orders") where one is named. `kafka_bootstrap_servers` is the address of a
real broker.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import deploy.local  # noqa: F401 - first of all, for what it tells gRPC
from deploy.local.children import PART_VARIABLE
from tests import docker_engine
from tests.docker_servers import KAFKA_IMAGE, POSTGRES_IMAGE, docker_kafka, docker_postgres
from tests.promtool import promtool_source

ENVIRONMENT = os.environ  # noqa: TID251 - the tests' own switches; the suite's settings are chassis.config's
JARS = Path(__file__).resolve().parent.parent / ".sagacity" / "kafka-jars"


class NewDatabase(Protocol):
    """The type of the fixture `new_database`."""

    def __call__(self, package: str | None = None) -> str: ...


# which servers


@functools.cache
def postgres_source() -> str:
    if ENVIRONMENT.get("SAGACITY_TEST_POSTGRES_DSN"):
        return "SAGACITY_TEST_POSTGRES_DSN"
    if docker_engine.can_run(POSTGRES_IMAGE):
        return f"Docker ({POSTGRES_IMAGE})"
    return "a local server (deploy/local/postgres.py)"


def maven_works() -> bool:
    return shutil.which("java") is not None and shutil.which("mvn") is not None


@functools.cache
def kafka_source() -> str | None:
    """Return where a real broker comes from; None: from nowhere."""
    if ENVIRONMENT.get("SAGACITY_TEST_KAFKA"):
        return "SAGACITY_TEST_KAFKA"
    if docker_engine.can_run(KAFKA_IMAGE):
        return f"Docker ({KAFKA_IMAGE})"
    if maven_works():
        return "Apache Kafka by Maven (deploy/local/apache_kafka)"
    return None


def in_ci() -> bool:
    return ENVIRONMENT.get("CI", "").lower() == "true"


def pytest_configure(config: pytest.Config) -> None:
    """Give each of the processes that share the tests ports of its own, and of all that it starts."""
    # A shell's background job ignores it, and so would every child: none of those could be interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker:
        # One that takes the place of another that crashed has a higher number than there are workers.
        number = int(worker["workerid"].removeprefix("gw")) % worker["workercount"] + 1
        ENVIRONMENT[PART_VARIABLE] = f"{number}/{worker['workercount']}"


def pytest_report_header() -> list[str]:
    broker = kafka_source()
    if broker is None:
        broker = (
            "none, so kafka tests FAIL"
            if in_ci()
            else "none (no java, mvn, Docker): kafka tests are deselected"
        )
    return [f"servers: PostgreSQL from {postgres_source()}; Kafka: {broker}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if in_ci():
        return
    without = [item for item in items if not can_run(item)]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]


def can_run(item: pytest.Item) -> bool:
    if item.get_closest_marker("kafka") and kafka_source() is None:
        return False
    if item.get_closest_marker("kubectl") and shutil.which("kubectl") is None:
        return False
    if item.get_closest_marker("promtool") and promtool_source() is None:
        return False
    return maven_works() or "kafka_jars" not in getattr(item, "fixturenames", ())


# PostgreSQL


@contextmanager
def local_postgres() -> Iterator[str]:
    from deploy.local.postgres import LocalPostgres

    folder = Path(tempfile.mkdtemp(prefix="sagacity-test-pg-"))
    # Thrown away with the session, so it need not survive the machine: fsync off.
    server = LocalPostgres(folder, fsync=False)
    try:
        server.start()
        yield server.admin_dsn
    finally:
        server.kill()
        # The files of a thousand databases: more than a minute's work, for which nobody has to wait.
        subprocess.run(["sh", "-c", 'rm -rf -- "$1" >&- 2>&- &', "sh", str(folder)], check=True)


@pytest.fixture(scope="session")
def postgres_admin_dsn() -> Iterator[str]:
    """DSN of the tests' PostgreSQL server, of a role that may create databases."""
    given = ENVIRONMENT.get("SAGACITY_TEST_POSTGRES_DSN")
    with ExitStack() as stack:
        if given:
            yield given
        else:
            docker = docker_engine.can_run(POSTGRES_IMAGE)
            yield stack.enter_context(docker_postgres() if docker else local_postgres())


class Databases:
    """Makes databases on one server and drops them at the end; one migrated template per package."""

    def __init__(self, admin_dsn: str) -> None:
        self._admin_dsn = admin_dsn
        self._prefix = f"test_{os.getpid()}_{os.urandom(3).hex()}"
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
        self._made: list[str] = []

    def new(self, package: str | None = None) -> str:
        return self._dsn(self._create(self._template(package) if package else None))

    def drop_all(self) -> None:
        with psycopg.connect(self._admin_dsn, autocommit=True) as admin:
            while self._made:
                name = sql.Identifier(self._made.pop())
                admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def _template(self, package: str) -> str:
        if package not in self._templates:
            name = self._create(None)
            migrate(package, self._dsn(name))
            self._templates[package] = name
        return self._templates[package]

    def _create(self, template: str | None) -> str:
        name = f"{self._prefix}_{next(self._numbers)}"
        copied = sql.Identifier(template or "template1")
        with psycopg.connect(self._admin_dsn, autocommit=True) as admin:
            if template:
                # A connection that has not quite gone away yet would keep the template from being copied.
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [template]
                )
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), copied))
        self._made.append(name)
        return name

    def _dsn(self, name: str) -> str:
        return make_conninfo(self._admin_dsn, dbname=name)


def migrate(package: str, dsn: str) -> None:
    # Imported here: a broken piece of the suite breaks the tests that need it, not all of them.
    from chassis.migrations import upgrade

    upgrade(package, dsn)


@pytest.fixture(scope="session")
def new_database(postgres_admin_dsn: str) -> Iterator[NewDatabase]:
    """Make a fresh database per call: `dsn = new_database("services.orders")`, no await."""
    databases = Databases(postgres_admin_dsn)
    yield databases.new
    # A server of our own goes away as a whole.
    if ENVIRONMENT.get("SAGACITY_TEST_POSTGRES_DSN"):
        databases.drop_all()


# Kafka


@contextmanager
def maven_kafka() -> Iterator[str]:
    from deploy.local.kafka import ApacheKafka

    with tempfile.TemporaryDirectory(prefix="sagacity-test-kafka-") as folder:
        broker = ApacheKafka(Path(folder), jars=JARS)
        try:
            broker.start()
            yield broker.bootstrap_servers
        finally:
            broker.kill()


@pytest.fixture(scope="session")
def kafka_bootstrap_servers() -> Iterator[str]:
    """Return the bootstrap servers of a real Kafka broker: topics create themselves, with 4 partitions."""
    if kafka_source() is None:
        pytest.fail(
            "no real Kafka: set SAGACITY_TEST_KAFKA, or install Docker, or java and mvn", pytrace=False
        )
    given = ENVIRONMENT.get("SAGACITY_TEST_KAFKA")
    with ExitStack() as stack:
        if given:
            yield given
        else:
            docker = docker_engine.can_run(KAFKA_IMAGE)
            yield stack.enter_context(docker_kafka() if docker else maven_kafka())


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """Return the folder for Apache Kafka's jars, for tests that run a broker of their own."""
    return JARS
