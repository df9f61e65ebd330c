"""Orders: placing them, and looking at them."""

from typing import Annotated, Final

from fastapi import Path, Query, Response
from google.protobuf.duration_pb2 import Duration

from gateway import render
from gateway.auth import Access
from gateway.context import Ctx
from gateway.idempotency import preference
from gateway.models import NewOrder, OrderQuery, UuidText
from gateway.openapi import IDEMPOTENCY_KEY, PREFER, headers_of, problems
from gateway.problems import Problem, ProblemError, status_of_refusal
from gateway.routes.products import money
from gateway.routing import API, allow, router
from gateway.views import OrderInProgress, OrderView, Page
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2

ROUTER = router(f"{API}/orders", tags=["orders"])

MARGIN_SECONDS: Final = 5.0  # what the orchestrator may take beside the wait

_PROGRESS: Final = sagas_pb2.OrderProgress
_LOCATION: Final = {"Location": {"description": "Where the order is", "schema": {"type": "string"}}}


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
    refusal = reply.refusal
    reason = refusal.reason or reply.order.rejection.reason or "ORDER_REJECTED"
    return Problem(
        status_of_refusal(reason),
        reason,
        refusal.message or reply.order.rejection.message or "The order was refused.",
        headers=headers,
        extra={
            "order_id": reply.order_id,
            "details": [
                {"subject": detail.subject, "description": detail.description} for detail in refusal.details
            ],
        },
    )


@ROUTER.get("")
@allow(Access.USER)
async def list_orders(query: Annotated[OrderQuery, Query()], context: Ctx) -> Page[OrderView]:
    """Lists the orders of the calling user, newest first."""
    orders = context.backends.orders
    state = orders_pb2.OrderState.Value(f"ORDER_STATE_{(query.state or 'unspecified').upper()}")
    request = orders_pb2.ListOrdersRequest(
        page_size=query.page_size, page_token=query.page_token, user_id=context.user_id, state=state
    )
    reply = await context.call(orders, orders.stub.ListOrders, request)
    return Page(
        items=[render.order(order) for order in reply.orders],
        next_page_token=reply.next_page_token or None,
    )


@ROUTER.get("/{order_id}", responses=problems({404: "There is no such order, or it is not yours"}))
@allow(Access.USER)
async def read_order(order_id: Annotated[UuidText, Path()], context: Ctx) -> OrderView:
    """Reads an order: one's own, or anybody's for staff.

    An order that was accepted a moment ago may not be there yet.
    """
    orders = context.backends.orders
    request = orders_pb2.GetOrderRequest(order_id=order_id)
    reply = await context.call(orders, orders.stub.GetOrder, request)
    return render.order(reply.order)
