"""OrderSagas: proto to saga and back."""

from __future__ import annotations

from typing import Any, TypeVar
from uuid import UUID

import grpc.aio
import structlog
from google.protobuf.duration_pb2 import Duration
from typing_extensions import override

from chassis import tracing
from chassis.errors import Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.identity import current_caller
from chassis.ids import NewId
from orchestrator.calling import Participants
from orchestrator.entries import REQUESTED, Command, Event, State, Verb
from orchestrator.executor import Executor
from orchestrator.rpc import requests
from orchestrator.saga import DEFAULT_CALL_TIMEOUT, Saga
from orchestrator.saga_log import Acceptance, Accepted, SagaLog, Standing
from orchestrator.sagas.cancel_order import CANCEL_ORDER, CancelOrder, read_order
from orchestrator.sagas.fulfil_order import FULFIL_ORDER
from orchestrator.sagas.parts import refusal_message
from orchestrator.sagas.place_order import PLACE_ORDER
from orchestrator.sagas.refund_order import REFUND_ORDER
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

_STAFF = frozenset({"support", "admin"})
_ANY_USER = _STAFF | {"customer"}
ORDER_SAGAS_POLICIES = {
    "PlaceOrder": Allow(frozenset({"gateway"}), roles=_ANY_USER),
    # The orders context cancels what cannot be completed any more: it acts for nobody, and may as staff may.
    "CancelOrder": Allow(frozenset({"gateway", "orders"}), roles=_ANY_USER, userless=frozenset({"orders"})),
    "RefundOrder": Allow(frozenset({"gateway"}), roles=_STAFF),
    "FulfilOrder": Allow(frozenset({"gateway"}), roles=_STAFF),
}

_PROGRESS = {
    State.COMPENSATING: sagas_pb2.ORDER_PROGRESS_UNDOING,
    State.COMPLETED: sagas_pb2.ORDER_PROGRESS_CONFIRMED,
    State.COMPENSATED: sagas_pb2.ORDER_PROGRESS_REJECTED,
}
_NOT_FOUND = "ORDER_NOT_FOUND"

Answer = TypeVar(
    "Answer", sagas_pb2.CancelOrderResponse, sagas_pb2.RefundOrderResponse, sagas_pb2.FulfilOrderResponse
)
Request = (
    sagas_pb2.PlaceOrderRequest
    | sagas_pb2.CancelOrderRequest
    | sagas_pb2.RefundOrderRequest
    | sagas_pb2.FulfilOrderRequest
)


