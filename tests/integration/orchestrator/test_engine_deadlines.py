"""Deadlines: of a call, of a saga, of its unwinding; and where they end, at the pivot's intent."""

import asyncio
from collections.abc import Callable

import pytest

from chassis.errors import Fault
from orchestrator.calling import MIN_CALL_SECONDS
from orchestrator.entries import State
from tests.integration.orchestrator.scripted import (
    AWAY,
    CALL_TIMEOUT,
    NO,
    UNWIND_DEADLINE,
    Script,
    is_gone,
    replica,
)

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
FULL_SECONDS = CALL_TIMEOUT.total_seconds()
NewDatabase = Callable[..., str]


def timeouts(script: Script) -> dict[str, float]:
    """How long each call may take, by its name."""
    return {seen.name: seen.timeout_seconds for seen in script.seen}


async def left_at(
    dsn: str, name: str, *, deadline: str, faults: dict[str, list[Fault]] | None = None
) -> None:
    """A saga that a dead replica left while it made a call, with so much of its deadline left."""
    script = Script(faults or {}, holds={name: asyncio.Event()})
    async with replica(dsn, script, "dead") as dead:
        saga_id = await dead.begin()
        await script.asked_for(name)
        await dead.past("deadline", deadline, saga_id)
    await is_gone(dsn, "dead")


async def taken_up(dsn: str, script: Script) -> State:
    """Take up the only saga there is, and drive it to its end."""
    async with replica(dsn, script, "heir") as heir:
        await heir.leases.sweep()
        (row,) = await heir.rows("SELECT id FROM saga")
        return (await heir.end_of(row["id"])).state


async def test_with_time_to_spare_a_call_has_the_time_that_its_definition_gives_it(
    new_database: NewDatabase,
) -> None:
    script = Script()
    async with replica(new_database(DATABASE), script) as one:
        assert await one.run() is State.COMPLETED
    assert set(timeouts(script).values()) == {FULL_SECONDS}


async def test_a_call_never_has_more_time_than_what_is_left_of_the_sagas_deadline(
    new_database: NewDatabase,
) -> None:
    dsn = new_database(DATABASE)
    await left_at(dsn, "c", deadline="4 seconds")
    script = Script()
    assert await taken_up(dsn, script) is State.COMPLETED
    assert 0 < timeouts(script)["c"] <= 4
    # From the pivot's intent on, no deadline counts.
    assert timeouts(script)["pivot"] == timeouts(script)["last"] == FULL_SECONDS


async def test_what_is_too_short_for_any_answer_is_made_long_enough_for_one(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.calling.MIN_CALL_SECONDS", 4.5)
    assert MIN_CALL_SECONDS < 1
    dsn = new_database(DATABASE)
    await left_at(dsn, "c", deadline="4 seconds")
    script = Script()
    await taken_up(dsn, script)
    assert timeouts(script)["c"] == 4.5


async def test_undos_have_their_full_time_although_the_deadline_is_over(new_database: NewDatabase) -> None:
    dsn = new_database(DATABASE)
    await left_at(dsn, "c", deadline="-1 hour")
    script = Script()
    assert await taken_up(dsn, script) is State.COMPENSATED
    assert timeouts(script) == {"-c": FULL_SECONDS, "-a": FULL_SECONDS, "-b": FULL_SECONDS}


async def test_an_unwinding_has_a_deadline_of_its_own(new_database: NewDatabase) -> None:
    script = Script({"c": [NO]}, holds={"-a": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await script.asked_for("-a")
        row = await one.row(saga_id)
        # Both times are of the same write.
        assert row["deadline_after_write"] == pytest.approx(UNWIND_DEADLINE.total_seconds(), abs=1)
        script.holds["-a"].set()
        assert (await one.end_of(saga_id)).state is State.COMPENSATED


async def test_an_unwinding_that_is_overdue_goes_on(new_database: NewDatabase) -> None:
    dsn = new_database(DATABASE)
    await left_at(dsn, "-a", deadline="-2 hours", faults={"c": [NO]})
    script = Script({"-b": [AWAY]})
    assert await taken_up(dsn, script) is State.COMPENSATED
    assert sorted(script.names) == ["-a", "-b", "-b"]
    assert set(timeouts(script).values()) == {FULL_SECONDS}


@pytest.mark.parametrize("name", ["pivot", "last"])
async def test_from_the_pivots_intent_on_a_deadline_has_no_effect(
    new_database: NewDatabase, name: str
) -> None:
    dsn = new_database(DATABASE)
    await left_at(dsn, name, deadline="-1 hour")
    script = Script({name: [AWAY]})
    assert await taken_up(dsn, script) is State.COMPLETED
    assert [seen for seen in script.names if seen.startswith("-")] == []
    assert timeouts(script)[name] == FULL_SECONDS


async def test_a_deadline_that_ends_during_a_call_undoes_what_the_call_did(new_database: NewDatabase) -> None:
    dsn = new_database(DATABASE)
    script = Script(holds={"c": asyncio.Event()})
    async with replica(dsn, script) as one:
        saga_id = await one.begin()
        await script.asked_for("c")
        one.executor._runs[saga_id].deadline = 0.0
        script.holds["c"].set()
        assert (await one.end_of(saga_id)).state is State.COMPENSATED
        row, events = await one.row(saga_id), await one.events(saga_id)
    assert row["refusal"]["reason"] == "ORDER_TIMED_OUT"
    assert events.index("c done") < events.index("unwind intended") < events.index("-c intended")
