"""What this context tells the others: domain -> published facts.

An order's facts are numbered from 1 without a gap: OrderPlaced is always 1, what becomes of the order is 2
and later: its history and its refunds have these numbers. An order whose create never landed is inserted and
rejected in one transaction and publishes both, so that consumers know one shape of history only.
"""

from datetime import datetime
from uuid import UUID

from google.protobuf.message import Message

from chassis.outbox import Event
from chassis.timestamps import to_timestamp
from sagacity.common.v1 import money_pb2
from sagacity.orders.v1 import events_pb2
from services.orders.domain import Money, Order, OrderRefund, Shipment

TOPIC = "sagacity.orders.v1"
AGGREGATE_TYPE = "order"


def order_placed(event_id: UUID, order: Order) -> Event:
    """An order was accepted."""
    fact = events_pb2.OrderPlaced(
        order_id=str(order.id),
        user_id=str(order.user_id),
        order_number=order.order_number,
        currency_code=order.currency_code,
        create_time=to_timestamp(order.create_time),
        items=[events_pb2.OrderedItem(sku=item.sku, quantity=item.quantity) for item in order.items],
    )
    return _event(event_id, order.id, order.create_time, fact)


def order_confirmed(
    event_id: UUID, order_id: UUID, user_id: UUID, at: datetime, *, total: Money, payment_id: UUID
) -> Event:
    """An order is sold and paid."""
    fact = events_pb2.OrderConfirmed(
        order_id=str(order_id),
        user_id=str(user_id),
        total=_money(total),
        payment_id=str(payment_id),
    )
    return _event(event_id, order_id, at, fact)


def order_rejected(event_id: UUID, order_id: UUID, user_id: UUID, at: datetime, *, reason: str) -> Event:
    """An order was undone. The sentence for people stays here: it may quote what the customer wrote."""
    fact = events_pb2.OrderRejected(order_id=str(order_id), user_id=str(user_id), reason=reason)
    return _event(event_id, order_id, at, fact)


def order_cancelled(
    event_id: UUID, order_id: UUID, user_id: UUID, at: datetime, *, total: Money, refunded: Money
) -> Event:
    """A confirmed order was called off. Why stays here: it is what the customer wrote."""
    fact = events_pb2.OrderCancelled(
        order_id=str(order_id), user_id=str(user_id), total=_money(total), refunded=_money(refunded)
    )
    return _event(event_id, order_id, at, fact)


def order_shipped(
    event_id: UUID, order_id: UUID, user_id: UUID, at: datetime, *, shipment: Shipment
) -> Event:
    """An order is on its way."""
    fact = events_pb2.OrderShipped(
        order_id=str(order_id),
        user_id=str(user_id),
        carrier=shipment.carrier,
        tracking_number=shipment.tracking_number,
    )
    return _event(event_id, order_id, at, fact)


def order_refunded(
    event_id: UUID, order_id: UUID, user_id: UUID, refund: OrderRefund, *, refunded: Money, total: Money
) -> Event:
    """Some or all of an order's money went back; `refunded` is what did so far. Why stays here, too."""
    fact = events_pb2.OrderRefunded(
        order_id=str(order_id),
        user_id=str(user_id),
        refund_id=str(refund.id),
        amount=_money(refund.amount),
        refunded=_money(refunded),
        total=_money(total),
    )
    return _event(event_id, order_id, refund.create_time, fact)


def _money(money: Money) -> money_pb2.Money:
    return money_pb2.Money(currency_code=money.currency_code, minor_units=money.minor_units)


def _event(event_id: UUID, order_id: UUID, at: datetime, fact: Message) -> Event:
    return Event(
        id=event_id,
        aggregate_type=AGGREGATE_TYPE,
        aggregate_id=str(order_id),
        type=fact.DESCRIPTOR.full_name,
        payload=fact.SerializeToString(),
        occurred_at=at,
    )
