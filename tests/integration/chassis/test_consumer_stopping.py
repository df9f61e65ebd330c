"""Consumers that are paused, or halt by themselves, in every process and across restarts."""

import asyncio
from typing import Any

import pytest

from chassis import consumer as consumer_module
from chassis.consumer import Consumer, ReceivedEvent
from chassis.consumer_lag import read_lags
from chassis.inbox import ConsumerState
from chassis.kafka import KafkaCluster
from chassis.postgres import Database, Transaction
from tests.integration.chassis.consuming import (
    DDL,
    PATIENCE_SECONDS,
    POISON,
    effects,
    letters,
    record_effect,
    shown,
    until,
    until_applied,
    until_shown,
)

pytestmark = [pytest.mark.integration, pytest.mark.kafka]


async def say(database: Database, consumer: Consumer, state: ConsumerState) -> None:
    async with database.transaction() as tx:
        await consumer.inbox.set_state(tx, state)


async def until_stopped(group: str, state: ConsumerState) -> None:
    await until_shown(1, "stopped", group=group, state=state)


async def test_a_paused_consumer_applies_nothing_keeps_its_offsets_and_goes_on_where_it_was(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    group: str,
    topic: str,
    kafka_bootstrap_servers: str,
) -> None:
    database = await open_database(DDL)
    one, two = new_consumer(database), new_consumer(database)

    async def behind() -> int:
        lags = await read_lags(KafkaCluster(kafka_bootstrap_servers), {group: [topic]})
        return sum(each.lag for each in lags[group])

    async with running(one), running(two):
        await send(("a", 1), ("b", 1))
        await until_applied(database, {"a": [1], "b": [1]})
        await say(database, one, ConsumerState.PAUSED)
        await send(("a", 2), ("b", 2))
        await until_stopped(group, ConsumerState.PAUSED)
        await send(("a", 3))
        assert await effects(database) == {"a": [1], "b": [1]}

        async def three_behind() -> bool:
            return await behind() == 3

        await until(three_behind)
        await say(database, one, ConsumerState.RUNNING)
        await until_applied(database, {"a": [1, 2, 3], "b": [1, 2]})
        await until_shown(0, "stopped", group=group, state=ConsumerState.PAUSED)
    assert await letters(database) == []


async def test_a_pause_survives_a_restart_and_a_rebalance(
    open_database: Any, new_consumer: Any, send: Any, running: Any, group: str
) -> None:
    database = await open_database(DDL)
    await say(database, new_consumer(database), ConsumerState.PAUSED)
    await send(("a", 1), ("b", 1), ("c", 1), ("d", 1))
    async with running(new_consumer(database)):
        await until_stopped(group, ConsumerState.PAUSED)
    consumer = new_consumer(database)
    async with running(consumer):
        async with running(new_consumer(database)) as _:
            await until_stopped(group, ConsumerState.PAUSED)
        assert await effects(database) == {}
        await say(database, consumer, ConsumerState.RUNNING)
        await until_applied(database, {"a": [1], "b": [1], "c": [1], "d": [1]})


async def test_a_paused_consumer_ends_at_once_when_it_is_drained(
    open_database: Any, new_consumer: Any, send: Any, running: Any, group: str
) -> None:
    database = await open_database(DDL)
    consumer = new_consumer(database)
    await say(database, consumer, ConsumerState.PAUSED)
    await send(("a", 1))
    async with running(consumer):
        await until_stopped(group, ConsumerState.PAUSED)
        assert await consumer.drain(PATIENCE_SECONDS)
    assert await effects(database) == {}


async def test_an_event_that_is_being_tried_again_is_not_any_more_once_its_consumer_is_paused(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    group: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_module, "MAX_ATTEMPTS", 1_000_000)
    monkeypatch.setattr(consumer_module, "BACKOFF_CAP_SECONDS", 0.01)
    database = await open_database(DDL)
    tried = asyncio.Event()
    mended = False

    async def broken(tx: Transaction, event: ReceivedEvent) -> None:
        tried.set()
        if not mended:
            raise ValueError("broken")
        await record_effect(tx, event)

    consumer = new_consumer(database, broken)
    await send(("a", 1))
    async with running(consumer):
        await asyncio.wait_for(tried.wait(), PATIENCE_SECONDS)
        await say(database, consumer, ConsumerState.PAUSED)
        await until_stopped(group, ConsumerState.PAUSED)
        mended = True
        await say(database, consumer, ConsumerState.RUNNING)
        await until_applied(database, {"a": [1]})
    assert await letters(database) == []


async def test_when_too_many_keys_fail_in_a_row_it_halts_until_it_is_resumed_in_every_process(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    group: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_module, "MAX_HALTS_IN_A_ROW", 3)
    database = await open_database(DDL)
    code_is_bad = True

    async def handler(tx: Transaction, event: ReceivedEvent) -> None:
        if code_is_bad:
            raise ValueError("bad code")
        await record_effect(tx, event)

    keys = [f"key-{number}" for number in range(6)]
    await send(*((key, 1) for key in keys))
    first = new_consumer(database, handler)
    async with running(first):
        await until_stopped(group, ConsumerState.HALTED)
        assert await first.inbox.state() is ConsumerState.HALTED
    parked = {key for key, _ in await letters(database)}
    assert len(parked) == 3

    # Deployed again, it still waits for somebody to say that it is mended.
    code_is_bad = False
    second = new_consumer(database, handler)
    async with running(second):
        await until_stopped(group, ConsumerState.HALTED)
        assert await effects(database) == {}
        await say(database, second, ConsumerState.RUNNING)
        await until_applied_whatever_the_order(database, set(keys) - parked)
    assert {key for key, _ in await letters(database)} == parked


async def until_applied_whatever_the_order(database: Database, keys: set[str]) -> None:
    async def done() -> bool:
        return set(await effects(database)) == keys

    await until(done)


async def test_a_consumer_that_is_cancelled_while_it_is_stopped_is_not_shown_as_stopped_for_ever(
    open_database: Any, new_consumer: Any, send: Any, running: Any, group: str
) -> None:
    database = await open_database(DDL)
    consumer = new_consumer(database)
    await consumer.inbox.halt()
    await send(("a", 1))
    async with running(consumer):
        await until_stopped(group, ConsumerState.HALTED)
    assert shown("stopped", group=group, state=ConsumerState.HALTED) == 0


async def test_successes_between_failures_keep_a_consumer_from_halting(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_module, "MAX_HALTS_IN_A_ROW", 2)
    monkeypatch.setattr(consumer_module, "MAX_BATCH", 1)
    database = await open_database(DDL)
    consumer = new_consumer(database)
    parked = 0

    async def is_parked() -> bool:
        return len(await letters(database)) == parked

    async with running(consumer):
        for number in range(3):
            parked = number + 1
            await send((f"bad-{number}", 1, POISON))
            # Partitions are not read in the order in which they were written.
            await until(is_parked)
            await send((f"good-{number}", 1))
            await until_applied(database, {f"good-{each}": [1] for each in range(number + 1)})
        assert await consumer.drain(PATIENCE_SECONDS)
    assert len(await letters(database)) == 3
    assert await consumer.inbox.state() is ConsumerState.RUNNING


async def test_a_consumer_that_halts_by_itself_stays_paused_where_an_operator_paused_it(
    open_database: Any, new_consumer: Any
) -> None:
    database = await open_database(DDL)
    consumer = new_consumer(database)
    await say(database, consumer, ConsumerState.PAUSED)
    await consumer.inbox.halt()
    assert await consumer.inbox.state() is ConsumerState.PAUSED
