"""Payments, their states, and what each state says about money; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

MAX_PAYMENT_METHODS = 20
CANCELLED_BY_PROVIDER = "CANCELLED_BY_PROVIDER"


class CaptureMode(StrEnum):
    """When the money is taken: with the authorisation, or later by a capture of its own."""

    AUTOMATIC = "AUTOMATIC"
    MANUAL = "MANUAL"


class PaymentState(StrEnum):
    """Where a payment stands; the proto's names without their prefix."""

    IN_PROGRESS = "IN_PROGRESS"
    AUTHORIZED = "AUTHORIZED"
    CAPTURED = "CAPTURED"
    REVERSING = "REVERSING"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"
    VOIDED = "VOIDED"
    DECLINED = "DECLINED"
    UNKNOWN = "UNKNOWN"


_S = PaymentState

TRANSITIONS: Mapping[PaymentState, frozenset[PaymentState]] = {
    _S.IN_PROGRESS: frozenset({_S.AUTHORIZED, _S.CAPTURED, _S.DECLINED, _S.UNKNOWN, _S.REVERSING}),
    _S.UNKNOWN: frozenset({_S.AUTHORIZED, _S.CAPTURED, _S.DECLINED, _S.REVERSING}),
    # VOIDED without REVERSING: the provider let the hold go by itself.
    _S.AUTHORIZED: frozenset({_S.CAPTURED, _S.REVERSING, _S.VOIDED}),
    _S.CAPTURED: frozenset({_S.PARTIALLY_REFUNDED, _S.REFUNDED, _S.REVERSING}),
    _S.PARTIALLY_REFUNDED: frozenset({_S.PARTIALLY_REFUNDED, _S.REFUNDED, _S.REVERSING}),
    # Never back to CAPTURED: the second half of a charge in flight must not win over an undo that began.
    _S.REVERSING: frozenset({_S.VOIDED, _S.REFUNDED}),
    _S.REFUNDED: frozenset(),
    _S.VOIDED: frozenset(),
    _S.DECLINED: frozenset(),
}


# What a capture finds done, and what a refund may take from.
WITH_MONEY = frozenset({_S.CAPTURED, _S.PARTIALLY_REFUNDED})
# Nothing becomes of these any more.
FINISHED = frozenset(state for state, targets in TRANSITIONS.items() if not targets)


# What was charged is not known yet.
UNSETTLED = frozenset({_S.IN_PROGRESS, _S.UNKNOWN})


def sources(target: PaymentState) -> list[PaymentState]:
    """Returns the states from which a payment may go to `target`."""
    return [state for state, targets in TRANSITIONS.items() if target in targets]


class LedgerKind(StrEnum):
    """What a ledger entry records."""

    AUTHORIZATION = "AUTHORIZATION"
    CAPTURE = "CAPTURE"
    VOID = "VOID"
    REFUND = "REFUND"


@dataclass(frozen=True, slots=True)
class Amounts:
    """What became of one payment's money, in minor units of its currency; totals, never negative."""

    authorized_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    voided_minor: int = 0


@dataclass(frozen=True, slots=True)
class Movement:
    """One entry that a ledger should hold."""

    operation_key: str
    kind: LedgerKind
    amount_minor: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One movement of money as it was recorded."""

    operation_key: str
    payment_id: UUID
    kind: LedgerKind
    amount_minor: int
    currency_code: str
    create_time: datetime


def operation_key(payment_id: UUID, kind: LedgerKind) -> str:
    """Returns the provider's key of the one operation of this kind that a payment can have.

    It is derived and not drawn, so that whoever resumes or undoes a payment knows it without being told.
    """
    return f"{payment_id}:{kind.lower()}"


def refund_key(payment_id: UUID, refund_id: UUID) -> str:
    """Returns the provider's key of one refund among those of a payment; a reversal's own is another."""
    return f"{operation_key(payment_id, LedgerKind.REFUND)}:{refund_id}"


def movements(
    payment_id: UUID,
    amounts: Amounts,
    *,
    refunded_before: int = 0,
    unasked: Collection[Movement] = (),
) -> tuple[Movement, ...]:
    """Returns the ledger entries that these totals amount to, in the order in which they came about.

    Args:
        payment_id: Whose.
        amounts: The totals.
        refunded_before: What of the refunds has entries already, under keys of their own.
        unasked: What of the refunds and voids the provider made by itself, and has no entry yet.
    """
    voided = sum(made.amount_minor for made in unasked if made.kind is LedgerKind.VOID)
    refunded = sum(made.amount_minor for made in unasked if made.kind is LedgerKind.REFUND)
    totals = (
        (LedgerKind.AUTHORIZATION, amounts.authorized_minor),
        (LedgerKind.CAPTURE, amounts.captured_minor),
        (LedgerKind.VOID, amounts.voided_minor - voided),
        (LedgerKind.REFUND, amounts.refunded_minor - refunded_before - refunded),
    )
    ours = tuple(
        Movement(operation_key(payment_id, kind), kind, minor) for kind, minor in totals if minor > 0
    )
    return (*ours, *unasked)


def charge_state(amounts: Amounts, *, decline_reason: str, cancelled: bool) -> PaymentState | None:
    """Returns what a provider's answer makes of a charge; None where it decides nothing yet."""
    if decline_reason:
        return PaymentState.DECLINED
    if amounts.captured_minor > 0:
        return PaymentState.CAPTURED
    if cancelled:
        return PaymentState.DECLINED
    return PaymentState.AUTHORIZED if amounts.authorized_minor > 0 else None


