"""What every saga log does: leases and claims, the hand-over, waking, postponing, forgetting."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from datetime import timedelta
from uuid import UUID

import pytest

from chassis.clock import SystemClock
from chassis.errors import Fault
from chassis.ids import new_id, uuid7_floor
from orchestrator.entries import State
from orchestrator.journal import RAMP_PER_SECOND, STRANGE_SECONDS
from orchestrator.saga_log import MAX_WAITING, SagaLog, Written
from tests.contract.entries import LEASE_SECONDS, acceptance, begun, begun_behind, entry, state_of
from tests.contract.logs import ARCHIVE_AFTER, Logs

OPEN = [State.RUNNING, State.COMPENSATING]
CLOSED = [State.WAITING, State.PAUSED, State.PARKED, State.COMPLETED, State.COMPENSATED]
AWAIT_SECONDS = 20.0


async def claimed(log: SagaLog, *in_memory: UUID, limit: int = 10, newest_first: bool = False) -> set[UUID]:
    return set(await log.claim(in_memory, limit=limit, newest_first=newest_first))


async def until_claimed(log: SagaLog) -> set[UUID]:
    """Claim until there is something; time passes at the log, which tells nobody."""
    async with asyncio.timeout(AWAIT_SECONDS):
        while True:
            found = await claimed(log)
            if found:
                return found
            await asyncio.sleep(0.02)


async def released(logs: Logs, due_seconds_ago: float = 1.0) -> UUID:
    """Make a saga that is nobody's, and due."""
    log = logs.of("one")
    saga_id = await begun(log)
    await log.write(entry(saga_id, release=True, events=()))
    await logs.move_back(saga_id, "next_run", due_seconds_ago)
    return saga_id


# --- whose sagas are claimed ---


async def test_what_is_nobodys_is_claimed_once_with_a_new_epoch(logs: Logs) -> None:
    saga_id = await released(logs)
    assert await claimed(logs.of("two")) == {saga_id}
    row, _ = await logs.of("two").load(saga_id)
    assert (row.owner, row.epoch, row.sequence, row.state) == ("two", 2, 1, State.RUNNING)
    await logs.of("two").renew(LEASE_SECONDS)
    assert await claimed(logs.of("one")) == set()


async def test_the_write_of_who_had_it_before_is_fenced(logs: Logs) -> None:
    saga_id = await released(logs)
    await claimed(logs.of("two"))
    assert await logs.of("one").write(entry(saga_id)) is Written.FENCED
    assert await logs.of("two").write(entry(saga_id, epoch=2)) is Written.YES


@pytest.mark.parametrize("state", OPEN)
async def test_sagas_of_a_replica_whose_lease_is_over_are_claimed(logs: Logs, state: State) -> None:
    one, two = logs.of("one"), logs.of("two")
    saga_id = await begun(one)
    await one.write(entry(saga_id, state=state))
    await one.renew(LEASE_SECONDS)
    assert await claimed(two) == set()
    await logs.expire_replica("one", 0.1)
    assert await claimed(two) == {saga_id}


async def test_a_lease_runs_out_by_itself(logs: Logs) -> None:
    one, two = logs.of("one"), logs.of("two")
    saga_id = await begun(one)
    await one.renew(0.2)
    assert await until_claimed(two) == {saga_id}


async def test_a_renewed_lease_keeps_the_sagas(logs: Logs) -> None:
    one, two = logs.of("one"), logs.of("two")
    await begun(one)
    await one.renew(LEASE_SECONDS)
    await logs.expire_replica("one", 0.1)
    await one.renew(LEASE_SECONDS)
    assert await claimed(two) == set()


async def test_sagas_of_a_replica_that_never_had_a_lease_are_claimed(logs: Logs) -> None:
    saga_id = await begun(logs.of("one"))
    assert await claimed(logs.of("two")) == {saga_id}


async def test_our_own_that_is_not_in_memory_is_claimed_after_the_grace(logs: Logs) -> None:
    log = logs.of("one")
    await log.renew(LEASE_SECONDS)
    lost, held = await begun(log), await begun(log)
    assert await claimed(log, held) == set()
    for saga_id in (lost, held):
        await logs.move_back(saga_id, "update_time", 10)
    assert await claimed(log, held) == {lost}
    assert (await log.load(lost))[0].epoch == 2


async def test_another_replica_leaves_alone_what_its_living_owner_may_have_lost(logs: Logs) -> None:
    one, two = logs.of("one"), logs.of("two")
    await one.renew(LEASE_SECONDS)
    await logs.move_back(await begun(one), "update_time", 10)
    assert await claimed(two) == set()


