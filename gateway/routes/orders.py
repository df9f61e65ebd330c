"""Orders: placing them, looking at them, and what may be asked of one that exists."""

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import grpc.aio
from fastapi import Path, Query, Response
from fastapi.responses import StreamingResponse
from google.protobuf.duration_pb2 import Duration

from gateway import render
from gateway.auth import Access
from gateway.context import Context, Ctx
from gateway.idempotency import preference
from gateway.models import Cancellation, NewOrder, NewRefund, NewShipment, OrderQuery, UuidText
from gateway.openapi import IDEMPOTENCY_KEY, LAST_EVENT_ID, PREFER, headers_of, problems
from gateway.order_events import MAX_LIFE_SECONDS, OrderEvents, Stream, last_event_id
from gateway.order_search import orders_wanted
from gateway.problems import Problem, ProblemError, status_of_refusal
from gateway.routes.products import money
from gateway.routing import API, allow, router
from gateway.views import OrderFactView, OrderInProgress, OrderRefundView, OrderView, Page
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2

ROUTER = router(f"{API}/orders", tags=["orders"])

Asked = TypeVar("Asked")
Told = TypeVar(
    "Told", sagas_pb2.CancelOrderResponse, sagas_pb2.RefundOrderResponse, sagas_pb2.FulfilOrderResponse
)

MAX_FACTS: Final = 2_000  # an order has a hundred or two at most
MARGIN_SECONDS: Final = 5.0  # what the orchestrator may take beside the wait

OrderId = Annotated[UuidText, Path()]

_PROGRESS: Final = sagas_pb2.OrderProgress
_REQUEST_PROGRESS: Final = sagas_pb2.RequestProgress
_LOCATION: Final = {"Location": {"description": "Where the order is", "schema": {"type": "string"}}}
_NOT_FOUND: Final = {404: "There is no such order, or it is not yours"}
_REQUEST: Final[dict[str, Any]] = {
    "response_model": OrderView,
    "openapi_extra": headers_of(IDEMPOTENCY_KEY, PREFER),
    "responses": {
        200: {"description": "It is done; the order after it"},
        202: {
            "description": "It is accepted and not done yet",
            "model": OrderInProgress,
            "headers": _LOCATION,
        },
        **problems(
            {**_NOT_FOUND, 409: "It was refused, for example ORDER_NOT_CONFIRMED; nothing is changed"}
        ),
    },
}


@ROUTER.post(
    "",
    status_code=201,
    response_model=OrderView,
    openapi_extra=headers_of(IDEMPOTENCY_KEY, PREFER),
    responses={
        201: {"description": "The order is complete: sold and paid", "headers": _LOCATION},
        202: {
            "description": "The order is accepted and not at its end yet",
            "model": OrderInProgress,
            "headers": _LOCATION,
        },
        **problems(
            {
                402: "The payment was refused; everything is undone",
                409: "The order was refused, for example INSUFFICIENT_STOCK; everything is undone",
            }
        ),
    },
)
@allow(Access.USER)
async def place_order(body: NewOrder, context: Ctx) -> Response:
    """Places an order: it either completes or is undone completely.

    `Prefer: wait=N` says how many seconds to wait for the end (0 to 30, default 5); `Prefer: respond-async`
    is 0. Send the same `Idempotency-Key` again to learn how it went: one key, one order.
    """
    wait = preference(context.request.headers.getlist("prefer"))
    request = sagas_pb2.PlaceOrderRequest(
        user_id=context.user_id,
        idempotency_key=context.idempotency_key(),
        items=[orders_pb2.OrderItem(sku=item.sku, quantity=item.quantity) for item in body.items],
        currency_code=body.currency,
        address_id=body.address_id,
        payment_method_id=body.payment_method_id,
        expected_total=money(body.expected_total) if body.expected_total else None,
        wait=Duration(seconds=wait.wait_seconds),
    )
    sagas = context.backends.sagas
    reply = await context.call(
        sagas, sagas.stub.PlaceOrder, request, timeout_seconds=wait.wait_seconds + MARGIN_SECONDS
    )
    headers = {"Location": f"{API}/orders/{reply.order_id}"}
    if wait.applied:
        headers["Preference-Applied"] = wait.applied
    return _answer(reply, headers)


