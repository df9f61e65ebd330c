"""What this context asks of a payment provider."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from services.payments.domain import Amounts
from services.payments.unasked import UnaskedOperation


class ProviderOutcomeUnknownError(Exception):
    """The provider did not answer; what was asked may have happened, may happen later, or never."""


@dataclass(frozen=True, slots=True)
class Card:
    """What people may see of a token."""

    brand: str
    last4: str


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """What a payment at the provider is about; `amount_minor` in minor units of `currency_code`."""

    payment_id: UUID
    token: str
    amount_minor: int
    currency_code: str


@dataclass(frozen=True, slots=True)
class ProviderPayment:
    """Everything that the provider says about one payment.

    Attributes:
        amounts: What became of its money so far.
        decline_reason: Why what was asked for was declined, as an UPPER_SNAKE code; else empty.
        cancelled: Nothing is authorised or captured any more.
        moved_minor: What the capture, cancel or refund that was asked for moves, now or when its key came
            first; 0 where it had no effect, and in answers to anything else.
        unasked: The refunds and voids among all that, which the provider made by itself, oldest first;
            `amounts` counts them.
    """

    amounts: Amounts = field(default_factory=Amounts)
    decline_reason: str = ""
    cancelled: bool = False
    moved_minor: int = 0
    unasked: tuple[UnaskedOperation, ...] = ()


class PaymentProvider(Protocol):
    """A payment provider.

    A payment is known by the id that we gave it. Every operation has a key and is idempotent by it: the same
    key again changes nothing. So does an operation that can have no effect any more, a capture after a cancel
    say. Each answers with what became of the payment. Any may raise ProviderOutcomeUnknownError, or be cut
    off by the caller's time-out; both mean that the outcome is not known.
    """

    @property
    def name(self) -> str:
        """Name of the provider, as payment methods carry it."""
        ...

    async def describe(self, token: str) -> Card | None:
        """Returns what people may see of a token, or None where the provider does not know it."""
        ...

    async def open(self, terms: PaymentTerms) -> ProviderPayment:
        """Makes the payment known to the provider, so that it can be cancelled; moves no money."""
        ...

    async def authorise(
        self, terms: PaymentTerms, *, operation_key: str, capture_key: str | None
    ) -> ProviderPayment:
        """Opens the payment where it is not open, and holds its amount.

        Args:
            terms: The payment.
            operation_key: Key of the authorisation.
            capture_key: Takes the money at once, as an operation of this key; None leaves it held. A provider
                that cannot do both at once ignores it, and is asked for the capture.
        """
        ...

    async def capture(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        """Takes what is held; declined for good where the answer has a reason."""
        ...

    async def cancel(self, payment_id: UUID, *, operation_key: str) -> ProviderPayment:
        """Lets go what is held and not captured, and is FINAL: nothing is authorised or captured after it.

        What was captured before stays captured: the answer says so, and a refund gives it back.
        """
        ...

    async def refund(self, payment_id: UUID, *, operation_key: str, amount_minor: int) -> ProviderPayment:
        """Gives back some of what was captured, an operation for each key.

        More than what is left has no effect, and never will: what is left does not grow.
        """
        ...

    async def look_up(self, payment_id: UUID) -> ProviderPayment | None:
        """Returns what the provider knows of a payment; None where it knows none.

        None resolves nothing: what was sent before may still arrive.
        """
        ...
