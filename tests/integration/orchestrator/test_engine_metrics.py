"""After a run that is known call by call, the metrics say exactly what happened."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from chassis.telemetry import REGISTRY
from orchestrator import census, metrics
from orchestrator.entries import State
from orchestrator.leases import Leases
from tests.integration.orchestrator.scripted import (
    AWAY,
    NO,
    UNRECORDED,
    Script,
    is_gone,
    replica,
    until,
)

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
NewDatabase = Callable[..., str]


def scraped() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Everything that `/metrics` shows."""
    families = text_string_to_metric_families(generate_latest(REGISTRY).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


class Since:
    """What was counted since a moment."""

    def __init__(self) -> None:
        self._before = scraped()

    def value(self, name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return scraped().get(key, 0.0) - self._before.get(key, 0.0)


async def test_what_was_started_finished_called_and_asked_again_is_counted(new_database: NewDatabase) -> None:
    since = Since()
    script = Script({"c": [AWAY, AWAY, NO]})
    async with replica(new_database(DATABASE), script) as one:
        assert await one.run() is State.COMPENSATED
        assert [await one.run() for _ in range(2)] == [State.COMPLETED] * 2
    assert since.value("saga_started_total", kind="full") == 3
    assert since.value("saga_finished_total", kind="full", outcome="COMPENSATED") == 1
    assert since.value("saga_finished_total", kind="full", outcome="COMPLETED") == 2

    def calls(step: str, operation: str, outcome: str) -> float:
        labels = {"kind": "full", "step": step, "operation": operation, "outcome": outcome}
        return since.value("saga_step_seconds_count", **labels)

    assert (calls("a", "do", "done"), calls("a", "undo", "done")) == (3, 1)
    assert (calls("c", "do", "unknown"), calls("c", "do", "refused"), calls("c", "do", "done")) == (2, 1, 2)
    # The first saga's c took three calls, the others' one each.
    labels = {"kind": "full", "step": "c", "operation": "do"}
    assert since.value("saga_step_attempts_sum", **labels) == 5
    assert since.value("saga_step_attempts_count", **labels) == 3
    assert since.value("saga_step_attempts_bucket", **labels, le="1.0") == 2


async def test_every_entry_of_the_journal_is_part_of_one_counted_batch(new_database: NewDatabase) -> None:
    since = Since()
    async with replica(new_database(DATABASE), Script()) as one:
        ends = await asyncio.gather(*(one.run() for _ in range(20)))
        assert set(ends) == {State.COMPLETED}
        batches = one.journal.batches
    # Four groups of steps: four entries a saga after its acceptance.
    assert since.value("saga_group_commit_size_sum", operation="write") == 20 * 4
    assert since.value("saga_group_commit_size_count", operation="write") == batches
    assert since.value("saga_group_commit_size_sum", operation="accept") == 20


async def test_the_census_shows_who_is_open_how_old_and_who_needs_a_person(new_database: NewDatabase) -> None:
    script = Script({"last": [UNRECORDED]}, holds={"c": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        script.holds["c"].set()
        parked = await one.begin()
        assert (await one.end_of(parked)).state is State.PARKED
        script.holds["c"].clear()
        running = await one.begin()
        await until(lambda: script.names.count("c") == 2)
        await one.past("create_time", "-2 hours", running)
        await one.past("deadline", "-1 hour", running)
        await one.past("update_time", "-30 minutes", parked)
        watching = asyncio.create_task(census.watch_census(one.database, one.executor))
        await until(lambda: metrics.IN_MEMORY._value.get() == 1)
        watching.cancel()
        now = scraped()

        def gauge(name: str, **labels: str) -> float:
            return now[name, frozenset(labels.items())]

        assert gauge("saga_open", state="RUNNING") == 1
        assert gauge("saga_open", state="PARKED") == 1
        assert gauge("saga_open", state="COMPENSATING") == 0
        assert gauge("saga_oldest_open_seconds") == pytest.approx(7_200, abs=60)
        assert gauge("saga_parked_age_seconds") == pytest.approx(1_800, abs=60)
        assert gauge("saga_overdue") == 1


async def test_a_write_that_the_fence_refuses_and_a_saga_that_is_taken_are_counted(
    new_database: NewDatabase,
) -> None:
    dsn = new_database(DATABASE)
    since = Since()
    script = Script(holds={"c": asyncio.Event()})
    async with replica(dsn, script, "slow") as slow:
        saga_id = await slow.begin()
        await script.asked_for("c")
        await is_gone(dsn, "slow")
        async with replica(dsn, Script(), "quick") as quick:
            await quick.leases.sweep()
            assert (await quick.end_of(saga_id)).state is State.COMPLETED
            script.holds["c"].set()
            await slow.left_memory(saga_id)
    assert since.value("saga_claimed_total") == 1
    assert since.value("saga_fence_refusals_total") == 1


async def test_a_lease_that_could_not_be_renewed_in_time_is_counted(new_database: NewDatabase) -> None:
    since = Since()
    async with replica(new_database(DATABASE), Script()) as one:
        leases = Leases(one.journal, one.executor, lease_seconds=0.0)
        await leases.renew()
        assert since.value("saga_lease_losses_total") == 0
        await leases.renew()
        assert since.value("saga_lease_losses_total") == 1


async def test_calls_that_are_held_back_are_counted_and_an_open_breaker_is_shown(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.breaker.FAILURES_TO_OPEN", 1)
    since = Since()
    script = Script(down={"payments"})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await one.left_memory(saga_id)
        assert since.value("saga_calls_held_total", participant="payments") == 1
        assert scraped()["saga_breaker_open", frozenset({("participant", "payments")})] == 1


async def test_archived_sagas_are_counted(new_database: NewDatabase) -> None:
    since = Since()
    async with replica(new_database(DATABASE), Script()) as one:
        for _ in range(3):
            await one.run()
        await one.rows(
            "UPDATE saga SET update_time = update_time - interval '30 days',"
            " id = overlay(id::text PLACING '00000000' FROM 1 FOR 8)::uuid"
        )
        await one.leases.prune()
    assert since.value("saga_archived_total") == 3