class OrderSagas(sagas_pb2_grpc.OrderSagasServicer):
    """Starts sagas for clients.

    Args:
        executor: drives them.
        journal: where they are.
        participants: where it is asked whose an order is.
        new_id: mints ids.
        capture: when the money of new orders is taken: AUTOMATIC or MANUAL, as place_order has it.
    """

    def __init__(
        self,
        executor: Executor,
        journal: SagaLog,
        participants: Participants,
        new_id: NewId,
        *,
        capture: str = "AUTOMATIC",
    ) -> None:
        self._executor = executor
        self._journal = journal
        self._participants = participants
        self._new_id = new_id
        self._capture = capture

    @override
    async def PlaceOrder(
        self, request: sagas_pb2.PlaceOrderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.PlaceOrderResponse:
        if current_caller().user_id != UUID(request.user_id):
            raise Fault(FaultKind.PERMISSION_DENIED, "NOT_YOUR_ORDER", "an order is placed by its own user")
        params = requests.place_order(request, self._new_id, capture=self._capture)
        acceptance = self._acceptance(PLACE_ORDER, params, request, order_id=params.order_id)
        accepted = await self._executor.accept(PLACE_ORDER, params, acceptance)
        standing = await self._standing(accepted, acceptance, request.wait)
        if standing.answer is not None:
            return sagas_pb2.PlaceOrderResponse.FromString(standing.answer)
        return _interim(accepted.saga_id, standing)

    @override
    async def CancelOrder(
        self, request: sagas_pb2.CancelOrderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.CancelOrderResponse:
        """Cancel an order, wherever it stands.

        A cancel_order saga is journaled under the key first, and so the request cannot get lost. An order
        that is still being placed is then asked to unwind before its pivot; the saga waits behind it, and
        answers DONE where it finds the order rejected for that, or cancels it where the pivot was faster.
        So one key has one answer, and another key for an order that was undone that way has it, too.
        """
        caller = current_caller()
        user_id = "" if caller.is_staff or caller.user_id is None else str(caller.user_id)
        params = CancelOrder(request.order_id, user_id, request.reason)
        acceptance = self._acceptance(CANCEL_ORDER, params, request)
        if user_id and await self._journal.find(acceptance) is None:
            await self._require_theirs(UUID(request.order_id), user_id)
        accepted = await self._executor.accept_behind(acceptance)
        _require_same_request(accepted, acceptance)
        if accepted.answer is None:
            await self._cancel_placing(acceptance.key, request.reason)
        return await self._answered(
            accepted, acceptance, request.wait, sagas_pb2.CancelOrderResponse(order_id=request.order_id)
        )

    @override
    async def RefundOrder(
        self, request: sagas_pb2.RefundOrderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.RefundOrderResponse:
        params = requests.refund_order(request, self._new_id)
        acceptance = self._acceptance(REFUND_ORDER, params, request)
        accepted = await self._executor.accept_behind(acceptance)
        return await self._answered(
            accepted, acceptance, request.wait, sagas_pb2.RefundOrderResponse(order_id=request.order_id)
        )

    @override
    async def FulfilOrder(
        self, request: sagas_pb2.FulfilOrderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> sagas_pb2.FulfilOrderResponse:
        acceptance = self._acceptance(FULFIL_ORDER, requests.fulfil_order(request), request)
        accepted = await self._executor.accept_behind(acceptance)
        return await self._answered(
            accepted, acceptance, request.wait, sagas_pb2.FulfilOrderResponse(order_id=request.order_id)
        )

    # --- what they share ---

    def _acceptance(
        self, definition: Saga[Any], params: object, request: Request, *, order_id: str = ""
    ) -> Acceptance:
        return Acceptance(
            saga_id=self._new_id(),
            kind=definition.kind,
            version=definition.version,
            definition_hash=definition.hash,
            key=UUID(order_id or getattr(request, "order_id", "")),
            context=requests.journaled(params),
            deadline=definition.deadline,
            events=(),
            owner=self._journal.replica,
            caller=_who(),
            rpc=request.DESCRIPTOR.name.removesuffix("Request"),
            idempotency_key=request.idempotency_key,
            request_hash=requests.request_hash(request),
            traceparent=tracing.current(),
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
        )

    async def _standing(self, accepted: Accepted, acceptance: Acceptance, wait: Duration) -> Standing:
        """Where the saga stands once it has ended, or after `wait`; with its terminal answer, if any."""
        _require_same_request(accepted, acceptance)
        if accepted.answer is not None:
            return Standing(State.COMPLETED, accepted.answer)
        return await self._executor.wait(accepted.saga_id, wait.ToTimedelta().total_seconds())

    async def _answered(
        self, accepted: Accepted, acceptance: Acceptance, wait: Duration, pending: Answer
    ) -> Answer:
        """The terminal answer, or `pending` completed where there is none after `wait`.

        Raises:
            Fault: ALREADY_EXISTS IDEMPOTENCY_KEY_REUSED; NOT_FOUND ORDER_NOT_FOUND.
        """
        standing = await self._standing(accepted, acceptance, wait)
        if standing.answer is None:
            pending.saga_id = str(accepted.saga_id)
            pending.progress = sagas_pb2.REQUEST_PROGRESS_PENDING
            return pending
        answer = type(pending).FromString(standing.answer)
        if answer.refusal.reason == _NOT_FOUND:
            raise _not_found()
        return answer

    # --- cancelling ---

    async def _require_theirs(self, order_id: UUID, user_id: str) -> None:
        """Refuse a customer an order that is not theirs, before anything is journaled about it.

        Raises:
            Fault: NOT_FOUND ORDER_NOT_FOUND; UNAVAILABLE where the one who knows is away.
        """
        holder = await self._journal.holder(order_id)
        if holder is not None and holder.kind == PLACE_ORDER.kind:
            # The orders context may not have it yet.
            owner = str(holder.context["user_id"])
        else:
            reply = await self._participants.call(
                read_order,
                orders_pb2.GetOrderRequest(order_id=str(order_id)).SerializeToString(),
                timeout_seconds=DEFAULT_CALL_TIMEOUT.total_seconds(),
            )
            owner = orders_pb2.GetOrderResponse.FromString(reply).order.user_id
        if owner != user_id:
            raise _not_found()

    async def _cancel_placing(self, order_id: UUID, reason: str) -> None:
        """Ask the order's place_order saga to unwind, where it is under way and before its pivot.

        The lock of its row decides between this and the pivot; who loses has no effect.
        """
        holder = await self._journal.holder(order_id)
        if holder is None or holder.kind != PLACE_ORDER.kind or holder.pivot_intended:
            return
        event = Event("", Verb.CANCEL, 0, REQUESTED, actor=_who(), reason=reason)
        await self._executor.command(Command(holder.saga_id, Verb.CANCEL, event, before_pivot=True))


def _who() -> str:
    """Who asks: the user, or the service that asks for nobody; keys of the two never meet."""
    caller = current_caller()
    return caller.service if caller.user_id is None else str(caller.user_id)


def _require_same_request(accepted: Accepted, acceptance: Acceptance) -> None:
    if accepted.request_hash != acceptance.request_hash:
        raise Fault(
            FaultKind.ALREADY_EXISTS,
            "IDEMPOTENCY_KEY_REUSED",
            "this idempotency key was used with another request",
        )


def _not_found() -> Fault:
    return Fault(FaultKind.NOT_FOUND, _NOT_FOUND, "there is no such order")


def _interim(saga_id: UUID, standing: Standing) -> sagas_pb2.PlaceOrderResponse:
    response = sagas_pb2.PlaceOrderResponse(
        saga_id=str(saga_id),
        order_id=str(standing.key),
        progress=_PROGRESS.get(standing.state, sagas_pb2.ORDER_PROGRESS_PENDING),
    )
    if standing.refusal is not None:
        response.refusal.CopyFrom(refusal_message(standing.refusal["step"], standing.refusal))
    return response
