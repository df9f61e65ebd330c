"""What is forgotten and what is kept: keys, replicas, and the archive of finished sagas."""

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from chassis.clock import SystemClock
from chassis.ids import new_id, uuid7_floor
from orchestrator import beginning, journal, leases
from orchestrator.entries import State
from orchestrator.saga_log import Acceptance
from tests.integration.orchestrator.scripted import FULL, NO, Params, Replica, Script, replica

pytestmark = pytest.mark.integration

DATABASE = "orchestrator"
ARCHIVE_AFTER = timedelta(days=7)
OLD = timedelta(days=8)
NewDatabase = Callable[..., str]


def old_id(number: int) -> UUID:
    """A saga's id of OLD ago."""
    return UUID(int=uuid7_floor(SystemClock().now() - OLD).int + number)


async def begun(one: Replica, saga_id: UUID, key: str = "") -> Acceptance:
    acceptance = Acceptance(
        saga_id=saga_id,
        kind=FULL.kind,
        version=FULL.version,
        definition_hash=FULL.hash,
        key=new_id(),
        context=dataclasses.asdict(Params()),
        deadline=FULL.deadline,
        events=(),
        owner=one.name,
        caller="user",
        rpc="Test",
        idempotency_key=key or str(saga_id),
        request_hash=b"hash",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    await one.executor.accept(FULL, Params(), acceptance)
    return acceptance


async def grown_old(one: Replica, ids: list[UUID]) -> None:
    """Let nothing have happened to sagas for long."""
    for saga_id in ids:
        await one.past("update_time", f"-{OLD.total_seconds()} seconds", saga_id)


async def tables(one: Replica, table: str) -> list[dict[str, Any]]:
    return await one.rows(f"SELECT * FROM {table} ORDER BY 1, 2")  # noqa: S608


async def test_old_finished_sagas_move_to_the_archive_with_all_their_events(
    new_database: NewDatabase,
) -> None:
    script = Script({"c": [NO]})
    async with replica(new_database(DATABASE), script, options={"archive_after": ARCHIVE_AFTER}) as one:
        ids = [old_id(number) for number in range(2)]
        for saga_id in ids:
            await begun(one, saga_id)
            await one.end_of(saga_id)
        await grown_old(one, ids)
        sagas, events = await tables(one, "saga"), await tables(one, "saga_event")
        assert {row["state"] for row in sagas} == {"COMPLETED", "COMPENSATED"}
        await one.leases.prune()
        assert await tables(one, "saga") == await tables(one, "saga_event") == []
        archived = await tables(one, "saga_archive")
        assert [{name: row[name] for name in sagas[0]} for row in archived] == sagas
        assert await tables(one, "saga_event_archive") == events


async def test_open_and_young_sagas_stay_where_they_are(new_database: NewDatabase) -> None:
    script = Script()
    async with replica(new_database(DATABASE), script, options={"archive_after": ARCHIVE_AFTER}) as one:
        young, lately = new_id(), old_id(1)
        for saga_id in (young, lately):
            await begun(one, saga_id)
            await one.end_of(saga_id)
        # An id of today, and a change of today: each is reason enough.
        await grown_old(one, [young])
        script.holds["pivot"], script.faults["last"] = asyncio.Event(), [NO]
        script.seen.clear()
        running = old_id(2)
        await begun(one, running)
        await script.asked_for("pivot")
        await grown_old(one, [running])
        await one.leases.prune()
        assert {row["id"] for row in await tables(one, "saga")} == {young, lately, running}
        # Parked is not finished either.
        script.holds["pivot"].set()
        assert (await one.end_of(running)).state is State.PARKED
        await grown_old(one, [running])
        await one.leases.prune()
        assert {row["id"] for row in await tables(one, "saga")} == {young, lately, running}
        assert await tables(one, "saga_archive") == []


async def test_one_round_archives_a_bounded_number_the_oldest_first(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PRUNE_BATCH", 2)
    monkeypatch.setattr(leases, "MAX_PRUNES_IN_A_ROW", 1)
    async with replica(new_database(DATABASE), Script(), options={"archive_after": ARCHIVE_AFTER}) as one:
        ids = [old_id(number) for number in range(5)]
        for saga_id in ids:
            await begun(one, saga_id)
            await one.end_of(saga_id)
        await grown_old(one, ids)
        moved = []
        for _ in range(3):
            await one.leases.prune()
            moved.append([row["id"] for row in await tables(one, "saga_archive")])
    assert moved == [ids[:2], ids[:4], ids]


async def test_housekeeping_goes_on_while_there_is_more(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "PRUNE_BATCH", 2)
    async with replica(new_database(DATABASE), Script(), options={"archive_after": ARCHIVE_AFTER}) as one:
        ids = [old_id(number) for number in range(5)]
        for saga_id in ids:
            await begun(one, saga_id)
            await one.end_of(saga_id)
        await grown_old(one, ids)
        await one.leases.prune()
        assert [row["id"] for row in await tables(one, "saga_archive")] == ids


async def test_a_request_whose_saga_is_archived_is_still_answered_by_its_key(
    new_database: NewDatabase,
) -> None:
    async with replica(new_database(DATABASE), Script(), options={"archive_after": ARCHIVE_AFTER}) as one:
        first = await begun(one, old_id(1), key="the key")
        answer = (await one.end_of(first.saga_id)).answer
        assert answer is not None
        await grown_old(one, [first.saga_id])
        await one.leases.prune()
        assert await tables(one, "saga") == []
        again = await one.executor.accept(FULL, Params(), dataclasses.replace(first, saga_id=new_id()))
        assert (again.fresh, again.saga_id, again.answer) == (False, first.saga_id, answer)
        assert await tables(one, "saga") == []


async def test_keys_whose_time_is_over_are_forgotten_but_not_before_their_saga_has_ended(
    new_database: NewDatabase,
) -> None:
    script = Script(holds={"last": asyncio.Event()})
    async with replica(new_database(DATABASE), script) as one:
        saga_id = await one.begin()
        await script.asked_for("last")
        await one.rows("UPDATE idempotency SET expires_at = clock_timestamp() - interval '1 second'")
        await one.leases.prune()
        assert len(await tables(one, "idempotency")) == 1
        script.holds["last"].set()
        await one.end_of(saga_id)
        await one.leases.prune()
        assert await tables(one, "idempotency") == []
        assert len(await tables(one, "saga")) == 1


async def test_a_key_is_good_for_its_whole_time(new_database: NewDatabase) -> None:
    async with replica(new_database(DATABASE), Script()) as one:
        await one.run()
        await one.leases.prune()
        (row,) = await one.rows(
            "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 AS left FROM idempotency"
        )
    assert row["left"] == pytest.approx(beginning.KEY_LIFETIME.total_seconds(), abs=60)


async def test_replicas_that_are_long_gone_are_forgotten_and_those_that_live_are_not(
    new_database: NewDatabase,
) -> None:
    async with replica(new_database(DATABASE), Script(), lease_seconds=30.0) as one:
        await one.rows(
            "INSERT INTO replica VALUES ('gone', clock_timestamp() - interval '1 hour'),"
            " ('late', clock_timestamp() - interval '1 minute'),"
            " ('other', clock_timestamp() + interval '1 minute')"
        )
        await one.leases.prune()
        assert [row["id"] for row in await tables(one, "replica")] == ["late", "one", "other"]
