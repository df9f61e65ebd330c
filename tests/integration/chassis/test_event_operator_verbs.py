"""EventOperator over gRPC: what operators do, and what the audit has of it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis import event_operator
from chassis.errors import FaultKind
from chassis.outbox import OUTBOX_DDL
from sagacity.events.v1 import event_operator_pb2 as pb
from tests.integration.chassis.consuming import DDL, effects, until_applied
from tests.integration.chassis.operating import ADMIN, ASKED, World, aggregate, opened, park, until_parked

pytestmark = [pytest.mark.integration, pytest.mark.kafka]


@pytest.fixture
async def world(open_database: Any, new_consumer: Any, kafka_bootstrap_servers: str) -> AsyncIterator[World]:
    """Yield a context of this test's own."""
    database = await open_database(DDL + OUTBOX_DDL)
    async with opened(database, new_consumer, kafka_bootstrap_servers) as made:
        yield made


async def test_a_mended_handler_and_a_replay_bring_a_halted_key_back_into_the_flow(
    world: World, send: Any, running: Any, topic: str
) -> None:
    world.broken.add("a")
    async with running(world.consumer):
        await send(("a", 1), ("a", 2), ("b", 1))
        await until_parked(world, ("a", 1), ("a", 2))
        name = world.consumer.inbox.consumer
        request = pb.ReplayDeadLettersRequest(consumer=name, aggregate=aggregate(topic, "a"), **ASKED)
        reply = await world.call("ReplayDeadLetters", request)
        assert (reply.applied, reply.left) == (0, 2)
        assert "bad code" in reply.error
        world.broken.clear()
        reply = await world.call("ReplayDeadLetters", request, by="gateway", user=ADMIN)
        assert (reply.applied, reply.left, reply.error, reply.next_page_token) == (2, 0, "", "")
        await send(("a", 3))
        await until_applied(world.database, {"b": [1], "a": [1, 2, 3]})
    entries = (await world.call("ListAuditEntries")).entries
    assert [(each.actor, each.action, each.reason) for each in entries] == [
        (str(ADMIN.user_id), "replay", "because"),
        (str(ADMIN.user_id), "replay", "because"),
        ("ops", "replay", "because"),
    ]
    assert [each.outcome.partition(":")[0] for each in entries] == ["applied", "applied", "failed"]


async def test_everything_is_replayed_in_calls_of_a_bounded_size_past_the_keys_that_fail(
    world: World, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_operator, "MAX_REPLAYED", 3)
    keys = await park(world, 6, topic)
    world.broken.update(keys[:2])
    request = pb.ReplayDeadLettersRequest(consumer=world.consumer.inbox.consumer, **ASKED)
    applied, calls, errors = 0, 0, []
    while not calls or request.page_token:
        reply = await world.call("ReplayDeadLetters", request)
        request.page_token = reply.next_page_token
        applied, calls, errors = applied + reply.applied, calls + 1, [*errors, reply.error]
    assert (applied, reply.left) == (8, 4)
    assert calls > 2
    assert keys[0] in errors[0]
    assert await effects(world.database) == {key: [1, 2] for key in keys[2:]}


async def test_the_first_letter_of_a_key_is_discarded_over_the_wire(world: World, topic: str) -> None:
    (key,) = await park(world, 1, topic)
    values = {"consumer": world.consumer.inbox.consumer, "aggregate": aggregate(topic, key), **ASKED}
    fault = await world.refusal("DiscardDeadLetter", pb.DiscardDeadLetterRequest(sequence=2, **values))
    assert (fault.kind, fault.reason) == (FaultKind.FAILED_PRECONDITION, "NOT_THE_FIRST")
    assert "event 1 is the first" in fault.subjects[0].description
    reply = await world.call("DiscardDeadLetter", pb.DiscardDeadLetterRequest(sequence=1, **values))
    assert reply.left == 1


async def test_a_consumer_is_paused_and_resumed_and_both_are_audited(
    world: World, send: Any, running: Any
) -> None:
    async with running(world.consumer):
        await send(("a", 1))
        await until_applied(world.database, {"a": [1]})
        name = world.consumer.inbox.consumer
        reply = await world.call("PauseConsumer", pb.PauseConsumerRequest(consumer=name, **ASKED))
        assert reply.state == pb.CONSUMER_STATE_PAUSED
        await send(("a", 2))
        reply = await world.call("ResumeConsumer", pb.ResumeConsumerRequest(consumer=name, **ASKED))
        assert reply.state == pb.CONSUMER_STATE_RUNNING
        await until_applied(world.database, {"a": [1, 2]})
    pages: list[Any] = []
    request = pb.ListAuditEntriesRequest(page_size=1)
    while not pages or request.page_token:
        reply = await world.call("ListAuditEntries", request)
        pages += reply.entries
        request.page_token = reply.next_page_token
    assert [(each.action, each.target, each.outcome) for each in pages] == [
        ("resume", name, "RUNNING, before PAUSED"),
        ("pause", name, "PAUSED, before RUNNING"),
    ]


async def test_a_projection_is_rebuilt_and_listed(world: World) -> None:
    (before,) = (await world.call("ListProjections")).projections
    assert (before.name, before.state, before.active_generation, before.building_generation) == (
        "listing",
        pb.PROJECTION_STATE_SERVING,
        1,
        0,
    )
    request = pb.RebuildProjectionRequest(projection="listing", **ASKED)
    after = (await world.call("RebuildProjection", request)).projection
    assert (after.state, after.building_generation) == (pb.PROJECTION_STATE_COPYING, 2)
    assert not after.HasField("switch_time")
    (entry,) = (await world.call("ListAuditEntries")).entries
    assert (entry.action, entry.target) == ("rebuild", "listing")
    assert "generation 2" in entry.outcome
