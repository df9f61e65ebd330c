"""What is shown of a pool and of statements, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.errors import UndefinedTable

from chassis import postgres
from chassis.errors import Fault
from chassis.postgres import Database, statement
from chassis.telemetry import REGISTRY

pytestmark = pytest.mark.integration

WITHIN_SECONDS = 20.0
ONE = statement("metrics_one", "SELECT 1 AS one")
WRONG = statement("metrics_wrong", "SELECT 1 FROM nowhere")
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"


def shown(name: str, pool: str) -> float | None:
    return REGISTRY.get_sample_value(f"sagacity_pool_{name}", {"pool": pool})


def timed(name: str, part: str = "count") -> float:
    return REGISTRY.get_sample_value(f"sagacity_statement_seconds_{part}", {"statement": name}) or 0.0


async def until(condition: Any) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while not condition():  # noqa: ASYNC110 - a metric sets no Event
            await asyncio.sleep(0)


async def connected(database: Database) -> None:
    """Wait until the pool has its connection, however short its patience is."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            with suppress(Fault):
                await database.ping()
                return


async def test_a_statement_is_timed_under_its_name_whether_it_succeeds_or_not(new_database: Any) -> None:
    database = await Database.open(new_database(), application_name="timed pool")
    before, wrong = timed("metrics_one"), timed("metrics_wrong")
    await database.fetch(ONE, {})
    async with database.transaction() as tx:
        await tx.fetch(ONE, {})
    with pytest.raises(UndefinedTable):
        await database.fetch(WRONG, {})
    assert timed("metrics_one") == before + 2
    assert timed("metrics_wrong") == wrong + 1
    assert 0 < timed("metrics_one", "sum") < WITHIN_SECONDS
    await database.close()


async def test_a_pool_shows_who_uses_it_and_who_waits(new_database: Any) -> None:
    pool = "shown pool"
    database = await Database.open(new_database(), application_name=pool, max_size=1)
    await database.ping()
    assert shown("connections_max", pool) == 1
    assert shown("connections", pool) == 1
    assert shown("in_use", pool) == 0
    waited = shown("wait_seconds_count", pool)
    assert waited
    async with database.transaction():
        assert shown("in_use", pool) == 1
        waiting = asyncio.create_task(database.ping())
        await until(lambda: shown("waiting", pool) == 1)
    await waiting
    assert shown("waiting", pool) == 0
    assert shown("wait_seconds_count", pool) == waited + 1
    assert shown("timeouts_total", pool) == 0
    await database.close()


async def test_who_gets_no_connection_is_counted(new_database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "POOL_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(postgres, "POOL_MAX_WAITING", 1)
    pool = "exhausted pool"
    database = await Database.open(new_database(), application_name=pool, max_size=1)
    await connected(database)
    before = shown("timeouts_total", pool) or 0
    async with database.transaction():
        first = asyncio.create_task(database.ping())
        await until(lambda: shown("waiting", pool) == 1)
        with pytest.raises(Fault):  # one waits already, and no more may
            await database.ping()
        assert shown("timeouts_total", pool) == before + 1
        with pytest.raises(Fault):
            await first
    assert shown("timeouts_total", pool) == before + 2
    await database.close()


async def test_a_connection_that_was_cut_is_counted_as_lost(new_database: Any) -> None:
    pool = "cut pool"
    dsn = new_database()
    database = await Database.open(dsn, application_name=pool, max_size=1)
    await database.ping()
    assert shown("lost_connections_total", pool) == 0
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(CUT, [pool])
    await database.ping()
    assert shown("lost_connections_total", pool) == 1
    await database.close()


async def test_a_pool_that_is_closed_is_shown_no_more(new_database: Any) -> None:
    pool = "closed pool"
    database = await Database.open(new_database(), application_name=pool)
    await database.ping()
    assert shown("connections", pool) is not None
    await database.close()
    assert shown("connections", pool) is None
    assert shown("in_use", pool) is None
