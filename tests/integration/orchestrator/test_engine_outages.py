"""A participant that is away: what waits, what goes on, and how it all comes back."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from math import log, log2
from typing import Any
from uuid import UUID

import pytest

from orchestrator import breaker, executor
from orchestrator.calling import BACKOFF_CAP_SECONDS
from orchestrator.entries import State
from orchestrator.executor import HELD_SECONDS
from orchestrator.journal import RAMP_PER_SECOND
from orchestrator.saga import Saga
from tests.integration.orchestrator.scripted import (
    AWAY,
    FREE,
    FULL,
    LATER,
    NO,
    Replica,
    Script,
    replica,
    until,
)

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
HELD = 1_000
NewDatabase = Callable[..., str]


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "PROBE_FIRST_SECONDS", 0.002)
    monkeypatch.setattr(breaker, "PROBE_CAP_SECONDS", 0.01)


@pytest.fixture
def one_outage_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FAILURES_TO_OPEN", 1)


async def released(one: Replica, definition: Saga[Any] = FULL) -> dict[str, Any]:
    """Begin a saga and wait until the replica has let go of it; its row."""
    saga_id = await one.begin(definition)
    await one.left_memory(saga_id)
    return await one.row(saga_id)


async def test_a_saga_that_waits_for_long_leaves_memory_and_is_anybodys_when_it_is_due(
    new_database: NewDatabase,
) -> None:
    script = Script({"c": [LATER]})
    async with replica(new_database(DATABASE), script) as one:
        row = await released(one)
        assert (row["state"], row["owner"], row["attempts"]) == ("RUNNING", None, 1)
        assert row["waiting_for"] == "payments"
        # As long as the participant asked for, and not longer than the cap.
        assert 10 < row["due_seconds"] <= BACKOFF_CAP_SECONDS
        await one.leases.sweep()
        assert one.executor.in_memory == []

        await one.make_due()
        await one.leases.sweep()
        assert (await one.end_of(row["id"])).state is State.COMPLETED


async def test_a_short_wait_is_waited_for_in_memory_and_nobody_else_takes_the_saga(
    new_database: NewDatabase,
) -> None:
    script = Script({"c": [AWAY, AWAY]})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        assert (await one.end_of(saga_id)).state is State.COMPLETED
        row = await one.row(saga_id)
    assert (row["epoch"], row["owner"]) == (1, "one")


async def test_an_outage_does_not_fill_the_bound_on_sagas_in_flight(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "MAX_IN_FLIGHT", 3)
    script = Script({"c": [LATER] * 12})
    async with replica(new_database(DATABASE), script) as one:
        for _ in range(12):
            await released(one)
        assert one.executor.capacity == 3
        assert await one.run(FREE) is State.COMPLETED


@pytest.mark.usefixtures("one_outage_opens")
async def test_a_call_that_is_held_back_is_neither_sent_nor_journaled_as_an_attempt(
    new_database: NewDatabase,
) -> None:
    script = Script(down={"payments"})
    async with replica(new_database(DATABASE), script) as one:
        await until_open(one, script)
        sent = len(script.seen)
        row = await released(one)
        assert [seen.name for seen in script.seen[sent:]] == ["a", "b"]
        events = await one.events(row["id"])
        assert [event for event in events if event.startswith("c ")] == ["c intended"]
        assert (row["attempts"], row["owner"], row["waiting_for"]) == (0, None, "payments")
        assert 0 < row["due_seconds"] <= HELD_SECONDS[1]
        assert "HELD_BACK" in str(row["last_error"])


async def until_open(one: Replica, script: Script) -> None:
    """Begin a saga whose call opens the breaker of payments."""
    await one.begin()
    await until(lambda: bool(script.probes))


@pytest.mark.usefixtures("one_outage_opens")
async def test_when_a_participant_is_back_its_breaker_closes_and_who_waited_is_due_soon(
    new_database: NewDatabase,
) -> None:
    script = Script(down={"payments"})
    async with replica(new_database(DATABASE), script) as one:
        await until_open(one, script)
        rows = [await released(one) for _ in range(3)]
        asked = len(script.probes)
        await until(lambda: len(script.probes) > asked + 2)
        script.down.clear()
        await until(lambda: not one.executor._breakers.is_open("payments"))
        for row in rows:
            await until_due(one, row["id"])
        await one.leases.sweep()
        ends = [(await one.end_of(row["id"])).state for row in rows]
    assert ends == [State.COMPLETED] * 3


async def until_due(one: Replica, saga_id: UUID) -> None:
    """Wait until a saga was woken: it is due long before it would have looked by itself."""
    async with asyncio.timeout(20):
        while (await one.row(saga_id))["due_seconds"] > 0:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_those_who_waited_come_back_in_a_ramp_that_begins_slowly_and_doubles_each_second(
    new_database: NewDatabase,
) -> None:
    async with replica(new_database(DATABASE), Script()) as one:
        await one.rows(
            """
            INSERT INTO saga (id, kind, version, definition_hash, key, state, seq, epoch, context, deadline,
                              next_run, waiting_for, create_time)
            SELECT gen_random_uuid(), 'full', 1, '', gen_random_uuid(), 'RUNNING', 0, 1, '{}', 'infinity',
                   clock_timestamp() + interval '1 hour', 'payments',
                   clock_timestamp() - interval '1 day' + make_interval(secs => n)
              FROM generate_series(1, %(held)s::int) AS n
            """,
            held=HELD,
        )
        await one.journal.wake("payments")
        rows = await one.rows(
            "SELECT extract(epoch FROM next_run - min(next_run) OVER ())::float8 AS after FROM saga"
            " ORDER BY create_time"
        )
    after = [row["after"] for row in rows]
    # Who waited longest comes first, and the n-th when the ramp has let n go; the rest is the clock's.
    expected = [log2(1 + n * log(2) / RAMP_PER_SECOND) for n in range(HELD)]
    assert after == [pytest.approx(seconds, abs=1.0) for seconds in expected]
    in_first_second = sum(seconds < 1 for seconds in after)
    assert in_first_second < 3 * RAMP_PER_SECOND
    assert all(later - earlier < 1 for earlier, later in pairwise(sorted(after)))


@pytest.mark.usefixtures("one_outage_opens")
async def test_an_outage_parks_nobody_and_blocks_nobody_who_does_not_need_the_participant(
    new_database: NewDatabase,
) -> None:
    script = Script(down={"payments"})
    async with replica(new_database(DATABASE), script) as one:
        rows = [await released(one) for _ in range(5)]
        for _ in range(5):
            await one.make_due()
            await one.leases.sweep()
            for row in rows:
                await one.left_memory(row["id"])
        assert [await one.run(FREE) for _ in range(5)] == [State.COMPLETED] * 5
        states = await one.rows("SELECT DISTINCT state FROM saga WHERE kind = 'full'")
    assert [row["state"] for row in states] == ["RUNNING"]


@pytest.mark.parametrize("away", ["-a", "last"])
async def test_an_undo_or_a_step_after_the_pivot_is_tried_for_as_long_as_its_participant_is_away(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    monkeypatch.setattr("orchestrator.calling.BACKOFF_CAP_SECONDS", 0.001)
    faults = {away: [AWAY] * 40}
    if away == "-a":
        faults["c"] = [NO]
    monkeypatch.setattr(breaker, "FAILURES_TO_OPEN", 1_000)
    script = Script(faults)
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        # Past its deadline, too.
        await one.past("deadline", "-1 hour", saga_id)
        state = (await one.end_of(saga_id)).state
    assert script.names.count(away) == 41
    assert state is (State.COMPENSATED if away == "-a" else State.COMPLETED)


async def test_the_retry_budget_ends_a_storm_and_lets_first_calls_pass(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FAILURES_TO_OPEN", 1_000)
    monkeypatch.setattr(breaker, "BUDGET_PER_SECOND", 0.0)
    monkeypatch.setattr("orchestrator.calling.BACKOFF_CAP_SECONDS", 0.001)
    script = Script({"c": [AWAY] * 1_000})
    async with replica(new_database(DATABASE), script) as one:
        for _ in range(10):
            await released(one)
    calls = [seen.saga_id for seen in script.seen if seen.name == "c"]
    assert len(set(calls)) == 10
    retries = len(calls) - 10
    # What it begins with, and the share that at most forty first calls earn.
    assert breaker.BUDGET_MAX <= retries <= breaker.BUDGET_MAX + 40 * breaker.BUDGET_PER_FIRST_CALL