def reversed_state(amounts: Amounts) -> PaymentState | None:
    """Returns how a reversal ended; None while captured money has not gone back in full."""
    if amounts.captured_minor == 0:
        return PaymentState.VOIDED
    return PaymentState.REFUNDED if amounts.refunded_minor == amounts.captured_minor else None


@dataclass(frozen=True, slots=True)
class ChargeOrder:
    """What a charge asks for; `amount_minor` is more than 0."""

    payment_id: UUID
    order_id: UUID
    user_id: UUID
    payment_method_id: UUID
    amount_minor: int
    currency_code: str
    capture: CaptureMode


def refunded_state(before: PaymentState, *, captured_minor: int, refunded_minor: int) -> PaymentState:
    """Returns what a refund makes of a payment; `refunded_minor` counts it. A reversal goes on by itself."""
    if before is PaymentState.REVERSING:
        return before
    return PaymentState.REFUNDED if refunded_minor == captured_minor else PaymentState.PARTIALLY_REFUNDED


def check_refundable(payment: Payment, order: RefundOrder, *, in_flight_minor: int) -> None:
    """Looks whether a payment has what a refund asks for.

    Args:
        payment: As it is, its row locked.
        order: What is asked for.
        in_flight_minor: What refunds that are not settled yet may take.

    Raises:
        CurrencyMismatchError: The refund is in another currency.
        PaymentNotRefundableError: Nothing is captured, or its undo began.
        RefundTooLargeError: There is less left than that.
    """
    if order.currency_code != payment.currency_code:
        raise CurrencyMismatchError
    # A payment that went back in full was captured: what is wrong there is the amount.
    if payment.state not in WITH_MONEY | {PaymentState.REFUNDED}:
        raise PaymentNotRefundableError
    if order.amount_minor > payment.captured_minor - payment.refunded_minor - in_flight_minor:
        raise RefundTooLargeError


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """What a refund asks for; `amount_minor` is more than 0."""

    refund_id: UUID
    payment_id: UUID
    amount_minor: int
    currency_code: str
    reason: str


class RefundState(StrEnum):
    """Where a refund stands; one that is PENDING counts against what is left of its payment."""

    PENDING = "PENDING"
    DONE = "DONE"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund that was begun, and the step that is to be told of its outcome."""

    id: UUID
    payment_id: UUID
    saga_id: UUID
    step: str
    amount_minor: int
    state: RefundState


@dataclass(frozen=True, slots=True)
class Payment:
    """One charge and what became of it; amounts in minor units of `currency_code`."""

    id: UUID
    order_id: UUID
    user_id: UUID
    state: PaymentState
    capture_mode: CaptureMode
    currency_code: str
    amount_minor: int
    captured_minor: int
    refunded_minor: int
    decline_reason: str
    create_time: datetime
    update_time: datetime

    def to_json(self) -> dict[str, Any]:
        """Returns the payment as the barrier remembers it."""
        values = {name: getattr(self, name) for name in self.__slots__}
        plain = {name: value if isinstance(value, int) else str(value) for name, value in values.items()}
        return plain | {
            "create_time": self.create_time.isoformat(),
            "update_time": self.update_time.isoformat(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote."""
        ids = {name: UUID(data[name]) for name in ("id", "order_id", "user_id")}
        times = {name: datetime.fromisoformat(data[name]) for name in ("create_time", "update_time")}
        state, mode = PaymentState(data["state"]), CaptureMode(data["capture_mode"])
        return cls(**{**data, **ids, **times, "state": state, "capture_mode": mode})


@dataclass(frozen=True, slots=True)
class PaymentMethod:
    """A way to pay that a user added; brand and last four digits are for people."""

    id: UUID
    user_id: UUID
    provider: str
    brand: str
    last4: str
    create_time: datetime


class PaymentsError(Exception):
    """A reason why this context did not do what it was asked."""


class PaymentNotFoundError(PaymentsError):
    """There is no such payment, or it is not the caller's."""


class PaymentExistsError(PaymentsError):
    """The payment's id was used by another step."""


class PaymentReversingError(PaymentsError):
    """The payment's undo began; its charge gives way."""


class PaymentNotCapturableError(PaymentsError):
    """Nothing is held that could be taken, or the provider declined to."""


class PaymentNotRefundableError(PaymentsError):
    """Nothing was captured that could go back, or the provider declined to."""


class RefundTooLargeError(PaymentsError):
    """More than what is left of what was captured, refunds in flight counted."""


class RefundExistsError(PaymentsError):
    """The refund's id was used by another step."""


class CurrencyMismatchError(PaymentsError):
    """The amount is in another currency than the payment."""


class PaymentMethodNotFoundError(PaymentsError):
    """There is no such payment method of this user."""


class TooManyPaymentMethodsError(PaymentsError):
    """The user has MAX_PAYMENT_METHODS already."""


class TokenUnknownError(PaymentsError):
    """The provider does not know the token."""


class RequestIdReusedError(PaymentsError):
    """The request id came before, with another request."""


class OutcomeUnknownError(PaymentsError):
    """The provider did not say what happened; the same call again asks it again."""


class ProviderUnknownError(PaymentsError):
    """Nothing is taken from a provider of that name."""


class WebhookSignatureError(PaymentsError):
    """The webhook is not signed by the provider, or it was a while ago."""


class WebhookMalformedError(PaymentsError):
    """The provider signed what is not a webhook of its."""


class NotSettledError(PaymentsError):
    """The provider tells of what cannot be recorded yet, or what it does not know itself yet."""


class ProviderContradictionError(PaymentsError):
    """What the provider says it did cannot have happened to the payment."""
