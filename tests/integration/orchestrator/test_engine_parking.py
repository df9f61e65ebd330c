"""What needs a person, what a person does about it, and what only seems to."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from chassis.errors import Detail, Fault, FaultKind
from orchestrator import executor, leases
from orchestrator.entries import State, Verb
from orchestrator.saga import Step, View, calls
from sagacity.inventory.v1 import inventory_pb2
from tests.integration.orchestrator.scripted import (
    AWAY,
    CALL_TIMEOUT,
    FREE,
    NO,
    ORDERS,
    PIVOT,
    UNRECORDED,
    A,
    Params,
    Replica,
    Script,
    build,
    is_gone,
    of,
    replica,
    saga,
    until,
)

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
NewDatabase = Callable[..., str]
BROKEN: set[str] = set()
DETAILS = "SELECT detail FROM saga_event WHERE saga_id = %(id)s ORDER BY seq DESC LIMIT 1"


def fragile(name: str) -> Callable[[View[Params]], inventory_pb2.ReleaseReservationRequest]:
    """A step function with a bug while its name is in BROKEN."""

    def function(view: View[Params]) -> inventory_pb2.ReleaseReservationRequest:
        if name in BROKEN:
            raise ZeroDivisionError(name)
        return build(view)

    return function


FRAGILE = saga(
    "fragile",
    A,
    Step(
        "b",
        calls(ORDERS, "CreateOrder", timeout=CALL_TIMEOUT)(fragile("b")),
        undo=calls(ORDERS, "RejectOrder", timeout=CALL_TIMEOUT)(fragile("-b")),
    ),
    PIVOT,
    Step("last", calls(ORDERS, "MarkShipped", timeout=CALL_TIMEOUT)(fragile("last"))),
)


@pytest.fixture(autouse=True)
def nothing_broken() -> None:
    BROKEN.clear()


@pytest.mark.parametrize(
    ("name", "faults", "end"),
    [
        ("b", {}, State.COMPLETED),
        ("-b", {"b": [UNRECORDED] * 3}, State.COMPENSATED),
        ("last", {}, State.COMPLETED),
    ],
)
async def test_a_step_function_that_fails_parks_the_saga_under_a_fingerprint_until_it_is_mended(
    new_database: NewDatabase, name: str, faults: dict[str, list[Fault]], end: State
) -> None:
    BROKEN.add(name)
    async with replica(new_database(DATABASE), Script(faults), definitions=of(FRAGILE)) as one:
        saga_id = await one.begin(FRAGILE)
        assert (await one.end_of(saga_id)).state is State.PARKED
        row = await one.row(saga_id)
        assert row["error_fingerprint"]
        assert row["last_error"]

        await one.ask(saga_id, Verb.RETRY)
        assert (await one.end_of(saga_id)).state is State.PARKED

        BROKEN.clear()
        await one.ask(saga_id, Verb.RETRY)
        assert (await one.end_of(saga_id)).state is end


async def test_a_first_step_function_that_fails_refuses_the_saga_and_leaves_nothing(
    new_database: NewDatabase,
) -> None:
    fails = Step("b", calls(ORDERS, "CreateOrder")(fragile("b")), undo=calls(ORDERS, "RejectOrder")(build))
    definition = saga("first", fails, PIVOT)
    BROKEN.add("b")
    async with replica(new_database(DATABASE), Script(), definitions=of(definition)) as one:
        with pytest.raises(ZeroDivisionError):
            await one.begin(definition)
        assert one.executor.in_memory == []
        assert await one.rows("SELECT id FROM saga") == []


async def test_a_saga_whose_definition_is_gone_parks_and_goes_on_when_it_is_back(
    new_database: NewDatabase,
) -> None:
    dsn = new_database(DATABASE)
    script = Script(holds={"c": asyncio.Event()})
    async with replica(dsn, script, "old") as old:
        saga_id = await old.begin()
        await script.asked_for("c")
    await is_gone(dsn, "old")
    async with replica(dsn, Script(), "without", definitions=of(FREE)) as without:
        await without.leases.sweep()
        assert (await without.end_of(saga_id)).state is State.PARKED
        row = await without.row(saga_id)
        assert "full" in row["last_error"]
        assert row["error_fingerprint"]
        await without.ask(saga_id, Verb.RETRY)
        assert (await without.end_of(saga_id)).state is State.PARKED
    script = Script()
    async with replica(dsn, script, "new") as new:
        await new.ask(saga_id, Verb.RETRY)
        assert (await new.end_of(saga_id)).state is State.COMPLETED
        assert (await new.row(saga_id))["error_fingerprint"] == ""
    # It goes on where it was.
    assert script.names == ["c", "pivot", "last"]


@pytest.mark.parametrize("name", ["pivot", "last", "-c"])
async def test_a_refusal_that_no_unwinding_answers_parks_and_a_retry_asks_again(
    new_database: NewDatabase, name: str
) -> None:
    faults = {name: [UNRECORDED]}
    if name == "-c":
        faults["c"] = [UNRECORDED]
    script = Script(faults)
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        assert (await one.end_of(saga_id)).state is State.PARKED
        assert (await one.row(saga_id))["step"] == name.lstrip("-")
        await one.ask(saga_id, Verb.RETRY)
        state = (await one.end_of(saga_id)).state
    assert state is (State.COMPENSATED if name == "-c" else State.COMPLETED)
    requests = [seen.request for seen in script.seen if seen.name == name]
    assert len(requests) == 2
    assert len(set(requests)) == 1


async def test_a_recorded_refusal_of_the_pivot_unwinds(new_database: NewDatabase) -> None:
    script = Script({"pivot": [NO]})
    async with replica(new_database(DATABASE), script) as one:
        assert await one.run() is State.COMPENSATED
    assert sorted(script.names[-3:]) == ["-a", "-b", "-c"]


# --- ages ---


@pytest.mark.parametrize("held", ["c", "-a", "last"])
async def test_a_saga_parks_before_participants_forget_what_it_did(
    new_database: NewDatabase, held: str
) -> None:
    dsn = new_database(DATABASE)
    faults = {"c": [NO]} if held == "-a" else {}
    script = Script(faults, holds={held: asyncio.Event()})
    async with replica(dsn, script, "old") as old:
        saga_id = await old.begin()
        await script.asked_for(held)
        age = executor.MAX_SAGA_AGE + timedelta(minutes=1)
        await old.past("create_time", f"-{age.total_seconds()} seconds", saga_id)
    await is_gone(dsn, "old")
    script = Script()
    async with replica(dsn, script, "new") as new:
        await new.leases.sweep()
        assert (await new.end_of(saga_id)).state is State.PARKED
        assert "forget" in str(await new.rows(DETAILS, id=saga_id))
    assert script.names == []


# --- what PostgreSQL will not store ---


async def poisoned(one: Replica, note: str = "poison") -> UUID:
    """A saga whose next write the database refuses, whoever writes it."""
    saga_id = await one.begin(note=note)
    refused = f"saga_id <> '{saga_id}' OR outcome <> 'done'"
    await one.rows(f"ALTER TABLE saga_event ADD CONSTRAINT poison CHECK ({refused}) NOT VALID")
    return saga_id


async def test_a_saga_whose_write_the_database_refuses_is_postponed_longer_each_time(
    new_database: NewDatabase,
) -> None:
    script = Script(holds={"a": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await poisoned(one)
        script.holds["a"].set()
        await one.left_memory(saga_id)
        row = await one.row(saga_id)
        assert (row["state"], row["owner"], row["attempts"], row["epoch"]) == ("RUNNING", None, 1, 2)
        assert row["due_seconds"] > 0
        for attempts in (2, 3):
            await one.make_due()
            await one.leases.sweep()
            await one.left_memory(saga_id)
            assert (await one.row(saga_id))["attempts"] == attempts
        await one.rows("ALTER TABLE saga_event DROP CONSTRAINT poison")
        await one.make_due()
        await one.leases.sweep()
        assert (await one.end_of(saga_id)).state is State.COMPLETED


async def test_sagas_that_fail_at_once_again_and_again_starve_nobody(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SWEEP_BATCH", 1)
    monkeypatch.setattr(leases, "MAX_SWEEPS_IN_A_ROW", 1)
    dsn = new_database(DATABASE)
    script = Script(holds={"a": asyncio.Event()})
    async with replica(dsn, script, "dead") as dead:
        bad = await poisoned(dead)
        good = [await dead.begin() for _ in range(4)]
        # The poison is the oldest, and always due.
        await dead.rows("UPDATE saga SET next_run = now() - interval '1 day' WHERE id = %(id)s", id=bad)
    await is_gone(dsn, "dead")
    async with replica(dsn, Script(), "heir") as heir:
        for _ in range(2 * len(good)):
            await heir.rows("UPDATE saga SET next_run = now() - interval '1 day' WHERE id = %(id)s", id=bad)
            await heir.leases.sweep()
            await heir.left_memory(bad)
        assert [(await heir.end_of(saga_id)).state for saga_id in good] == [State.COMPLETED] * 4
        assert (await heir.row(bad))["state"] == "RUNNING"


@pytest.mark.parametrize("kind", [FaultKind.UNAVAILABLE, FaultKind.FAILED_PRECONDITION])
async def test_a_nul_in_a_foreign_faults_text_is_no_poison(
    new_database: NewDatabase, kind: FaultKind
) -> None:
    nul = Fault(
        kind,
        "NUL",
        "a \x00 in the message",
        subjects=(Detail("MUG\x00", "a \x00 here too"),),
        fields=(Detail("\x00", "and \x00 here"),),
        domain="sagacity.test",
    )
    script = Script({"c": [nul]})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await until(lambda: saga_id not in one.executor.in_memory)
        state = (await one.row(saga_id))["state"]
    assert state == (State.COMPLETED if kind is FaultKind.UNAVAILABLE else State.COMPENSATED)


# --- errors have a name ---


async def test_equal_errors_of_different_sagas_have_one_fingerprint_and_others_another(
    new_database: NewDatabase,
) -> None:
    worse = Fault(FaultKind.FAILED_PRECONDITION, "WORSE", "worse", domain="sagacity.test")
    script = Script({"last": [UNRECORDED, UNRECORDED, worse]})
    async with replica(new_database(DATABASE), script) as one:
        ids = []
        for _ in range(3):
            ids.append(await one.begin())
            await one.end_of(ids[-1])
        first, second, third = [(await one.row(saga_id))["error_fingerprint"] for saga_id in ids]
        assert first == second
        assert third not in {first, ""}


async def test_the_fingerprint_of_what_held_a_saga_up_is_cleared_when_it_goes_well(
    new_database: NewDatabase,
) -> None:
    script = Script({"c": [AWAY]}, holds={"pivot": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await script.asked_for("pivot")
        row = await one.row(saga_id)
        assert (row["error_fingerprint"], row["last_error"]) == ("", "")
        script.holds["pivot"].set()
        assert (await one.end_of(saga_id)).state is State.COMPLETED
