"""EventOperator over gRPC: who may call it, what it refuses, and what operators see."""

import base64
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chassis.errors import FaultKind
from chassis.event_operator import EVENT_OPERATOR_POLICIES, EventOperator
from chassis.identity import Caller
from chassis.ids import new_id
from chassis.kafka import KafkaCluster
from chassis.outbox import OUTBOX_DDL
from sagacity.events.v1 import event_operator_pb2 as pb
from sagacity.orders.v1 import events_pb2
from tests.integration.chassis.consuming import DDL, PLACED, until, until_applied
from tests.integration.chassis.operating import (
    ADMIN,
    ASKED,
    OUTBOX_TOPIC,
    World,
    aggregate,
    opened,
    park,
    served,
    until_parked,
)

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

METHODS = [each.name for each in pb.DESCRIPTOR.services_by_name["EventOperator"].methods]
API_PAGE = Path(__file__).resolve().parents[3] / "docs" / "api.md"


@pytest.fixture
async def world(open_database: Any, new_consumer: Any, kafka_bootstrap_servers: str) -> AsyncIterator[World]:
    """Yield a context of this test's own."""
    database = await open_database(DDL + OUTBOX_DDL)
    async with opened(database, new_consumer, kafka_bootstrap_servers) as made:
        yield made


# --- who may, and what is taken ---


@pytest.mark.parametrize("name", METHODS)
def test_only_admins_and_the_operators_own_key_are_served(name: str) -> None:
    policy = EVENT_OPERATOR_POLICIES[name]
    for refused in (
        Caller("orders"),
        Caller("gateway"),
        Caller("gateway", new_id(), "customer"),
        Caller("gateway", new_id(), "support"),
    ):
        assert not policy.permits(refused)
    assert policy.permits(Caller("operator"))
    assert policy.permits(ADMIN)


async def test_another_service_is_refused(world: World) -> None:
    assert (await world.refusal("GetLag", by="orders")).kind is FaultKind.PERMISSION_DENIED


def test_the_api_page_lists_every_rpc_with_who_may_call_it() -> None:
    section = (
        API_PAGE.read_text("utf-8").split("### sagacity.events.v1.EventOperator\n")[1].split("\n### ")[0]
    )
    listed = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|", section, re.MULTILINE)
    assert listed == [(name, "gateway, operator", "admin") for name in METHODS]


@pytest.mark.parametrize(
    ("method", "values", "wrong"),
    [
        ("PauseConsumer", {"consumer": "a", "actor": "ops"}, "reason"),
        ("PauseConsumer", {"consumer": "", **ASKED}, "consumer"),
        ("ResumeConsumer", {"consumer": "a", "actor": "o\x00ps", "reason": "r"}, "actor"),
        ("RebuildProjection", {"projection": "a", "actor": "ops", "reason": "r" * 501}, "reason"),
        ("DiscardDeadLetter", {"consumer": "a", "aggregate": "b", "sequence": 0, **ASKED}, "sequence"),
        ("GetDeadLetter", {"consumer": "a", "aggregate": "", "sequence": 1}, "aggregate"),
        ("ListDeadLetters", {"page_size": 201}, "page_size"),
        ("ListDeadLetters", {"page_token": "mine"}, "page_token"),
        ("ListAuditEntries", {"page_token": "mine"}, "page_token"),
    ],
)
async def test_bad_input_is_refused_by_the_name_of_its_field(
    world: World, method: str, values: dict[str, Any], wrong: str
) -> None:
    fault = await world.refusal(method, getattr(pb, f"{method}Request")(**values))
    assert fault.kind is FaultKind.INVALID_ARGUMENT
    assert {each.subject for each in fault.fields} == {wrong}


async def test_what_is_not_there_is_not_found_and_the_answer_says_what_is(world: World, running: Any) -> None:
    async with running(world.consumer):
        name = world.consumer.inbox.consumer
        for method, values, reason in (
            ("PauseConsumer", {"consumer": "nobody", **ASKED}, "CONSUMER_NOT_FOUND"),
            ("ResumeConsumer", {"consumer": "nobody", **ASKED}, "CONSUMER_NOT_FOUND"),
            ("ListDeadLetters", {"consumer": "nobody"}, "CONSUMER_NOT_FOUND"),
            ("ReplayDeadLetters", {"consumer": "nobody", **ASKED}, "CONSUMER_NOT_FOUND"),
            ("ReplayDeadLetters", {"consumer": name, "aggregate": "a", **ASKED}, "DEAD_LETTER_NOT_FOUND"),
            ("GetDeadLetter", {"consumer": name, "aggregate": "a", "sequence": 1}, "DEAD_LETTER_NOT_FOUND"),
            (
                "DiscardDeadLetter",
                {"consumer": name, "aggregate": "a", "sequence": 1, **ASKED},
                "DEAD_LETTER_NOT_FOUND",
            ),
            ("RebuildProjection", {"projection": "nothing", **ASKED}, "PROJECTION_NOT_FOUND"),
        ):

            async def registered() -> bool:
                return world.consumers.find(name) is not None

            await until(registered)
            fault = await world.refusal(method, getattr(pb, f"{method}Request")(**values))
            assert (fault.kind, fault.reason, fault.domain) == (FaultKind.NOT_FOUND, reason, "sagacity.test")
        assert "listing" in fault.message
    assert (await world.call("ListAuditEntries")).entries == []


# --- looking ---


