"""SagaOperator: how operators look into the saga log and repair sagas."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import grpc.aio
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.page_tokens import decode_page_token, encode_page_token
from chassis.postgres import Database, Row
from chassis.timestamps import to_timestamp
from orchestrator import statements as sql
from orchestrator.definitions import Definitions
from orchestrator.operations import Operations
from orchestrator.sagas.parts import refusal_message
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

DEFAULT_PAGE = 50

SAGA_OPERATOR_POLICIES = {
    name: Allow(frozenset({"gateway"}), roles=frozenset({"admin"}))
    for name in ("GetSaga", "ListSagas", "GetTimeline")
}


class SagaOperator(sagas_pb2_grpc.SagaOperatorServicer):
    """Lets operators look into the saga log."""

    def __init__(self, database: Database, operations: Operations, definitions: Definitions) -> None:
        self._database = database
        self._operations = operations
        self._definitions = definitions

    @override
    async def GetSaga(
        self, request: sagas_pb2.GetSagaRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.GetSagaResponse:
        return sagas_pb2.GetSagaResponse(saga=_saga(await self._row(request.saga_id)))

    @override
    async def ListSagas(
        self, request: sagas_pb2.ListSagasRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.ListSagasResponse:
        size = request.page_size or DEFAULT_PAGE
        chosen = [request.state, request.kind, request.order_id]
        (before,) = decode_page_token(request.page_token, chosen, types=(UUID,)) or (None,)
        state = sagas_pb2.SagaState.Name(request.state).removeprefix("SAGA_STATE_") if request.state else None
        rows = await self._database.fetch(
            sql.LIST_SAGAS,
            {
                "state": state,
                "kind": request.kind or None,
                "key": UUID(request.order_id) if request.order_id else None,
                "before": before,
                "limit": size + 1,
            },
        )
        token = encode_page_token((rows[size - 1]["id"],), chosen) if len(rows) > size else ""
        return sagas_pb2.ListSagasResponse(sagas=[_saga(row) for row in rows[:size]], next_page_token=token)

    @override
    async def GetTimeline(
        self, request: sagas_pb2.GetTimelineRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.GetTimelineResponse:
        await self._row(request.saga_id)
        rows = await self._database.fetch(sql.GET_EVENTS, {"id": UUID(request.saga_id)})
        return sagas_pb2.GetTimelineResponse(entries=[_entry(row) for row in rows])

    async def _row(self, saga_id: str) -> Row:
        rows = await self._database.fetch(sql.GET_SAGA, {"id": UUID(saga_id)})
        if not rows:
            raise Fault(FaultKind.NOT_FOUND, "SAGA_NOT_FOUND", "there is no such saga")
        return rows[0]


def _saga(row: Row) -> sagas_pb2.Saga:
    saga = sagas_pb2.Saga(
        id=str(row["id"]),
        kind=row["kind"],
        version=row["version"],
        state=sagas_pb2.SagaState.Value(f"SAGA_STATE_{row['state']}"),
        order_id=str(row["key"]),
        sequence=row["seq"],
        epoch=row["epoch"],
        owner=row["owner"] or "",
        attempts=row["attempts"],
        next_attempt_time=to_timestamp(row["next_run"]) if row["attempts"] else None,
        deadline_time=to_timestamp(row["deadline"]),
        create_time=to_timestamp(row["create_time"]),
        update_time=to_timestamp(row["update_time"]),
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
    )
