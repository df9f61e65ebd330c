"""The gRPC surface: proto <-> domain, who may call what, and one table from domain error to Fault."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import grpc.aio
from typing_extensions import override

from chassis import barrier
from chassis.barrier import SagaCall
from chassis.errors import Detail, Fault, FaultKind
from chassis.grpc_server import Allow
from chassis.identity import current_caller
from chassis.page_tokens import decode_page_token, encode_page_token
from chassis.timestamps import to_timestamp
from sagacity.common.v1 import money_pb2, postal_address_pb2, saga_step_pb2
from sagacity.orders.v1 import orders_pb2, orders_pb2_grpc
from services.orders.app import EXPONENTS, Orders, Wish, quote_order
from services.orders.domain import (
    AmountTooLargeError,
    CurrencyMismatchError,
    CurrencyUnknownError,
    InvalidLinesError,
    InvalidQuoteError,
    Money,
    NotAllowedError,
    Order,
    OrderExistsError,
    OrderFilter,
    OrderItem,
    OrderLine,
    OrderNotFoundError,
    OrderState,
    PostalAddress,
    Quote,
    RefundState,
    Rejection,
    Sale,
    TransitionRefusedError,
)
from services.orders.pricing import CountryNotServedError, PriceChangedError

DOMAIN = "sagacity.orders"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# The year 9999: nothing later is a time.
MAX_MICROSECONDS = 253_402_300_799_999_999

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
SagaRequest: TypeAlias = (
    orders_pb2.CreateOrderRequest | orders_pb2.ConfirmOrderRequest | orders_pb2.RejectOrderRequest
)

ORCHESTRATOR = frozenset({"orchestrator"})
GATEWAY = frozenset({"gateway"})
ANY_USER = frozenset({"customer", "support", "admin"})

POLICIES: Mapping[str, Allow] = {
    "CreateOrder": Allow(ORCHESTRATOR),
    "QuoteOrder": Allow(ORCHESTRATOR),
    "ConfirmOrder": Allow(ORCHESTRATOR),
    "RejectOrder": Allow(ORCHESTRATOR),
    # The orchestrator acts for no user; whom the gateway acts for is looked at in _visible_to.
    "GetOrder": Allow(ORCHESTRATOR | GATEWAY),
    "ListOrders": Allow(GATEWAY, ANY_USER),
}

# Kind, reason, message (empty: what the error says), and the field of the request that is wrong, if any.
FAULTS: Mapping[type[Exception], tuple[FaultKind, str, str, str]] = {
    OrderNotFoundError: (FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", "there is no such order", ""),
    OrderExistsError: (FaultKind.ALREADY_EXISTS, "ORDER_EXISTS", "there is another order of this id", ""),
    NotAllowedError: (FaultKind.PERMISSION_DENIED, "NOT_ALLOWED", "", ""),
    TransitionRefusedError: (FaultKind.FAILED_PRECONDITION, "ORDER_NOT_PENDING", "", ""),
    CountryNotServedError: (FaultKind.FAILED_PRECONDITION, "COUNTRY_NOT_SERVED", "", ""),
    InvalidLinesError: (FaultKind.INVALID_ARGUMENT, "LINES_INVALID", "", "lines"),
    InvalidQuoteError: (FaultKind.INVALID_ARGUMENT, "QUOTE_INVALID", "", "quote"),
    CurrencyMismatchError: (FaultKind.INVALID_ARGUMENT, "CURRENCY_MISMATCH", "", ""),
    CurrencyUnknownError: (FaultKind.INVALID_ARGUMENT, "CURRENCY_UNKNOWN", "", ""),
    AmountTooLargeError: (FaultKind.INVALID_ARGUMENT, "AMOUNT_TOO_LARGE", "", ""),
}


def translate(error: Exception) -> Fault | None:
    """The Fault for an error of this context's domain; None for any other."""
    if isinstance(error, PriceChangedError):
        return _price_changed(error)
    if type(error) not in FAULTS:
        return None
    kind, reason, message, field = FAULTS[type(error)]
    fields = (Detail(field, str(error)),) if field else ()
    return Fault(kind, reason, message or str(error), fields=fields)


