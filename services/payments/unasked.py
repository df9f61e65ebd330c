"""What a provider does without being asked by us: refunds of its dashboard, lost disputes, voids; pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

from services.payments.domain import (
    FINISHED,
    UNSETTLED,
    Amounts,
    LedgerKind,
    Movement,
    NotSettledError,
    Payment,
    PaymentState,
    ProviderContradictionError,
    refunded_state,
)

_REFUND_IDS: Final = uuid5(NAMESPACE_URL, "urn:sagacity:payments:provider-refund")


@dataclass(frozen=True, slots=True)
class UnaskedOperation(Movement):
    """A refund or a void that a provider made by itself.

    Its key in both ledgers is the provider's own id of it: letters, digits, `_` and `-`, so that it is never
    one of our keys.

    Attributes:
        provider: Name of the provider.
        reason: Why, as an UPPER_SNAKE code.
    """

    provider: str
    reason: str

    @property
    def id(self) -> UUID:
        """The id that it has in all contexts: the same operation always has the same."""
        return uuid5(_REFUND_IDS, f"{self.provider} {self.operation_key}")


def total(unasked: Collection[UnaskedOperation], kind: LedgerKind) -> int:
    """Returns what the operations of a kind come to, in minor units."""
    return sum(made.amount_minor for made in unasked if made.kind is kind)


def after_unasked(
    payment: Payment,
    recorded: Amounts,
    said: Amounts,
    unasked: Collection[UnaskedOperation],
    *,
    now: datetime,
) -> Payment:
    """Returns what refunds and voids that the provider made by itself make of a payment.

    Args:
        payment: As it is, its row locked.
        recorded: What our ledger has of its money.
        said: What the provider says became of its money.
        unasked: What it made by itself and is not recorded yet; not empty.
        now: When it is recorded, UTC.

    Raises:
        NotSettledError: The charge is not recorded yet as the provider has it: whoever charges, captures or
            reverses is at work.
        ProviderContradictionError: They cannot have happened to this payment.
    """
    taken = (recorded.authorized_minor, recorded.captured_minor)
    if payment.state in UNSETTLED or taken != (said.authorized_minor, said.captured_minor):
        raise NotSettledError
    voided = total(unasked, LedgerKind.VOID)
    refunded = recorded.refunded_minor + total(unasked, LedgerKind.REFUND)
    if payment.state in FINISHED or refunded > recorded.captured_minor:
        raise ProviderContradictionError
    if voided == 0:
        state = refunded_state(payment.state, captured_minor=payment.captured_minor, refunded_minor=refunded)
        return replace(payment, state=state, refunded_minor=refunded, update_time=now)
    if recorded.captured_minor > 0 or voided != recorded.authorized_minor:
        raise ProviderContradictionError
    return replace(payment, state=PaymentState.VOIDED, update_time=now)
