"""What every saga log does with a verb from outside, for each verb in each state; both logs do the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from chassis.ids import new_id
from orchestrator.entries import VERB_STATES, Event, State, Verb
from orchestrator.saga_log import SagaLog, Written
from tests.contract.entries import INTENT, LEASE_SECONDS, REFUSAL, begun, command, entry
from tests.contract.logs import Logs, opened

BOOLEANS = (False, True)
CASES = list(itertools.product(Verb, State, BOOLEANS, BOOLEANS, (None, REFUSAL)))
Case = tuple[Verb, State, bool, bool, dict[str, Any] | None]


async def outcome(log: SagaLog, case: Case) -> tuple[Any, ...]:
    """Bring a saga where the case says, ask for the verb, and say where it stands then."""
    verb, state, before_pivot, pivot_intended, refusal = case
    saga_id = await begun(log)
    events = (Event("order", "do", 1, "unknown"),)
    await log.write(
        entry(
            saga_id,
            state=state,
            attempts=4,
            pivot_intended=pivot_intended,
            refusal=refusal,
            events=events,
            step="order",
            waiting_for="payments",
            delay_seconds=60.0,
        )
    )
    epoch = await log.command(command(saga_id, verb, before_pivot=before_pivot), owner="two")
    row, found = await log.load(saga_id)
    standing = (row.state, row.sequence, row.epoch, row.owner, row.attempts, row.waiting_for, row.step)
    return epoch, standing, row.pivot_intended, row.refusal, found


def expected(case: Case) -> tuple[Any, ...]:
    verb, state, before_pivot, pivot_intended, refusal = case
    before = [INTENT, Event("order", "do", 1, "unknown")]
    if state not in VERB_STATES[verb] or (before_pivot and (pivot_intended or refusal)):
        standing: tuple[Any, ...] = (state, 2, 1, "one", 4, "payments", "order")
        return None, standing, pivot_intended, refusal, before
    if verb is Verb.PAUSE:
        after, owner = State.PAUSED, None
    else:
        directed = State.COMPENSATING if refusal else State.RUNNING
        after, owner = State.WAITING if state is State.WAITING else directed, "two"
    asked = Event("", verb, 0, "requested", actor="operator", reason="because")
    return 2, (after, 3, 2, owner, 0, "", "order"), pivot_intended, refusal, [*before, asked]


@pytest.mark.parametrize("name", [pytest.param("postgres", marks=pytest.mark.integration), "memory"])
async def test_a_verb_takes_a_saga_over_exactly_where_it_fits(
    name: str, new_database: Callable[..., str]
) -> None:
    async with opened(name, lambda: new_database("orchestrator")) as logs:
        found = {(*case[:4], bool(case[4])): await outcome(logs.of("one"), case) for case in CASES}
    assert found == {(*case[:4], bool(case[4])): expected(case) for case in CASES}


@pytest.mark.parametrize(("sequence", "fits"), [(None, True), (1, True), (0, False), (2, False)])
async def test_a_verb_that_names_a_sequence_fits_only_there(
    logs: Logs, sequence: int | None, fits: bool
) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    epoch = await log.command(command(saga_id, Verb.SKIP, sequence=sequence), owner="one")
    assert epoch == (2 if fits else None)


async def test_a_skip_journals_the_step_and_the_reply_that_it_supplies(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    asked = command(saga_id, Verb.SKIP)
    supplied = asked.event._replace(step="told", reply=b"supplied", detail="told by phone")
    await log.command(type(asked)(saga_id=saga_id, verb=Verb.SKIP, event=supplied, sequence=1), owner="one")
    assert (await log.load(saga_id))[1][-1] == supplied


async def test_a_verb_for_a_saga_that_is_not_there_fits_nowhere(logs: Logs) -> None:
    assert await logs.of("one").command(command(new_id(), Verb.RETRY), owner="one") is None


async def test_a_verb_fences_who_drove_the_saga_and_makes_it_due(logs: Logs) -> None:
    one, two = logs.of("one"), logs.of("two")
    saga_id = await begun(one)
    await one.write(entry(saga_id, delay_seconds=60.0))
    await one.renew(LEASE_SECONDS)
    assert await two.command(command(saga_id, Verb.RETRY), owner="two") == 2
    assert await logs.due_in(saga_id) <= 0
    assert await one.write(entry(saga_id, sequence=2)) is Written.FENCED
    assert await two.write(entry(saga_id, epoch=2, sequence=3)) is Written.YES


async def test_between_a_cancel_and_the_pivot_one_write_decides(logs: Logs) -> None:
    log = logs.of("one")
    cancelled, passed = await begun(log), await begun(log)
    cancel = {"before_pivot": True}
    assert await log.command(command(cancelled, Verb.CANCEL, **cancel), owner="one") == 2
    assert await log.write(entry(cancelled, pivot_intended=True)) is Written.FENCED
    assert await log.write(entry(passed, pivot_intended=True)) is Written.YES
    assert await log.command(command(passed, Verb.CANCEL, **cancel), owner="one") is None


async def test_nobody_sweeps_a_saga_that_is_paused_until_it_is_resumed(logs: Logs) -> None:
    log = logs.of("one")
    saga_id = await begun(log)
    await log.command(command(saga_id, Verb.PAUSE), owner="one")
    assert await logs.of("two").claim([], limit=10, newest_first=False) == []
    assert await log.command(command(saga_id, Verb.RESUME), owner="two") == 3
    row, _ = await log.load(saga_id)
    assert (row.state, row.owner, row.epoch) == (State.RUNNING, "two", 3)
