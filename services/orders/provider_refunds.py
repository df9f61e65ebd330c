"""Refunds that the payment provider made without being asked: what they are for an order. Pure: no I/O.

| the order is                  | the refund                                                                |
|-------------------------------|---------------------------------------------------------------------------|
| PENDING                       | waits: there is no total to hold it against before the order is confirmed |
| CONFIRMED, SHIPPED, DELIVERED | is recorded as any other, and published                                   |
| REJECTED, CANCELLED           | is kept, and changes nothing: the undo gives all the money back, and what |
|                               | the provider gave back before is a part of that                           |
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from services.orders.domain import CurrencyMismatchError, Money, Order, OrdersError, OrderState
from services.orders.refunds import REFUNDABLE, RefundTooLargeError, require_positive, require_recordable


class ProviderRefundState(StrEnum):
    """What became of a refund at its order."""

    WAITING = "WAITING"
    RECORDED = "RECORDED"
    UNDONE = "UNDONE"
    REFUSED = "REFUSED"


class PaymentMismatchError(OrdersError):
    """The order was paid by another payment."""


@dataclass(frozen=True, slots=True)
class ProviderRefund:
    """Money that the provider gave back; `reason` is its UPPER_SNAKE code."""

    id: UUID
    order_id: UUID
    payment_id: UUID
    amount: Money
    reason: str

    @property
    def reason_for_people(self) -> str:
        """What the order says of it."""
        return f"by the payment provider: {self.reason}"


def state_after(order: Order, refund: ProviderRefund, *, undone_minor: int) -> ProviderRefundState:
    """Decides what a refund is for an order.

    Args:
        order: as it stands, locked.
        refund: one that it does not know yet.
        undone_minor: what went back by such refunds since the order was undone.

    Raises:
        OrdersError: it does not fit: not above 0, of another payment or currency, or more than is left.
    """
    require_positive(refund.amount)
    if refund.amount.currency_code != order.currency_code:
        raise CurrencyMismatchError(
            f"the order is in {order.currency_code}, not in {refund.amount.currency_code}"
        )
    if order.state is OrderState.PENDING:
        return ProviderRefundState.WAITING
    if order.sale is not None and order.sale.payment_id != refund.payment_id:
        raise PaymentMismatchError(f"the order was paid by {order.sale.payment_id}")
    if order.state in REFUNDABLE:
        require_recordable(order, refund.amount, ())
        return ProviderRefundState.RECORDED
    _require_left(order, refund.amount, undone_minor)
    return ProviderRefundState.UNDONE


def _require_left(order: Order, amount: Money, undone_minor: int) -> None:
    # What was rejected has no total.
    if order.sale is None:
        return
    left = order.sale.quote.total - order.refunded - Money(order.currency_code, undone_minor)
    if left < amount:
        raise RefundTooLargeError(f"{amount} went back, but only {left} were left of the cancelled order")
