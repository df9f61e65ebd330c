"""What every saga log does, the one on PostgreSQL and the one in memory: beginning, writing, reading."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from orchestrator.entries import Event, State, Verb
from orchestrator.saga_log import Accepted, Holder, Standing, Written
from tests.contract.entries import (
    DONE,
    INTENT,
    LEASE_SECONDS,
    REFUSAL,
    acceptance,
    begun,
    begun_behind,
    command,
    entry,
    state_of,
)
from tests.contract.logs import Logs

# --- beginning ---


async def test_what_was_accepted_is_loaded_as_it_was(logs: Logs) -> None:
    log = logs.of("one")
    wanted = acceptance(pivot_intended=True)
    assert await log.accept(wanted) == Accepted(wanted.saga_id, b"hash", None, fresh=True)
    row, events = await log.load(wanted.saga_id)
    assert (row.state, row.sequence, row.epoch, row.owner) == (State.RUNNING, 1, 1, "one")
    assert (row.kind, row.version, row.definition_hash, row.key) == ("place_order", 1, "h", wanted.key)
    assert (row.context, row.step, row.pivot_intended) == (wanted.context, "order", True)
    assert (row.attempts, row.refusal, row.waiting_for, row.last_error) == (0, None, "", "")
    assert 290 < row.deadline_seconds <= 300
    assert 0 <= row.age_seconds < 10
    assert events == [INTENT]


@pytest.mark.parametrize(
    ("given", "request_id"),
    [("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "r-1"), (None, None)],
)
async def test_a_saga_keeps_the_trace_and_the_request_that_it_began_in_whoever_takes_it_over(
    logs: Logs, given: str | None, request_id: str | None
) -> None:
    one, two = logs.of("one"), logs.of("two")
    at_once = acceptance(owner="one", traceparent=given, request_id=request_id)
    behind = acceptance(owner="one", traceparent=given, request_id=request_id, events=(), step="")
    await one.accept(at_once)
    await one.accept_behind(behind)
    for saga_id in (at_once.saga_id, behind.saga_id):
        assert await two.command(command(saga_id, Verb.RETRY), owner="two") is not None
        row, _ = await two.load(saga_id)
        assert (row.owner, row.traceparent, row.request_id) == ("two", given, request_id)


async def test_a_saga_that_is_not_there_is_a_key_error(logs: Logs) -> None:
    log = logs.of("one")
    with pytest.raises(KeyError):
        await log.load(new_id())
    with pytest.raises(KeyError):
        await log.standing(new_id())


async def test_a_key_names_one_saga_however_often_it_is_accepted(logs: Logs) -> None:
    first = acceptance("key")
    others = [acceptance("key", request_hash=b"other", owner=name) for name in ("one", "two")]
    assert (await logs.of("one").accept(first)).fresh
    for other in others:
        found = await logs.of(other.owner).accept(other)
        assert found == Accepted(first.saga_id, b"hash", None, fresh=False)
    behind = acceptance("key", key=new_id())
    assert await logs.of("one").accept_behind(behind) == Accepted(first.saga_id, b"hash", None, fresh=False)


async def test_of_many_that_ask_at_once_under_one_key_one_begins(logs: Logs) -> None:
    wanted = [acceptance("key") for _ in range(20)]
    accepted = await asyncio.gather(*(logs.of("one").accept(item) for item in wanted))
    assert sum(item.fresh for item in accepted) == 1
    assert len({item.saga_id for item in accepted}) == 1


@pytest.mark.parametrize(
    "change", [{"caller": "another"}, {"rpc": "CancelOrder"}, {"idempotency_key": "another"}]
)
async def test_a_key_is_told_apart_by_caller_rpc_and_name(logs: Logs, change: dict[str, Any]) -> None:
    log = logs.of("one")
    await log.accept(acceptance("key"))
    assert (await log.accept(acceptance("key", **change))).fresh


async def test_our_own_saga_under_the_key_is_ours_to_drive(logs: Logs) -> None:
    """A commit whose reply got lost, and that is sent again."""
    log, wanted = logs.of("one"), acceptance("key")
    await log.accept(wanted)
    assert (await log.accept(wanted)).fresh
    assert len((await log.load(wanted.saga_id))[1]) == 1


async def test_find_says_what_a_key_names_and_begins_nothing(logs: Logs) -> None:
    log, wanted = logs.of("one"), acceptance("key")
    assert await log.find(wanted) is None
    await log.accept(wanted)
    assert await log.find(acceptance("key")) == Accepted(wanted.saga_id, b"hash", None, fresh=False)


# --- writing ---


@pytest.mark.parametrize(("epoch", "sequence"), [(2, 1), (0, 1), (1, 0), (1, 2), (1, 5)])
async def test_a_write_of_another_epoch_or_sequence_writes_nothing(
    logs: Logs, epoch: int, sequence: int
) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    stale = entry(saga_id, epoch=epoch, sequence=sequence, state=State.COMPLETED, answer=b"answer")
    assert await log.write(stale) is Written.FENCED
    row, events = await log.load(saga_id)
    assert (row.state, row.sequence, row.epoch, events) == (State.RUNNING, 1, 1, [INTENT])
    assert (await log.standing(saga_id)).answer is None


async def test_a_write_to_a_saga_that_is_not_there_is_fenced(logs: Logs) -> None:
    assert await logs.of("one").write(entry(new_id())) is Written.FENCED


async def test_everything_that_an_entry_says_is_there_afterwards(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    events = (
        DONE._replace(recorded=True, detail="so"),
        Event("", "unwind", 0, "intended", detail="NO: no"),
        Event("order", "undo", 0, "intended", request=b"undo"),
    )
    written = entry(
        saga_id,
        state=State.COMPENSATING,
        attempts=3,
        pivot_intended=True,
        refusal=REFUSAL,
        events=events,
        step="order",
        deadline_seconds=50.0,
        delay_seconds=20.0,
        waiting_for="payments",
        fingerprint="print",
        last_error="NO: no",
    )
    assert await log.write(written) is Written.YES
    row, found = await log.load(saga_id)
    assert (row.state, row.sequence, row.epoch, row.attempts) == (State.COMPENSATING, 4, 1, 3)
    assert (row.pivot_intended, row.refusal, row.step, row.owner) == (True, REFUSAL, "order", "one")
    assert (row.waiting_for, row.error_fingerprint, row.last_error) == ("payments", "print", "NO: no")
    assert 40 < row.deadline_seconds <= 50
    assert 10 < await logs.due_in(saga_id) <= 20
    assert found == [INTENT, *events]


async def test_an_entry_leaves_the_refusal_alone_where_it_names_none(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    assert await log.write(entry(saga_id, state=State.COMPENSATING, refusal=REFUSAL)) is Written.YES
    assert await log.write(entry(saga_id, sequence=2, state=State.COMPENSATING)) is Written.YES
    assert (await log.load(saga_id))[0].refusal == REFUSAL


async def test_an_entry_leaves_deadline_and_due_time_alone_where_it_names_none(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    await logs.move_back(saga_id, "next_run", 1000)
    assert await log.write(entry(saga_id)) is Written.YES
    assert 290 < (await log.load(saga_id))[0].deadline_seconds <= 300
    assert await logs.due_in(saga_id) < -900


async def test_an_entry_that_releases_leaves_the_saga_to_anybody(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    await log.write(entry(saga_id, release=True, delay_seconds=0.0, events=()))
    row, events = await log.load(saga_id)
    assert (row.owner, row.epoch, row.sequence, events) == (None, 1, 1, [INTENT])


async def test_entries_of_many_sagas_at_once_are_judged_one_by_one(logs: Logs) -> None:
    log = logs.of("one")
    sagas = [await begun(log) for _ in range(10)]
    entries = [entry(saga_id, epoch=1 + number % 2) for number, saga_id in enumerate(sagas)]
    written = await asyncio.gather(*(log.write(item) for item in entries))
    assert written == [Written.YES, Written.FENCED] * 5
    lengths = [len((await log.load(saga_id))[1]) for saga_id in sagas]
    assert lengths == [2, 1] * 5


async def test_the_same_entry_again_is_known_to_have_landed(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    assert [await log.write(entry(saga_id)) for _ in range(2)] == [Written.YES, Written.YES]
    assert (await log.load(saga_id))[1] == [INTENT, DONE]


async def test_another_entry_at_the_same_sequence_has_not_landed(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    await log.write(entry(saga_id))
    other = entry(saga_id, events=(Event("order", "do", 1, "refused"),))
    assert await log.write(other) is Written.FENCED


async def test_the_terminal_answer_is_kept_under_the_key(logs: Logs) -> None:
    log, wanted = logs.of("one"), acceptance("key")
    await log.accept(wanted)
    standing = await log.standing(wanted.saga_id)
    assert standing == Standing(State.RUNNING, None, None, wanted.key)
    ending = entry(wanted.saga_id, state=State.COMPENSATED, answer=b"answer", refusal=REFUSAL)
    await log.write(ending)
    standing = await log.standing(wanted.saga_id)
    assert standing == Standing(State.COMPENSATED, b"answer", REFUSAL, wanted.key)
    assert await log.accept(acceptance("key")) == Accepted(wanted.saga_id, b"hash", b"answer", fresh=False)


async def test_what_is_loaded_while_somebody_writes_fits_together(logs: Logs) -> None:
    log, other = logs.of("one"), logs.of("two")
    saga_id = await begun(log)

    async def write() -> None:
        for sequence in range(1, 41):
            assert await log.write(entry(saga_id, sequence=sequence, attempts=sequence)) is Written.YES

    writing, loaded = asyncio.create_task(write()), []
    while not writing.done():
        loaded.append(await other.load(saga_id))
    await writing
    for row, events in loaded:
        assert len(events) == row.sequence == row.attempts + 1
    assert len({row.sequence for row, _ in loaded}) > 1


# --- the order lock ---


async def test_a_saga_on_a_free_order_is_driven_at_once(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    wanted = acceptance(key=key, events=())
    assert await log.accept_behind(wanted) == Accepted(wanted.saga_id, b"hash", None, fresh=True)
    row, events = await log.load(wanted.saga_id)
    assert (row.state, row.owner, row.epoch, row.sequence, events) == (State.RUNNING, "one", 1, 0, [])
    assert await log.holder(key) == Holder(
        wanted.saga_id, "place_order", State.RUNNING, pivot_intended=False, context=wanted.context
    )


@pytest.mark.parametrize("state", [State.RUNNING, State.COMPENSATING, State.PAUSED])
async def test_a_saga_on_an_order_that_another_has_waits_and_is_nobodys(logs: Logs, state: State) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    await log.write(entry(first, state=state))
    wanted = acceptance(key=key, events=())
    assert await log.accept_behind(wanted) == Accepted(
        wanted.saga_id, b"hash", None, fresh=True, waiting=True
    )
    row, _ = await log.load(wanted.saga_id)
    assert (row.state, row.owner) == (State.WAITING, None)
    holder = await log.holder(key)
    assert holder is not None
    assert holder.saga_id == first


async def test_behind_a_parked_saga_the_order_is_busy_and_nothing_is_written(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    await log.write(entry(first, state=State.PARKED))
    wanted = acceptance("key", key=key, events=())
    with pytest.raises(Fault, match=str(first)) as refused:
        await log.accept_behind(wanted)
    assert refused.value.reason == "ORDER_BUSY"
    assert await log.find(wanted) is None
    with pytest.raises(KeyError):
        await log.load(wanted.saga_id)


async def test_a_key_that_names_a_saga_is_answered_even_where_the_order_is_busy(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    waiting = acceptance("key", key=key, events=())
    await log.accept_behind(waiting)
    await log.write(entry(first, state=State.PARKED))
    again = await log.accept_behind(acceptance("key", key=key, events=()))
    assert again == Accepted(waiting.saga_id, b"hash", None, fresh=False)


@pytest.mark.parametrize("end", [State.COMPLETED, State.COMPENSATED])
async def test_who_waits_longest_starts_in_the_write_that_ends_the_saga_before(
    logs: Logs, end: State
) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    waiting = [await begun_behind(log, key) for _ in range(2)]
    await log.write(entry(first, state=end, answer=b""))
    assert [await state_of(log, saga_id) for saga_id in waiting] == [State.RUNNING, State.WAITING]
    row, _ = await log.load(waiting[0])
    assert (row.owner, row.epoch, row.sequence) == (None, 1, 0)
    await log.write(entry(waiting[0], sequence=0, state=end, answer=b""))
    assert [await state_of(log, saga_id) for saga_id in waiting] == [end, State.RUNNING]
    await log.write(entry(waiting[1], sequence=0, state=end, answer=b""))
    assert await log.holder(key) is None


async def test_parking_gives_the_order_to_nobody(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    waiting = await begun_behind(log, key)
    await log.write(entry(first, state=State.PARKED))
    assert await state_of(log, waiting) is State.WAITING
    assert await log.claim([], limit=10, newest_first=False) == []
    assert await state_of(log, waiting) is State.WAITING


async def test_a_saga_that_is_withdrawn_while_it_waits_leaves_the_order_to_its_holder(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    withdrawn, third = [await begun_behind(log, key) for _ in range(2)]
    epoch = await log.command(command(withdrawn, Verb.CANCEL, before_pivot=True), owner="one")
    assert epoch == 2
    ended = entry(withdrawn, epoch=2, state=State.COMPENSATED, answer=b"")
    assert await log.write(ended) is Written.YES
    assert [await state_of(log, saga_id) for saga_id in (first, withdrawn, third)] == [
        State.RUNNING,
        State.COMPENSATED,
        State.WAITING,
    ]
    await log.write(entry(first, state=State.COMPLETED, answer=b""))
    assert await state_of(log, third) is State.RUNNING


async def test_holder_and_first_waiting_may_end_at_the_same_moment(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    withdrawn, third = [await begun_behind(log, key) for _ in range(2)]
    await log.command(command(withdrawn, Verb.CANCEL, before_pivot=True), owner="one")
    written: Sequence[Written] = await asyncio.gather(
        log.write(entry(first, state=State.COMPLETED, answer=b"")),
        log.write(entry(withdrawn, epoch=2, state=State.COMPENSATED, answer=b"")),
    )
    assert list(written) == [Written.YES, Written.YES]
    # Where nobody of the two could know that it was the last, the sweep starts who waits.
    await log.renew(LEASE_SECONDS)
    await logs.of("two").claim([], limit=10, newest_first=True)
    states = [await state_of(log, saga_id) for saga_id in (first, withdrawn, third)]
    assert states == [State.COMPLETED, State.COMPENSATED, State.RUNNING]


async def test_sagas_that_come_at_once_on_a_free_order_are_driven_one_at_a_time(logs: Logs) -> None:
    key = new_id()
    wanted = [acceptance(key=key, events=(), owner=name) for name in ("one", "two") * 5]
    accepted = await asyncio.gather(*(logs.of(item.owner).accept_behind(item) for item in wanted))
    assert [item.fresh for item in accepted] == [True] * 10
    assert sum(not item.waiting for item in accepted) == 1
