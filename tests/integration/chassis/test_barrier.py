import asyncio
from typing import Any

import pytest
from psycopg import errors

from chassis import barrier
from chassis.barrier import SagaCall
from chassis.errors import Detail, Fault, FaultKind
from chassis.ids import new_id
from chassis.postgres import Database, Transaction
from tests.integration.chassis.barrier_steps import (
    DDL,
    SoldOutError,
    act,
    as_refusal,
    compensate,
    do,
    effects,
    other_request,
    refuse,
    someone_waits_for_a_lock,
    start,
    undo,
)

pytestmark = pytest.mark.integration


@pytest.fixture
async def database(open_database: Any) -> Database:
    opened: Database = await open_database(DDL)
    return opened


@pytest.fixture
def call() -> SagaCall:
    return SagaCall(new_id(), "reservation", b"hash")


# A do arrives.


async def test_a_first_do_has_its_effect_and_its_reply_is_stored(database: Database, call: SagaCall) -> None:
    assert await do(database, call) == {"made": 1}
    assert await effects(database) == ["do"]
    assert await barrier.read(database, call) == barrier.Stored("DONE", b"hash", {"made": 1}, None)


async def test_a_do_after_a_done_do_gets_the_stored_reply_and_has_no_effect(
    database: Database, call: SagaCall
) -> None:
    await do(database, call)
    assert await do(database, call) == {"made": 1}
    assert await effects(database) == ["do"]


async def test_a_do_after_a_done_do_with_another_request_is_refused(
    database: Database, call: SagaCall
) -> None:
    await do(database, call)
    with pytest.raises(Fault) as raised:
        await do(database, other_request(call))
    assert (raised.value.kind, raised.value.reason) == (FaultKind.FAILED_PRECONDITION, "REQUEST_CHANGED")
    assert not raised.value.recorded
    assert await effects(database) == ["do"]


async def test_a_refusal_undoes_its_effect_and_is_stored(database: Database, call: SagaCall) -> None:
    with pytest.raises(Fault) as raised:
        await do(database, call, refuse)
    assert raised.value.reason == "SOLD_OUT"
    assert raised.value.recorded
    assert await effects(database) == []
    stored = await barrier.read(database, call)
    assert stored is not None
    assert stored.outcome == "REFUSED"


async def test_a_do_after_a_refused_do_gets_the_stored_refusal_though_it_could_succeed_now(
    database: Database, call: SagaCall
) -> None:
    with pytest.raises(Fault):
        await do(database, call, refuse)
    with pytest.raises(Fault) as raised:
        await do(database, call, act)
    assert raised.value.recorded
    assert raised.value.reason == "SOLD_OUT"
    assert raised.value.subjects == (Detail("sku-1", "none left"),)
    assert await effects(database) == []


async def test_a_do_after_a_refused_do_with_another_request_is_refused_as_changed(
    database: Database, call: SagaCall
) -> None:
    with pytest.raises(Fault):
        await do(database, call, refuse)
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await do(database, other_request(call))


async def test_a_do_after_its_undo_came_first_is_tombstoned(database: Database, call: SagaCall) -> None:
    await undo(database, call)
    with pytest.raises(Fault) as raised:
        await do(database, call)
    assert (raised.value.kind, raised.value.reason) == (FaultKind.FAILED_PRECONDITION, "TOMBSTONED")
    assert raised.value.recorded
    assert await effects(database) == []


async def test_a_do_that_was_in_progress_is_resumed(database: Database, call: SagaCall) -> None:
    await start(database, call)
    assert await do(database, call) == {"made": 1}
    assert await effects(database) == ["do"]


async def test_a_do_in_progress_is_not_resumed_with_another_request(
    database: Database, call: SagaCall
) -> None:
    await start(database, call)
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await do(database, other_request(call))


async def test_a_do_after_a_real_undo_gets_the_stored_reply_of_the_do(
    database: Database, call: SagaCall
) -> None:
    await do(database, call)
    await undo(database, call)
    assert await do(database, call) == {"made": 1}
    assert await effects(database) == ["do", "undo"]


async def test_a_failure_that_is_no_refusal_stores_nothing_so_that_another_try_may_succeed(
    database: Database, call: SagaCall
) -> None:
    async def broken(tx: Transaction) -> dict[str, Any]:
        await act(tx)
        raise KeyError

    with pytest.raises(KeyError):
        await do(database, call, broken)
    assert await barrier.read(database, call) is None
    assert await do(database, call) == {"made": 1}


async def test_a_fault_that_may_pass_is_not_stored_as_a_refusal(database: Database, call: SagaCall) -> None:
    async def busy(_: Transaction) -> dict[str, Any]:
        raise Fault(FaultKind.UNAVAILABLE, "BUSY", "later")

    with pytest.raises(Fault, match="BUSY") as raised:
        await do(database, call, busy)
    assert not raised.value.recorded
    assert await barrier.read(database, call) is None


async def test_a_refusal_may_be_a_broken_constraint_of_the_effect(
    database: Database, call: SagaCall, rows: Any
) -> None:
    await rows(database, "CREATE UNIQUE INDEX one_each ON effects (what)")
    await rows(database, "INSERT INTO effects VALUES ('do')")

    def taken(error: Exception) -> Fault | None:
        duplicate = isinstance(error, errors.UniqueViolation)
        return Fault(FaultKind.ALREADY_EXISTS, "TAKEN", "taken") if duplicate else None

    with pytest.raises(Fault, match="TAKEN") as raised:
        await barrier.do_once(database, call, act, as_refusal=taken)
    assert raised.value.recorded


