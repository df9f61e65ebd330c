import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from chassis import consumer as consumer_module
from chassis import relay as relay_module
from chassis.consumer import Consumer, ReceivedEvent
from chassis.consumer_session import Session
from chassis.kafka import KafkaCluster
from chassis.outbox import OUTBOX_DDL
from chassis.postgres import Transaction
from chassis.relay import Relay
from tests.integration.chassis.consuming import (
    DDL,
    LETTERS,
    PATIENCE_SECONDS,
    POISON,
    effects,
    letters,
    record_effect,
    until,
    until_applied,
)

pytestmark = [pytest.mark.integration, pytest.mark.kafka]


async def polled(kafka: Any, count: int) -> tuple[Any, list[Any]]:
    """Read so many records, which are in one partition."""
    records: list[Any] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(records) < count:
            for batch in (await kafka.getmany(timeout_ms=50)).values():
                records.extend(batch)
    return TopicPartition(records[0].topic, records[0].partition), records


async def consume_all(consumer: Consumer, expected: Callable[[], Awaitable[bool]], running: Any) -> None:
    async with running(consumer):
        await until(expected)
        assert await consumer.drain(PATIENCE_SECONDS)


async def test_events_are_applied_once_and_in_order(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    database = await open_database(DDL)
    await send(("a", 1), ("b", 1), ("a", 2), ("a", 2), ("a", 1), ("b", 2), ("a", 3))

    async def done() -> bool:
        return await effects(database) == {"a": [1, 2, 3], "b": [1, 2]}

    await consume_all(new_consumer(database), done, running)
    assert await done()
    assert await letters(database) == []


async def test_a_consumer_that_died_before_its_offset_commit_applies_nothing_twice(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    """F5: the effect is committed, the offset is not, and the same records come again."""
    database = await open_database(DDL)
    await send(("a", 1), ("a", 2))
    first = new_consumer(database)
    async with first._joined() as (kafka, session):
        partition, records = await polled(kafka, 2)
        await first._apply(session, session.epoch, partition, records)
        # It leaves without having committed the offset: it has applied nothing, as far as Kafka is told.
        session.applied(partition, records[0].offset - 1)
    assert await effects(database) == {"a": [1, 2]}
    await send(("a", 3))

    async def done() -> bool:
        return (await effects(database)).get("a", [])[-1:] == [3]

    await consume_all(new_consumer(database), done, running)
    assert await effects(database) == {"a": [1, 2, 3]}


async def test_two_consumers_that_both_believe_they_own_a_partition_apply_an_event_once(
    open_database: Any, new_consumer: Any, send: Any
) -> None:
    """F19."""
    database = await open_database(DDL)
    await send(("a", 1), ("a", 2))
    one, two = new_consumer(database), new_consumer(database)
    async with one._joined() as (kafka, session):
        partition, records = await polled(kafka, 2)
        other = Session(kafka, "another member")
        await asyncio.gather(
            one._apply(session, session.epoch, partition, records),
            two._apply(other, other.epoch, partition, records),
        )
    assert await effects(database) == {"a": [1, 2]}


async def test_a_poison_event_is_parked_and_its_key_waits_while_others_flow(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    """F20."""
    database = await open_database(DDL)
    await send(("bad", 1), ("bad", 2, POISON), ("bad", 3), ("good", 1), ("bad", 4), ("good", 2))

    async def done() -> bool:
        return len(await letters(database)) == 3 and (await effects(database)).get("good") == [1, 2]

    await consume_all(new_consumer(database), done, running)
    assert await effects(database) == {"bad": [1], "good": [1, 2]}
    assert await letters(database) == [("bad", 2), ("bad", 3), ("bad", 4)]
    first = (await database.fetch(LETTERS, {}))[0]
    assert "poison" in first["error"]


async def test_a_parked_event_that_comes_again_is_parked_once(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    database = await open_database(DDL)
    await send(("bad", 1, POISON), ("bad", 1, POISON), ("bad", 2), ("bad", 2), ("good", 1))

    async def done() -> bool:
        return len(await letters(database)) == 2 and "good" in await effects(database)

    await consume_all(new_consumer(database), done, running)
    assert await letters(database) == [("bad", 1), ("bad", 2)]


async def test_a_gap_halts_its_key_and_no_other(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    database = await open_database(DDL)
    await send(("gap", 1), ("gap", 3), ("gap", 4), ("good", 1))

    async def done() -> bool:
        return len(await letters(database)) == 2 and "good" in await effects(database)

    await consume_all(new_consumer(database), done, running)
    assert await effects(database) == {"gap": [1], "good": [1]}
    assert await letters(database) == [("gap", 3), ("gap", 4)]


async def test_a_handler_that_fails_for_a_while_is_tried_again(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    database = await open_database(DDL)
    failures = iter([ValueError("once"), ValueError("twice")])

    async def shaky(tx: Transaction, event: ReceivedEvent) -> None:
        await record_effect(tx, event)
        for error in failures:
            raise error

    await send(("a", 1))

    async def done() -> bool:
        return await effects(database) == {"a": [1]}

    await consume_all(new_consumer(database, shaky), done, running)
    assert await letters(database) == []


async def test_an_event_without_a_handler_moves_the_mark_so_that_the_next_is_no_gap(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    database = await open_database(DDL)
    await send(("a", 1), event_type="sagacity.orders.v1.OrderForgotten")
    await send(("a", 2))

    async def done() -> bool:
        return await effects(database) == {"a": [2]}

    await consume_all(new_consumer(database), done, running)
    assert await letters(database) == []


async def test_a_consumer_whose_every_event_fails_stops_and_leaves_the_rest_in_kafka(
    open_database: Any, new_consumer: Any, send: Any, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "MAX_HALTS_IN_A_ROW", 3)
    database = await open_database(DDL)
    await send(*((f"key-{number}", 1, POISON) for number in range(6)))
    consumer = new_consumer(database)
    async with running(consumer):

        async def done() -> bool:
            return len(await letters(database)) == 3

        await until(done)
        assert await consumer.drain(PATIENCE_SECONDS)
    assert len(await letters(database)) == 3


async def until_noticed(relay: Relay) -> None:
    async def noticed() -> bool:
        return bool(relay._failures)

    await until(noticed)


async def test_events_go_from_one_database_to_another_though_kafka_is_down_at_first_and_in_between(
    *,
    open_database: Any,
    publish: Any,
    new_consumer: Any,
    running: Any,
    topic: str,
    tmp_path: Path,
    kafka_jars: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F18, for both ends."""
    from deploy.local.kafka import ApacheKafka

    monkeypatch.setattr(relay_module, "BACKOFF_CAP_SECONDS", 0.5)
    monkeypatch.setattr(relay_module, "DELIVERY_TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr(consumer_module, "BACKOFF_CAP_SECONDS", 0.5)
    broker = ApacheKafka(tmp_path, jars=kafka_jars)
    broker.prepare()
    database = await open_database(DDL + OUTBOX_DDL)
    consumer = new_consumer(database, servers=broker.bootstrap_servers)
    relay = Relay(database, kafka=KafkaCluster(broker.bootstrap_servers), topic=topic, owner="orders")

    try:
        await publish(database, "a", 1)
        async with running(relay), running(consumer):
            await until_noticed(relay)
            await asyncio.to_thread(broker.start)
            await until_applied(database, {"a": [1]})
            broker.kill()
            await publish(database, "a", 2)
            await publish(database, "a", 3)
            relay.wake()
            await until_noticed(relay)
            await asyncio.to_thread(broker.start)
            await until_applied(database, {"a": [1, 2, 3]})
            await publish(database, "a", 4)
            relay.wake()
            await until_applied(database, {"a": [1, 2, 3, 4]})
    finally:
        broker.kill()
    assert await letters(database) == []
