"""Records that are no events, handlers that hang, and numbers that are not what they should be."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from chassis import consumer as consumer_module
from chassis import consumer_session
from chassis.consumer import ReceivedEvent
from chassis.inbox import ConsumerState
from chassis.postgres import Transaction
from tests.integration.chassis.conftest import message_of
from tests.integration.chassis.consuming import (
    DDL,
    LETTERS,
    PATIENCE_SECONDS,
    effects,
    letters,
    record_effect,
    shown,
    until,
    until_applied,
    until_shown,
)

pytestmark = [pytest.mark.integration, pytest.mark.kafka]


def changed(name: str, value: bytes) -> Any:
    """Return what changes a header of a message."""

    def change(message: dict[str, Any]) -> dict[str, Any]:
        headers = [(key, value if key == name else old) for key, old in message["headers"]]
        return message | {"headers": headers}

    return change


NOT_EVENTS = {
    "garbage": lambda _message: {"key": b"a", "value": b"garbage"},
    "a tombstone": lambda message: message | {"value": None},
    "a tombstone without headers": lambda message: message | {"value": None, "headers": []},
    "a NUL in the id": changed("ce_id", b"a\x00b"),
    "a NUL in the type": changed("ce_type", b"a\x00b"),
    "a NUL in the subject": changed("ce_subject", b"order/a\x00b"),
    "no type": changed("ce_type", b""),
    "a line break in the subject": changed("ce_subject", b"order/a\nb"),
    "a subject that turns the line around": changed("ce_subject", "order/\u202ea".encode()),
    "a subject that no index holds": changed("ce_subject", b"order/" + b"a" * 4_000),
    "a sequence beyond every count": changed("ce_sequence", b"9" * 40),
    "a sequence of none": changed("ce_sequence", b"0"),
    "bytes that are no text": changed("ce_type", b"\xff\xfe"),
    "a time that is none": changed("ce_time", b"yesterday"),
    "a time before every UTC": changed("ce_time", b"0001-01-01T00:00:00+14:00"),
    "a time after every UTC": changed("ce_time", b"9999-12-31T23:59:59-14:00"),
    "a time without a zone": changed("ce_time", b"2026-01-01T00:00:00"),
    "garbage of a year that no calendar has": lambda _message: {
        "key": b"a",
        "value": b"garbage",
        "timestamp_ms": -(10**15),
    },
}


@pytest.mark.parametrize("what", NOT_EVENTS)
async def test_a_record_that_is_no_event_is_kept_and_the_next_ones_are_applied(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    producer: Any,
    topic: str,
    what: str,
) -> None:
    database = await open_database(DDL)
    record = NOT_EVENTS[what](message_of("a", 1, topic=topic))
    await producer.send_and_wait(topic, **record)
    await send(("a", 1), ("b", 1))
    consumer = new_consumer(database)
    async with running(consumer):
        await until_applied(database, {"a": [1], "b": [1]})
        assert await consumer.drain(PATIENCE_SECONDS)
    (letter,) = await database.fetch(LETTERS, {})
    assert (letter["type"], letter["aggregate_type"]) == ("", "unreadable")
    assert "not " in letter["error"]


@pytest.mark.parametrize("given", [b"\x00", b"\xff\xfe", b"", b"00-0-0-01", b"0" * 1_000])
async def test_an_event_whose_trace_is_none_is_an_event_like_any_other(
    *, open_database: Any, new_consumer: Any, running: Any, producer: Any, topic: str, given: bytes
) -> None:
    database = await open_database(DDL)
    message = message_of("a", 1, topic=topic)
    headers = [*message["headers"], ("traceparent", given)]
    await producer.send_and_wait(topic, **(message | {"headers": headers}))
    consumer = new_consumer(database)
    async with running(consumer):
        await until_applied(database, {"a": [1]})
        assert await consumer.drain(PATIENCE_SECONDS)
    assert await database.fetch(LETTERS, {}) == []


async def test_records_that_are_no_events_are_one_key_and_do_not_halt_the_consumer(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    producer: Any,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_module, "MAX_HALTS_IN_A_ROW", 3)
    database = await open_database(DDL)
    garbage = 5
    for _ in range(garbage):
        await producer.send_and_wait(topic, key=b"a", value=b"garbage")
    await send(("a", 1))
    consumer = new_consumer(database)
    async with running(consumer):
        await until_applied(database, {"a": [1]})
        assert await consumer.inbox.state() is ConsumerState.RUNNING
    assert len(await letters(database)) == garbage


async def test_a_handler_that_hangs_is_given_up_and_its_event_parked_while_others_flow(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_session, "APPLY_SECONDS", 0.2)
    monkeypatch.setattr(consumer_module, "MAX_ATTEMPTS", 2)
    database = await open_database(DDL)

    async def hanging(tx: Transaction, event: ReceivedEvent) -> None:
        await record_effect(tx, event)
        if event.aggregate_id == "hangs":
            await asyncio.Event().wait()

    await send(("hangs", 1), ("good", 1), ("hangs", 2), ("good", 2))
    async with running(new_consumer(database, hanging)):
        await until_applied(database, {"good": [1, 2]})

        async def parked() -> bool:
            return await letters(database) == [("hangs", 1), ("hangs", 2)]

        await until(parked)
    assert "took too long" in (await database.fetch(LETTERS, {}))[0]["error"]


async def test_a_gap_is_counted_once_and_waits_for_nothing(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    group: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A second attempt would wait for ever.
    monkeypatch.setattr(consumer_module, "BACKOFF_BASE_SECONDS", 1e9)
    monkeypatch.setattr(consumer_module, "BACKOFF_CAP_SECONDS", 1e9)
    database = await open_database(DDL)
    await send(("gap", 1), ("gap", 3), ("gap", 3), ("gap", 4), ("good", 1))
    consumer = new_consumer(database)
    async with running(consumer):
        await until_applied(database, {"gap": [1], "good": [1]})
        assert await consumer.drain(PATIENCE_SECONDS)
    assert await letters(database) == [("gap", 3), ("gap", 4)]
    assert shown("gaps_total", group=group) == 1


async def test_two_facts_with_one_number_are_told_from_one_that_comes_again(
    *, open_database: Any, new_consumer: Any, producer: Any, running: Any, topic: str, group: str
) -> None:
    """A source that was restored from a backup counts again from where the backup was."""
    database = await open_database(DDL)
    first, second, other_second = (message_of("a", number, topic=topic) for number in (1, 2, 2))
    consumer = new_consumer(database)
    async with running(consumer):
        for message in (first, second, first, second):
            await producer.send_and_wait(topic, **message)
        await until_shown(2, "duplicates_total", group=group)
        assert shown("regressions_total", group=group, kind="sequence") == 0
        await producer.send_and_wait(topic, **other_second)
        await until_shown(1, "regressions_total", group=group, kind="sequence")
    assert await effects(database) == {"a": [1, 2]}


async def test_a_topic_that_is_shorter_than_what_was_read_of_it_is_noticed_and_read_again(
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
    await send(("a", 1), ("a", 2))
    first = new_consumer(database)
    async with running(first):
        await until_applied(database, {"a": [1, 2]})
        assert await first.drain(PATIENCE_SECONDS)
    assert shown("regressions_total", group=group, kind="offset") == 0
    kafka = AIOKafkaConsumer(
        bootstrap_servers=kafka_bootstrap_servers, group_id=group, enable_auto_commit=False
    )
    await kafka.start()
    partitions = [TopicPartition(topic, number) for number in range(4)]
    kafka.assign(partitions)
    await kafka.commit(dict.fromkeys(partitions, 1_000))
    await kafka.stop()

    await send(("a", 3))
    async with running(new_consumer(database)):
        await until_applied(database, {"a": [1, 2, 3]})
    assert shown("regressions_total", group=group, kind="offset") == 1


async def test_the_lag_of_each_partition_is_shown_while_it_is_this_members(
    *,
    open_database: Any,
    new_consumer: Any,
    send: Any,
    running: Any,
    group: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_session, "LAG_SECONDS", 0.0)
    database = await open_database(DDL)
    consumer = new_consumer(database)
    async with database.transaction() as tx:
        await consumer.inbox.set_state(tx, ConsumerState.PAUSED)
    await send(("a", 1), ("a", 2), ("a", 3))

    def lags() -> list[float | None]:
        return [shown("lag", group=group, topic=topic, partition=number) for number in range(4)]

    async def is_shown(expected: list[float]) -> bool:
        return sorted(each for each in lags() if each is not None) == expected

    async with running(consumer):
        await until(lambda: is_shown([0, 0, 0, 3]))
        async with database.transaction() as tx:
            await consumer.inbox.set_state(tx, ConsumerState.RUNNING)
        await until(lambda: is_shown([0, 0, 0, 0]))
    assert lags() == [None] * 4
