"""What goes to Kafka together, and what stays behind an event that Kafka will not take."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from chassis import relay as relay_module
from chassis.cloud_events import from_record
from chassis.kafka import KafkaCluster
from chassis.outbox import OUTBOX_DDL, append
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.relay_sending import MAX_RECORD_BATCH_BYTES, Sending, partition_of
from tests.e2e.eventually import eventually

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

DRAIN_SECONDS = 60.0
PARTITIONS = 4
TOPIC_TAKES = 20_000
SMALL, TOO_LARGE_FOR_THE_TOPIC = bytes(1_000), bytes(2 * TOPIC_TAKES)
SEED = 20_261_121


@pytest.fixture
def new_relay(kafka_bootstrap_servers: str, topic: str) -> Any:
    def make(database: Database, owner: str = "orders") -> Relay:
        return Relay(database, kafka=KafkaCluster(kafka_bootstrap_servers), topic=topic, owner=owner)

    return make


@pytest.fixture
async def narrow_topic(kafka_bootstrap_servers: str, topic: str) -> str:
    """The test's topic, which takes only small messages and record batches."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap_servers)
    await admin.start()
    try:
        configs = {"max.message.bytes": str(TOPIC_TAKES)}
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=configs)])
    finally:
        await admin.close()
    return topic


@pytest.fixture
def publish_all(new_event: Any) -> Callable[[Database, list[tuple[str, int, bytes]]], Awaitable[None]]:
    """Commit events in one transaction: `await publish_all(database, [("key", 1, b"payload"), ...])`."""

    async def run(database: Database, events: list[tuple[str, int, bytes]]) -> None:
        async with database.transaction() as tx:
            for key, sequence, payload in events:
                await append(tx, new_event(key, payload), sequence=sequence)

    return run


def by_key(records: list[Any]) -> dict[str, list[int]]:
    seen: dict[str, list[int]] = {}
    for event in map(from_record, records):
        seen.setdefault(event.aggregate_id, []).append(event.sequence)
    return seen


async def test_events_go_to_the_partition_that_every_other_producer_would_choose(
    *,
    open_database: Any,
    publish_all: Any,
    running: Any,
    new_relay: Any,
    read_topic: Any,
    kafka_bootstrap_servers: str,
    topic: str,
) -> None:
    """I22: a key that changes its relay, or goes by Debezium, stays where it is."""
    keys = [f"order-{number}-ü" for number in range(200)]
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers)
    await producer.start()
    try:
        partitions = tuple(sorted(await producer.partitions_for(topic)))
        chosen = {key: (await producer.send_and_wait(topic, b"", key.encode())).partition for key in keys}
    finally:
        await producer.stop()
    assert {key: partition_of(key, partitions) for key in keys} == chosen
    database = await open_database(OUTBOX_DDL)
    await publish_all(database, [(key, 1, b"") for key in keys])
    relay = new_relay(database)
    async with running(relay):
        assert await relay.drain(DRAIN_SECONDS)
    records = [record for record in await read_topic(topic, 2 * len(keys)) if record.headers]
    assert {record.key.decode(): record.partition for record in records} == chosen


async def test_many_events_of_one_aggregate_in_one_batch_arrive_in_order(
    *, open_database: Any, publish_all: Any, running: Any, new_relay: Any, read_topic: Any, topic: str
) -> None:
    """More than a record batch holds, and more than the relay takes at once."""
    database = await open_database(OUTBOX_DDL)
    events = relay_module.MAX_BATCH + 500
    await publish_all(database, [("order-1", sequence, SMALL) for sequence in range(1, events + 1)])
    relay = new_relay(database)
    async with running(relay):
        assert await relay.drain(DRAIN_SECONDS)
    assert by_key(await read_topic(topic, events)) == {"order-1": list(range(1, events + 1))}


