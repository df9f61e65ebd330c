"""The gRPC face of the orchestrator: proto to saga and back."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any
from uuid import UUID

import grpc.aio
from typing_extensions import override

from chassis.errors import Detail, Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.identity import current_caller
from chassis.ids import NewId
from chassis.page_tokens import decode_page_token, encode_page_token
from chassis.postgres import Database, Row
from chassis.timestamps import to_timestamp
from orchestrator import statements as sql
from orchestrator.entries import State
from orchestrator.executor import Executor
from orchestrator.saga_log import Acceptance, Standing
from orchestrator.sagas import place_order
from orchestrator.sagas.place_order import PLACE_ORDER, refusal_message
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

DEFAULT_PAGE = 50
# Of one SKU in one order, as orders.proto and inventory.proto have it for a line.
MAX_QUANTITY = 1_000_000

ORDER_SAGAS_POLICIES = {
    "PlaceOrder": Allow(frozenset({"gateway"}), roles=frozenset({"customer", "support", "admin"})),
}
SAGA_OPERATOR_POLICIES = {
    name: Allow(frozenset({"gateway"}), roles=frozenset({"admin"}))
    for name in ("GetSaga", "ListSagas", "GetTimeline")
}

_PROGRESS = {
    State.COMPENSATING: sagas_pb2.ORDER_PROGRESS_UNDOING,
    State.COMPLETED: sagas_pb2.ORDER_PROGRESS_CONFIRMED,
    State.COMPENSATED: sagas_pb2.ORDER_PROGRESS_REJECTED,
}


class OrderSagas(sagas_pb2_grpc.OrderSagasServicer):
    """Starts sagas for clients."""

    def __init__(self, executor: Executor, replica: str, new_id: NewId) -> None:
        self._executor = executor
        self._replica = replica
        self._new_id = new_id

    @override
    async def PlaceOrder(
        self, request: sagas_pb2.PlaceOrderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.PlaceOrderResponse:
        if current_caller().user_id != UUID(request.user_id):
            raise Fault(FaultKind.PERMISSION_DENIED, "NOT_YOUR_ORDER", "an order is placed by its own user")
        params = self._params(request)
        request_hash = _hash(request)
        accepted = await self._executor.accept(
            PLACE_ORDER,
            params,
            Acceptance(
                saga_id=self._new_id(),
                kind=PLACE_ORDER.kind,
                version=PLACE_ORDER.version,
                definition_hash=PLACE_ORDER.hash,
                key=UUID(params.order_id),
                context=asdict(params),
                deadline=PLACE_ORDER.deadline,
                events=(),
                owner=self._replica,
                caller=request.user_id,
                rpc="PlaceOrder",
                idempotency_key=request.idempotency_key,
                request_hash=request_hash,
            ),
        )
        if accepted.request_hash != request_hash:
            raise Fault(
                FaultKind.ALREADY_EXISTS,
                "IDEMPOTENCY_KEY_REUSED",
                "this idempotency key was used with another request",
            )
        if accepted.answer is not None:
            return sagas_pb2.PlaceOrderResponse.FromString(accepted.answer)
        standing = await self._executor.wait(accepted.saga_id, request.wait.ToTimedelta().total_seconds())
        if standing.answer is not None:
            return sagas_pb2.PlaceOrderResponse.FromString(standing.answer)
        return _interim(accepted.saga_id, standing)

    def _params(self, request: sagas_pb2.PlaceOrderRequest) -> place_order.PlaceOrder:
        expected: int | None = None
        if request.HasField("expected_total"):
            expected = request.expected_total.minor_units
            if request.expected_total.currency_code != request.currency_code:
                raise Fault(
                    FaultKind.INVALID_ARGUMENT,
                    "INVALID_ARGUMENT",
                    "the expected total is in another currency than the order",
                    fields=(Detail("expected_total.currency_code", f"must be {request.currency_code}"),),
                )
        quantities: dict[str, int] = {}
        for item in request.items:
            quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
            if quantities[item.sku] > MAX_QUANTITY:
                raise _too_many(item.sku)
        return place_order.PlaceOrder(
            user_id=request.user_id,
            order_id=str(self._new_id()),
            reservation_id=str(self._new_id()),
            payment_id=str(self._new_id()),
            items=sorted(quantities.items()),
            currency_code=request.currency_code,
            address_id=request.address_id,
            payment_method_id=request.payment_method_id,
            expected_total_minor=expected,
        )


class SagaOperator(sagas_pb2_grpc.SagaOperatorServicer):
    """Lets operators look into the saga log."""

    def __init__(self, database: Database) -> None:
        self._database = database

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


def _too_many(sku: str) -> Fault:
    # The edge checks each item, the participants their sum: where that is unfit for them, neither the order
    # nor its undo could ever be done, so it must not be accepted.
    problem = Detail("items", f"more than {MAX_QUANTITY} units of {sku}")
    return Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", problem.description, fields=(problem,))


def _hash(request: sagas_pb2.PlaceOrderRequest) -> bytes:
    """What a key names: the whole request but for the key itself and how long the client cares to wait."""
    named = sagas_pb2.PlaceOrderRequest()
    named.CopyFrom(request)
    named.ClearField("wait")
    named.ClearField("idempotency_key")
    return hashlib.sha256(named.SerializeToString(deterministic=True)).digest()


def _interim(saga_id: UUID, standing: Standing) -> sagas_pb2.PlaceOrderResponse:
    response = sagas_pb2.PlaceOrderResponse(
        saga_id=str(saga_id),
        order_id=str(standing.key),
        progress=_PROGRESS.get(standing.state, sagas_pb2.ORDER_PROGRESS_PENDING),
    )
    if standing.refusal is not None:
        response.refusal.CopyFrom(refusal_message(standing.refusal["step"], standing.refusal))
    return response


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
