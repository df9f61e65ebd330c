"""Several replicas on one journal: who sweeps what, who takes over, and that nothing is done twice."""

import asyncio
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import pytest

from chassis.errors import Fault
from orchestrator import executor, journal, leases
from orchestrator.entries import State
from tests.integration.orchestrator.scripted import (
    AWAY,
    NO,
    Replica,
    Script,
    is_gone,
    replica,
    until,
)

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
SAGAS = 6
NewDatabase = Callable[..., str]


async def left_behind(dsn: str, count: int, name: str = "dead") -> list[UUID]:
    """Sagas of a replica that died, due one after the other."""
    script = Script(holds={"a": asyncio.Event()})
    async with replica(dsn, script, name) as dead:
        ids = [await dead.begin() for _ in range(count)]
        for age, saga_id in enumerate(reversed(ids), start=1):
            await dead.past("next_run", f"-{age} minutes", saga_id)
    await is_gone(dsn, name)
    return ids


async def test_sweeps_take_the_newest_and_the_oldest_in_turn(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SWEEP_BATCH", 1)
    monkeypatch.setattr(leases, "MAX_SWEEPS_IN_A_ROW", 1)
    dsn = new_database(DATABASE)
    ids = await left_behind(dsn, SAGAS)
    script = Script(holds={"a": asyncio.Event()})
    async with replica(dsn, script) as one:
        taken: list[UUID] = []
        for _ in range(SAGAS):
            await one.leases.sweep()
            taken += [saga_id for saga_id in one.executor.in_memory if saga_id not in taken]
    first, second, third, fourth, fifth, sixth = ids
    assert taken == [sixth, first, fifth, second, fourth, third]


async def test_a_sweep_takes_no_more_than_this_replica_has_room_for(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = new_database(DATABASE)
    await left_behind(dsn, SAGAS)
    monkeypatch.setattr(executor, "MAX_IN_FLIGHT", 4)
    script = Script(holds={"a": asyncio.Event()})
    async with replica(dsn, script) as one:
        await one.leases.sweep()
        assert len(one.executor.in_memory) == 4
        await one.leases.sweep()
        assert len(one.executor.in_memory) == 4
        script.holds["a"].set()
        await until(lambda: not one.executor.in_memory)
        await one.leases.sweep()
        await until(lambda: not one.executor.in_memory)
        states = await one.rows("SELECT state, count(*)::int AS sagas FROM saga GROUP BY state")
    assert states == [{"state": "COMPLETED", "sagas": SAGAS}]


async def test_a_saga_that_a_replica_has_but_not_in_memory_is_found_again_after_a_while(
    new_database: NewDatabase,
) -> None:
    script = Script(holds={"c": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await script.asked_for("c")
        # Its task dies without a word, as at an accept whose commit was cut.
        run = one.executor._runs.pop(saga_id)
        assert run.task is not None
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)

        await one.leases.sweep()
        assert one.executor.in_memory == []
        await one.past("update_time", f"-{journal.SWEEP_GRACE_SECONDS + 1} seconds", saga_id)
        script.holds["c"].set()
        await one.leases.sweep()
        assert (await one.end_of(saga_id)).state is State.COMPLETED
        assert (await one.row(saga_id))["epoch"] == 2


async def test_a_graceful_stop_hands_over_and_nobody_waits_for_the_lease(new_database: NewDatabase) -> None:
    dsn = new_database(DATABASE)
    stuck = Script(holds={"c": asyncio.Event()})
    async with replica(dsn, stuck, "stopping") as stopping:
        saga_id = await stopping.begin()
        await stuck.asked_for("c")
        await stopping.executor.stop()
        await stopping.leases.hand_over()
        script = Script()
        # Its lease of an hour would still be good.
        async with replica(dsn, script, "next") as heir:
            await heir.leases.sweep()
            assert (await heir.end_of(saga_id)).state is State.COMPLETED
            assert await heir.rows("SELECT id FROM replica") == [{"id": "next"}]
    assert script.names == ["c", "pivot", "last"]


async def test_one_that_sweeps_by_itself_takes_over_what_a_dead_replica_left(
    new_database: NewDatabase,
) -> None:
    dsn = new_database(DATABASE)
    async with replica(dsn, Script(), "heir", sweeps=True) as heir:
        script = Script(holds={"c": asyncio.Event()})
        async with replica(dsn, script, "dying", lease_seconds=0.5) as dying:
            saga_id = await dying.begin()
            await script.asked_for("c")
        assert (await heir.end_of(saga_id)).state is State.COMPLETED


async def test_a_replica_that_lost_its_saga_drops_it_and_its_late_answer_changes_nothing(
    new_database: NewDatabase,
) -> None:
    dsn = new_database(DATABASE)
    slow = Script({"c": [NO]}, holds={"c": asyncio.Event()})
    async with replica(dsn, slow, "slow") as loser:
        saga_id = await loser.begin()
        await slow.asked_for("c")
        await is_gone(dsn, "slow")
        async with replica(dsn, Script(), "quick") as winner:
            await winner.leases.sweep()
            assert (await winner.end_of(saga_id)).state is State.COMPLETED
            before = await winner.events(saga_id)
            slow.holds["c"].set()
            await loser.left_memory(saga_id)
            assert await winner.events(saga_id) == before
            assert (await winner.row(saga_id))["state"] == "COMPLETED"
    assert slow.names.count("-c") == 0


async def steal(one: Replica, other: Replica, rounds: int) -> None:
    """Let two replicas take the sagas from each other, again and again."""
    for number in range(rounds):
        thief = (one, other)[number % 2]
        await thief.rows(
            "UPDATE saga SET owner = NULL, epoch = epoch + 1 WHERE state IN ('RUNNING', 'COMPENSATING')"
        )
        await thief.leases.sweep()


async def test_two_replicas_that_take_the_same_sagas_from_each_other_do_nothing_twice(
    new_database: NewDatabase,
) -> None:
    dsn = new_database(DATABASE)
    sagas = 20
    script = Script({"c": [AWAY, NO] * 5, "last": [AWAY] * 5, "-a": [AWAY] * 5})
    async with replica(dsn, script, "one") as one, replica(dsn, script, "two") as two:
        ids = await asyncio.gather(*((one, two)[number % 2].begin() for number in range(sagas)))
        await steal(one, two, rounds=30)
        ends = [await one.end_of(saga_id) for saga_id in await settled(one, two, ids)]
        done = await one.rows(
            "SELECT saga_id FROM saga_event WHERE outcome = 'done' GROUP BY saga_id, step, op"
            " HAVING count(*) > 1"
        )
        broken = await one.rows(
            "SELECT id FROM saga JOIN (SELECT saga_id, count(*) AS events, max(seq) AS last FROM saga_event"
            " GROUP BY saga_id) e ON saga_id = id WHERE (events, last) IS DISTINCT FROM (seq, seq)"
        )
    assert {end.state for end in ends} <= {State.COMPLETED, State.COMPENSATED}
    assert done == []
    assert broken == []
    # Whoever sends it, a call has the same bytes.
    assert max(Counter((saga, name) for name, saga, _ in {seen[:3] for seen in script.seen}).values()) == 1


async def settled(one: Replica, two: Replica, ids: list[UUID]) -> list[UUID]:
    """Sweep until all sagas have ended; their ids."""
    async with asyncio.timeout(20):
        while await one.rows("SELECT id FROM saga WHERE state IN ('RUNNING', 'COMPENSATING')"):
            await one.leases.sweep()
            await two.leases.sweep()
    return list(ids)


# --- stops ---


async def test_who_waits_for_a_saga_of_a_replica_that_stops_is_answered_with_where_it_stands(
    new_database: NewDatabase,
) -> None:
    script = Script(holds={"c": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await script.asked_for("c")
        waiting = asyncio.create_task(one.executor.wait(saga_id, 60.0))
        await asyncio.sleep(0)
        await one.executor.stop()
        standing = await asyncio.wait_for(waiting, 20)
    assert (standing.state, standing.answer) == (State.RUNNING, None)


async def test_who_waits_at_one_replica_hears_of_the_end_at_another(new_database: NewDatabase) -> None:
    dsn = new_database(DATABASE)
    script = Script(holds={"c": asyncio.Event()})
    async with replica(dsn, script, "one") as one, replica(dsn, Script(), "two") as two:
        saga_id = await one.begin()
        await script.asked_for("c")
        waiting = asyncio.create_task(two.end_of(saga_id))
        script.holds["c"].set()
        standing = await waiting
        assert standing.state is State.COMPLETED
        assert standing.answer == (await one.end_of(saga_id)).answer


async def test_a_replica_that_stops_takes_no_new_sagas(new_database: NewDatabase) -> None:
    async with replica(new_database(DATABASE), Script()) as one:
        await one.executor.stop()
        with pytest.raises(Fault) as caught:
            await one.begin()
        assert caught.value.reason == "OVERLOADED"
        assert await one.rows("SELECT id FROM saga") == []
