"""The JSON that admins get of events and their repair, and how it is made of the messages."""

import base64
import json
from datetime import UTC, datetime
from typing import Annotated, Any

from google.protobuf.message import Message
from pydantic import Field

from gateway.render import word
from gateway.views import View
from sagacity.events.v1 import event_operator_pb2 as pb


class OutboxLagView(View):
    """What was committed and is not published; the ages are null where nothing waits or is open."""

    topic: Annotated[str, Field(examples=["sagacity.orders.v1"])]
    waiting: int
    oldest_age_seconds: float | None
    oldest_transaction_age_seconds: float | None


class PartitionLagView(View):
    """How far a consumer is in one partition; `committed_offset` is -1 where it never committed one."""

    topic: str
    partition: int
    committed_offset: int
    end_offset: int
    lag: int


class ConsumerLagView(View):
    """How far a consumer is; `partitions` is empty where Kafka does not answer."""

    consumer: Annotated[str, Field(examples=["users.customer-statistics"])]
    generation: int
    state: Annotated[str, Field(examples=["running"], description="running, paused or halted")]
    partitions: list[PartitionLagView]
    dead_letters: int
    halted_keys: int


class LagView(View):
    """How far a context's outbox and consumers are behind."""

    outbox: OutboxLagView | None
    consumers: list[ConsumerLagView]


class DeadLetterView(View):
    """An event that could not be applied, or that waits behind one."""

    consumer: str
    generation: int
    aggregate: Annotated[str, Field(examples=["sagacity.orders.v1/order/018f7e9c"])]
    sequence: int
    type: Annotated[str | None, Field(description="Null for what is no event of ours.")]
    event_id: str | None
    topic: str
    partition: int
    offset: int
    error: str
    replays: Annotated[int, Field(description="Times that it was replayed in vain.")]
    occurred_at: datetime | None
    create_time: datetime | None


class DeadLetterDetailView(View):
    """A dead letter and what it says; `payload` is null where it does not decode."""

    dead_letter: DeadLetterView
    payload: Any
    payload_base64: str


class ReplayView(View):
    """What became of a replay; `error` is why the first that failed did, null where none did.

    Where `next_page_token` is not null, the request came to its bound: send it again with the token.
    """

    applied: int
    left: int
    error: str | None
    next_page_token: str | None


class DiscardView(View):
    """How many dead letters are left of the aggregate."""

    left: int


class ConsumerStateView(View):
    """What a consumer does now."""

    consumer: str
    state: Annotated[str, Field(examples=["paused"])]


class ProjectionView(View):
    """A read model that is built from events."""

    name: Annotated[str, Field(examples=["order-history"])]
    state: Annotated[str, Field(examples=["serving"], description="serving, copying or catching_up")]
    active_generation: Annotated[int | None, Field(description="The one that is read.")]
    building_generation: int | None
    copied: Annotated[int, Field(description="Aggregates that were copied into what is being built.")]
    begin_time: datetime | None
    switch_time: datetime | None


class AuditEntryView(View):
    """Something that an operator did."""

    time: datetime | None
    actor: str
    action: Annotated[str, Field(examples=["replay"])]
    target: str
    reason: str
    outcome: Annotated[str, Field(description="What came of it, in a sentence.")]


def lag(message: pb.GetLagResponse) -> LagView:
    """Renders how far a context is behind."""
    outbox = message.outbox
    return LagView(
        outbox=OutboxLagView(
            topic=outbox.topic,
            waiting=outbox.waiting,
            oldest_age_seconds=_seconds(outbox, "oldest_age"),
            oldest_transaction_age_seconds=_seconds(outbox, "oldest_transaction_age"),
        )
        if message.HasField("outbox")
        else None,
        consumers=[_consumer(consumer) for consumer in message.consumers],
    )


def _consumer(message: pb.ConsumerLag) -> ConsumerLagView:
    return ConsumerLagView(
        consumer=message.consumer,
        generation=message.generation,
        state=consumer_state(message.state),
        partitions=[
            PartitionLagView(
                topic=each.topic,
                partition=each.partition,
                committed_offset=each.committed_offset,
                end_offset=each.end_offset,
                lag=each.lag,
            )
            for each in message.partitions
        ],
        dead_letters=message.dead_letters,
        halted_keys=message.halted_keys,
    )


def consumer_state(state: int) -> str:
    """Names what a consumer does."""
    return word(pb.ConsumerState.DESCRIPTOR, state, "CONSUMER_STATE_")


def dead_letter(message: pb.DeadLetter) -> DeadLetterView:
    """Renders a dead letter."""
    return DeadLetterView(
        consumer=message.consumer,
        generation=message.generation,
        aggregate=message.aggregate,
        sequence=message.sequence,
        type=message.type or None,
        event_id=message.event_id or None,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        error=message.error,
        replays=message.replays,
        occurred_at=_time(message, "occurred_at"),
        create_time=_time(message, "create_time"),
    )


def dead_letter_detail(message: pb.GetDeadLetterResponse) -> DeadLetterDetailView:
    """Renders a dead letter with its payload."""
    return DeadLetterDetailView(
        dead_letter=dead_letter(message.dead_letter),
        payload=json.loads(message.payload_json) if message.payload_json else None,
        payload_base64=base64.b64encode(message.payload).decode(),
    )


def projection(message: pb.Projection) -> ProjectionView:
    """Renders a projection."""
    return ProjectionView(
        name=message.name,
        state=word(pb.ProjectionState.DESCRIPTOR, message.state, "PROJECTION_STATE_"),
        active_generation=message.active_generation or None,
        building_generation=message.building_generation or None,
        copied=message.copied,
        begin_time=_time(message, "begin_time"),
        switch_time=_time(message, "switch_time"),
    )


def replay(message: pb.ReplayDeadLettersResponse) -> ReplayView:
    """Renders what became of a replay."""
    return ReplayView(
        applied=message.applied,
        left=message.left,
        error=message.error or None,
        next_page_token=message.next_page_token or None,
    )


def audit_entry(message: pb.AuditEntry) -> AuditEntryView:
    """Renders what an operator did."""
    return AuditEntryView(
        time=_time(message, "time"),
        actor=message.actor,
        action=message.action,
        target=message.target,
        reason=message.reason,
        outcome=message.outcome,
    )


def _time(message: Message, field: str) -> datetime | None:
    moment: datetime | None = (
        getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None
    )
    return moment


def _seconds(message: Message, field: str) -> float | None:
    seconds: float | None = (
        getattr(message, field).ToTimedelta().total_seconds() if message.HasField(field) else None
    )
    return seconds
