"""What only the log on PostgreSQL has: group commit, locks, the view of orders.

What every saga log promises is in tests/contract.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from chassis.postgres import Database, statement
from orchestrator.entries import Entry, Event, State
from orchestrator.journal import Journal
from orchestrator.saga_log import Acceptance, Written

pytestmark = pytest.mark.integration

INTENT = Event("order", "do", 0, "intended", request=b"bytes")
DONE = Event("order", "do", 1, "done", reply=b"reply")


@asynccontextmanager
async def journal_on(
    dsn: str, *, patience_seconds: float | None = None
) -> AsyncIterator[tuple[Journal, Database]]:
    database = await Database.open(dsn, application_name="test", patience_seconds=patience_seconds)
    journal = Journal(database, "replica-1")
    task = asyncio.create_task(journal.run())
    try:
        yield journal, database
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()


def acceptance(key: str = "key", request_hash: bytes = b"hash", **changes: Any) -> Acceptance:
    made = Acceptance(
        saga_id=new_id(),
        kind="place_order",
        version=1,
        definition_hash="h",
        key=new_id(),
        context={"items": [["MUG", 1]]},
        deadline=timedelta(minutes=5),
        events=(INTENT,),
        owner="replica-1",
        caller="user",
        rpc="PlaceOrder",
        idempotency_key=key,
        request_hash=request_hash,
    )
    return dataclasses.replace(made, **changes)


def entry(saga_id: UUID, *, epoch: int = 1, sequence: int = 1, **changes: Any) -> Entry:
    made = Entry(
        saga_id, epoch, sequence, State.RUNNING, 0, pivot_intended=False, refusal=None, events=(DONE,)
    )
    return made._replace(**changes)


async def test_many_sagas_are_written_in_few_commits(new_database: Callable[..., str]) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, _):
        wanted = [acceptance(key=f"key-{number}") for number in range(100)]
        await asyncio.gather(*(journal.accept(item) for item in wanted))
        written = await asyncio.gather(*(journal.write(entry(item.saga_id)) for item in wanted))
        assert set(written) == {Written.YES}
        # Two writers share what came at once; a few more where they were woken in between.
        assert journal.batches <= 10


async def test_an_entry_that_cannot_be_stored_harms_no_neighbour(new_database: Callable[..., str]) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, _):
        good, bad = acceptance(key="good"), acceptance(key="bad")
        await asyncio.gather(journal.accept(good), journal.accept(bad))
        poison = Event("order", "do", 1, "done", detail="a NUL \x00 that PostgreSQL refuses")
        outcomes = await asyncio.gather(
            journal.write(entry(good.saga_id)),
            journal.write(entry(bad.saga_id, events=(poison,))),
            return_exceptions=True,
        )
        assert outcomes[0] is Written.YES
        assert isinstance(outcomes[1], Exception)


async def test_a_row_that_somebody_keeps_locked_harms_no_neighbour(
    new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is given a second chance: who fails with the neighbour, fails.
    monkeypatch.setattr("orchestrator.journal.WRITE_ATTEMPTS", 1)
    dsn = new_database("orchestrator")
    holder = await Database.open(dsn, application_name="holder")
    lock = statement("lock", "SELECT id FROM saga WHERE id = %(id)s FOR UPDATE")
    async with journal_on(dsn, patience_seconds=1.0) as (journal, _):
        wanted = [acceptance(key=f"key-{number}") for number in range(8)]
        for item in wanted:
            await journal.accept(item)
        async with holder.transaction() as tx:
            await tx.fetch(lock, {"id": wanted[0].saga_id})
            written = await asyncio.gather(
                *(journal.write(entry(item.saga_id)) for item in wanted), return_exceptions=True
            )
        assert isinstance(written[0], Fault)
        assert set(written[1:]) == {Written.YES}
        assert await journal.write(entry(wanted[0].saga_id)) is Written.YES
    await holder.close()


async def test_a_view_shows_who_holds_an_order_and_since_when(new_database: Callable[..., str]) -> None:
    shown = statement("shown", "SELECT order_id, holder, kind, state, since <= now() AS past FROM order_lock")
    async with journal_on(new_database("orchestrator")) as (journal, database):
        wanted = acceptance()
        await journal.accept(wanted)
        assert await database.fetch(shown, {}) == [
            {
                "order_id": wanted.key,
                "holder": wanted.saga_id,
                "kind": "place_order",
                "state": "RUNNING",
                "past": True,
            }
        ]
        await journal.write(entry(wanted.saga_id, state=State.COMPLETED, answer=b"answer"))
        assert await database.fetch(shown, {}) == []
