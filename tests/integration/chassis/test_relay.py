import asyncio
from pathlib import Path

import pytest

from chassis import relay as relay_module
from chassis.cloud_events import from_record
from chassis.outbox import BUCKETS, OUTBOX_DDL, append
from chassis.relay import Relay

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

DRAIN_SECONDS = 30.0
TOO_LARGE = bytes(2_000_000)


@pytest.fixture
def new_relay(kafka_bootstrap_servers, topic):
    def make(database, owner="orders", servers=kafka_bootstrap_servers):
        return Relay(database, bootstrap_servers=servers, topic=topic, owner=owner)

    return make


async def remaining(rows, database):
    return (await rows(database, "SELECT count(*) AS n FROM outbox"))[0]["n"]


async def test_an_event_arrives_as_a_cloud_event_and_leaves_the_outbox(
    open_database, publish, rows, running, new_relay, read_topic, topic
):
    database = await open_database(OUTBOX_DDL)
    relay = new_relay(database)
    await publish(database, "order-1", 7, b"\x01\x02")
    async with running(relay):
        assert await relay.drain(DRAIN_SECONDS)
    (record,) = await read_topic(topic, 1)
    headers = dict(record.headers)
    assert record.key == b"order-1"
    assert record.value == b"\x01\x02"
    assert headers.pop("ce_id")
    assert headers == {
        "ce_source": topic.encode(),
        "ce_type": b"sagacity.orders.v1.OrderPlaced",
        "ce_specversion": b"1.0",
        "ce_time": b"2026-01-02T03:04:05Z",
        "ce_subject": b"order/order-1",
        "ce_sequence": b"7",
        "content-type": b"application/protobuf",
    }
    assert await remaining(rows, database) == 0


async def test_the_trace_context_travels_beside_the_event(
    open_database, running, new_relay, read_topic, topic, new_event
):
    database = await open_database(OUTBOX_DDL)
    relay = new_relay(database)
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with database.transaction() as tx:
        await append(tx, new_event("order-1", b""), sequence=1, traceparent=traceparent)
    async with running(relay):
        assert await relay.drain(DRAIN_SECONDS)
    (record,) = await read_topic(topic, 1)
    assert from_record(record).traceparent == traceparent


async def test_events_of_one_aggregate_arrive_in_order_while_many_write(
    open_database, publish, rows, running, new_relay, read_topic, topic
):
    """P7: interleaved writers, more than a batch holds."""
    database = await open_database(OUTBOX_DDL)
    relay = new_relay(database)

    async def write(key: str) -> None:
        for sequence in range(1, 31):
            await publish(database, key, sequence)
            relay.wake()

    async with running(relay):
        await asyncio.gather(*(write(f"order-{number}") for number in range(20)))
        assert await relay.drain(DRAIN_SECONDS)
    seen: dict[bytes, list[int]] = {}
    for record in await read_topic(topic, 600):
        seen.setdefault(record.key, []).append(from_record(record).sequence)
    assert seen == {f"order-{number}".encode(): list(range(1, 31)) for number in range(20)}
    assert await remaining(rows, database) == 0


async def test_an_event_that_commits_late_is_published_though_later_positions_were(
    open_database, publish, running, new_relay, read_topic, topic, new_event
):
    database = await open_database(OUTBOX_DDL)
    relay = new_relay(database)
    async with running(relay):
        async with database.transaction() as tx:
            await append(tx, new_event("late", b""), sequence=1)
            await publish(database, "early", 1)
            assert await relay.drain(DRAIN_SECONDS)
        assert await relay.drain(DRAIN_SECONDS)
    assert {record.key for record in await read_topic(topic, 2)} == {b"early", b"late"}


