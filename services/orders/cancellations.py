"""Cancellations that this context asks for by itself: of which orders, and why. Pure: no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from uuid import UUID

from services.orders.domain import TRANSITIONS, OrdersError, OrderState

# Those of which a saga may still come to say that they are undone; the others are so, or are on their way.
OPEN_STATES = frozenset(
    state
    for state, following in TRANSITIONS.items()
    if following & {OrderState.REJECTED, OrderState.CANCELLED}
)


class CancellationCause(StrEnum):
    """What happened that an order cannot be completed after."""

    CUSTOMER_DEACTIVATED = "CUSTOMER_DEACTIVATED"
    PAYMENT_VOIDED = "PAYMENT_VOIDED"


# What the order says of its cancellation, for people.
REASONS: Mapping[CancellationCause, str] = MappingProxyType(
    {
        CancellationCause.CUSTOMER_DEACTIVATED: "the customer's account was deactivated",
        CancellationCause.PAYMENT_VOIDED: "the payment provider let the payment go",
    }
)


class CustomerDeactivatedError(OrdersError):
    """The account of the order's customer was deactivated."""


@dataclass(frozen=True, slots=True)
class CancellationRequest:
    """One order that is to be cancelled.

    Attributes:
        attempts: how often it was taken in hand, this time counted.
        round: counts from 1; the next one begins when an answer came that the order did not follow.
        traceparent: the trace of the fact that it follows from, if any.
    """

    order_id: UUID
    cause: CancellationCause
    attempts: int
    round: int
    traceparent: str | None = None

    @property
    def idempotency_key(self) -> str:
        """The key of this round: whoever asks, and however often, the answer is one.

        A refusal stays the answer of its key for a day. Another round asks anew.
        """
        return f"{self.cause.lower()}-{self.order_id}-{self.round}"
