"""Every verb in every state, at a replica that drives the saga or at another; and what each leaves behind."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from orchestrator.entries import State, Verb
from orchestrator.operations import Request
from orchestrator.saga import Parallel, Step
from orchestrator.saga_log import Acceptance
from sagacity.common.v1.saga_step_pb2 import OPERATION_UNDO
from sagacity.inventory.v1.inventory_pb2 import ReleaseReservationRequest
from tests.integration.orchestrator.scripted import (
    FULL,
    NO,
    ORDERS,
    PIVOT,
    UNRECORDED,
    A,
    B,
    C,
    Replica,
    Script,
    action,
    of,
    replica,
    saga,
    until,
)

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
NewDatabase = Callable[..., str]
RACES = 200
DONE = {State.COMPLETED, State.COMPENSATED}

TOLD = Step("told", action(ORDERS, "MarkShipped"), skippable=True)
POINTS = Step("points", action(ORDERS, "RecordRefund"))
# After its pivot two steps at once, one of which a person may take for done.
TELLING = saga("telling", Parallel(A, B), C, PIVOT, Parallel(POINTS, TOLD))
KNOWN = of(FULL, TELLING)


@asynccontextmanager
async def pair(
    new_database: NewDatabase, script: Script, other: Script | None = None
) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas of one journal; nothing sweeps unless told."""
    dsn = new_database(DATABASE)
    async with (
        replica(dsn, script, "one", definitions=KNOWN) as one,
        replica(dsn, other or script, "two", definitions=KNOWN) as two,
    ):
        yield one, two


def plays(one: Replica, script: Script) -> None:
    """Let a replica's participants answer by another script from now on."""
    one.executor._caller._participants = script


def request(saga_id: UUID, verb: Verb, **changes: Any) -> Request:
    values: dict[str, Any] = {"actor": "ops@example.com", "reason": "asked by phone"}
    if verb is Verb.SKIP:
        values |= {"step": "told", "output_json": "{}"}
    return Request(saga_id, verb, **(values | changes))


async def refusal_of(one: Replica, asked: Request) -> Fault:
    with pytest.raises(Fault) as caught:
        await one.operations.perform(asked)
    return caught.value


async def behind(one: Replica, holder: UUID) -> UUID:
    """A saga that waits for the order of another one."""
    key = (await one.row(holder))["key"]
    acceptance = Acceptance(
        saga_id=new_id(),
        kind=TELLING.kind,
        version=1,
        definition_hash=TELLING.hash,
        key=key,
        context={"note": ""},
        deadline=TELLING.deadline,
        events=(),
        owner=one.name,
        caller="user",
        rpc="Behind",
        idempotency_key=str(new_id()),
        request_hash=b"hash",
    )
    return (await one.executor.accept_behind(acceptance)).saga_id


# --- each verb in each state ---


def never() -> asyncio.Event:
    return asyncio.Event()


async def bring(one: Replica, script: Script, where: str) -> UUID:
    """Bring a saga to a state, and let nothing hold it any more."""
    if where == "waiting":
        script.holds["c"] = never()
        holder = await one.begin(TELLING)
        await script.asked_for("c")
        return await behind(one, holder)
    setups: dict[str, tuple[dict[str, list[Fault]], str]] = {
        "running": ({}, "c"),
        "running after the pivot": ({}, "told"),
        "compensating": ({"c": [UNRECORDED]}, "-a"),
        "paused": ({}, "c"),
        "parked before the pivot": ({}, "c"),
        "parked after the pivot": ({"told": [NO]}, ""),
        "parked undo": ({"c": [UNRECORDED], "-c": [NO]}, ""),
        "completed": ({}, ""),
        "compensated": ({"c": [NO]}, ""),
    }
    script.faults, held = setups[where]
    if held:
        script.holds[held] = never()
    saga_id = await one.begin(TELLING)
    if not held:
        await one.end_of(saga_id)
        return saga_id
    await script.asked_for(held)
    if where == "paused":
        await one.ask(saga_id, Verb.PAUSE)
    if where == "parked before the pivot":
        # As by a definition that this code did not have for a while.
        await one.rows(
            "WITH parked AS (UPDATE saga SET state = 'PARKED', epoch = epoch + 1, seq = seq + 1"
            "                 WHERE id = %(id)s RETURNING id, seq)"
            " INSERT INTO saga_event (saga_id, seq, step, op, attempt, outcome, detail, recorded)"
            " SELECT id, seq, '', 'parked', 0, 'intended', 'by the test', false FROM parked",
            id=saga_id,
        )
    return saga_id


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


# --- skip ---


@pytest.mark.parametrize(
    ("step", "output", "field"),
    [
        ("nonsense", "{}", "step"),
        ("", "{}", "step"),
        ("told", "garbage", "output_json"),
        ("told", '{"no_such_field": 1}', "output_json"),
        ("told", "[]", "output_json"),
        ("told", "null", "output_json"),
        ("told", '{"order": 5}', "output_json"),
        ("told", '{"order": {"id": "\\ud800"}}', "output_json"),
        ("told", "[" * 60_000, "output_json"),
        ("told", '{"order": ' * 6_000, "output_json"),
        ("told", "1" * 5_000, "output_json"),
    ],
    ids=lambda value: value[:20],
)
async def test_a_skip_with_what_is_no_reply_of_the_step_is_refused_by_field(
    new_database: NewDatabase, step: str, output: str, field: str
) -> None:
    async with pair(new_database, Script({"told": [NO]})) as (one, two):
        saga_id = await one.begin(TELLING)
        assert (await one.end_of(saga_id)).state is State.PARKED
        before = await one.events(saga_id)
        fault = await refusal_of(two, request(saga_id, Verb.SKIP, step=step, output_json=output))
        assert (fault.kind, fault.fields[0].subject) == (FaultKind.INVALID_ARGUMENT, field)
        assert await one.events(saga_id) == before


