"""The facts of this context as the messages that are published: one function per fact."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from google.protobuf.message import Message

from chassis.outbox import Event
from sagacity.common.v1 import money_pb2
from sagacity.inventory.v1 import events_pb2
from services.inventory.domain import Hold, Product, Reservation, WantedLine

TOPIC = "sagacity.inventory.v1"

_UUID_TEXT_LENGTH = 36
# What precedes the text of an order id in a StockCommitted. Parts of a message may follow one another in any
# order, and the message is complete once the 36 characters stand behind this.
_ORDER_ID_FOLLOWS = events_pb2.StockCommitted(order_id="0" * _UUID_TEXT_LENGTH).SerializeToString()[
    :-_UUID_TEXT_LENGTH
]


def product_created(event_id: UUID, product: Product, occurred_at: datetime) -> Event:
    """A product was added."""
    price = money_pb2.Money(
        currency_code=product.unit_price.currency_code, minor_units=product.unit_price.minor_units
    )
    message = events_pb2.ProductCreated(sku=product.sku, name=product.name, unit_price=price)
    return _event(event_id, "product", product.sku, message, occurred_at)


def stock_reserved(event_id: UUID, hold: Hold, occurred_at: datetime) -> Event:
    """Stock is held for an order."""
    message = events_pb2.StockReserved(
        reservation_id=str(hold.reservation_id), order_id=str(hold.order_id), lines=_lines(hold.lines)
    )
    return _event(event_id, "reservation", str(hold.reservation_id), message, occurred_at)


def stock_committed_up_to_order_id(event_id: UUID, reservation_id: UUID, occurred_at: datetime) -> Event:
    """Held stock became sold stock; at its end the payload still lacks the order's id, 36 characters."""
    message = events_pb2.StockCommitted(reservation_id=str(reservation_id))
    event = _event(event_id, "reservation", str(reservation_id), message, occurred_at)
    return Event(
        event.id,
        event.aggregate_type,
        event.aggregate_id,
        event.type,
        event.payload + _ORDER_ID_FOLLOWS,
        event.occurred_at,
    )


def stock_released_by_undo(
    event_id: UUID, reservation_id: UUID, order_id: UUID, occurred_at: datetime
) -> Event:
    """The stock of an order that was undone is available again."""
    reason = events_pb2.RELEASE_REASON_ORDER_UNDONE
    return _released(event_id, reservation_id, order_id, reason, occurred_at)


def stock_released_by_expiry(
    event_id: UUID, reservation_id: UUID, order_id: UUID, occurred_at: datetime
) -> Event:
    """The time of a hold ran out, and its stock is available again."""
    reason = events_pb2.RELEASE_REASON_HOLD_EXPIRED
    return _released(event_id, reservation_id, order_id, reason, occurred_at)


def stock_released_by_cancellation(
    event_id: UUID, reservation_id: UUID, order_id: UUID, occurred_at: datetime
) -> Event:
    """The stock of an order that was cancelled after its confirmation is available again."""
    reason = events_pb2.RELEASE_REASON_ORDER_CANCELLED
    return _released(event_id, reservation_id, order_id, reason, occurred_at)


def stock_returned(
    event_id: UUID, reservation: Reservation, lines: Collection[WantedLine], occurred_at: datetime
) -> Event:
    """Sold units came back, while the reservation stays."""
    message = events_pb2.StockReturned(
        reservation_id=str(reservation.id), order_id=str(reservation.order_id), lines=_lines(lines)
    )
    return _event(event_id, "reservation", str(reservation.id), message, occurred_at)


def _released(
    event_id: UUID,
    reservation_id: UUID,
    order_id: UUID,
    reason: events_pb2.ReleaseReason.ValueType,
    occurred_at: datetime,
) -> Event:
    message = events_pb2.StockReleased(
        reservation_id=str(reservation_id), order_id=str(order_id), reason=reason
    )
    return _event(event_id, "reservation", str(reservation_id), message, occurred_at)


def _lines(lines: Collection[WantedLine]) -> list[events_pb2.SkuQuantity]:
    return [events_pb2.SkuQuantity(sku=line.sku, quantity=line.quantity) for line in lines]


def _event(
    event_id: UUID, aggregate_type: str, aggregate_id: str, message: Message, occurred_at: datetime
) -> Event:
    return Event(
        id=event_id,
        aggregate_type=aggregate_type,
        aggregate_id=aggregate_id,
        type=message.DESCRIPTOR.full_name,
        payload=message.SerializeToString(deterministic=True),
        occurred_at=occurred_at,
    )
