"""SagaOperator: how operators look into the saga log and repair sagas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, Protocol
from uuid import UUID

import grpc.aio
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.operators import OPERATORS, actor
from chassis.page_tokens import decode_page_token, encode_page_token
from chassis.postgres import Database, Row
from chassis.timestamps import to_timestamp
from orchestrator import queries
from orchestrator.definitions import Definitions
from orchestrator.entries import OPEN_STATES, TERMINAL_STATES, State, Verb
from orchestrator.operations import Operations, Request, invalid
from orchestrator.sagas.parts import refusal_message
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

DEFAULT_PAGE = 50
# Between two looks of a watcher at its saga, or at the open ones.
WATCH_SAGA_SECONDS = 0.25
WATCH_OPEN_SECONDS = 1.0
MAX_WATCHED = 200

SAGA_OPERATOR_POLICIES = {
    method.name: OPERATORS for method in sagas_pb2.DESCRIPTOR.services_by_name["SagaOperator"].methods
}

VERBS: Final = {
    sagas_pb2.SAGA_VERB_RETRY: Verb.RETRY,
    sagas_pb2.SAGA_VERB_SKIP_STEP: Verb.SKIP,
    sagas_pb2.SAGA_VERB_COMPENSATE: Verb.COMPENSATE,
    sagas_pb2.SAGA_VERB_PAUSE: Verb.PAUSE,
    sagas_pb2.SAGA_VERB_RESUME: Verb.RESUME,
    sagas_pb2.SAGA_VERB_CANCEL: Verb.CANCEL,
}

Context = grpc.aio.ServicerContext[Any, Any]


class Asked(Protocol):
    """The request of a verb."""

    @property
    def saga_id(self) -> str:
        """Of which saga."""

    @property
    def actor(self) -> str:
        """Who asks."""

    @property
    def reason(self) -> str:
        """Why."""


class SagaOperator(sagas_pb2_grpc.SagaOperatorServicer):
    """Lets operators look into the saga log, and repair sagas."""

    def __init__(self, database: Database, operations: Operations, definitions: Definitions) -> None:
        self._database = database
        self._operations = operations
        self._definitions = definitions

    # --- looking ---

    @override
    async def GetSaga(self, request: sagas_pb2.GetSagaRequest, context: Context) -> sagas_pb2.GetSagaResponse:
        return sagas_pb2.GetSagaResponse(saga=_saga(await self._row(UUID(request.saga_id))))

    @override
    async def ListSagas(
        self, request: sagas_pb2.ListSagasRequest, context: Context
    ) -> sagas_pb2.ListSagasResponse:
        wanted = _search(request)
        chosen = [*vars(wanted).values()]
        (before,) = decode_page_token(request.page_token, chosen, types=(UUID,)) or (None,)
        limit = request.page_size or DEFAULT_PAGE
        found = await queries.search(self._database, wanted, before=before, limit=limit)
        token = "" if found.next_before is None else encode_page_token((found.next_before,), chosen)
        return sagas_pb2.ListSagasResponse(sagas=map(_saga, found.rows), next_page_token=token)

    @override
    async def GetTimeline(
        self, request: sagas_pb2.GetTimelineRequest, context: Context
    ) -> sagas_pb2.GetTimelineResponse:
        saga_id = UUID(request.saga_id)
        await self._row(saga_id)
        return sagas_pb2.GetTimelineResponse(entries=await self._entries(saga_id, after=0))

    @override
    async def WatchSagas(
        self, request: sagas_pb2.WatchSagasRequest, context: Context
    ) -> AsyncIterator[sagas_pb2.WatchSagasResponse]:
        if request.saga_id:
            async for message in self._watch_saga(UUID(request.saga_id)):
                yield message
            return
        while True:
            rows = await queries.open_sagas(self._database, limit=MAX_WATCHED)
            yield sagas_pb2.WatchSagasResponse(sagas=map(_saga, rows))
            await asyncio.sleep(WATCH_OPEN_SECONDS)

    async def _watch_saga(self, saga_id: UUID) -> AsyncIterator[sagas_pb2.WatchSagasResponse]:
        shown: tuple[int, int] | None = None
        sequence = 0
        while True:
            row = await self._row(saga_id)
            # A change of hands is one, too, and has no entry of its own.
            if shown != (row["seq"], row["epoch"]):
                # What was written since the row was read comes with the next look at the row.
                entries = await self._entries(saga_id, after=sequence)
                entries = [entry for entry in entries if entry.sequence <= row["seq"]]
                yield sagas_pb2.WatchSagasResponse(sagas=[_saga(row)], entries=entries)
                shown, sequence = (row["seq"], row["epoch"]), row["seq"]
            if State(row["state"]) in TERMINAL_STATES:
                return
            await asyncio.sleep(WATCH_SAGA_SECONDS)

    # --- verbs ---

    @override
    async def Retry(self, request: sagas_pb2.RetryRequest, context: Context) -> sagas_pb2.RetryResponse:
        return sagas_pb2.RetryResponse(saga=await self._perform(request, Verb.RETRY))

    @override
    async def SkipStep(
        self, request: sagas_pb2.SkipStepRequest, context: Context
    ) -> sagas_pb2.SkipStepResponse:
        _require_output(request.output_json)
        saga = await self._perform(request, Verb.SKIP, request.step, request.output_json)
        return sagas_pb2.SkipStepResponse(saga=saga)

    @override
    async def Compensate(
        self, request: sagas_pb2.CompensateRequest, context: Context
    ) -> sagas_pb2.CompensateResponse:
        return sagas_pb2.CompensateResponse(saga=await self._perform(request, Verb.COMPENSATE))

    @override
    async def Pause(self, request: sagas_pb2.PauseRequest, context: Context) -> sagas_pb2.PauseResponse:
        return sagas_pb2.PauseResponse(saga=await self._perform(request, Verb.PAUSE))

    @override
    async def Resume(self, request: sagas_pb2.ResumeRequest, context: Context) -> sagas_pb2.ResumeResponse:
        return sagas_pb2.ResumeResponse(saga=await self._perform(request, Verb.RESUME))

    @override
    async def Cancel(self, request: sagas_pb2.CancelRequest, context: Context) -> sagas_pb2.CancelResponse:
        return sagas_pb2.CancelResponse(saga=await self._perform(request, Verb.CANCEL))

    @override
    async def Preview(self, request: sagas_pb2.PreviewRequest, context: Context) -> sagas_pb2.PreviewResponse:
        saga_id = UUID(request.saga_id)
        await self._require_not_archived(saga_id)
        if request.verb == sagas_pb2.SAGA_VERB_SKIP_STEP:
            _require_output(request.output_json)
        plan = await self._operations.preview(
            Request(
                saga_id,
                VERBS[request.verb],
                actor="",
                reason="",
                step=request.step,
                output_json=request.output_json,
            )
        )
        calls = [sagas_pb2.PlannedCall(**vars(call)) for call in plan.calls]
        return sagas_pb2.PreviewResponse(calls=calls, state=_state(plan.state))

    # --- definitions ---

    @override
    async def CheckDefinitions(
        self, request: sagas_pb2.CheckDefinitionsRequest, context: Context
    ) -> sagas_pb2.CheckDefinitionsResponse:
        rows = await self._database.fetch(queries.DEFINITION_USES, {})
        used = {(row["kind"], row["version"], row["definition_hash"]): row for row in rows}
        known = {(saga.kind, saga.version, saga.hash) for saga in self._definitions.sagas.values()}
        uses = []
        for key in sorted(known | used.keys()):
            kind, version, definition_hash = key
            row = used.get(key, {"open": 0, "parked": 0})
            uses.append(
                sagas_pb2.DefinitionUse(
                    kind=kind,
                    version=version,
                    definition_hash=definition_hash,
                    open=row["open"],
                    parked=row["parked"],
                    loadable=self._definitions.find(kind, version, definition_hash) is not None,
                )
            )
        return sagas_pb2.CheckDefinitionsResponse(definitions=uses)

    # --- what they share ---

    async def _perform(
        self, request: Asked, verb: Verb, step: str = "", output_json: str = ""
    ) -> sagas_pb2.Saga:
        saga_id = UUID(request.saga_id)
        await self._require_not_archived(saga_id)
        who = actor(request.actor)
        await self._operations.perform(
            Request(saga_id, verb, who, request.reason, step=step, output_json=output_json)
        )
        return _saga(await self._row(saga_id))

    async def _require_not_archived(self, saga_id: UUID) -> None:
        """Refuse a verb for a saga that has ended so long ago that the journal does not have it any more."""
        row = await self._row(saga_id)
        if State(row["state"]) in TERMINAL_STATES:
            raise Fault(FaultKind.FAILED_PRECONDITION, "SAGA_ENDED", f"the saga is {row['state']}")

    async def _row(self, saga_id: UUID) -> Row:
        rows = await self._database.fetch(queries.FIND_SAGA, {"id": saga_id})
        if not rows:
            raise Fault(FaultKind.NOT_FOUND, "SAGA_NOT_FOUND", "there is no such saga")
        return rows[0]

    async def _entries(self, saga_id: UUID, *, after: int) -> Iterable[sagas_pb2.TimelineEntry]:
        rows = await self._database.fetch(queries.FIND_EVENTS, {"id": saga_id, "after": after})
        return [_entry(row) for row in rows]


def _require_output(output_json: str) -> None:
    """An output that was forgotten is not an empty one: later steps may read it."""
    if not output_json.strip():
        raise invalid(
            "output_json", "supply the reply that the step is taken to have given; {} is an empty one"
        )


def _search(request: sagas_pb2.ListSagasRequest) -> queries.Search:
    older_than: float | None = None
    if request.HasField("older_than"):
        older_than = request.older_than.seconds + request.older_than.nanos / 1e9
    name = sagas_pb2.SagaState.Name(request.state).removeprefix("SAGA_STATE_")
    return queries.Search(
        state=State(name) if request.state else None,
        kind=request.kind,
        key=UUID(request.order_id) if request.order_id else None,
        step=request.step,
        older_than_seconds=older_than,
        error_fingerprint=request.error_fingerprint,
        open=request.open,
        archived=request.archived,
    )


def _state(state: str) -> sagas_pb2.SagaState.ValueType:
    return sagas_pb2.SagaState.Value(f"SAGA_STATE_{state}")


def _saga(row: Row) -> sagas_pb2.Saga:
    state = State(row["state"])
    ended = state in TERMINAL_STATES
    tried_again = state in OPEN_STATES and (row["attempts"] > 0 or row["waiting_for"] != "")
    saga = sagas_pb2.Saga(
        id=str(row["id"]),
        kind=row["kind"],
        version=row["version"],
        state=_state(state),
        order_id=str(row["key"]),
        sequence=row["seq"],
        epoch=row["epoch"],
        owner=row["owner"] or "",
        attempts=row["attempts"],
        next_attempt_time=to_timestamp(row["next_run"]) if tried_again else None,
        deadline_time=to_timestamp(row["deadline"]),
        create_time=to_timestamp(row["create_time"]),
        update_time=to_timestamp(row["update_time"]),
        step="" if ended else row["step"],
        error_fingerprint=row["error_fingerprint"],
        last_error=row["last_error"],
        waiting_for="" if ended else row["waiting_for"],
        overdue=bool(row["late"]) and not ended,
        pivot_intended=row["pivot_intended"],
    )
    if row["refusal"]:
        saga.refusal.CopyFrom(refusal_message(row["refusal"]["step"], row["refusal"]))
    return saga


def _entry(row: Row) -> sagas_pb2.TimelineEntry:
    return sagas_pb2.TimelineEntry(
        sequence=row["seq"],
        step=row["step"],
        operation=row["op"],
        attempt=row["attempt"],
        outcome=row["outcome"],
        detail=row["detail"],
        time=to_timestamp(row["at"]),
        actor=row["actor"],
        reason=row["reason"],
    )
