"""Partitions that go from one member of a group to another while events flow."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition
from typing_extensions import override

from chassis import consumer as consumer_module
from chassis import consumer_session
from chassis.consumer import Consumer, ReceivedEvent
from chassis.consumer_session import Session
from chassis.postgres import Database, Transaction
from tests.integration.chassis.consuming import (
    DDL,
    PATIENCE_SECONDS,
    effects,
    letters,
    record_effect,
    until,
    until_applied,
)

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

KEYS = [f"key-{number}" for number in range(12)]


@dataclass
class Diary:
    """What the members did, in order: (what, which session); and what was committed when partitions went."""

    entries: list[tuple[str, int]] = field(default_factory=list)
    committed_in_time: list[bool] = field(default_factory=list)

    def times(self, what: str) -> int:
        """Count entries of a kind."""
        return sum(entry[0] == what for entry in self.entries)


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> Diary:
    """Return the diary of every session of this test."""
    made = Diary()

    class Watched(Session):
        @override
        async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
            await super().on_partitions_revoked(revoked)
            made.entries.append(("gone", id(self)))

        @override
        async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
            made.entries.append(("got", id(self)))
            await super().on_partitions_assigned(assigned)

        @override
        async def commit_for_others(self, within_seconds: float = 5.0) -> None:
            await super().commit_for_others(within_seconds)
            for partition, at in self._next.items():
                made.committed_in_time.append(await self._kafka.committed(partition) == at)

        @asynccontextmanager
        async def transaction(self, epoch: int) -> AsyncIterator[None]:
            async with super().transaction(epoch):
                yield
                # In the block of the caller it is committed by now.
                made.entries.append(("applied", id(self)))

    monkeypatch.setattr(consumer_module, "Session", Watched)
    return made


def assert_nothing_was_applied_without_partitions(diary: Diary) -> None:
    """See that a session applied only between getting partitions and giving them back."""
    holding: set[int] = set()
    for what, session in diary.entries:
        match what:
            case "got":
                holding.add(session)
            case "gone":
                holding.discard(session)
            case _:
                assert session in holding


async def until_count(diary: Diary, what: str, count: int) -> None:
    async def done() -> bool:
        return diary.times(what) >= count

    await until(done)


async def test_members_come_and_go_while_events_flow_and_nothing_is_applied_by_who_lost_its_partitions(
    open_database: Any, new_consumer: Any, send: Any, running: Any, diary: Diary
) -> None:
    """F19."""
    database = await open_database(DDL)
    stop = asyncio.Event()
    sent = 0

    async def flow() -> None:
        nonlocal sent
        while not stop.is_set():
            sent += 1
            await send(*((key, sent) for key in KEYS))

    async with running(new_consumer(database)), asyncio.TaskGroup() as tasks:
        await until_count(diary, "got", 1)
        tasks.create_task(flow())
        for number in range(3):
            applied = diary.times("applied")
            await until_count(diary, "applied", applied + 3)
            got = diary.times("got")
            async with running(new_consumer(database)):
                # Both have joined the new round.
                await until_count(diary, "got", got + 2)
                applied = diary.times("applied")
                await until_count(diary, "applied", applied + 3)
            await until_count(diary, "got", got + 3)
            assert diary.times("gone") >= 2 * number + 2
        stop.set()
        await until(lambda: has_applied(database, sent))
    assert await effects(database) == {key: list(range(1, sent + 1)) for key in KEYS}
    assert await letters(database) == []
    assert_nothing_was_applied_without_partitions(diary)
    assert diary.committed_in_time
    assert all(diary.committed_in_time)


async def has_applied(database: Database, sent: int) -> bool:
    found = await effects(database)
    return all(found.get(key, [0])[-1] == sent for key in KEYS)


async def test_a_rebalance_waits_for_the_transaction_that_is_under_way(
    open_database: Any, new_consumer: Any, send: Any, running: Any, diary: Diary
) -> None:
    database = await open_database(DDL)
    entered, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction, event: ReceivedEvent) -> None:
        await record_effect(tx, event)
        entered.set()
        await may_go_on.wait()

    await send(("a", 1))
    async with running(new_consumer(database, slow)):
        await asyncio.wait_for(entered.wait(), PATIENCE_SECONDS)
        async with running(new_consumer(database)):
            await until_revoking(diary)
            gone = diary.times("gone")
            may_go_on.set()
            await until_count(diary, "gone", gone + 1)
            await until_applied(database, {"a": [1]})
    assert_nothing_was_applied_without_partitions(diary)
    assert diary.entries.index(("applied", diary.entries[0][1])) < len(diary.entries)


async def until_revoking(diary: Diary) -> None:
    """Wait until the second member asks to join: its first entry is that it has nothing to give back."""
    await until_count(diary, "gone", 2)


async def test_a_transaction_that_takes_too_long_for_a_rebalance_is_given_up_and_the_new_owner_applies_it(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    diary: Diary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_session, "REVOKE_SECONDS", 0.1)
    database = await open_database(DDL)
    hangs_of: list[Consumer] = []
    entered = asyncio.Event()

    async def hanging(tx: Transaction, event: ReceivedEvent) -> None:
        await record_effect(tx, event)
        entered.set()
        await asyncio.Event().wait()

    await send(*((key, 1) for key in KEYS))
    hangs_of.append(new_consumer(database, hanging))
    async with running(hangs_of[0]):
        await asyncio.wait_for(entered.wait(), PATIENCE_SECONDS)
        assert await effects(database) == {}
        async with running(new_consumer(database)):
            # The first one gives up, and hangs again in what it has got now; the second one applies the rest.
            await until_count(diary, "got", 3)
            await until_some_applied(database)
    async with running(new_consumer(database)):
        await until(lambda: has_applied(database, 1))
    assert await effects(database) == {key: [1] for key in KEYS}
    assert_nothing_was_applied_without_partitions(diary)


async def until_some_applied(database: Database) -> None:
    async def done() -> bool:
        return bool(await effects(database))

    await until(done)
