"""Skips and previews: which steps may be taken for done, by which output, and what a verb would send."""

from __future__ import annotations

import json

import pytest

from chassis.errors import FaultKind
from chassis.ids import new_id
from orchestrator.entries import State, Verb
from orchestrator.operations import planned
from orchestrator.progress import Progress
from orchestrator.sagas.place_order import PLACE_ORDER, PlaceOrder
from sagacity.common.v1.saga_step_pb2 import OPERATION_UNDO
from sagacity.inventory.v1.inventory_pb2 import ReleaseReservationRequest
from tests.integration.orchestrator.operated import (
    DATABASE,
    KNOWN,
    TELLING,
    NewDatabase,
    bring,
    never,
    pair,
    refusal_of,
    request,
)
from tests.integration.orchestrator.scripted import FULL, NO, Script, of, replica, until

pytestmark = pytest.mark.integration

VERBS = tuple(Verb)
NO_SKIP, NOT_AT = "STEP_NOT_SKIPPABLE", "STEP_NOT_PENDING"


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


async def test_a_preview_shows_no_request_that_depends_on_a_reply_which_nobody_has_yet() -> None:
    params = PlaceOrder("u", "o", "r", "p", [("MUG", 1)], "EUR", "a", "m")
    progress = Progress(PLACE_ORDER, new_id(), params, State.RUNNING, epoch=1, sequence=0)
    progress.begin()
    plan = planned(progress)
    assert plan.state is State.COMPLETED
    assert [(call.step, call.request_json != "") for call in plan.calls] == [
        ("order", True),
        ("customer", True),
        ("reservation", True),
        ("quote", False),
        ("payment", False),
        ("stock", True),
        ("confirmation", False),
    ]


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
