"""Protobuf to views: one function per message, nothing else."""

import json
from datetime import UTC, datetime

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from gateway import views
from sagacity.common.v1.money_pb2 import Money
from sagacity.common.v1.postal_address_pb2 import PostalAddress
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2
from sagacity.users.v1 import users_pb2


def word(enum: EnumDescriptor, value: int, prefix: str) -> str:
    """Names an enum value for JSON: ORDER_STATE_PENDING is `pending`.

    One that a newer backend knows and we do not is `unknown`.
    """
    descriptor = enum.values_by_number.get(value)
    return descriptor.name.removeprefix(prefix).lower() if descriptor else "unknown"


def _time(stamp: Timestamp, *, present: bool) -> datetime | None:
    return stamp.ToDatetime(tzinfo=UTC) if present else None


def money(amount: Money) -> views.MoneyView:
    """Renders an amount."""
    return views.MoneyView(currency=amount.currency_code, amount_minor=amount.minor_units)


def user(message: users_pb2.User) -> views.UserView:
    """Renders a user."""
    return views.UserView(
        id=message.id,
        email=message.email,
        display_name=message.display_name,
        role=word(users_pb2.Role.DESCRIPTOR, message.role, "ROLE_"),
        state=word(users_pb2.UserState.DESCRIPTOR, message.state, "USER_STATE_"),
        create_time=_time(message.create_time, present=message.HasField("create_time")),
        deactivate_time=_time(message.deactivate_time, present=message.HasField("deactivate_time")),
    )


def session(message: users_pb2.LoginResponse) -> views.SessionView:
    """Renders a login."""
    return views.SessionView(
        access_token=message.access_token,
        expire_time=_time(message.expire_time, present=message.HasField("expire_time")),
        user=user(message.user),
    )


def address(message: PostalAddress) -> views.AddressView:
    """Renders a postal address."""
    return views.AddressView(
        recipient=message.recipient,
        line1=message.line1,
        line2=message.line2,
        city=message.city,
        region=message.region,
        postal_code=message.postal_code,
        country_code=message.country_code,
    )


def user_address(message: users_pb2.UserAddress) -> views.UserAddressView:
    """Renders an entry of the address book."""
    return views.UserAddressView(
        id=message.id,
        create_time=_time(message.create_time, present=message.HasField("create_time")),
        **address(message.address).model_dump(),
    )


def payment_method(message: payments_pb2.PaymentMethod) -> views.PaymentMethodView:
    """Renders a payment method."""
    return views.PaymentMethodView(
        id=message.id,
        provider=message.provider,
        brand=message.brand,
        last4=message.last4,
        create_time=_time(message.create_time, present=message.HasField("create_time")),
    )


def statistics(message: users_pb2.CustomerStatistics) -> views.StatisticsView:
    """Renders the statistics of a customer."""
    return views.StatisticsView(
        user_id=message.user_id,
        orders_placed=message.orders_placed,
        orders_confirmed=message.orders_confirmed,
        orders_rejected=message.orders_rejected,
        orders_cancelled=message.orders_cancelled,
        amount_spent=[money(amount) for amount in message.amount_spent],
    )


def product(message: inventory_pb2.Product) -> views.ProductView:
    """Renders a product."""
    return views.ProductView(
        sku=message.sku,
        name=message.name,
        description=message.description,
        category=message.category,
        unit_price=money(message.unit_price),
        active=message.active,
        available=message.available,
        low_stock_threshold=message.low_stock_threshold,
        etag=message.etag,
        create_time=_time(message.create_time, present=message.HasField("create_time")),
        update_time=_time(message.update_time, present=message.HasField("update_time")),
    )


def stock(message: inventory_pb2.Stock) -> views.StockView:
    """Renders the stock of a product."""
    return views.StockView(
        sku=message.sku, on_hand=message.on_hand, reserved=message.reserved, available=message.available
    )


def _line(message: orders_pb2.OrderLine) -> views.OrderLineView:
    return views.OrderLineView(
        sku=message.sku,
        name=message.name,
        quantity=message.quantity,
        unit_price=money(message.unit_price),
        line_total=money(message.line_total),
    )


def refund(message: orders_pb2.OrderRefund) -> views.OrderRefundView:
    """Renders a refund of an order."""
    return views.OrderRefundView(
        id=message.id,
        amount=money(message.amount),
        lines=[views.RefundLineView(sku=line.sku, quantity=line.quantity) for line in message.lines],
        reason=message.reason,
        create_time=_time(message.create_time, present=message.HasField("create_time")),
    )