async def test_an_event_that_is_larger_than_a_record_batch_is_published_all_the_same(
    *, open_database: Any, publish_all: Any, running: Any, new_relay: Any, read_topic: Any, topic: str
) -> None:
    database = await open_database(OUTBOX_DDL)
    large = bytes(2 * MAX_RECORD_BATCH_BYTES)
    await publish_all(database, [("order-1", 1, b""), ("order-1", 2, large), ("order-1", 3, b"")])
    relay = new_relay(database)
    async with running(relay):
        assert await relay.drain(DRAIN_SECONDS)
    assert by_key(await read_topic(topic, 3)) == {"order-1": [1, 2, 3]}


async def test_what_the_broker_refuses_stops_its_own_key_and_nothing_that_went_with_it(
    *,
    open_database: Any,
    publish_all: Any,
    rows: Any,
    running: Any,
    new_relay: Any,
    read_topic: Any,
    narrow_topic: str,
) -> None:
    """Any mix of good and bad events: each key is published up to its first bad one, and no further."""
    rng = random.Random(SEED)  # noqa: S311  # it chooses what is bad
    wanted: dict[str, list[int]] = {}
    events = []
    for sequence in range(1, 9):
        for key in (f"order-{number}" for number in range(40)):
            bad = rng.random() < 0.03
            events.append((key, sequence, TOO_LARGE_FOR_THE_TOPIC if bad else SMALL))
            good = wanted.setdefault(key, [])
            if not bad and len(good) == sequence - 1:
                good.append(sequence)
    first = {key: sequences for key, sequences in wanted.items() if sequences}
    assert 0 < sum(len(sequences) < 8 for sequences in wanted.values()) < 40
    database = await open_database(OUTBOX_DDL)
    await publish_all(database, events)
    relay = new_relay(database)
    async with running(relay):
        records = await read_topic(narrow_topic, sum(map(len, first.values())))
        assert not await relay.drain(0.1)
        assert by_key(records) == first
        # Mended, all the rest comes, in order.
        await rows(database, "UPDATE outbox SET payload = ''::bytea")
        assert await relay.drain(DRAIN_SECONDS)
    everything = by_key(await read_topic(narrow_topic, len(events)))
    assert everything == {key: list(range(1, 9)) for key in wanted}


async def test_an_event_that_is_no_cloud_event_stops_its_own_key_and_no_other(
    *,
    open_database: Any,
    publish_all: Any,
    rows: Any,
    running: Any,
    new_relay: Any,
    read_topic: Any,
    topic: str,
) -> None:
    database = await open_database(OUTBOX_DDL)
    await publish_all(database, [("bad", 1, b""), ("bad", 2, b""), ("bad", 3, b""), ("good", 1, b"")])
    await rows(database, "UPDATE outbox SET type = '' WHERE sequence = 2")
    relay = new_relay(database)
    async with running(relay):
        assert by_key(await read_topic(topic, 2)) == {"bad": [1], "good": [1]}
        assert not await relay.drain(0.1)
        await rows(database, "UPDATE outbox SET type = 'sagacity.orders.v1.OrderPlaced'")
        assert await relay.drain(DRAIN_SECONDS)
    assert by_key(await read_topic(topic, 4)) == {"bad": [1, 2, 3], "good": [1]}