async def test_an_event_that_cannot_be_sent_stops_its_own_key_and_no_other(
    open_database, publish, rows, running, new_relay, read_topic, topic
):
    database = await open_database(OUTBOX_DDL)
    relay = new_relay(database)
    await publish(database, "bad", 1)
    await publish(database, "bad", 2, TOO_LARGE)
    await publish(database, "bad", 3)
    await publish(database, "good", 1)
    await publish(database, "good", 2)
    async with running(relay):
        records = await read_topic(topic, 3)
        assert not await relay.drain(0.1)
        assert {(record.key, from_record(record).sequence) for record in records} == {
            (b"bad", 1),
            (b"good", 1),
            (b"good", 2),
        }
        left = await rows(database, "SELECT sequence FROM outbox ORDER BY position")
        assert [row["sequence"] for row in left] == [2, 3]
        # Mended, it is published with what waited behind it.
        await rows(database, "UPDATE outbox SET payload = ''::bytea")
        assert await relay.drain(DRAIN_SECONDS)
    assert [
        from_record(record).sequence for record in await read_topic(topic, 5) if record.key == b"bad"
    ] == [
        1,
        2,
        3,
    ]


async def test_a_second_relay_takes_over_when_the_first_one_stops(
    open_database, publish, rows, running, new_relay, read_topic, topic, monkeypatch
):
    monkeypatch.setattr(relay_module, "LEASE_RENEWAL_SECONDS", 0.05)
    database = await open_database(OUTBOX_DDL)
    first, second = new_relay(database, "first"), new_relay(database, "second")
    async with running(second):
        async with running(first):
            await publish(database, "order-1", 1)
            await read_topic(topic, 1)
        await publish(database, "order-1", 2)
        assert len(await read_topic(topic, 2)) == 2
        owners = await rows(database, "SELECT DISTINCT split_part(owner, '/', 1) AS owner FROM outbox_lease")
    assert owners in ([{"owner": "first"}], [{"owner": "second"}])


async def test_a_relay_that_lost_its_lease_deletes_and_takes_nothing(
    open_database, publish, rows, new_relay, monkeypatch
):
    """F7: stopped for longer than its lease, and then let go on."""
    database = await open_database(OUTBOX_DDL)
    stopped, healthy = new_relay(database, "stopped"), new_relay(database, "healthy")
    await stopped._claim()
    await publish(database, "order-1", 1)
    (row,) = await stopped._advance()
    await rows(database, "UPDATE outbox_lease SET expires_at = '-infinity'")
    await healthy._claim()
    stopped._published = [row["position"]]
    assert await stopped._advance() == []
    assert await remaining(rows, database) == 1
    assert [taken["position"] for taken in await healthy._advance()] == [row["position"]]
    epochs = await rows(database, "SELECT count(*) AS n FROM outbox_lease WHERE epoch = 2")
    assert epochs == [{"n": BUCKETS}]


async def test_what_was_committed_while_kafka_was_down_is_published_in_order(
    open_database,
    publish,
    rows,
    running,
    new_relay,
    read_topic,
    topic,
    tmp_path: Path,
    kafka_jars,
    monkeypatch,
):
    """F18: down at the start, and again in between."""
    from deploy.local.kafka import ApacheKafka

    monkeypatch.setattr(relay_module, "BACKOFF_CAP_SECONDS", 0.5)
    monkeypatch.setattr(relay_module, "DELIVERY_TIMEOUT_SECONDS", 2.0)
    broker = ApacheKafka(tmp_path, jars=kafka_jars)
    broker.prepare()
    database = await open_database(OUTBOX_DDL)
    relay = new_relay(database, servers=broker.bootstrap_servers)
    try:
        async with running(relay):
            await publish(database, "order-1", 1)
            async with asyncio.timeout(20):
                while not relay._failures:
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(broker.start)
            assert await relay.drain(DRAIN_SECONDS)
            broker.kill()
            await publish(database, "order-1", 2)
            await publish(database, "order-1", 3)
            relay.wake()
            async with asyncio.timeout(20):
                while not relay._failures:
                    await asyncio.sleep(0.01)
            assert await remaining(rows, database) == 2
            await asyncio.to_thread(broker.start)
            assert await relay.drain(DRAIN_SECONDS)
        records = await read_topic(topic, 3, broker.bootstrap_servers)
        first_seen = list(dict.fromkeys(from_record(record).sequence for record in records))
        assert first_seen == [1, 2, 3]
    finally:
        broker.kill()