async def test_the_lag_of_outbox_and_consumers_is_told(
    world: World, send: Any, publish: Any, running: Any, topic: str
) -> None:
    world.broken.add("bad")
    await publish(world.database, "a", 1)
    await publish(world.database, "a", 2)
    async with running(world.consumer):
        await send(("good", 1), ("bad", 1), ("bad", 2))
        await until_applied(world.database, {"good": [1]})
        await until_parked(world, ("bad", 1), ("bad", 2))

        async def caught_up() -> bool:
            (consumer,) = (await world.call("GetLag")).consumers
            return sum(each.committed_offset for each in consumer.partitions if each.end_offset) == 3

        await until(caught_up)
        name = world.consumer.inbox.consumer
        await world.call("PauseConsumer", pb.PauseConsumerRequest(consumer=name, **ASKED))
        await send(("good", 2), ("good", 3))
        reply = await world.call("GetLag", user=ADMIN, by="gateway")
    assert (reply.outbox.topic, reply.outbox.waiting) == (OUTBOX_TOPIC, 2)
    assert reply.outbox.oldest_age.seconds > 0
    (consumer,) = reply.consumers
    assert (consumer.consumer, consumer.generation) == (name, 1)
    assert consumer.state == pb.CONSUMER_STATE_PAUSED
    assert (consumer.dead_letters, consumer.halted_keys) == (2, 1)
    assert [(each.topic, each.partition) for each in consumer.partitions] == [(topic, n) for n in range(4)]
    assert sum(each.end_offset for each in consumer.partitions) == 5
    assert sum(each.lag for each in consumer.partitions) == 2
    assert {each.committed_offset for each in consumer.partitions if not each.end_offset} <= {-1}
    assert (await world.call("GetLag")).consumers == []  # it does not run any more


async def test_without_kafka_the_lag_is_what_the_database_knows(
    world: World, open_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.consumers.add(world.consumer)
    operator = EventOperator(
        world.database,
        topic=OUTBOX_TOPIC,
        consumers=world.consumers,
        kafka=KafkaCluster("127.0.0.1:1"),
        projections={},
    )
    async with served(operator) as connections:
        alone = World(world.database, world.consumers, world.consumer, connections, set())
        reply = await alone.call("GetLag")
        assert (await alone.call("ListProjections")).projections == []
    (consumer,) = reply.consumers
    assert (consumer.state, list(consumer.partitions)) == (pb.CONSUMER_STATE_RUNNING, [])
    assert not reply.outbox.HasField("oldest_age")


async def test_dead_letters_are_listed_page_by_page_and_filtered(world: World, topic: str) -> None:
    keys = await park(world, 4, topic)
    found: list[tuple[str, int]] = []
    token = ""
    pages = 0
    while pages == 0 or token:
        request = pb.ListDeadLettersRequest(page_size=3, page_token=token)
        reply = await world.call("ListDeadLetters", request)
        found += [(each.aggregate, each.sequence) for each in reply.dead_letters]
        token, pages = reply.next_page_token, pages + 1
    assert found == [(aggregate(topic, key), number) for key in keys for number in (1, 2)]
    assert pages == 3

    chosen = pb.ListDeadLettersRequest(aggregate=aggregate(topic, keys[1]), type=PLACED, page_size=2)
    reply = await world.call("ListDeadLetters", chosen)
    assert [each.sequence for each in reply.dead_letters] == [1, 2]
    assert not reply.next_page_token
    assert (await world.call("ListDeadLetters", pb.ListDeadLettersRequest(type="other"))).dead_letters == []

    first = await world.call("ListDeadLetters", pb.ListDeadLettersRequest(page_size=1))
    elsewhere = pb.ListDeadLettersRequest(page_token=first.next_page_token, aggregate="other")
    assert [each.subject for each in (await world.refusal("ListDeadLetters", elsewhere)).fields] == [
        "page_token"
    ]


async def test_a_dead_letter_is_shown_with_its_payload_as_json(world: World, topic: str) -> None:
    payload = events_pb2.OrderPlaced(order_id="o-1").SerializeToString()
    await park(world, 1, topic, payload=payload)
    name = world.consumer.inbox.consumer
    request = pb.GetDeadLetterRequest(consumer=name, aggregate=aggregate(topic, "key-000"), sequence=1)
    reply = await world.call("GetDeadLetter", request)
    assert reply.payload == payload
    assert json.loads(reply.payload_json)["order_id"] == "o-1"
    assert reply.dead_letter.error == "ValueError('bad code')"
    assert reply.dead_letter.occurred_at.ToDatetime(UTC) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    request.sequence = 2
    assert "parked" in (await world.call("GetDeadLetter", request)).dead_letter.error


@pytest.mark.parametrize(
    ("event_type", "payload"), [("nobody.knows.This", b"\x08\x01"), (PLACED, b"\xff\xff\xff"), ("", b"x")]
)
async def test_a_payload_that_cannot_be_decoded_is_shown_as_bytes(
    world: World, topic: str, event_type: str, payload: bytes
) -> None:
    await park(world, 1, topic, payload=payload, type=event_type)
    request = pb.GetDeadLetterRequest(
        consumer=world.consumer.inbox.consumer, aggregate=aggregate(topic, "key-000"), sequence=1
    )
    reply = await world.call("GetDeadLetter", request)
    assert (reply.payload, reply.payload_json) == (payload, "")


async def test_a_page_token_is_opaque_and_short_enough_to_be_sent_back(world: World) -> None:
    world.consumers.add(world.consumer)
    long_key = "k" * 380
    await park(world, 1, f"t{'o' * 100}", aggregate_id=long_key)
    reply = await world.call("ListDeadLetters", pb.ListDeadLettersRequest(page_size=1))
    base64.urlsafe_b64decode(reply.next_page_token + "==")
    again = pb.ListDeadLettersRequest(page_size=1, page_token=reply.next_page_token)
    assert [each.sequence for each in (await world.call("ListDeadLetters", again)).dead_letters] == [2]