async def test_what_is_not_yet_due_is_left_alone(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    await log.write(entry(saga_id, release=True, delay_seconds=60.0))
    assert await claimed(logs.of("two")) == set()
    await logs.move_back(saga_id, "next_run", 61)
    assert await claimed(logs.of("two")) == {saga_id}


@pytest.mark.parametrize("state", CLOSED)
async def test_what_is_not_under_way_is_left_alone(logs: Logs, state: State) -> None:
    one, key = logs.of("one"), new_id()
    if state is State.WAITING:
        await one.renew(LEASE_SECONDS)
        await begun(one, key=key)
        await begun_behind(one, key)
    else:
        await one.write(entry(await begun(one), state=state, answer=b""))
    assert await claimed(logs.of("two")) == set()


async def test_sagas_of_definitions_that_a_replica_does_not_have_are_left_to_those_that_do(
    logs: Logs,
) -> None:
    saga_id = await released(logs)
    stranger, friend = logs.of("two", drives=["place_order 1 other"]), logs.of("three", ["place_order 1 h"])
    assert await claimed(stranger) == set()
    assert await claimed(friend) == {saga_id}


async def test_a_saga_that_nobody_knows_is_claimed_all_the_same_after_a_while(logs: Logs) -> None:
    stranger = logs.of("two", drives=[])
    saga_id = await released(logs, STRANGE_SECONDS + 1)
    assert await claimed(stranger) == set()
    await logs.move_back(saga_id, "update_time", STRANGE_SECONDS + 1)
    assert await claimed(stranger) == {saga_id}


# --- which of them, in which order ---


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_claim_takes_so_many_from_one_end(logs: Logs, newest_first: bool) -> None:
    due = [await released(logs, seconds) for seconds in (40.0, 30.0, 20.0, 10.0)]
    expected = due[2:] if newest_first else due[:2]
    assert await claimed(logs.of("two"), limit=2, newest_first=newest_first) == set(expected)


async def test_two_claims_at_once_take_no_saga_twice(logs: Logs) -> None:
    due = {await released(logs) for _ in range(10)}
    for name in ("two", "three"):
        await logs.of(name).renew(LEASE_SECONDS)
    found = await asyncio.gather(*(claimed(logs.of(name), limit=6) for name in ("two", "three")))
    assert found[0] & found[1] == set()
    assert (found[0] | found[1]) <= due


async def test_a_sweep_starts_the_one_that_waits_longest_for_an_order_that_nobody_has(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    first = await begun(log, key=key)
    waiting = [await begun_behind(log, key) for _ in range(2)]
    # As where it ended in the moment in which they began to wait: written away from under the lock's rule.
    await log.write(entry(first, state=State.WAITING, release=True))
    await logs.move_back(first, "create_time", 10)
    assert await claimed(log) == {first}
    assert [await state_of(log, saga_id) for saga_id in waiting] == [State.WAITING] * 2


# --- handing over, postponing, waking ---


async def test_a_hand_over_leaves_open_sagas_to_anybody_and_fences_the_old_owner(logs: Logs) -> None:
    one = logs.of("one")
    await one.renew(LEASE_SECONDS)
    running, paused = await begun(one), await begun(one)
    other = await begun(logs.of("two"))
    await one.write(entry(paused, state=State.PAUSED))
    await one.hand_over()
    row, _ = await one.load(running)
    assert (row.owner, row.epoch, row.state) == (None, 2, State.RUNNING)
    assert [(await one.load(saga_id))[0].epoch for saga_id in (paused, other)] == [1, 1]
    assert await logs.replicas() == []
    assert await one.write(entry(running)) is Written.FENCED
    assert running in await claimed(logs.of("three"))


async def test_a_postponed_saga_is_nobodys_and_due_later(logs: Logs) -> None:
    one = logs.of("one")
    saga_id = await begun(one)
    await one.postpone(saga_id, 1, 60.0)
    row, _ = await one.load(saga_id)
    assert (row.owner, row.epoch, row.attempts, row.sequence) == (None, 2, 1, 1)
    assert 50 < await logs.due_in(saga_id) <= 60
    assert await one.write(entry(saga_id)) is Written.FENCED


@pytest.mark.parametrize(("by", "epoch"), [("one", 2), ("two", 1)])
async def test_only_who_has_a_saga_postpones_it(logs: Logs, by: str, epoch: int) -> None:
    saga_id = await begun(logs.of("one"))
    await logs.of(by).postpone(saga_id, epoch, 60.0)
    row, _ = await logs.of("one").load(saga_id)
    assert (row.owner, row.epoch, row.attempts) == ("one", 1, 0)


@pytest.mark.parametrize("state", CLOSED)
async def test_what_is_not_under_way_is_not_postponed(logs: Logs, state: State) -> None:
    one = logs.of("one")
    saga_id = await begun(one)
    await one.write(entry(saga_id, state=state))
    await one.postpone(saga_id, 1, 60.0)
    assert (await one.load(saga_id))[0].epoch == 1


async def held(logs: Logs, participant: str, seconds: float = 100.0, *, release: bool = True) -> UUID:
    log = logs.of("one")
    saga_id = await begun(log)
    waiting = entry(saga_id, release=release, delay_seconds=seconds, waiting_for=participant, events=())
    await log.write(waiting)
    return saga_id


async def test_sagas_that_wait_for_a_participant_come_back_in_a_ramp(logs: Logs) -> None:
    waiting = [await held(logs, "payments") for _ in range(30)]
    others = [
        await held(logs, "inventory"),
        await held(logs, "payments", release=False),
        await held(logs, ""),
    ]
    await logs.of("two").wake("payments")
    due = [await logs.due_at(saga_id) for saga_id in waiting]
    # The rate doubles each second.
    ramp = [math.log2(1 + number * math.log(2) / RAMP_PER_SECOND) for number in range(30)]
    assert [moment - due[0] for moment in due] == pytest.approx(ramp, abs=0.1)
    assert await logs.due_in(waiting[0]) <= 0
    assert [90 < await logs.due_in(saga_id) <= 100 for saga_id in others] == [True] * 3


async def test_waking_makes_nothing_later_and_no_name_wakes_nobody(logs: Logs) -> None:
    soon, nameless = await held(logs, "payments", 0.0), await held(logs, "")
    await logs.of("two").wake("payments")
    await logs.of("two").wake("")
    assert await logs.due_in(soon) <= 0
    assert await logs.due_in(nameless) > 90


# --- forgetting ---


async def test_old_finished_sagas_are_archived_and_open_ones_are_not(logs: Logs) -> None:
    log = logs.of("one")
    age = ARCHIVE_AFTER + timedelta(hours=1)
    long_ago = uuid7_floor(SystemClock().now() - age)
    made = [dataclasses.replace(acceptance(), saga_id=UUID(int=long_ago.int + number)) for number in range(4)]
    for item in made:
        await log.accept(item)
    done, undone, parked, recent = [item.saga_id for item in made]
    for saga_id, state in ((done, State.COMPLETED), (undone, State.COMPENSATED), (parked, State.PARKED)):
        await log.write(entry(saga_id, state=state, answer=b""))
        await logs.move_back(saga_id, "update_time", age.total_seconds())
    await log.write(entry(recent, state=State.COMPLETED, answer=b""))
    await log.prune(LEASE_SECONDS)
    assert await logs.archived() == sorted([done, undone])
    for saga_id in (done, undone):
        with pytest.raises(KeyError):
            await log.load(saga_id)
    assert [await state_of(log, saga_id) for saga_id in (parked, recent)] == [State.PARKED, State.COMPLETED]


async def test_a_key_is_forgotten_when_its_time_is_over_and_its_saga_has_ended(logs: Logs) -> None:
    log = logs.of("one")
    ended, open_, fresh = acceptance("ended"), acceptance("open"), acceptance("fresh")
    for item in (ended, open_, fresh):
        await log.accept(item)
    for item in (ended, fresh):
        await log.write(entry(item.saga_id, state=State.COMPLETED, answer=b"answer"))
    for item in (ended, open_):
        await logs.expire_key(item.saga_id)
    await log.prune(LEASE_SECONDS)
    assert [await log.find(item) is None for item in (ended, open_, fresh)] == [True, False, False]


async def test_a_replica_that_is_long_gone_is_forgotten_once_it_has_no_sagas(logs: Logs) -> None:
    for name in ("busy", "gone", "late", "here"):
        await logs.of(name).renew(LEASE_SECONDS)
    await begun(logs.of("busy"))
    for name, seconds in (("busy", 1000.0), ("gone", 1000.0), ("late", 10.0)):
        await logs.expire_replica(name, seconds)
    await logs.of("here").prune(LEASE_SECONDS)
    assert await logs.replicas() == ["busy", "here", "late"]


async def test_for_one_order_a_bounded_number_waits_and_replays_are_answered_all_the_same(logs: Logs) -> None:
    log, key = logs.of("one"), new_id()
    await begun(log, key=key)
    waiting = [acceptance(f"key {number}", key=key, events=()) for number in range(MAX_WAITING)]
    for wanted in waiting:
        assert (await log.accept_behind(wanted)).waiting
    one_more = acceptance("one more", key=key, events=())
    with pytest.raises(Fault) as refused:
        await log.accept_behind(one_more)
    assert refused.value.reason == "TOO_MANY_WAITING"
    assert refused.value.retry_after is not None
    assert await log.find(one_more) is None
    replayed = await log.accept_behind(acceptance("key 0", key=key, events=()))
    assert (replayed.saga_id, replayed.fresh) == (waiting[0].saga_id, False)
    assert (await log.accept_behind(acceptance("another order", events=()))).fresh


async def test_who_ends_a_saga_behind_which_one_waits_says_that_there_is_something_to_claim(
    logs: Logs,
) -> None:
    log, key = logs.of("one"), new_id()
    lonely = await begun(log, key=new_id())
    await log.write(entry(lonely, state=State.COMPLETED))
    assert not log.freed.is_set()
    first = await begun(log, key=key)
    second = acceptance("second", key=key, events=())
    await log.accept_behind(second)
    await log.write(entry(first, state=State.COMPLETED))
    assert log.freed.is_set()
    assert await log.claim([], limit=10, newest_first=False) == [second.saga_id]
