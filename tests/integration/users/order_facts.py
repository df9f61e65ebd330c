"""Facts about orders in euros, as the orders context publishes them."""

from uuid import UUID

from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1 import events_pb2


def euros(minor_units: int) -> Money:
    return Money(currency_code="EUR", minor_units=minor_units)


def placed(order_id: UUID, user_id: UUID) -> events_pb2.OrderPlaced:
    return events_pb2.OrderPlaced(order_id=str(order_id), user_id=str(user_id))


def confirmed(order_id: UUID, user_id: UUID, total: int) -> events_pb2.OrderConfirmed:
    return events_pb2.OrderConfirmed(order_id=str(order_id), user_id=str(user_id), total=euros(total))


def rejected(order_id: UUID, user_id: UUID) -> events_pb2.OrderRejected:
    return events_pb2.OrderRejected(order_id=str(order_id), user_id=str(user_id), reason="OUT_OF_STOCK")


def shipped(order_id: UUID, user_id: UUID) -> events_pb2.OrderShipped:
    return events_pb2.OrderShipped(order_id=str(order_id), user_id=str(user_id), carrier="DHL")


def refunded(order_id: UUID, user_id: UUID, amount: int) -> events_pb2.OrderRefunded:
    return events_pb2.OrderRefunded(order_id=str(order_id), user_id=str(user_id), amount=euros(amount))


def cancelled(order_id: UUID, user_id: UUID, *, total: int, refunded: int) -> events_pb2.OrderCancelled:
    return events_pb2.OrderCancelled(
        order_id=str(order_id), user_id=str(user_id), total=euros(total), refunded=euros(refunded)
    )