class OrdersServicer(orders_pb2_grpc.OrdersServicer):
    """Serves `sagacity.orders.v1.Orders`; the proto says what each method does and raises."""

    def __init__(self, app: Orders) -> None:
        self._app = app

    @override
    async def CreateOrder(
        self, request: orders_pb2.CreateOrderRequest, context: Context
    ) -> orders_pb2.CreateOrderResponse:
        """Inserts a PENDING order."""
        order = await self._app.create_order(_call(request, saga_step_pb2.OPERATION_DO), _wish(request))
        return orders_pb2.CreateOrderResponse(order=_order(order))

    @override
    async def QuoteOrder(
        self, request: orders_pb2.QuoteOrderRequest, context: Context
    ) -> orders_pb2.QuoteOrderResponse:
        """Computes what lines cost."""
        expected = _domain_money(request.expected_total) if request.HasField("expected_total") else None
        quoted = quote_order(
            _domain_lines(request.lines),
            country_code=request.shipping_address.country_code,
            expected_total=expected,
        )
        return orders_pb2.QuoteOrderResponse(quote=_quote(quoted))

    @override
    async def ConfirmOrder(
        self, request: orders_pb2.ConfirmOrderRequest, context: Context
    ) -> orders_pb2.ConfirmOrderResponse:
        """Makes a PENDING order CONFIRMED."""
        sale = Sale(
            lines=_domain_lines(request.lines),
            quote=_domain_quote(request.quote),
            shipping_address=_domain_address(request.shipping_address),
            payment_id=UUID(request.payment_id),
            reservation_id=UUID(request.reservation_id),
        )
        order = await self._app.confirm_order(
            _call(request, saga_step_pb2.OPERATION_DO), UUID(request.order_id), UUID(request.user_id), sale
        )
        return orders_pb2.ConfirmOrderResponse(order=_order(order))

    @override
    async def RejectOrder(
        self, request: orders_pb2.RejectOrderRequest, context: Context
    ) -> orders_pb2.RejectOrderResponse:
        """Makes a PENDING order REJECTED, or inserts a REJECTED one."""
        rejection = Rejection(request.rejection.reason, request.rejection.message)
        call = _call(request, saga_step_pb2.OPERATION_UNDO)
        order = await self._app.reject_order(call, _wish(request), rejection)
        return orders_pb2.RejectOrderResponse(order=_order(order) if order else None)

    @override
    async def GetOrder(
        self, request: orders_pb2.GetOrderRequest, context: Context
    ) -> orders_pb2.GetOrderResponse:
        """Reads one order."""
        order = await self._app.get_order(UUID(request.order_id), visible_to=_visible_to())
        return orders_pb2.GetOrderResponse(order=_order(order))

    @override
    async def ListOrders(
        self, request: orders_pb2.ListOrdersRequest, context: Context
    ) -> orders_pb2.ListOrdersResponse:
        """Lists orders, newest first."""
        chosen = OrderFilter(
            user_id=UUID(request.user_id) if request.user_id else None,
            state=STATES[request.state] if request.state else None,
        )
        if _visible_to() not in (None, chosen.user_id):
            raise NotAllowedError("a customer lists their own orders: user_id must be their own id")
        # Bound to who asks, too: a token says where somebody's list was left.
        bound_to = (chosen.user_id, chosen.state, current_caller().user_id)
        after = decode_page_token(request.page_token, bound_to, types=(_moment, UUID))
        position = (after[0], after[1]) if after else None
        page, end = await self._app.list_orders(chosen, position, page_size=request.page_size)
        token = encode_page_token((_microseconds(end[0]), end[1]), bound_to) if end else ""
        return orders_pb2.ListOrdersResponse(orders=[_order(order) for order in page], next_page_token=token)


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


def _price_changed(error: PriceChangedError) -> Fault:
    total, expected = _for_people(error.total), _for_people(error.expected)
    return Fault(
        FaultKind.FAILED_PRECONDITION,
        "PRICE_CHANGED",
        f"the order costs {total}, not {expected} as expected",
        subjects=(Detail("total", total), Detail("expected_total", expected)),
    )