def order(message: orders_pb2.Order) -> views.OrderView:
    """Renders an order; what it has only once confirmed is null before."""
    quote = message.quote if message.HasField("quote") else None
    return views.OrderView(
        id=message.id,
        order_number=message.order_number,
        user_id=message.user_id,
        state=word(orders_pb2.OrderState.DESCRIPTOR, message.state, "ORDER_STATE_"),
        refund_state=word(orders_pb2.RefundState.DESCRIPTOR, message.refund_state, "REFUND_STATE_"),
        currency=message.currency_code,
        items=[views.OrderItemView(sku=item.sku, quantity=item.quantity) for item in message.items],
        lines=[_line(line) for line in message.lines],
        subtotal=money(quote.subtotal) if quote else None,
        discount=money(quote.discount) if quote else None,
        shipping=money(quote.shipping) if quote else None,
        tax=money(quote.tax) if quote else None,
        total=money(quote.total) if quote else None,
        shipping_address=address(message.shipping_address) if message.HasField("shipping_address") else None,
        payment_id=message.payment_id or None,
        reservation_id=message.reservation_id or None,
        rejection=views.RejectionView(reason=message.rejection.reason, message=message.rejection.message)
        if message.HasField("rejection")
        else None,
        cancellation_reason=message.cancellation_reason or None,
        refunded=money(message.refunded) if message.HasField("refunded") else None,
        refunds=[refund(entry) for entry in message.refunds],
        shipment=views.ShipmentView(
            carrier=message.shipment.carrier, tracking_number=message.shipment.tracking_number
        )
        if message.HasField("shipment")
        else None,
        create_time=_time(message.create_time, present=message.HasField("create_time")),
        update_time=_time(message.update_time, present=message.HasField("update_time")),
    )


def order_fact(message: orders_pb2.TimelineEntry) -> views.OrderFactView:
    """Renders a fact of an order's timeline."""
    return views.OrderFactView(
        sequence=message.sequence,
        fact=word(orders_pb2.OrderFact.DESCRIPTOR, message.fact, "ORDER_FACT_"),
        state=word(orders_pb2.OrderState.DESCRIPTOR, message.state, "ORDER_STATE_"),
        time=_time(message.time, present=message.HasField("time")),
        refund_id=message.refund_id or None,
        amount=money(message.amount) if message.HasField("amount") else None,
    )


def refusal(message: sagas_pb2.Refusal) -> views.RefusalView:
    """Renders why a saga went backward."""
    return views.RefusalView(
        step=message.step,
        reason=message.reason,
        message=message.message,
        details=[
            views.RefusalDetailView(subject=detail.subject, description=detail.description)
            for detail in message.details
        ],
    )


def saga(message: sagas_pb2.Saga) -> views.SagaView:
    """Renders a saga."""
    return views.SagaView(
        id=message.id,
        kind=message.kind,
        version=message.version,
        state=word(sagas_pb2.SagaState.DESCRIPTOR, message.state, "SAGA_STATE_"),
        order_id=message.order_id,
        sequence=message.sequence,
        epoch=message.epoch,
        owner=message.owner or None,
        attempts=message.attempts,
        next_attempt_time=_time(message.next_attempt_time, present=message.HasField("next_attempt_time")),
        deadline_time=_time(message.deadline_time, present=message.HasField("deadline_time")),
        create_time=_time(message.create_time, present=message.HasField("create_time")),
        update_time=_time(message.update_time, present=message.HasField("update_time")),
        refusal=refusal(message.refusal) if message.HasField("refusal") else None,
        step=message.step or None,
        waiting_for=message.waiting_for or None,
        error_fingerprint=message.error_fingerprint or None,
        last_error=message.last_error or None,
        overdue=message.overdue,
        pivot_intended=message.pivot_intended,
    )


def saga_plan(message: sagas_pb2.PreviewResponse) -> views.SagaPlanView:
    """Renders what a verb would do."""
    return views.SagaPlanView(
        calls=[
            views.PlannedCallView(
                step=call.step,
                operation=call.operation,
                rpc=call.rpc,
                request=json.loads(call.request_json) if call.request_json else None,
            )
            for call in message.calls
        ],
        state=word(sagas_pb2.SagaState.DESCRIPTOR, message.state, "SAGA_STATE_"),
    )


def timeline_entry(message: sagas_pb2.TimelineEntry) -> views.TimelineEntryView:
    """Renders an entry of a saga's journal."""
    return views.TimelineEntryView(
        sequence=message.sequence,
        step=message.step,
        operation=message.operation,
        attempt=message.attempt,
        outcome=message.outcome,
        detail=message.detail,
        time=_time(message.time, present=message.HasField("time")),
        actor=message.actor or None,
        reason=message.reason or None,
    )
