"""The saga log on real PostgreSQL: keys, fences, group commit."""

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


async def test_a_key_names_one_saga_however_many_ask_at_once(new_database: Callable[..., str]) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, database):
        accepted = await asyncio.gather(*(journal.accept(acceptance()) for _ in range(50)))
        assert sum(item.fresh for item in accepted) == 1
        assert len({item.saga_id for item in accepted}) == 1
        rows = await database.fetch(statement("count", "SELECT count(*) AS n FROM saga"), {})
        assert rows[0]["n"] == 1


async def test_what_was_accepted_can_be_loaded_as_it_was(new_database: Callable[..., str]) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, _):
        wanted = acceptance()
        await journal.accept(wanted)
        row, events = await journal.load(wanted.saga_id)
        assert (row.state, row.sequence, row.epoch, row.owner) == (State.RUNNING, 1, 1, "replica-1")
        assert row.context == wanted.context
        assert events == [INTENT]


async def test_many_sagas_are_written_in_few_commits(new_database: Callable[..., str]) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, _):
        wanted = [acceptance(key=f"key-{number}") for number in range(100)]
        await asyncio.gather(*(journal.accept(item) for item in wanted))
        written = await asyncio.gather(*(journal.write(entry(item.saga_id)) for item in wanted))
        assert set(written) == {Written.YES}
        assert journal.batches < 100


@pytest.mark.parametrize(("epoch", "sequence"), [(2, 1), (1, 0), (1, 5)])
async def test_a_write_of_another_epoch_or_sequence_changes_nothing(
    new_database: Callable[..., str], epoch: int, sequence: int
) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, _):
        wanted = acceptance()
        await journal.accept(wanted)
        stale = entry(wanted.saga_id, epoch=epoch, sequence=sequence, state=State.PARKED)
        assert await journal.write(stale) is Written.FENCED
        row, events = await journal.load(wanted.saga_id)
        assert (row.state, row.sequence) == (State.RUNNING, 1)
        assert events == [INTENT]


async def test_the_same_entry_again_is_known_to_have_landed(new_database: Callable[..., str]) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, _):
        wanted = acceptance()
        await journal.accept(wanted)
        assert await journal.write(entry(wanted.saga_id)) is Written.YES
        assert await journal.write(entry(wanted.saga_id)) is Written.YES
        _, events = await journal.load(wanted.saga_id)
        assert events == [INTENT, DONE]


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


async def test_the_terminal_answer_is_kept_under_the_key(new_database: Callable[..., str]) -> None:
    async with journal_on(new_database("orchestrator")) as (journal, _):
        wanted = acceptance()
        await journal.accept(wanted)
        await journal.write(entry(wanted.saga_id, state=State.COMPLETED, answer=b"answer"))
        again = await journal.accept(acceptance())
        assert (again.fresh, again.saga_id, again.answer) == (False, wanted.saga_id, b"answer")


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