async def test_what_is_fetched_at_once_is_bounded_in_bytes_but_for_one_event(
    open_database: Any, publish: Any, new_relay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MAX_BATCH_BYTES", 2_500)
    database = await open_database(OUTBOX_DDL)
    for sequence, size in enumerate((1_000, 1_000, 1_000, 9_000, 10), start=1):
        await publish(database, "order-1", sequence, bytes(size))
    relay = new_relay(database)
    await relay._claim()
    taken = []
    while batch := await relay._advance():
        taken.append([row["sequence"] for row in batch])
        relay._published = [row["position"] for row in batch]
    assert taken == [[1, 2, 3], [4], [5]]


async def test_a_relay_that_slept_past_its_lease_sends_nothing_of_what_it_had_taken(
    *, open_database: Any, publish: Any, rows: Any, running: Any, new_relay: Any, read_topic: Any, topic: str
) -> None:
    """F7: it wakes with a batch in its hands that is somebody else's by now."""
    database = await open_database(OUTBOX_DDL)
    sleeper, healthy = new_relay(database, "sleeper"), new_relay(database, "healthy")
    await publish(database, "order-1", 1)
    await sleeper._claim()
    sleeper._held_until = time.monotonic()
    sleeping = asyncio.create_task(sleeper._publish())
    try:
        await publish(database, "order-2", 1)
        await rows(database, "UPDATE outbox_lease SET expires_at = '-infinity'")
        async with running(healthy):
            await read_topic(topic, 2)
            await publish(database, "order-3", 1)
            records = await read_topic(topic, 3)
    finally:
        sleeping.cancel()
        await asyncio.wait([sleeping])
    assert by_key(records) == {"order-1": [1], "order-2": [1], "order-3": [1]}


async def test_a_batch_that_is_sent_too_late_repeats_and_never_overtakes(
    *,
    open_database: Any,
    publish: Any,
    rows: Any,
    running: Any,
    new_relay: Any,
    read_topic: Any,
    topic: str,
    kafka_bootstrap_servers: str,
) -> None:
    """F7: stopped between the look at its lease and the sending, where nothing can stop it any more."""
    database = await open_database(OUTBOX_DDL)
    sleeper, healthy = new_relay(database, "sleeper"), new_relay(database, "healthy")
    await publish(database, "order-1", 1)
    await publish(database, "order-1", 2)
    await sleeper._claim()
    late = await sleeper._advance()
    await publish(database, "order-1", 3)
    await rows(database, "UPDATE outbox_lease SET expires_at = '-infinity'")
    async with running(healthy):
        await read_topic(topic, 3)
        assert await healthy.drain(DRAIN_SECONDS)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers, enable_idempotence=True)
    await producer.start()
    try:
        outcome = await Sending(producer, topic, 0, DRAIN_SECONDS).send(late)
    finally:
        await producer.stop()
    assert [row["sequence"] for row in outcome.published] == [1, 2]
    await publish(database, "order-1", 4)
    # What it believes to have published it would delete now; nothing but that goes, and only where it may.
    sleeper._account_for(outcome)
    assert await sleeper._advance() == []
    left = await rows(database, "SELECT sequence FROM outbox ORDER BY position")
    assert [row["sequence"] for row in left] == [4]
    assert by_key(await read_topic(topic, 5)) == {"order-1": [1, 2, 3, 1, 2]}


def senders() -> int:
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(name == "Sender._sender_routine" for name in names)


async def none_sends() -> bool:
    return senders() == 0


async def one_sends() -> bool:
    return senders() == 1


async def test_a_producer_whose_broker_died_under_it_does_not_go_on_trying(
    *,
    open_database: Any,
    publish: Any,
    running: Any,
    read_topic: Any,
    topic: str,
    tmp_path: Path,
    kafka_jars: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F18: it would publish once more when Kafka is back, and keep its connections for ever."""
    from deploy.local.kafka import ApacheKafka

    monkeypatch.setattr(relay_module, "BACKOFF_CAP_SECONDS", 0.5)
    monkeypatch.setattr(relay_module, "DELIVERY_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setattr(relay_module, "STOP_TIMEOUT_SECONDS", 0.5)
    broker = ApacheKafka(tmp_path, jars=kafka_jars)
    database = await open_database(OUTBOX_DDL)
    await publish(database, "order-1", 1)

    async def halted() -> bool:
        return bool(relay._failures)

    try:
        await asyncio.to_thread(broker.start)
        relay = Relay(database, kafka=KafkaCluster(broker.bootstrap_servers), topic=topic, owner="orders")
        async with running(relay):
            assert await relay.drain(DRAIN_SECONDS)
            await eventually(one_sends)
            broker.kill()
            await publish(database, "order-1", 2)
            relay.wake()
            await eventually(halted)
            await eventually(none_sends)
            await asyncio.to_thread(broker.start)
            assert await relay.drain(DRAIN_SECONDS)
            await eventually(one_sends)
            records = await read_topic(topic, 2, broker.bootstrap_servers)
    finally:
        broker.kill()
    assert by_key(records) == {"order-1": [1, 2]}