def _answer(reply: sagas_pb2.PlaceOrderResponse, headers: dict[str, str]) -> Response:
    match reply.progress:
        case _PROGRESS.ORDER_PROGRESS_CONFIRMED:
            view = render.order(reply.order)
            return Response(view.model_dump_json(), 201, headers, "application/json")
        case _PROGRESS.ORDER_PROGRESS_REJECTED:
            raise ProblemError(_rejected(reply, headers))
        case _:
            state = render.word(_PROGRESS.DESCRIPTOR, reply.progress, "ORDER_PROGRESS_")
            pending = OrderInProgress(order_id=reply.order_id, state=state)
            return Response(pending.model_dump_json(), 202, headers, "application/json")


def _rejected(reply: sagas_pb2.PlaceOrderResponse, headers: dict[str, str]) -> Problem:
    refusal = sagas_pb2.Refusal(
        reason=reply.refusal.reason or reply.order.rejection.reason,
        message=reply.refusal.message or reply.order.rejection.message,
        details=reply.refusal.details,
    )
    return _refused(refusal, reply.order_id, headers)


def _refused(refusal: sagas_pb2.Refusal, order_id: str, headers: dict[str, str]) -> Problem:
    reason = refusal.reason or "ORDER_REJECTED"
    return Problem(
        status_of_refusal(reason),
        reason,
        refusal.message or "The order was refused.",
        headers=headers,
        extra={
            "order_id": order_id,
            "details": [
                {"subject": detail.subject, "description": detail.description} for detail in refusal.details
            ],
        },
    )


@ROUTER.get("")
@allow(Access.USER)
async def list_orders(query: Annotated[OrderQuery, Query()], context: Ctx) -> Page[OrderView]:
    """Lists the orders of the calling user, newest first; staff may list those of others.

    The newest 100 are always there and up to date. An older one whose state has just changed may be missing
    for a moment from a list by state.
    """
    orders = context.backends.orders
    request = orders_wanted(query, caller_id=context.user_id)
    reply = await context.call(orders, orders.stub.ListOrders, request)
    return Page(
        items=[render.order(order) for order in reply.orders],
        next_page_token=reply.next_page_token or None,
    )


@ROUTER.get("/{order_id}", responses=problems(_NOT_FOUND))
@allow(Access.USER)
async def read_order(order_id: OrderId, context: Ctx) -> OrderView:
    """Reads an order: one's own, or anybody's for staff.

    An order that was accepted a moment ago may not be there yet.
    """
    return render.order(await _read(order_id, context))


@ROUTER.post("/{order_id}/cancellation", **_REQUEST)
@allow(Access.USER)
async def cancel_order(order_id: OrderId, body: Cancellation, context: Ctx) -> Response:
    """Cancels an order: one's own, or anybody's for staff, until it is shipped.

    What is still being placed is undone where it stands; of a confirmed order money and stock go back.
    """
    stub = context.backends.sagas.stub
    return await _request(
        context,
        stub.CancelOrder,
        lambda key, wait: sagas_pb2.CancelOrderRequest(
            order_id=order_id, idempotency_key=key, reason=body.reason, wait=wait
        ),
        location=f"{API}/orders/{order_id}",
    )


@ROUTER.post("/{order_id}/refunds", **_REQUEST)
@allow(Access.STAFF)
async def refund_order(order_id: OrderId, body: NewRefund, context: Ctx) -> Response:
    """Refunds lines, an amount, or all that is left of an order, and takes the units back where asked."""
    stub = context.backends.sagas.stub
    lines = [orders_pb2.RefundLine(sku=line.sku, quantity=line.quantity) for line in body.lines or ()]
    return await _request(
        context,
        stub.RefundOrder,
        lambda key, wait: sagas_pb2.RefundOrderRequest(
            order_id=order_id,
            idempotency_key=key,
            reason=body.reason,
            lines=lines,
            amount=money(body.amount) if body.amount else None,
            restock=body.restock,
            wait=wait,
        ),
        location=f"{API}/orders/{order_id}/refunds",
    )


@ROUTER.get("/{order_id}/refunds", responses=problems(_NOT_FOUND))
@allow(Access.USER)
async def list_refunds(order_id: OrderId, context: Ctx) -> Page[OrderRefundView]:
    """Lists the refunds of an order, oldest first; they have one page."""
    order = await _read(order_id, context)
    return Page(items=[render.refund(refund) for refund in order.refunds])


