"""The methods, and who may call them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeAlias
from uuid import UUID

import grpc.aio
from typing_extensions import override

from chassis import barrier
from chassis.barrier import SagaCall
from chassis.errors import Detail, Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.identity import current_caller
from sagacity.common.v1 import saga_step_pb2
from sagacity.orders.v1 import orders_pb2, orders_pb2_grpc
from services.orders.app import Orders, quote_order
from services.orders.domain import NotAllowedError, Rejection, Sale, Shipment
from services.orders.refunds import RefundQuote
from services.orders.rpc.looking import domain_search, entry_message, read_token, token_after
from services.orders.rpc.messages import (
    domain_address,
    domain_lines,
    domain_money,
    domain_quote,
    domain_refund_lines,
    domain_wish,
    money_message,
    order_message,
    quote_message,
    refund_lines,
)

DOMAIN = "sagacity.orders"
# How often a watched order is looked at.
WATCH_SECONDS = 0.5

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
SagaRequest: TypeAlias = (
    orders_pb2.CreateOrderRequest
    | orders_pb2.ConfirmOrderRequest
    | orders_pb2.RejectOrderRequest
    | orders_pb2.CancelOrderRequest
    | orders_pb2.MarkShippedRequest
    | orders_pb2.RecordRefundRequest
)

ORCHESTRATOR = frozenset({"orchestrator"})
GATEWAY = frozenset({"gateway"})
ANY_USER = frozenset({"customer", "support", "admin"})

POLICIES: Mapping[str, Allow] = {
    "CreateOrder": Allow(ORCHESTRATOR),
    "QuoteOrder": Allow(ORCHESTRATOR),
    "ConfirmOrder": Allow(ORCHESTRATOR),
    "RejectOrder": Allow(ORCHESTRATOR),
    "CancelOrder": Allow(ORCHESTRATOR),
    "AssertCanFulfil": Allow(ORCHESTRATOR),
    "MarkShipped": Allow(ORCHESTRATOR),
    "QuoteRefund": Allow(ORCHESTRATOR),
    "RecordRefund": Allow(ORCHESTRATOR),
    # The orchestrator acts for no user; whom the gateway acts for is looked at in _visible_to.
    "GetOrder": Allow(ORCHESTRATOR | GATEWAY),
    "ListOrders": Allow(GATEWAY, ANY_USER),
    "GetTimeline": Allow(GATEWAY, ANY_USER),
    "WatchOrder": Allow(GATEWAY, ANY_USER),
}


class OrdersServicer(orders_pb2_grpc.OrdersServicer):
    """Serves `sagacity.orders.v1.Orders`; the proto says what each method does and raises."""

    def __init__(self, app: Orders) -> None:
        self._app = app

    @override
    async def CreateOrder(
        self, request: orders_pb2.CreateOrderRequest, context: Context
    ) -> orders_pb2.CreateOrderResponse:
        """Inserts a PENDING order."""
        order = await self._app.create_order(_call(request, saga_step_pb2.OPERATION_DO), domain_wish(request))
        return orders_pb2.CreateOrderResponse(order=order_message(order))

    @override
    async def QuoteOrder(
        self, request: orders_pb2.QuoteOrderRequest, context: Context
    ) -> orders_pb2.QuoteOrderResponse:
        """Computes what lines cost."""
        expected = domain_money(request.expected_total) if request.HasField("expected_total") else None
        quoted = quote_order(
            domain_lines(request.lines),
            country_code=request.shipping_address.country_code,
            expected_total=expected,
        )
        return orders_pb2.QuoteOrderResponse(quote=quote_message(quoted))

    @override
    async def ConfirmOrder(
        self, request: orders_pb2.ConfirmOrderRequest, context: Context
    ) -> orders_pb2.ConfirmOrderResponse:
        """Makes a PENDING order CONFIRMED."""
        sale = Sale(
            lines=domain_lines(request.lines),
            quote=domain_quote(request.quote),
            shipping_address=domain_address(request.shipping_address),
            payment_id=UUID(request.payment_id),
            reservation_id=UUID(request.reservation_id),
        )
        order = await self._app.confirm_order(
            _call(request, saga_step_pb2.OPERATION_DO), UUID(request.order_id), UUID(request.user_id), sale
        )
        return orders_pb2.ConfirmOrderResponse(order=order_message(order))

    @override
    async def RejectOrder(
        self, request: orders_pb2.RejectOrderRequest, context: Context
    ) -> orders_pb2.RejectOrderResponse:
        """Makes a PENDING order REJECTED, or inserts a REJECTED one."""
        rejection = Rejection(request.rejection.reason, request.rejection.message)
        call = _call(request, saga_step_pb2.OPERATION_UNDO)
        order = await self._app.reject_order(call, domain_wish(request), rejection)
        return orders_pb2.RejectOrderResponse(order=order_message(order) if order else None)

    @override
    async def CancelOrder(
        self, request: orders_pb2.CancelOrderRequest, context: Context
    ) -> orders_pb2.CancelOrderResponse:
        """Makes a CONFIRMED order CANCELLED."""
        order = await self._app.cancel_order(
            _call(request, saga_step_pb2.OPERATION_DO),
            UUID(request.order_id),
            UUID(request.user_id) if request.user_id else None,
            request.reason,
        )
        return orders_pb2.CancelOrderResponse(order=order_message(order))

    @override
    async def AssertCanFulfil(
        self, request: orders_pb2.AssertCanFulfilRequest, context: Context
    ) -> orders_pb2.AssertCanFulfilResponse:
        """Checks that an order can be shipped."""
        order = await self._app.assert_can_fulfil(UUID(request.order_id))
        return orders_pb2.AssertCanFulfilResponse(order=order_message(order))

    @override
    async def MarkShipped(
        self, request: orders_pb2.MarkShippedRequest, context: Context
    ) -> orders_pb2.MarkShippedResponse:
        """Makes a CONFIRMED order SHIPPED."""
        order = await self._app.mark_shipped(
            _call(request, saga_step_pb2.OPERATION_DO),
            UUID(request.order_id),
            Shipment(request.shipment.carrier, request.shipment.tracking_number),
        )
        return orders_pb2.MarkShippedResponse(order=order_message(order))

    @override
    async def QuoteRefund(
        self, request: orders_pb2.QuoteRefundRequest, context: Context
    ) -> orders_pb2.QuoteRefundResponse:
        """Computes what a refund gives back."""
        order, sale, quoted = await self._app.quote_refund(
            UUID(request.order_id),
            domain_refund_lines(request.lines),
            domain_money(request.amount) if request.HasField("amount") else None,
        )
        return orders_pb2.QuoteRefundResponse(
            amount=money_message(quoted.amount),
            lines=refund_lines(quoted.lines),
            payment_id=str(sale.payment_id),
            reservation_id=str(sale.reservation_id),
            user_id=str(order.user_id),
        )

    @override
    async def RecordRefund(
        self, request: orders_pb2.RecordRefundRequest, context: Context
    ) -> orders_pb2.RecordRefundResponse:
        """Records a refund that was made."""
        order = await self._app.record_refund(
            _call(request, saga_step_pb2.OPERATION_DO),
            UUID(request.order_id),
            refund_id=UUID(request.refund_id),
            quoted=RefundQuote(domain_money(request.amount), domain_refund_lines(request.lines)),
            reason=request.reason,
        )
        return orders_pb2.RecordRefundResponse(order=order_message(order))

    @override
    async def GetOrder(
        self, request: orders_pb2.GetOrderRequest, context: Context
    ) -> orders_pb2.GetOrderResponse:
        """Reads one order."""
        order = await self._app.get_order(UUID(request.order_id), visible_to=_visible_to())
        return orders_pb2.GetOrderResponse(order=order_message(order))

    @override
    async def ListOrders(
        self, request: orders_pb2.ListOrdersRequest, context: Context
    ) -> orders_pb2.ListOrdersResponse:
        """Lists orders."""
        search = domain_search(request)
        if _visible_to() not in (None, search.user_id):
            raise NotAllowedError("a customer lists their own orders: user_id must be their own id")
        # Bound to who asks, too: a token says where somebody's list was left.
        after = read_token(request.page_token, search, current_caller().user_id)
        page = await self._app.list_orders(search, after, page_size=request.page_size)
        return orders_pb2.ListOrdersResponse(
            orders=[order_message(order) for order in page.orders],
            next_page_token=token_after(page.end, search, current_caller().user_id),
        )

    @override
    async def GetTimeline(
        self, request: orders_pb2.GetTimelineRequest, context: Context
    ) -> orders_pb2.GetTimelineResponse:
        """Reads what became of one order."""
        order, sequence, entries = await self._app.timeline(
            UUID(request.order_id), after=request.after_sequence, visible_to=_visible_to()
        )
        return orders_pb2.GetTimelineResponse(
            entries=map(entry_message, entries), order=order_message(order), order_sequence=sequence
        )

    @override
    async def WatchOrder(
        self, request: orders_pb2.WatchOrderRequest, context: Context
    ) -> AsyncIterator[orders_pb2.WatchOrderResponse]:
        """Streams what becomes of one order."""
        after = request.after_sequence
        while True:
            order, sequence, entries = await self._app.timeline(
                UUID(request.order_id), after=after, visible_to=_visible_to()
            )
            for entry in entries:
                after = entry.sequence
                yield orders_pb2.WatchOrderResponse(entry=entry_message(entry), order=order_message(order))
            if after >= sequence:
                await asyncio.sleep(WATCH_SECONDS)


def _visible_to() -> UUID | None:
    """The user whose orders the caller may see; None: everybody's."""
    caller = current_caller()
    if caller.service in ORCHESTRATOR or caller.is_staff:
        return None
    if caller.user_id is None:
        raise NotAllowedError("orders are read for a user")
    return caller.user_id


def _call(request: SagaRequest, operation: saga_step_pb2.Operation.ValueType) -> SagaCall:
    if request.saga_step.operation != operation:
        problem = Detail("saga_step.operation", f"must be {saga_step_pb2.Operation.Name(operation)}")
        raise Fault(
            FaultKind.INVALID_ARGUMENT,
            "OPERATION_WRONG",
            "this is the other half of the step",
            fields=(problem,),
        )
    return barrier.saga_call(request)
