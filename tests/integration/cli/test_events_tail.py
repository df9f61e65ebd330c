"""`sagacity events tail` on a real Kafka: from where on, in which order, and that it leaves no trace."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from chassis.cloud_events import to_message
from chassis.ids import new_id
from deploy.local.kafka import ApacheKafka
from sagacity.orders.v1 import events_pb2
from tests.integration.cli.conftest import PATIENCE_SECONDS, Command

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

PARTITIONS = 3


class Topic:
    """A topic of a test, and who fills it."""

    def __init__(self, name: str, producer: AIOKafkaProducer) -> None:
        self.name = name
        self._producer = producer

    async def put(self, order_id: str, sequence: int, kind: str = "OrderRejected") -> None:
        payload = getattr(events_pb2, kind)(order_id=order_id).SerializeToString()
        row = {
            "id": new_id(),
            "type": f"sagacity.orders.v1.{kind}",
            "occurred_at": datetime(2026, 11, 21, 12, 0, sequence, tzinfo=UTC),
            "aggregatetype": "order",
            "aggregateid": order_id,
            "sequence": sequence,
            "payload": payload,
            "traceparent": None,
        }
        # The time of the record is the event's own: two that are sent in one millisecond have an order, too.
        at = int(row["occurred_at"].timestamp() * 1_000)
        await self._producer.send_and_wait(self.name, timestamp_ms=at, **to_message(row, source=self.name))

    async def put_garbage(self, value: bytes, **headers: bytes) -> None:
        await self._producer.send_and_wait(self.name, value=value, key=b"g", headers=list(headers.items()))


@pytest.fixture
def command(kafka_bootstrap_servers: str) -> Command:
    return Command({"SAGACITY_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap_servers})


@pytest.fixture
async def producer(kafka_bootstrap_servers: str) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap_servers) as made:
        yield made


@pytest.fixture
async def admin(kafka_bootstrap_servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    made = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap_servers)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def topic(producer: AIOKafkaProducer, admin: AIOKafkaAdminClient) -> Topic:
    name = f"tail-{new_id()}"
    await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    return Topic(name, producer)


async def tailed(command: Command, topic: Topic, *arguments: str) -> list[dict[str, Any]]:
    said = await command.run("events", "tail", "--topic", topic.name, "--json", *arguments)
    assert (said.code, said.err) == (0, "")
    return [json.loads(line) for line in said.out.splitlines()]


def numbers(shown: list[dict[str, Any]]) -> list[int]:
    return [each["sequence"] for each in shown]


async def test_from_the_start_every_event_is_shown_decoded_and_each_key_in_its_order(
    command: Command, topic: Topic
) -> None:
    for sequence in range(1, 21):
        for order in "abcde":
            await topic.put(order, sequence)
    shown = await tailed(command, topic, "--from-start", "--no-follow")
    for order in "abcde":
        assert numbers([each for each in shown if each["key"] == order]) == list(range(1, 21))
    assert len(shown) == 100
    assert len({each["partition"] for each in shown}) > 1
    assert shown[0]["payload"] == {"order_id": shown[0]["key"]}
    assert (shown[0]["type"], shown[0]["aggregate_type"]) == ("sagacity.orders.v1.OrderRejected", "order")
    assert (shown[0]["time"], shown[0]["error"]) == ("2026-11-21T12:00:01Z", None)


async def test_the_last_so_many_are_the_newest_over_all_partitions_the_oldest_of_them_first(
    command: Command, topic: Topic
) -> None:
    for sequence in range(1, 31):
        await topic.put(f"order-{sequence}", sequence)
    assert numbers(await tailed(command, topic, "--last", "7", "--no-follow")) == list(range(24, 31))
    assert numbers(await tailed(command, topic, "--last", "99", "--no-follow")) == list(range(1, 31))
    assert numbers(await tailed(command, topic, "--last", "7", "--count", "2")) == [24, 25]


async def test_key_and_type_choose_and_the_last_so_many_are_those_that_are_chosen(
    command: Command, topic: Topic
) -> None:
    for sequence in range(1, 6):
        await topic.put("mine", sequence, "OrderConfirmed" if sequence == 3 else "OrderRejected")
    for sequence in range(1, 31):
        await topic.put("other", sequence)
    ended = ("--no-follow", "--from-start")
    assert numbers(await tailed(command, topic, "--key", "mine", *ended)) == [1, 2, 3, 4, 5]
    assert numbers(await tailed(command, topic, "--key", "mine", "--last", "2", "--no-follow")) == [4, 5]
    assert numbers(await tailed(command, topic, "--type", "OrderConfirmed", *ended)) == [3]
    both = ("--type", "sagacity.orders.v1.OrderConfirmed", "--type", "OrderPlaced")
    assert numbers(await tailed(command, topic, *both, *ended)) == [3]
    assert await tailed(command, topic, "--key", "nobody", *ended) == []


async def test_what_comes_after_the_start_is_shown_until_it_is_interrupted(
    command: Command, topic: Topic
) -> None:
    await topic.put("a", 1)
    process = await command.start("events", "tail", "--topic", topic.name, "--json", "--last", "1")
    assert process.stdout is not None
    for sequence in (1, 2, 3):
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_SECONDS)
        assert json.loads(line)["sequence"] == sequence
        await topic.put("a", sequence + 1)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert (process.returncode, err) == (130, b"")


async def test_a_topic_that_is_made_meanwhile_is_read_from_its_first_event(
    command: Command, producer: AIOKafkaProducer, admin: AIOKafkaAdminClient
) -> None:
    late = Topic(f"tail-{new_id()}", producer)
    process = await command.start("events", "tail", "--topic", late.name, "--json", "--count", "1")
    assert process.stderr is not None
    note = await asyncio.wait_for(process.stderr.readline(), PATIENCE_SECONDS)
    assert note.decode() == f"sagacity: there is no topic {late.name} yet (NO_SUCH_TOPIC)\n"
    assert late.name not in await admin.list_topics()
    await late.put("a", 1)
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert (process.returncode, json.loads(out)["sequence"]) == (0, 1)


async def test_reading_joins_no_group_and_makes_no_topic(
    command: Command, topic: Topic, admin: AIOKafkaAdminClient
) -> None:
    await topic.put("a", 1)
    missing = f"tail-{new_id()}"
    before = {group[0] for group in await admin.list_consumer_groups()}
    said = await command.run(
        "events", "tail", "--topic", topic.name, "--topic", missing, "--from-start", "--no-follow"
    )
    assert (said.code, "OrderRejected" in said.out) == (0, True)
    assert missing not in await admin.list_topics()
    assert {group[0] for group in await admin.list_consumer_groups()} == before


async def test_what_is_no_event_of_ours_is_shown_as_unreadable(command: Command, topic: Topic) -> None:
    await topic.put_garbage(b"\xff\x1b[2J")
    ours = {"ce_specversion": b"1.0", "ce_id": b"i", "ce_source": b"s", "ce_sequence": b"1"}
    moment = {"ce_time": b"2026-11-21T12:00:00Z", "ce_subject": b"order/g"}
    await topic.put_garbage(b"\xff", **ours, **moment, ce_type=b"sagacity.orders.v1.OrderPlaced")
    await topic.put_garbage(b"\xff", **ours, **moment, ce_type=b"some.other.Type\x1b[2J")
    shown = await tailed(command, topic, "--from-start", "--no-follow")
    assert [each["payload_base64"] for each in shown] == ["/xtbMko=", "/w==", "/w=="]
    assert [each["payload"] for each in shown] == [None, None, None]
    assert ["CloudEvent" in (each["error"] or "") for each in shown] == [True, False, False]
    said = await command.run("events", "tail", "--topic", topic.name, "--from-start", "--no-follow")
    assert "unreadable" in said.out
    assert "\x1b" not in said.out


async def test_a_terminal_gets_colours_unless_it_does_not_want_them(command: Command, topic: Topic) -> None:
    await topic.put("a", 1)
    arguments = ("events", "tail", "--topic", topic.name, "--from-start", "--no-follow")
    assert "\x1b[" in (await command.at_terminal(*arguments))[1]
    code, shown = await command.at_terminal(*arguments, NO_COLOR="1")
    assert (code, "\x1b[1m" in shown, "OrderRejected" in shown) == (0, False, True)


async def test_the_broker_is_found_where_make_run_left_its_address(
    command: Command, topic: Topic, tmp_path: Path
) -> None:
    servers = command.variables["SAGACITY_KAFKA_BOOTSTRAP_SERVERS"]
    nowhere = {"SAGACITY_KAFKA_BOOTSTRAP_SERVERS": "", "SAGACITY_DATA_DIR": str(tmp_path)}
    arguments = ("events", "tail", "--topic", topic.name, "--last", "1", "--no-follow")
    said = await command.run(*arguments, **nowhere)
    assert (said.code, "--bootstrap-servers" in said.err) == (2, True)
    (tmp_path / "kafka-bootstrap-servers").write_text(servers)
    await topic.put("a", 1)
    assert "OrderRejected" in (await command.run(*arguments, **nowhere)).out


async def test_a_broker_that_does_not_answer_ends_with_5(command: Command) -> None:
    said = await command.run("events", "tail", "--bootstrap-servers", "127.0.0.1:1")
    assert (said.code, said.out, said.err.count("\n")) == (5, "", 1)
    assert said.err.startswith("sagacity: Kafka at 127.0.0.1:1 does not answer")
    assert said.err.endswith("(KAFKA_UNAVAILABLE)\n")


async def test_a_reader_outlives_its_broker(tmp_path: Path, kafka_jars: Path) -> None:
    broker = ApacheKafka(tmp_path / "kafka", jars=kafka_jars)
    await asyncio.to_thread(broker.start)
    command = Command({"SAGACITY_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers})
    try:
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            topic = Topic("sagacity.orders.v1", producer)
            await topic.put("a", 1)
            process = await command.start("events", "tail", "--json", "--last", "1")
            assert process.stdout is not None
            for sequence in (1, 2):
                line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_SECONDS)
                assert json.loads(line)["sequence"] == sequence
                broker.kill()
                await asyncio.to_thread(broker.start)
                await topic.put("a", sequence + 1)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        assert (process.returncode, err) == (130, b"")
        assert [json.loads(line)["sequence"] for line in out.decode().splitlines()] in ([3], [])
    finally:
        broker.kill()
