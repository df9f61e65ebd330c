"""EventOperator: how operators look into a context's events and repair them, in every context alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool, json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from typing_extensions import override

from chassis import dead_letters, event_audit
from chassis.consumer import Consumer, Consumers
from chassis.consumer_lag import PartitionLag, known_lags
from chassis.dead_letters import Place
from chassis.errors import Fault, FaultKind
from chassis.event_audit import Action, Asked
from chassis.inbox import ConsumerState
from chassis.kafka import KafkaCluster
from chassis.operators import OPERATORS, actor
from chassis.outbox_backlog import backlog
from chassis.page_tokens import decode_page_token, encode_page_token
from chassis.postgres import Database, Row, Transaction
from chassis.projections import Projection, ProjectionStatus
from chassis.timestamps import to_timestamp
from sagacity.events.v1 import event_operator_pb2 as pb
from sagacity.events.v1 import event_operator_pb2_grpc

DEFAULT_PAGE = 50
# Of one call; a token goes on. The time is well within the deadline of any caller.
MAX_REPLAYED = 200
MAX_REPLAY_SECONDS = 5.0
# The payload goes along as bytes, and both have to fit into one message.
MAX_JSON_CHARACTERS = 1_000_000

EVENT_OPERATOR_POLICIES = {
    method.name: OPERATORS for method in pb.DESCRIPTOR.services_by_name["EventOperator"].methods
}

Context = grpc.aio.ServicerContext[Any, Any]


class EventOperator(event_operator_pb2_grpc.EventOperatorServicer):
    """Serves one context: its outbox, the consumers that run here, and its projections."""

    def __init__(
        self,
        database: Database,
        *,
        topic: str,
        consumers: Consumers,
        kafka: KafkaCluster,
        projections: Mapping[str, Projection],
    ) -> None:
        self._database = database
        self._topic = topic
        self._consumers = consumers
        self._kafka = kafka
        self._projections = projections

    # --- looking ---

    @override
    async def GetLag(self, request: pb.GetLagRequest, context: Context) -> pb.GetLagResponse:
        consumers = self._consumers.all()
        groups = {each.inbox.consumer: each.topics for each in consumers}
        lags, seen, counts = await asyncio.gather(
            known_lags(self._kafka, groups), backlog(self._database), dead_letters.counts(self._database)
        )
        outbox = pb.OutboxLag(
            topic=self._topic,
            waiting=seen.waiting,
            oldest_age=_duration(seen.oldest_age_seconds),
            oldest_transaction_age=_duration(seen.oldest_transaction_seconds),
        )
        shown = [
            _consumer(
                each,
                await each.inbox.state(),
                lags.get(each.inbox.consumer, []),
                counts.get((each.inbox.consumer, each.inbox.generation), (0, 0)),
            )
            for each in consumers
        ]
        return pb.GetLagResponse(outbox=outbox, consumers=shown)

    @override
    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        chosen = [request.consumer, request.aggregate, request.type]
        position = decode_page_token(request.page_token, chosen, types=(str, int, str, int))
        limit = request.page_size or DEFAULT_PAGE
        rows = await dead_letters.page(
            self._database,
            after=Place(*position) if position else Place(),
            limit=limit + 1,
            consumer=request.consumer,
            aggregate=request.aggregate,
            type_=request.type,
        )
        if not rows and request.consumer:
            # One that does not run any more may have left some; one that never did is a mistake.
            self._consumer(request.consumer)
        token = ""
        if len(rows) > limit:
            last = rows[limit - 1]
            end = last["consumer"], last["generation"], last["aggregate"], last["sequence"]
            token = encode_page_token(end, chosen)
        letters = map(_letter, rows[:limit])
        return pb.ListDeadLettersResponse(dead_letters=letters, next_page_token=token)

    @override
    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        row = await dead_letters.find(
            self._database,
            consumer=request.consumer,
            aggregate=request.aggregate,
            sequence=request.sequence,
        )
        payload = bytes(row["payload"])
        return pb.GetDeadLetterResponse(
            dead_letter=_letter(row), payload=payload, payload_json=_as_json(row["type"], payload)
        )

    @override
    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        (before,) = decode_page_token(request.page_token, [], types=(int,)) or (event_audit.NEWEST,)
        limit = request.page_size or DEFAULT_PAGE
        rows = await event_audit.page(self._database, before=before, limit=limit + 1)
        token = encode_page_token((rows[limit - 1]["id"],), []) if len(rows) > limit else ""
        return pb.ListAuditEntriesResponse(entries=map(_entry, rows[:limit]), next_page_token=token)

    @override
    async def ListProjections(
        self, request: pb.ListProjectionsRequest, context: Context
    ) -> pb.ListProjectionsResponse:
        found = [await each.status(self._database) for _, each in sorted(self._projections.items())]
        return pb.ListProjectionsResponse(projections=map(_projection, found))

    # --- verbs ---

    @override
    async def ReplayDeadLetters(
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        inbox = self._consumer(request.consumer).inbox
        chosen = [request.consumer, request.aggregate]
        # The aggregates up to this one are done with.
        (behind,) = decode_page_token(request.page_token, chosen, types=(str,)) or ("",)
        if request.aggregate and not await dead_letters.left(self._database, inbox, request.aggregate):
            raise dead_letters.not_found()
        asked = Asked(actor(request.actor), request.reason)
        until = time.monotonic() + MAX_REPLAY_SECONDS
        reply = pb.ReplayDeadLettersResponse()
        key = request.aggregate or await dead_letters.next_key(self._database, inbox, behind)
        tried = 0
        while key:
            if tried == MAX_REPLAYED or time.monotonic() > until:
                reply.next_page_token = encode_page_token((behind,), chosen)
                break
            done = await dead_letters.replay_first(self._database, inbox, key, asked)
            tried += 1
            if done and not done.error:
                reply.applied += 1
                continue
            if done:
                reply.error = reply.error or f"{key}, event {done.sequence}: {done.error}"
            behind = key
            key = None if request.aggregate else await dead_letters.next_key(self._database, inbox, behind)
        reply.left = await dead_letters.left(self._database, inbox, request.aggregate)
        return reply

    @override
    async def DiscardDeadLetter(
        self, request: pb.DiscardDeadLetterRequest, context: Context
    ) -> pb.DiscardDeadLetterResponse:
        left = await dead_letters.discard_first(
            self._database,
            self._consumer(request.consumer).inbox,
            request.aggregate,
            request.sequence,
            Asked(actor(request.actor), request.reason),
        )
        return pb.DiscardDeadLetterResponse(left=left)

    @override
    async def PauseConsumer(
        self, request: pb.PauseConsumerRequest, context: Context
    ) -> pb.PauseConsumerResponse:
        asked = Asked(actor(request.actor), request.reason)
        state = await self._say(request.consumer, ConsumerState.PAUSED, Action.PAUSE, asked)
        return pb.PauseConsumerResponse(state=state)

    @override
    async def ResumeConsumer(
        self, request: pb.ResumeConsumerRequest, context: Context
    ) -> pb.ResumeConsumerResponse:
        asked = Asked(actor(request.actor), request.reason)
        state = await self._say(request.consumer, ConsumerState.RUNNING, Action.RESUME, asked)
        return pb.ResumeConsumerResponse(state=state)

    @override
    async def RebuildProjection(
        self, request: pb.RebuildProjectionRequest, context: Context
    ) -> pb.RebuildProjectionResponse:
        projection = self._projections.get(request.projection)
        if projection is None:
            has = ", ".join(sorted(self._projections)) or "none"
            message = f"there is no such projection here; this context has: {has}"
            raise Fault(FaultKind.NOT_FOUND, "PROJECTION_NOT_FOUND", message)
        asked = Asked(actor(request.actor), request.reason)

        async def attempt(tx: Transaction) -> ProjectionStatus:
            status = await projection.rebuild(tx)
            outcome = f"generation {status.building_generation} is being built"
            await event_audit.record(tx, asked, Action.REBUILD, target=projection.name, outcome=outcome)
            return status

        status = await self._database.run(attempt)
        return pb.RebuildProjectionResponse(projection=_projection(status))

    # --- what they share ---

    def _consumer(self, name: str) -> Consumer:
        consumer = self._consumers.find(name)
        if consumer is None:
            has = ", ".join(each.inbox.consumer for each in self._consumers.all()) or "none"
            message = f"there is no such consumer here; this context has: {has}"
            raise Fault(FaultKind.NOT_FOUND, "CONSUMER_NOT_FOUND", message)
        return consumer

    async def _say(
        self, name: str, state: ConsumerState, action: Action, asked: Asked
    ) -> pb.ConsumerState.ValueType:
        inbox = self._consumer(name).inbox

        async def attempt(tx: Transaction) -> None:
            before = await inbox.state(tx)
            await inbox.set_state(tx, state)
            outcome = f"{state}, before {before}"
            await event_audit.record(tx, asked, action, target=inbox.consumer, outcome=outcome)

        await self._database.run(attempt)
        return _state(state)


def _state(state: ConsumerState) -> pb.ConsumerState.ValueType:
    return pb.ConsumerState.Value(f"CONSUMER_STATE_{state}")


def _consumer(
    consumer: Consumer, state: ConsumerState, partitions: list[PartitionLag], letters: tuple[int, int]
) -> pb.ConsumerLag:
    return pb.ConsumerLag(
        consumer=consumer.inbox.consumer,
        generation=consumer.inbox.generation,
        state=_state(state),
        partitions=[
            pb.PartitionLag(
                topic=each.topic,
                partition=each.partition,
                committed_offset=each.committed,
                end_offset=each.end,
                lag=each.lag,
            )
            for each in partitions
        ],
        dead_letters=letters[0],
        halted_keys=letters[1],
    )


def _letter(row: Row) -> pb.DeadLetter:
    return pb.DeadLetter(
        consumer=row["consumer"],
        generation=row["generation"],
        aggregate=row["aggregate"],
        sequence=row["sequence"],
        type=row["type"],
        event_id=row["event_id"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["kafka_offset"],
        error=row["error"],
        replays=row["replays"],
        occurred_at=to_timestamp(row["occurred_at"]) if row["occurred_at"] else None,
        create_time=to_timestamp(row["create_time"]),
    )


def _entry(row: Row) -> pb.AuditEntry:
    return pb.AuditEntry(
        time=to_timestamp(row["at"]),
        **{name: row[name] for name in ("actor", "action", "target", "reason", "outcome")},
    )


def _projection(status: ProjectionStatus) -> pb.Projection:
    return pb.Projection(
        name=status.name,
        state=pb.ProjectionState.Value(f"PROJECTION_STATE_{status.state}"),
        active_generation=status.active_generation,
        building_generation=status.building_generation or 0,
        copied=status.copied,
        begin_time=to_timestamp(status.begin_time) if status.begin_time else None,
        switch_time=to_timestamp(status.switch_time) if status.switch_time else None,
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _as_json(type_: str, payload: bytes) -> str:
    """The message as JSON, where this process knows its type and the bytes are one."""
    try:
        message = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(type_)).FromString(payload)
        text = json_format.MessageToJson(message, preserving_proto_field_name=True)
    except (KeyError, DecodeError, ValueError, TypeError):
        return ""
    return text if len(text) <= MAX_JSON_CHARACTERS else ""