def _for_people(money: Money) -> str:
    exponent = EXPONENTS[money.currency_code]
    whole, minor = divmod(abs(money.minor_units), 10**exponent)
    sign = "-" if money.minor_units < 0 else ""
    return f"{sign}{whole}{f'.{minor:0{exponent}}' if exponent else ''} {money.currency_code}"


def _moment(text: str) -> datetime:
    microseconds = int(text)
    if not 0 <= microseconds <= MAX_MICROSECONDS:
        raise ValueError("not a time of ours")
    return EPOCH + microseconds * MICROSECOND


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


STATES: Mapping[orders_pb2.OrderState.ValueType, OrderState] = {
    orders_pb2.OrderState.Value(f"ORDER_STATE_{state}"): state for state in OrderState
}
STATE_NUMBERS = {state: number for number, state in STATES.items()}
REFUND_STATE_NUMBERS = {state: orders_pb2.RefundState.Value(f"REFUND_STATE_{state}") for state in RefundState}


def _money(money: Money) -> money_pb2.Money:
    return money_pb2.Money(currency_code=money.currency_code, minor_units=money.minor_units)


def _domain_money(money: money_pb2.Money) -> Money:
    return Money(money.currency_code, money.minor_units)


def _wish(request: orders_pb2.CreateOrderRequest | orders_pb2.RejectOrderRequest) -> Wish:
    return Wish(
        order_id=UUID(request.order_id),
        user_id=UUID(request.user_id),
        items=[OrderItem(item.sku, item.quantity) for item in request.items],
        currency_code=request.currency_code,
    )


def _domain_lines(lines: Sequence[orders_pb2.OrderLine]) -> tuple[OrderLine, ...]:
    return tuple(
        OrderLine(line.sku, line.name, line.quantity, _domain_money(line.unit_price)) for line in lines
    )


def _domain_quote(quote: orders_pb2.Quote) -> Quote:
    return Quote(
        subtotal=_domain_money(quote.subtotal),
        discount=_domain_money(quote.discount),
        shipping=_domain_money(quote.shipping),
        tax=_domain_money(quote.tax),
        total=_domain_money(quote.total),
    )


def _domain_address(address: postal_address_pb2.PostalAddress) -> PostalAddress:
    return PostalAddress(
        recipient=address.recipient,
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        region=address.region,
        postal_code=address.postal_code,
        country_code=address.country_code,
    )


def _quote(quote: Quote) -> orders_pb2.Quote:
    return orders_pb2.Quote(
        subtotal=_money(quote.subtotal),
        discount=_money(quote.discount),
        shipping=_money(quote.shipping),
        tax=_money(quote.tax),
        total=_money(quote.total),
    )


def _order(order: Order) -> orders_pb2.Order:
    message = orders_pb2.Order(
        id=str(order.id),
        order_number=order.order_number,
        user_id=str(order.user_id),
        state=STATE_NUMBERS[order.state],
        refund_state=REFUND_STATE_NUMBERS[order.refund_state],
        items=[orders_pb2.OrderItem(sku=item.sku, quantity=item.quantity) for item in order.items],
        currency_code=order.currency_code,
        create_time=to_timestamp(order.create_time),
        update_time=to_timestamp(order.update_time),
    )
    if order.rejection:
        message.rejection.reason = order.rejection.reason
        message.rejection.message = order.rejection.message
    if order.sale:
        message.MergeFrom(_sold(order.sale))
    return message


def _sold(sale: Sale) -> orders_pb2.Order:
    """The part of an order that it gets when it is confirmed."""
    address = sale.shipping_address
    return orders_pb2.Order(
        lines=[
            orders_pb2.OrderLine(
                sku=line.sku,
                name=line.name,
                quantity=line.quantity,
                unit_price=_money(line.unit_price),
                line_total=_money(line.line_total),
            )
            for line in sale.lines
        ],
        quote=_quote(sale.quote),
        shipping_address=postal_address_pb2.PostalAddress(
            recipient=address.recipient,
            line1=address.line1,
            line2=address.line2,
            city=address.city,
            region=address.region,
            postal_code=address.postal_code,
            country_code=address.country_code,
        ),
        payment_id=str(sale.payment_id),
        reservation_id=str(sale.reservation_id),
    )
