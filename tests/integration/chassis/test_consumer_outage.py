"""What a consumer shows while it cannot consume, and that it shows when it can again."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from chassis import consumer as consumer_module
from chassis import consumer_session
from chassis.postgres import statement
from tests.integration.chassis.consuming import DDL, letters, shown, until_applied, until_shown

NAME = statement("name", "SELECT current_database() AS name")
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
pytestmark = [pytest.mark.integration, pytest.mark.kafka]


@pytest.fixture(autouse=True)
def _asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "BACKOFF_CAP_SECONDS", 0.5)
    monkeypatch.setattr(consumer_session, "LAG_SECONDS", 0.2)


@contextmanager
def away(admin_dsn: str, name: str) -> Iterator[None]:
    """Keep everybody out of a database inside of the block."""
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        try:
            admin.execute(CUT, [name])
            yield
        finally:
            admin.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


async def test_a_consumer_is_in_an_outage_while_its_database_is_away(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    group: str,
    postgres_admin_dsn: str,
) -> None:
    database = await open_database(DDL)
    (row,) = await database.fetch(NAME, {})
    async with running(new_consumer(database)):
        await send(("a", 1))
        await until_applied(database, {"a": [1]})
        with away(postgres_admin_dsn, row["name"]):
            await send(("a", 2))
            await until_shown(1, "outage", group=group)
            assert shown("outages_total", group=group) == 1
        await until_applied(database, {"a": [1, 2]})
        await until_shown(0, "outage", group=group)
    assert await letters(database) == []


async def test_what_stopped_a_consumer_is_not_shown_on_while_its_database_is_away(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    group: str,
    postgres_admin_dsn: str,
) -> None:
    """It may be resumed meanwhile; where it is not, the first event that comes again says so."""
    database = await open_database(DDL)
    (row,) = await database.fetch(NAME, {})
    consumer = new_consumer(database)
    await consumer.inbox.halt()
    await send(("a", 1))
    async with running(consumer):
        await until_shown(1, "stopped", group=group, state="HALTED")
        with away(postgres_admin_dsn, row["name"]):
            await until_shown(1, "outage", group=group)
            assert shown("stopped", group=group, state="HALTED") == 0
        await until_shown(1, "stopped", group=group, state="HALTED")


# It starts a broker of its own.
@pytest.mark.timeout(300)
async def test_a_consumer_is_in_an_outage_before_kafka_is_there_and_while_it_is_away_with_nothing_to_read(
    *,
    open_database: Any,
    new_consumer: Any,
    running: Any,
    group: str,
    tmp_path: Path,
    kafka_jars: Path,
) -> None:
    from deploy.local.kafka import ApacheKafka

    broker = ApacheKafka(tmp_path, jars=kafka_jars)
    broker.prepare()
    consumer = new_consumer(await open_database(DDL), servers=broker.bootstrap_servers)
    assert shown("outage", group=group) == 0
    try:
        async with running(consumer):
            await until_shown(1, "outage", group=group)
            await asyncio.to_thread(broker.start)
            await until_shown(0, "outage", group=group)
            broker.kill()
            await until_shown(1, "outage", group=group)
            assert shown("outages_total", group=group) == 2
    finally:
        broker.kill()
