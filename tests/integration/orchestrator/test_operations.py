"""Every verb in every state, at a replica that drives the saga or at another; and what each leaves behind."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from orchestrator.entries import State, Verb
from orchestrator.operations import Request
from tests.integration.orchestrator.operated import (
    TELLING,
    NewDatabase,
    behind,
    bring,
    never,
    pair,
    plays,
    refusal_of,
    request,
)
from tests.integration.orchestrator.scripted import FULL, NO, UNRECORDED, Replica, Script

pytestmark = pytest.mark.integration

RACES = 200
DONE = {State.COMPLETED, State.COMPENSATED}

ENDED, NOT, PIVOTED = "SAGA_ENDED", "VERB_NOT_POSSIBLE", "PIVOT_PASSED"
NO_SKIP, NOT_AT = "STEP_NOT_SKIPPABLE", "STEP_NOT_PENDING"
C_, U_ = State.COMPLETED, State.COMPENSATED
# What each of retry, skip, compensate, pause, resume, cancel gives: the state in the end, or the refusal.
TABLE: dict[str, tuple[str, ...]] = {
    "running": (C_, NOT_AT, U_, State.PAUSED, NOT, U_),
    "running after the pivot": (C_, C_, PIVOTED, State.PAUSED, NOT, PIVOTED),
    "compensating": (U_, NOT, NOT, State.PAUSED, NOT, NOT),
    "waiting": (NOT, NOT, U_, NOT, NOT, U_),
    "paused": (NOT, NOT, U_, NOT, C_, U_),
    "parked before the pivot": (C_, NOT_AT, U_, NOT, NOT, U_),
    "parked after the pivot": (C_, C_, PIVOTED, NOT, NOT, PIVOTED),
    "parked undo": (U_, NO_SKIP, NOT, NOT, NOT, NOT),
    "completed": (ENDED,) * 6,
    "compensated": (ENDED,) * 6,
}
VERBS = (Verb.RETRY, Verb.SKIP, Verb.COMPENSATE, Verb.PAUSE, Verb.RESUME, Verb.CANCEL)
CELLS = [
    (where, verb, expected) for where, row in TABLE.items() for verb, expected in zip(VERBS, row, strict=True)
]


@pytest.mark.parametrize("at", ["the owner", "another replica"])
async def test_every_verb_in_every_state_ends_as_the_table_says(new_database: NewDatabase, at: str) -> None:
    found: dict[tuple[str, Verb], str] = {}
    async with pair(new_database, Script()) as (one, two):
        for where, verb, _ in CELLS:
            script = Script()
            plays(one, script)
            saga_id = await bring(one, script, where)
            asked_at = one if at == "the owner" else two
            found[where, verb] = await outcome(asked_at, script, request(saga_id, verb))
    assert found == {(where, verb): expected for where, verb, expected in CELLS}


async def outcome(asked_at: Replica, script: Script, asked: Request) -> str:
    before = await asked_at.events(asked.saga_id)
    row = await asked_at.row(asked.saga_id)
    preview = await previewed(asked_at, asked)
    assert await asked_at.events(asked.saga_id) == before
    assert await asked_at.row(asked.saga_id) | {"due_seconds": 0} == row | {"due_seconds": 0}
    (said,) = await asyncio.gather(asked_at.operations.perform(asked), return_exceptions=True)
    if isinstance(said, Fault):
        assert preview == said.reason
        assert await asked_at.events(asked.saga_id) == before
        return said.reason
    assert said is None
    # The old owner may hang in its call for ever; only a replica that took the saga over goes on.
    if asked_at.name == "one":
        for event in script.holds.values():
            event.set()
    if asked.verb is Verb.PAUSE:
        return State((await asked_at.row(asked.saga_id))["state"])
    end = await asked_at.end_of(asked.saga_id)
    assert preview == end.state
    return end.state


async def previewed(asked_at: Replica, asked: Request) -> str:
    try:
        return (await asked_at.operations.preview(asked)).state
    except Fault as fault:
        return fault.reason


# --- what is journaled ---


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_is_journaled_with_who_asked_and_why(new_database: NewDatabase, verb: Verb) -> None:
    where = {Verb.SKIP: "parked after the pivot", Verb.RESUME: "paused"}.get(verb, "running")
    script = Script()
    async with pair(new_database, script) as (one, two):
        saga_id = await bring(one, script, where)
        await two.operations.perform(request(saga_id, verb, reason="because — “so” ✓"))
        rows = await one.rows(
            "SELECT step, op, outcome, actor, reason FROM saga_event"
            " WHERE saga_id = %(id)s AND actor = 'ops@example.com'",
            id=saga_id,
        )
    asked = {"step": "told" if verb is Verb.SKIP else "", "op": verb, "outcome": "requested"}
    assert rows == [asked | {"actor": "ops@example.com", "reason": "because — “so” ✓"}]


@pytest.mark.parametrize(
    ("verb", "reason"), [(Verb.CANCEL, "CANCELLED"), (Verb.COMPENSATE, "COMPENSATED_BY_OPERATOR")]
)
async def test_who_unwinds_says_why_in_the_refusal(
    new_database: NewDatabase, verb: Verb, reason: str
) -> None:
    script = Script()
    async with pair(new_database, script) as (one, two):
        saga_id = await bring(one, script, "running")
        await two.operations.perform(request(saga_id, verb))
        assert (await two.end_of(saga_id)).state is State.COMPENSATED
        refusal = (await one.row(saga_id))["refusal"]
    assert (refusal["reason"], refusal["message"]) == (reason, "asked by phone")


# --- takeover ---


async def test_a_call_that_hangs_at_the_old_owner_neither_holds_the_verb_up_nor_comes_back(
    new_database: NewDatabase,
) -> None:
    stuck, free = Script(holds={"c": never()}), Script()
    async with pair(new_database, stuck, free) as (one, two):
        saga_id = await one.begin(TELLING)
        await stuck.asked_for("c")
        await two.ask(saga_id, Verb.RETRY)
        assert (await two.end_of(saga_id)).state is State.COMPLETED
        before = await two.events(saga_id)
        stuck.holds["c"].set()
        await one.left_memory(saga_id)
        assert await two.events(saga_id) == before
    # The same bytes, so that the participant's barrier knows the second call for the first.
    first = next(seen for seen in stuck.seen if seen.name == "c")
    again = next(seen for seen in free.seen if seen.name == "c")
    assert first.request == again.request


async def test_a_hanging_call_at_the_replica_that_is_asked_is_given_up_at_once(
    new_database: NewDatabase,
) -> None:
    script = Script(holds={"c": never()})
    async with pair(new_database, script) as (one, _):
        saga_id = await one.begin(TELLING)
        await script.asked_for("c")
        await one.ask(saga_id, Verb.CANCEL)
        assert (await one.end_of(saga_id)).state is State.COMPENSATED
        assert script.names.count("-c") == 1


async def test_verbs_at_two_replicas_at_once_all_end_in_one_history(new_database: NewDatabase) -> None:
    async with pair(new_database, Script()) as (one, two):
        ids = [await one.begin(TELLING) for _ in range(20)]
        asked = [request(saga_id, verb) for saga_id, verb in itertools.product(ids, VERBS)]
        asks = (
            at.operations.perform(each) for each, at in zip(asked, itertools.cycle((one, two)), strict=False)
        )
        said = await asyncio.gather(*asks, return_exceptions=True)
        assert all(each is None or isinstance(each, Fault) for each in said)
        for saga_id in ids:
            if (await one.row(saga_id))["state"] == "PAUSED":
                await one.ask(saga_id, Verb.RESUME)
            assert (await two.end_of(saga_id)).state in DONE
        gaps = await one.rows(
            "SELECT id FROM saga JOIN (SELECT saga_id, count(*) AS n, max(seq) AS last FROM saga_event"
            " GROUP BY saga_id) e ON saga_id = id WHERE (n, last) IS DISTINCT FROM (seq, seq)"
        )
    assert gaps == []


async def test_of_a_cancel_and_the_pivot_exactly_one_wins(new_database: NewDatabase) -> None:
    wins = {"pivot": 0, "cancel": 0}
    async with pair(new_database, Script()) as (one, two):
        for number in range(RACES):
            script = Script(holds={"c": never()})
            plays(one, script)
            saga_id = await one.begin(FULL)
            await script.asked_for("c")
            cancelling = two if number % 2 else one
            asked = asyncio.create_task(cancelling.operations.perform(request(saga_id, Verb.CANCEL)))
            for _ in range(number % 12):
                await asyncio.sleep(0)
            script.holds["c"].set()
            (refused,) = await asyncio.gather(asked, return_exceptions=True)
            state = (await one.end_of(saga_id)).state
            pivoted = (await one.row(saga_id))["pivot_intended"]
            if isinstance(refused, Fault):
                assert refused.reason in {"PIVOT_PASSED", "SAGA_ENDED"}
                assert (state, pivoted) == (State.COMPLETED, True)
                wins["pivot"] += 1
            else:
                assert refused is None
                assert (state, pivoted) == (State.COMPENSATED, False)
                wins["cancel"] += 1
    assert sum(wins.values()) == RACES
    assert min(wins.values()) > 0, wins


# --- pause, retry, waiting ---


async def test_a_pause_lets_the_deadline_run_on(new_database: NewDatabase) -> None:
    script = Script(holds={"c": never()})
    async with pair(new_database, script) as (one, two):
        saga_id = await one.begin(TELLING)
        await script.asked_for("c")
        before = (await one.row(saga_id))["deadline"]
        await two.ask(saga_id, Verb.PAUSE)
        assert (await one.row(saga_id))["deadline"] == before
        await one.past("deadline", "-1 second", saga_id)
        script.holds["c"].set()
        plan = await two.operations.preview(request(saga_id, Verb.RESUME))
        assert plan.state is State.COMPENSATED
        await two.ask(saga_id, Verb.RESUME)
        assert (await two.end_of(saga_id)).state is State.COMPENSATED
        assert (await one.row(saga_id))["refusal"]["reason"] == "ORDER_TIMED_OUT"
    assert "pivot" not in script.names


async def test_a_pause_while_it_unwinds_is_resumed_backward(new_database: NewDatabase) -> None:
    script = Script({"c": [UNRECORDED]}, holds={"-c": never()})
    async with pair(new_database, script) as (one, two):
        saga_id = await one.begin(TELLING)
        await script.asked_for("-c")
        await two.ask(saga_id, Verb.PAUSE)
        assert (await one.row(saga_id))["state"] == "PAUSED"
        script.holds["-c"].set()
        await two.ask(saga_id, Verb.RESUME)
        assert (await two.end_of(saga_id)).state is State.COMPENSATED
    assert "pivot" not in script.names


async def test_a_parked_undo_that_is_retried_is_sent_again_until_it_is_accepted(
    new_database: NewDatabase,
) -> None:
    script = Script({"c": [UNRECORDED], "-c": [NO, NO]})
    async with pair(new_database, script) as (one, two):
        saga_id = await one.begin(TELLING)
        assert (await one.end_of(saga_id)).state is State.PARKED
        await two.ask(saga_id, Verb.RETRY)
        assert (await two.end_of(saga_id)).state is State.PARKED
        await one.ask(saga_id, Verb.RETRY)
        assert (await one.end_of(saga_id)).state is State.COMPENSATED
    assert script.names.count("-c") == 3
    assert len({seen.request for seen in script.seen if seen.name == "-c"}) == 1


async def test_a_saga_that_is_withdrawn_while_it_waits_calls_nobody_and_leaves_the_holder_alone(
    new_database: NewDatabase,
) -> None:
    script = Script(holds={"c": never()})
    async with pair(new_database, script) as (one, two):
        holder = await one.begin(TELLING)
        await script.asked_for("c")
        waiting = await behind(one, holder)
        await two.ask(waiting, Verb.COMPENSATE)
        assert (await two.end_of(waiting)).state is State.COMPENSATED
        assert [seen for seen in script.seen if seen.saga_id == waiting] == []
        script.holds["c"].set()
        assert (await one.end_of(holder)).state is State.COMPLETED


async def test_a_verb_for_a_saga_that_nobody_knows_is_refused(new_database: NewDatabase) -> None:
    async with pair(new_database, Script()) as (one, _):
        for verb in VERBS:
            fault = await refusal_of(one, request(new_id(), verb))
            assert (fault.kind, fault.reason) == (FaultKind.NOT_FOUND, "SAGA_NOT_FOUND")
