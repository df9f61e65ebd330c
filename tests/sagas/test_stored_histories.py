"""P11: what a released version left in the journal is taken up by this code, and ends as it should."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from orchestrator.entries import OPEN_STATES, TERMINAL_STATES, State, Verb
from orchestrator.operations import Operations, Request
from orchestrator.saga import Operation
from orchestrator.sagas import DEFINITIONS
from tests.sagas.engine import WAIT_SECONDS, Engine
from tests.sagas.faults import Half, Troubled
from tests.sagas.stored import Json, Point, file_of, load, taken_up, write_point
from tests.sagas.worlds import WORLDS, Case, books_of

pytestmark = pytest.mark.integration

VERSIONS = sorted(DEFINITIONS.sagas)
MAX_CLAIMED = 1_000
REPAIRS = {State.PARKED: Verb.RETRY, State.PAUSED: Verb.RESUME}


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
def test_every_version_has_stored_histories_and_still_has_the_shape_that_they_began_with(
    kind: str, version: int
) -> None:
    assert file_of(kind, version).exists(), "record it: python -m tests.sagas.histories.record"
    hashes = {point.row["definition_hash"] for point in load(kind, version)}
    assert hashes == {DEFINITIONS.sagas[kind, version].hash}, "a released version was changed"


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
def test_the_histories_stop_at_every_half_of_every_step(kind: str, version: int) -> None:
    wanted = {
        Half(step.name, operation)
        for step in DEFINITIONS.sagas[kind, version].all_steps()
        for operation, action in ((Operation.DO, step.do), (Operation.UNDO, step.undo))
        if action is not None
    }
    stopped = {
        Half(event["step"], Operation(event["op"]))
        for point in load(kind, version)
        for event in point.pending
    }
    assert stopped == wanted
    states = {point.row["state"] for point in load(kind, version)}
    assert {State.RUNNING, State.PARKED, State.PAUSED} <= states


async def make(engine: Engine, case: Case, events: Sequence[Json]) -> None:
    """Make the calls of intents at the real participants."""
    for event in events:
        step = case.definition.step(event["step"])
        action = step.do if event["op"] == Operation.DO else step.undo
        assert action is not None
        await engine.contexts.participants.call(action, event["request"], timeout_seconds=WAIT_SECONDS)


async def left_behind(engine: Engine, point: Point) -> tuple[Case, Point]:
    """Bring journal and participants to where a process died: before its last calls, or after them.

    In the ways that are slow it is replies that got lost, so the calls that were under way were made.
    """
    kind, version = point.row["kind"], point.row["version"]
    case = await WORLDS[kind, version](engine.contexts, engine.run)
    point = taken_up(point, case)
    done = {(event["step"], event["op"]) for event in point.events if event["outcome"] == "done"}
    intents = [event for event in point.events if event["step"] and event["outcome"] == "intended"]
    await make(engine, case, [event for event in intents if (event["step"], event["op"]) in done])
    if "slow" in point.way:
        await make(engine, case, point.pending)
    await write_point(engine.database, point, case.order_id)
    return case, point


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
async def test_a_saga_that_a_release_left_behind_is_taken_up_and_ends(
    engine: Engine, kind: str, version: int
) -> None:
    points = [await left_behind(engine, point) for point in load(kind, version)]
    expected: dict[UUID, State] = {}
    ended: dict[UUID, State] = {}
    async with engine.driving(Troubled(engine.contexts.participants, points[0][0].definition)) as executor:
        operations = Operations(engine.journal, executor, DEFINITIONS)
        claimed = set(await engine.journal.claim([], limit=MAX_CLAIMED, newest_first=False))
        assert claimed == {point.saga_id for _, point in points if point.row["state"] in OPEN_STATES}
        for saga_id in claimed:
            executor.resume(saga_id)
        for _, point in points:
            repair = REPAIRS.get(point.row["state"])
            if repair is not None:
                await operations.perform(Request(point.saga_id, repair, actor="tester", reason="a test"))
        for _, point in points:
            undone = point.row["refusal"] is not None
            expected[point.saga_id] = State.COMPENSATED if undone else State.COMPLETED
            ended[point.saga_id] = (await executor.wait(point.saga_id, WAIT_SECONDS)).state
    assert ended == expected
    assert set(ended.values()) <= TERMINAL_STATES
    for case, point in points:
        assert await books_of(engine.contexts, case) == case.ends[ended[point.saga_id]], point.way
    assert await engine.broken() == []
