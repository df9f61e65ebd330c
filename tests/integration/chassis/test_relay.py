import asyncio
from typing import Any

import pytest

from chassis import relay as relay_module
from chassis.cloud_events import from_record
from chassis.config import ProcessSettings
from chassis.kafka import KafkaCluster
from chassis.lifecycle import Lifecycle
from chassis.outbox import BUCKETS, OUTBOX_DDL, append
from chassis.postgres import Database
from chassis.process import start_relay
from chassis.relay import Relay
from chassis.telemetry import REGISTRY
from tests.e2e.eventually import eventually
from tests.integration.chassis.consuming import until

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

DRAIN_SECONDS = 30.0
TOO_LARGE = bytes(2_000_000)


@pytest.fixture
def new_relay(kafka_bootstrap_servers: str, topic: str) -> Any:
    def make(database: Database, owner: str = "orders", servers: str = kafka_bootstrap_servers) -> Relay:
        return Relay(database, kafka=KafkaCluster(servers), topic=topic, owner=owner)

    return make


async def remaining(rows: Any, database: Database) -> int:
    return int((await rows(database, "SELECT count(*) AS n FROM outbox"))[0]["n"])


async def test_an_event_arrives_as_a_cloud_event_and_leaves_the_outbox(
    *, open_database: Any, publish: Any, rows: Any, running: Any, new_relay: Any, read_topic: Any, topic: str
) -> None:
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
    *, open_database: Any, running: Any, new_relay: Any, read_topic: Any, topic: str, new_event: Any
) -> None:
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
    *, open_database: Any, publish: Any, rows: Any, running: Any, new_relay: Any, read_topic: Any, topic: str
) -> None:
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
    *,
    open_database: Any,
    publish: Any,
    running: Any,
    new_relay: Any,
    read_topic: Any,
    topic: str,
    new_event: Any,
) -> None:
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
    *, open_database: Any, publish: Any, rows: Any, running: Any, new_relay: Any, read_topic: Any, topic: str
) -> None:
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

        async def only_the_bad_are_left() -> bool:
            left = await rows(database, "SELECT sequence FROM outbox ORDER BY position")
            return [row["sequence"] for row in left] == [2, 3]

        # What was published is deleted with the next look into the outbox.
        await until(only_the_bad_are_left)
        # Mended, it is published with what waited behind it.
        await rows(database, "UPDATE outbox SET payload = ''::bytea")
        assert await relay.drain(DRAIN_SECONDS)
    events = [from_record(record) for record in await read_topic(topic, 5)]
    assert [event.sequence for event in events if event.aggregate_id == "bad"] == [1, 2, 3]


async def test_a_second_relay_takes_over_when_the_first_one_stops(
    *,
    open_database: Any,
    publish: Any,
    rows: Any,
    running: Any,
    new_relay: Any,
    read_topic: Any,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "LEASE_RENEWAL_SECONDS", 0.05)
    database = await open_database(OUTBOX_DDL)
    first, second = new_relay(database, "first"), new_relay(database, "second")
    async with running(second):
        async with running(first):
            await publish(database, "order-1", 1)
            # Not as soon as Kafka has it: who is stopped before its row is gone leaves it to be sent again.
            await eventually(lambda: rows(database, "SELECT 1 FROM outbox"), until=lambda found: not found)
        await publish(database, "order-1", 2)
        assert len(await read_topic(topic, 2)) == 2
        owners = await rows(database, "SELECT DISTINCT split_part(owner, '/', 1) AS owner FROM outbox_lease")
    assert owners in ([{"owner": "first"}], [{"owner": "second"}])


async def test_a_relay_that_lost_its_lease_deletes_and_takes_nothing(
    open_database: Any, publish: Any, rows: Any, new_relay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_service_runs_its_relay_unless_the_outbox_is_left_to_debezium(
    *, enabled: bool, open_database: Any, publish: Any, rows: Any, kafka_bootstrap_servers: str, topic: str
) -> None:
    database = await open_database(OUTBOX_DDL)
    await publish(database, "order-1", 1)
    settings = ProcessSettings(kafka_bootstrap_servers=kafka_bootstrap_servers, relay_enabled=enabled)

    async def slot_watched() -> bool:
        return REGISTRY.get_sample_value("sagacity_outbox_slot_active", {"topic": topic}) == 0

    async with asyncio.TaskGroup() as group:
        life = Lifecycle(group)
        start_relay(life, settings, database, topic=topic)()
        await eventually(slot_watched, until=lambda watched: watched is not enabled)
        life.stopping.set()
        await life.drain()
    assert await remaining(rows, database) == (0 if enabled else 1)
