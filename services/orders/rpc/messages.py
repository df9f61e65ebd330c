"""Orders on the wire: proto <-> domain."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from chassis.timestamps import to_timestamp
from sagacity.common.v1 import money_pb2, postal_address_pb2
from sagacity.orders.v1 import orders_pb2
from services.orders.app import Wish
from services.orders.domain import (
    Money,
    Order,
    OrderItem,
    OrderLine,
    OrderRefund,
    OrderState,
    PostalAddress,
    Quote,
    RefundState,
    Sale,
)

STATES: Mapping[orders_pb2.OrderState.ValueType, OrderState] = {
    orders_pb2.OrderState.Value(f"ORDER_STATE_{state}"): state for state in OrderState
}
STATE_NUMBERS = {state: number for number, state in STATES.items()}
REFUND_STATE_NUMBERS = {state: orders_pb2.RefundState.Value(f"REFUND_STATE_{state}") for state in RefundState}


def money_message(money: Money) -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code=money.currency_code, minor_units=money.minor_units)


def domain_money(money: money_pb2.Money) -> Money:
    """An amount."""
    return Money(money.currency_code, money.minor_units)


def domain_wish(request: orders_pb2.CreateOrderRequest | orders_pb2.RejectOrderRequest) -> Wish:
    """What a customer asks for."""
    return Wish(
        order_id=UUID(request.order_id),
        user_id=UUID(request.user_id),
        items=[OrderItem(item.sku, item.quantity) for item in request.items],
        currency_code=request.currency_code,
    )


def domain_lines(lines: Sequence[orders_pb2.OrderLine]) -> tuple[OrderLine, ...]:
    """What is sold; line totals are computed."""
    return tuple(
        OrderLine(line.sku, line.name, line.quantity, domain_money(line.unit_price)) for line in lines
    )


def domain_quote(quote: orders_pb2.Quote) -> Quote:
    """What an order costs."""
    return Quote(
        subtotal=domain_money(quote.subtotal),
        discount=domain_money(quote.discount),
        shipping=domain_money(quote.shipping),
        tax=domain_money(quote.tax),
        total=domain_money(quote.total),
    )


def domain_address(address: postal_address_pb2.PostalAddress) -> PostalAddress:
    """Where an order goes."""
    return PostalAddress(
        recipient=address.recipient,
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        region=address.region,
        postal_code=address.postal_code,
        country_code=address.country_code,
    )


def quote_message(quote: Quote) -> orders_pb2.Quote:
    """What an order costs."""
    return orders_pb2.Quote(
        subtotal=money_message(quote.subtotal),
        discount=money_message(quote.discount),
        shipping=money_message(quote.shipping),
        tax=money_message(quote.tax),
        total=money_message(quote.total),
    )


def order_message(order: Order) -> orders_pb2.Order:
    """An order as its callers see it."""
    message = orders_pb2.Order(
        id=str(order.id),
        order_number=order.order_number,
        user_id=str(order.user_id),
        state=STATE_NUMBERS[order.state],
        refund_state=REFUND_STATE_NUMBERS[order.refund_state],
        items=[orders_pb2.OrderItem(sku=item.sku, quantity=item.quantity) for item in order.items],
        currency_code=order.currency_code,
        refunds=[_refund(refund) for refund in order.refunds],
        create_time=to_timestamp(order.create_time),
        update_time=to_timestamp(order.update_time),
    )
    if order.rejection:
        message.rejection.reason = order.rejection.reason
        message.rejection.message = order.rejection.message
    if order.cancellation_reason:
        message.cancellation_reason = order.cancellation_reason
    if order.shipment:
        message.shipment.carrier = order.shipment.carrier
        message.shipment.tracking_number = order.shipment.tracking_number
    if order.refunds:
        message.refunded.MergeFrom(money_message(order.refunded))
    if order.sale:
        message.MergeFrom(_sold(order.sale))
    return message


def refund_lines(lines: Sequence[OrderItem]) -> list[orders_pb2.RefundLine]:
    """The units that a refund is for."""
    return [orders_pb2.RefundLine(sku=line.sku, quantity=line.quantity) for line in lines]


def domain_refund_lines(lines: Sequence[orders_pb2.RefundLine]) -> tuple[OrderItem, ...]:
    """The units that a refund is for."""
    return tuple(OrderItem(line.sku, line.quantity) for line in lines)


def _refund(refund: OrderRefund) -> orders_pb2.OrderRefund:
    return orders_pb2.OrderRefund(
        id=str(refund.id),
        amount=money_message(refund.amount),
        lines=refund_lines(refund.lines),
        reason=refund.reason,
        create_time=to_timestamp(refund.create_time),
    )


def _sold(sale: Sale) -> orders_pb2.Order:
    """The part of an order that it gets when it is confirmed."""
    address = sale.shipping_address
    return orders_pb2.Order(
        lines=[
            orders_pb2.OrderLine(
                sku=line.sku,
                name=line.name,
                quantity=line.quantity,
                unit_price=money_message(line.unit_price),
                line_total=money_message(line.line_total),
            )
            for line in sale.lines
        ],
        quote=quote_message(sale.quote),
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
