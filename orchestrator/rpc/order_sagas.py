"""OrderSagas: proto to saga and back."""

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
from orchestrator.entries import State
from orchestrator.executor import Executor
from orchestrator.saga_log import Acceptance, Standing
from orchestrator.sagas import place_order
from orchestrator.sagas.place_order import PLACE_ORDER, refusal_message
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

# Of one SKU in one order, as orders.proto and inventory.proto have it for a line.
MAX_QUANTITY = 1_000_000

ORDER_SAGAS_POLICIES = {
    "PlaceOrder": Allow(frozenset({"gateway"}), roles=frozenset({"customer", "support", "admin"})),
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