async def test_a_refusal_that_is_not_to_be_stored_rolls_back_and_the_next_do_is_evaluated_anew(
    database: Database, call: SagaCall
) -> None:
    for _ in range(2):
        with pytest.raises(Fault) as raised:
            await barrier.do_once(database, call, refuse, as_refusal=as_refusal, store_refusals=False)
        assert raised.value.reason == "SOLD_OUT"
        assert not raised.value.recorded
        assert await barrier.read(database, call) is None
        assert await effects(database) == []
    for _ in range(2):
        reply = await barrier.do_once(database, call, act, as_refusal=as_refusal, store_refusals=False)
        assert reply == {"made": 1}
    assert await effects(database) == ["do"]


# Its undo arrives.


async def test_an_undo_of_nothing_leaves_a_tombstone_and_succeeds(database: Database, call: SagaCall) -> None:
    assert await undo(database, call) == {}
    assert await effects(database) == []
    assert await barrier.read(database, call) == barrier.Stored("TOMBSTONE", None, None, {})


async def test_an_undo_of_nothing_may_have_something_to_do_once(database: Database, call: SagaCall) -> None:
    for _ in range(2):
        reply = await barrier.undo_once(database, call, act, when_nothing=compensate)
        assert reply == {"undone": 1}
    assert await effects(database) == ["undo"]
    with pytest.raises(Fault, match="TOMBSTONED"):
        await do(database, call)


async def test_an_undo_after_a_tombstone_gets_the_stored_reply(database: Database, call: SagaCall) -> None:
    await undo(database, call)
    assert await undo(database, call) == {}
    assert await effects(database) == []


async def test_an_undo_of_a_done_do_runs_once_and_its_reply_is_stored(
    database: Database, call: SagaCall
) -> None:
    await do(database, call)
    assert await undo(database, call) == {"undone": 1}
    assert await undo(database, call) == {"undone": 1}
    assert await effects(database) == ["do", "undo"]


async def test_an_undo_of_a_refused_do_succeeds_with_nothing_to_undo(
    database: Database, call: SagaCall
) -> None:
    with pytest.raises(Fault):
        await do(database, call, refuse)
    assert await undo(database, call) == {}
    assert await undo(database, call) == {}
    assert await effects(database) == []


async def test_an_undo_of_a_do_in_progress_runs_and_the_do_is_never_resumed(
    database: Database, call: SagaCall
) -> None:
    await start(database, call)
    assert await undo(database, call) == {"undone": 1}
    assert await undo(database, call) == {"undone": 1}
    with pytest.raises(Fault, match="TOMBSTONED"):
        await do(database, call)
    assert await effects(database) == ["undo"]


async def test_a_refused_undo_rolls_back_is_not_stored_and_may_succeed_later(
    database: Database, call: SagaCall
) -> None:
    await do(database, call)
    with pytest.raises(SoldOutError):
        await undo(database, call, refuse)
    assert await effects(database) == ["do"]
    assert await undo(database, call) == {"undone": 1}


# Both at once.


async def test_concurrent_duplicates_have_one_effect_and_one_reply(
    database: Database, call: SagaCall
) -> None:
    replies = await asyncio.gather(*(do(database, call) for _ in range(8)))
    assert replies == [{"made": 1}] * 8
    assert await effects(database) == ["do"]


async def test_a_concurrent_duplicate_waits_and_then_reads_the_stored_reply(
    database: Database, call: SagaCall
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction) -> dict[str, Any]:
        entered.set()
        await proceed.wait()
        return await act(tx)

    first = asyncio.create_task(do(database, call, slow))
    await entered.wait()
    second = asyncio.create_task(do(database, call))
    await someone_waits_for_a_lock(database)
    proceed.set()
    assert await asyncio.gather(first, second) == [{"made": 1}] * 2
    assert await effects(database) == ["do"]


async def test_a_duplicate_of_a_do_that_rolls_back_has_the_effect_in_its_place(
    database: Database, call: SagaCall
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def fails(_: Transaction) -> dict[str, Any]:
        entered.set()
        await proceed.wait()
        raise KeyError

    first = asyncio.create_task(do(database, call, fails))
    await entered.wait()
    second = asyncio.create_task(do(database, call))
    await someone_waits_for_a_lock(database)
    proceed.set()
    with pytest.raises(KeyError):
        await first
    assert await second == {"made": 1}
    assert await effects(database) == ["do"]


async def test_an_undo_that_overlaps_its_do_waits_for_it_and_undoes_it(
    database: Database, call: SagaCall
) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction) -> dict[str, Any]:
        entered.set()
        await proceed.wait()
        return await act(tx)

    first = asyncio.create_task(do(database, call, slow))
    await entered.wait()
    second = asyncio.create_task(undo(database, call))
    await someone_waits_for_a_lock(database)
    proceed.set()
    assert await asyncio.gather(first, second) == [{"made": 1}, {"undone": 1}]


async def test_dos_and_undos_in_any_mixture_leave_all_or_nothing(database: Database) -> None:
    """P4, I16: a tombstone and an effect of its do never meet."""
    for _ in range(20):
        call = SagaCall(new_id(), "reservation", b"hash")
        before = len(await effects(database))
        replies = await asyncio.gather(
            do(database, call),
            undo(database, call),
            do(database, call),
            undo(database, call),
            return_exceptions=True,
        )
        stored = await barrier.read(database, call)
        assert stored is not None
        had = len(await effects(database)) - before
        assert (stored.outcome, had) in {("TOMBSTONE", 0), ("DONE", 2)}
        assert replies[1] == replies[3]
