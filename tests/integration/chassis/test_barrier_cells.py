"""Every cell of the barrier's table, alone and where two connections meet.

A cell is what is stored for the do of a step, and which half of the step arrives. In the races the first call
makes what is stored, and has not ended yet when the second arrives, which waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from typing_extensions import override

from chassis import barrier
from chassis.barrier import SagaCall
from chassis.errors import Fault
from chassis.ids import new_id
from chassis.postgres import Database, Transaction, statement
from tests.integration.chassis.barrier_steps import (
    DDL,
    START,
    SoldOutError,
    act,
    as_refusal,
    compensate,
    do,
    effects,
    other_request,
    refuse,
    someone_waits_for_a_lock,
    undo,
)

pytestmark = pytest.mark.integration

STORED = ("nothing", "in progress", "done", "refused", "tombstone")
ARRIVING = ("do", "undo")
FORGET = statement("forget", "DELETE FROM barrier WHERE saga_id = %(saga_id)s AND step = %(step)s")

Pause = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Cell:
    """What the table says: the answer to what arrives, what is stored then, and every effect."""

    stored: str
    arriving: str
    answer: dict[str, Any] | str  # a reply, or the reason of a recorded refusal
    after: str
    effects: tuple[str, ...]

    @override
    def __str__(self) -> str:
        return f"{self.stored} x {self.arriving}"


MADE, UNDONE = {"made": 1}, {"undone": 1}
NOTHING = {
    "do": Cell("nothing", "do", MADE, "DONE", ("do",)),
    "undo": Cell("nothing", "undo", {}, "TOMBSTONE", ()),
}
CELLS = (
    *NOTHING.values(),
    Cell("in progress", "do", MADE, "DONE", ("do",)),
    Cell("in progress", "undo", UNDONE, "TOMBSTONE", ("undo",)),
    Cell("done", "do", MADE, "DONE", ("do",)),
    Cell("done", "undo", UNDONE, "DONE", ("do", "undo")),
    Cell("refused", "do", "SOLD_OUT", "REFUSED", ()),
    Cell("refused", "undo", {}, "REFUSED", ()),
    # The tombstone was made by an undo that had something to do though nothing was stored.
    Cell("tombstone", "do", "TOMBSTONED", "TOMBSTONE", ("undo",)),
    Cell("tombstone", "undo", UNDONE, "TOMBSTONE", ("undo",)),
)
HASHED = ("in progress", "done", "refused")


class GoneError(Exception):
    """The first call ends as if its process had died: its transaction is rolled back."""


@pytest.fixture
async def database(open_database: Any) -> Database:
    opened: Database = await open_database(DDL)
    return opened


@pytest.fixture
def call() -> SagaCall:
    return SagaCall(new_id(), "reservation", b"hash")


async def at_once() -> None:
    pass


async def store(database: Database, call: SagaCall, stored: str, pause: Pause = at_once) -> None:
    """Bring the step to where the table's row begins; `pause` is awaited before the transaction ends."""

    async def paused(tx: Transaction, effect: Any) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = await effect(tx)
        finally:
            await pause()
        return reply

    if stored == "done":
        await do(database, call, lambda tx: paused(tx, act))
    elif stored == "refused":
        with pytest.raises(Fault, match="SOLD_OUT"):
            await do(database, call, lambda tx: paused(tx, refuse))
    elif stored == "tombstone":
        await barrier.undo_once(database, call, act, when_nothing=lambda tx: paused(tx, compensate))
    else:
        key = {"saga_id": call.saga_id, "step": call.step}
        async with database.transaction() as tx:
            await tx.fetch(START, {**key, "request_hash": call.request_hash})
            if stored == "nothing":
                await tx.fetch(FORGET, key)
            await pause()


async def arrive(database: Database, call: SagaCall, arriving: str) -> dict[str, Any] | str:
    try:
        return await (do if arriving == "do" else undo)(database, call)
    except Fault as fault:
        return fault.reason if fault.recorded else f"{fault.reason}, not recorded"


async def meets(database: Database, call: SagaCall, stored: str, arriving: str, *, commits: bool) -> Any:
    """Let a call arrive while the one that stores has not ended; return its answer."""
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        entered.set()
        await proceed.wait()
        if not commits:
            raise GoneError

    first = asyncio.create_task(store(database, call, stored, pause))
    await entered.wait()
    second = asyncio.create_task(arrive(database, call, arriving))
    await someone_waits_for_a_lock(database)
    assert not second.done()
    proceed.set()
    if commits:
        await first
    else:
        with pytest.raises(GoneError):
            await first
    return await second