@pytest.mark.parametrize(
    ("step", "reason"), [("points", NO_SKIP), ("c", NOT_AT), ("pivot", NOT_AT), ("a", NOT_AT)]
)
async def test_a_step_without_which_things_do_not_add_up_is_not_skipped(
    new_database: NewDatabase, step: str, reason: str
) -> None:
    async with pair(new_database, Script({"points": [NO]})) as (one, two):
        saga_id = await one.begin(TELLING)
        assert (await one.end_of(saga_id)).state is State.PARKED
        fault = await refusal_of(two, request(saga_id, Verb.SKIP, step=step))
    assert (fault.kind, fault.reason) == (FaultKind.FAILED_PRECONDITION, reason)


async def test_a_pivot_or_a_step_with_an_undo_is_not_skipped_while_it_is_tried(
    new_database: NewDatabase,
) -> None:
    for held in ("c", "pivot"):
        script = Script(holds={held: never()})
        async with pair(new_database, script) as (one, two):
            saga_id = await one.begin(TELLING)
            await script.asked_for(held)
            fault = await refusal_of(two, request(saga_id, Verb.SKIP, step=held))
            assert fault.reason == NO_SKIP


async def test_the_output_of_a_skip_is_journaled_as_the_steps_reply(new_database: NewDatabase) -> None:
    async with pair(new_database, Script({"told": [NO]})) as (one, two):
        saga_id = await one.begin(TELLING)
        await one.end_of(saga_id)
        output = json.dumps({"order": {"id": "018f7e9c-5d1a-7c3e-9b1f-000000000001"}})
        await two.operations.perform(request(saga_id, Verb.SKIP, output_json=output))
        assert (await two.end_of(saga_id)).state is State.COMPLETED
        rows = await one.rows(
            "SELECT reply FROM saga_event WHERE saga_id = %(id)s AND op = 'skip'", id=saga_id
        )
    assert b"018f7e9c-5d1a-7c3e-9b1f-000000000001" in rows[0]["reply"]


# --- preview ---


def undone(seen_request: bytes) -> tuple[str, str]:
    step = ReleaseReservationRequest.FromString(seen_request).saga_step
    return step.step, "undo" if step.operation == OPERATION_UNDO else "do"


@pytest.mark.parametrize(
    ("where", "verb"),
    [
        ("running", Verb.RETRY),
        ("running", Verb.COMPENSATE),
        ("running", Verb.CANCEL),
        ("running after the pivot", Verb.SKIP),
        ("compensating", Verb.RETRY),
        ("paused", Verb.RESUME),
        ("parked after the pivot", Verb.RETRY),
        ("parked after the pivot", Verb.SKIP),
        ("parked undo", Verb.RETRY),
        ("waiting", Verb.CANCEL),
    ],
)
async def test_a_preview_names_the_calls_that_are_then_sent(
    new_database: NewDatabase, where: str, verb: Verb
) -> None:
    script, other = Script(), Script()
    async with pair(new_database, script, other) as (one, two):
        saga_id = await bring(one, script, where)
        plan = await two.operations.preview(request(saga_id, verb))
        assert await one.events(saga_id) == await two.events(saga_id)
        await two.operations.perform(request(saga_id, verb))
        assert (await two.end_of(saga_id)).state is plan.state
    sent = [undone(seen.request) for seen in other.seen]
    # Calls of one group are made at once, in any order.
    assert sorted(sent) == sorted((call.step, call.operation) for call in plan.calls)
    assert [name for name, _ in sent if name not in "ab"] == [
        call.step for call in plan.calls if call.step not in "ab"
    ]
    shown = [json.loads(call.request_json)["sagaStep"]["step"] for call in plan.calls]
    assert shown == [call.step for call in plan.calls]


async def test_a_saga_that_does_not_load_can_be_paused_and_looked_at_and_parks_again(
    new_database: NewDatabase,
) -> None:
    dsn = new_database(DATABASE)
    script = Script(holds={"c": never()})
    async with replica(dsn, script, "one", definitions=KNOWN) as one:
        saga_id = await one.begin(TELLING)
        await script.asked_for("c")
        async with replica(dsn, script, "two", definitions=of(FULL)) as two:
            assert (await two.operations.preview(request(saga_id, Verb.PAUSE))).state is State.PAUSED
            for verb in (Verb.RETRY, Verb.CANCEL):
                assert (await two.operations.preview(request(saga_id, verb))).state is State.PARKED
            fault = await refusal_of(two, request(saga_id, Verb.SKIP))
            assert fault.reason == "DEFINITION_MISSING"
            await two.ask(saga_id, Verb.RETRY)
            assert (await two.end_of(saga_id)).state is State.PARKED
        script.holds["c"].set()
        await until(lambda: saga_id not in one.executor.in_memory)
        await one.ask(saga_id, Verb.RETRY)
        assert (await one.end_of(saga_id)).state is State.COMPLETED


async def test_a_verb_for_a_saga_that_nobody_knows_is_refused(new_database: NewDatabase) -> None:
    async with pair(new_database, Script()) as (one, _):
        for verb in VERBS:
            fault = await refusal_of(one, request(new_id(), verb))
            assert (fault.kind, fault.reason) == (FaultKind.NOT_FOUND, "SAGA_NOT_FOUND")
