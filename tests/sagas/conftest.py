"""One set of contexts and one journal for all sagas of the harness; each case has an order of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from chassis.postgres import Database
from orchestrator import calling
from orchestrator.journal import Journal
from tests.sagas.contexts import Contexts, serving
from tests.sagas.engine import Engine

REPLICA = "harness"
LEASE_SECONDS = 3_600.0


@pytest.fixture(scope="package")
async def contexts(new_database: Callable[[str], str]) -> AsyncIterator[Contexts]:
    async with serving(new_database) as opened:
        yield opened


@pytest.fixture(scope="package")
async def engine(contexts: Contexts, new_database: Callable[[str], str]) -> AsyncIterator[Engine]:
    database = await Database.open(new_database("orchestrator"), application_name=REPLICA)
    journal = Journal(database, REPLICA)
    await journal.renew(LEASE_SECONDS)
    task = asyncio.create_task(journal.run())
    yield Engine(contexts, journal, database)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.close()


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a saga try again at once."""
    monkeypatch.setattr(calling, "BACKOFF_BASE_SECONDS", 0.001)