async def expect(database: Database, call: SagaCall, cell: Cell) -> None:
    stored = await barrier.read(database, call)
    assert stored is not None
    assert stored.outcome == cell.after
    assert await effects(database) == list(cell.effects)


def test_the_cells_are_all_that_the_table_has_ten_of_them() -> None:
    assert [(cell.stored, cell.arriving) for cell in CELLS] == list(product(STORED, ARRIVING))
    assert len(CELLS) == 10


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_the_cell(database: Database, call: SagaCall, cell: Cell) -> None:
    await store(database, call, cell.stored)
    assert await arrive(database, call, cell.arriving) == cell.answer
    await expect(database, call, cell)


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_the_cell_answers_the_same_however_often_it_is_asked(
    database: Database, call: SagaCall, cell: Cell
) -> None:
    await store(database, call, cell.stored)
    for _ in range(3):
        assert await arrive(database, call, cell.arriving) == cell.answer
    await expect(database, call, cell)


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_the_cell_when_it_waits_for_a_first_call_that_commits(
    database: Database, call: SagaCall, cell: Cell
) -> None:
    assert await meets(database, call, cell.stored, cell.arriving, commits=True) == cell.answer
    await expect(database, call, cell)


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_the_cell_when_it_waits_for_a_first_call_that_rolls_back_is_that_of_nothing(
    database: Database, call: SagaCall, cell: Cell
) -> None:
    nothing = NOTHING[cell.arriving]
    assert await meets(database, call, cell.stored, cell.arriving, commits=False) == nothing.answer
    await expect(database, call, nothing)


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_the_cell_with_sixteen_arriving_at_once_gives_all_of_them_one_answer(
    database: Database, call: SagaCall, cell: Cell
) -> None:
    await store(database, call, cell.stored)
    answers = await asyncio.gather(*(arrive(database, call, cell.arriving) for _ in range(16)))
    assert answers == [cell.answer] * 16
    await expect(database, call, cell)


@pytest.mark.parametrize("stored", HASHED)
async def test_another_hash_is_refused_and_nothing_changes(
    database: Database, call: SagaCall, stored: str
) -> None:
    await store(database, call, stored)
    before, had = await barrier.read(database, call), await effects(database)
    with pytest.raises(Fault, match="REQUEST_CHANGED") as raised:
        await do(database, other_request(call))
    assert not raised.value.recorded
    assert await barrier.read(database, call) == before
    assert await effects(database) == had


@pytest.mark.parametrize("stored", HASHED)
async def test_another_hash_that_waits_for_the_first_call_is_refused_where_that_commits(
    database: Database, call: SagaCall, stored: str
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        entered.set()
        await proceed.wait()

    first = asyncio.create_task(store(database, call, stored, pause))
    await entered.wait()
    second = asyncio.create_task(do(database, other_request(call)))
    await someone_waits_for_a_lock(database)
    proceed.set()
    await first
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await second
    assert await effects(database) == (["do"] if stored == "done" else [])


async def test_another_hash_is_not_compared_where_the_undo_came_first(
    database: Database, call: SagaCall
) -> None:
    await undo(database, call)
    assert await arrive(database, other_request(call), "do") == "TOMBSTONED"


async def test_a_refusal_that_is_not_stored_lets_the_duplicate_that_waits_be_evaluated_anew(
    database: Database, call: SagaCall
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def refuses_late(tx: Transaction) -> dict[str, Any]:
        entered.set()
        await proceed.wait()
        return await refuse(tx)

    async def unstored(effect: Any) -> dict[str, Any]:
        return await barrier.do_once(database, call, effect, as_refusal=as_refusal, store_refusals=False)

    first = asyncio.create_task(unstored(refuses_late))
    await entered.wait()
    second = asyncio.create_task(unstored(act))
    await someone_waits_for_a_lock(database)
    proceed.set()
    with pytest.raises(Fault, match="SOLD_OUT") as raised:
        await first
    assert not raised.value.recorded
    assert await second == MADE
    assert await effects(database) == ["do"]


async def test_a_refused_undo_lets_the_duplicate_that_waits_run_it(
    database: Database, call: SagaCall
) -> None:
    await do(database, call)
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def refuses_late(tx: Transaction) -> dict[str, Any]:
        entered.set()
        await proceed.wait()
        return await refuse(tx)

    first = asyncio.create_task(undo(database, call, refuses_late))
    await entered.wait()
    second = asyncio.create_task(undo(database, call))
    await someone_waits_for_a_lock(database)
    proceed.set()
    with pytest.raises(SoldOutError):
        await first
    assert await second == UNDONE
    assert await effects(database) == ["do", "undo"]
