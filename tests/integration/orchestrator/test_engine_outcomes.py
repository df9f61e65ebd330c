"""Steps that run in parallel, and what follows from outcomes that differ."""

import asyncio
from collections.abc import Callable

import pytest

from chassis.errors import Fault
from orchestrator.entries import State, Verb
from tests.integration.orchestrator.scripted import AWAY, NO, UNRECORDED, Script, replica

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
NewDatabase = Callable[..., str]


async def test_independent_steps_are_under_way_together(new_database: NewDatabase) -> None:
    script = Script(holds={"a": asyncio.Event(), "b": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await script.asked_for("a")
        await script.asked_for("b")
        assert await one.events(saga_id) == ["a intended", "b intended"]
        for hold in script.holds.values():
            hold.set()
        assert (await one.end_of(saga_id)).state is State.COMPLETED


async def test_their_undos_are_under_way_together_and_only_after_what_came_later_is_undone(
    new_database: NewDatabase,
) -> None:
    script = Script({"pivot": [NO]}, holds={"-a": asyncio.Event(), "-b": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await script.asked_for("-a")
        await script.asked_for("-b")
        events = await one.events(saga_id)
        assert events.index("-c done") < events.index("-a intended")
        assert events[-2:] == ["-a intended", "-b intended"]
        for hold in script.holds.values():
            hold.set()
        assert (await one.end_of(saga_id)).state is State.COMPENSATED


@pytest.mark.parametrize(
    ("refusal", "undone"),
    [(NO, {"-b"}), (UNRECORDED, {"-a", "-b"})],
    ids=["recorded", "not recorded"],
)
async def test_where_one_of_two_is_refused_and_nobody_knows_of_the_other_the_other_is_undone(
    new_database: NewDatabase, refusal: Fault, undone: set[str]
) -> None:
    script = Script({"a": [refusal], "b": [AWAY]})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        assert (await one.end_of(saga_id)).state is State.COMPENSATED
        events = await one.events(saga_id)
    assert {name for name in script.names if name.startswith("-")} == undone
    # It is not asked again: whatever became of it, it is undone.
    assert script.names.count("b") == 1
    assert "b unknown" in events
    assert "c intended" not in events


async def test_where_one_of_two_is_done_only_the_other_is_asked_again(new_database: NewDatabase) -> None:
    script = Script({"b": [AWAY, AWAY]})
    async with replica(new_database(DATABASE), script) as one:
        assert await one.run() is State.COMPLETED
    assert script.names == ["a", "b", "b", "b", "c", "pivot", "last"]


async def test_where_both_are_refused_the_first_refusal_is_the_sagas(new_database: NewDatabase) -> None:
    script = Script({"a": [NO], "b": [NO]})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        assert (await one.end_of(saga_id)).state is State.COMPENSATED
        assert (await one.row(saga_id))["refusal"]["step"] == "a"
    assert script.names == ["a", "b"]


async def test_an_undo_that_is_unknown_beside_one_that_is_refused_waits_for_the_person(
    new_database: NewDatabase,
) -> None:
    script = Script({"c": [NO], "-a": [UNRECORDED], "-b": [AWAY]})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        assert (await one.end_of(saga_id)).state is State.PARKED
        events = await one.events(saga_id)
        assert events[-3:] == ["-a refused", "-b unknown", "parked intended"]
        await one.ask(saga_id, Verb.RETRY)
        assert (await one.end_of(saga_id)).state is State.COMPENSATED
    assert script.names[-4:] == ["-a", "-b", "-a", "-b"]