@ROUTER.post("/{order_id}/shipment", **_REQUEST)
@allow(Access.STAFF)
async def fulfil_order(order_id: OrderId, body: NewShipment, context: Ctx) -> Response:
    """Ships a confirmed order, and takes its money where that is only held."""
    stub = context.backends.sagas.stub
    shipment = orders_pb2.Shipment(carrier=body.carrier, tracking_number=body.tracking_number)
    return await _request(
        context,
        stub.FulfilOrder,
        lambda key, wait: sagas_pb2.FulfilOrderRequest(
            order_id=order_id, idempotency_key=key, shipment=shipment, wait=wait
        ),
        location=f"{API}/orders/{order_id}",
    )


@ROUTER.get("/{order_id}/timeline", responses=problems(_NOT_FOUND))
@allow(Access.USER)
async def read_order_timeline(order_id: OrderId, context: Ctx) -> Page[OrderFactView]:
    """Reads what became of an order, oldest first; it has one page."""
    facts: list[OrderFactView] = []
    while True:
        reply = await _told(order_id, context, facts[-1].sequence if facts else 0)
        facts += [render.order_fact(entry) for entry in reply.entries]
        if not reply.entries or facts[-1].sequence >= reply.order_sequence or len(facts) >= MAX_FACTS:
            return Page(items=facts)


@ROUTER.get(
    "/{order_id}/events",
    # Not EventSourceResponse: the framework would take the route for a generator, and a refusal would come
    # after the answer has begun.
    response_class=StreamingResponse,
    openapi_extra=headers_of(LAST_EVENT_ID),
    responses={
        200: {
            "description": "Server-sent events; `data` is an OrderEventView",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems({**_NOT_FOUND, 429: "You have too many streams open; try again after `Retry-After`"}),
    },
)
@allow(Access.USER)
async def watch_order(order_id: OrderId, context: Ctx) -> Response:
    """Streams what becomes of an order: one's own, or anybody's for staff.

    Server-sent events: all facts so far, then each as it happens, none lost and none twice. `event` is the
    fact in one word, `id` its sequence, `data` an OrderEventView. The stream ends after 15 minutes at most,
    or when the access token does: connect again with `Last-Event-ID`, as browsers do by themselves.
    """
    after = last_event_id(context.request.headers.getlist("last-event-id"))
    first = await _told(order_id, context, after)

    async def read(after: int) -> orders_pb2.GetTimelineResponse:
        return await _told(order_id, context, after)

    stream = Stream(context.gateway.live, order_id, after, read, seconds=_seconds_left(context))
    return OrderEvents(stream, first, UUID(context.user_id))


def _seconds_left(context: Context) -> float:
    assert context.principal is not None
    left = context.principal.expires_at - context.gateway.clock.now().timestamp()
    return min(MAX_LIFE_SECONDS, max(0.0, left))


async def _told(order_id: str, context: Context, after: int) -> orders_pb2.GetTimelineResponse:
    orders = context.backends.orders
    request = orders_pb2.GetTimelineRequest(order_id=order_id, after_sequence=after)
    return await context.call(orders, orders.stub.GetTimeline, request)


async def _request(
    context: Context,
    rpc: grpc.aio.UnaryUnaryMultiCallable[Asked, Told],
    message: Callable[[str, Duration], Asked],
    *,
    location: str,
) -> Response:
    """Asks something of an order that exists: 200 when it is done, 202 before, a problem when refused."""
    wait = preference(context.request.headers.getlist("prefer"))
    reply = await context.call(
        context.backends.sagas,
        rpc,
        message(context.idempotency_key(), Duration(seconds=wait.wait_seconds)),
        timeout_seconds=wait.wait_seconds + MARGIN_SECONDS,
    )
    headers = {"Preference-Applied": wait.applied} if wait.applied else {}
    match reply.progress:
        case _REQUEST_PROGRESS.REQUEST_PROGRESS_DONE:
            body = render.order(reply.order).model_dump_json()
            return Response(body, 200, headers, "application/json")
        case _REQUEST_PROGRESS.REQUEST_PROGRESS_REFUSED:
            raise ProblemError(_refused(reply.refusal, reply.order_id, headers))
        case _:
            pending = OrderInProgress(order_id=reply.order_id, state="pending").model_dump_json()
            return Response(pending, 202, {**headers, "Location": location}, "application/json")


async def _read(order_id: str, context: Context) -> orders_pb2.Order:
    orders = context.backends.orders
    reply = await context.call(orders, orders.stub.GetOrder, orders_pb2.GetOrderRequest(order_id=order_id))
    return reply.order
