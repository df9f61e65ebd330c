"""One table from this context's errors to the Faults that callers see and the barrier remembers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from chassis.errors import Fault, FaultKind
from services.payments.domain import (
    MAX_PAYMENT_METHODS,
    CurrencyMismatchError,
    NotSettledError,
    OutcomeUnknownError,
    PaymentExistsError,
    PaymentMethodNotFoundError,
    PaymentNotCapturableError,
    PaymentNotFoundError,
    PaymentNotRefundableError,
    PaymentReversingError,
    PaymentsError,
    ProviderContradictionError,
    ProviderUnknownError,
    RefundExistsError,
    RefundTooLargeError,
    RequestIdReusedError,
    TokenUnknownError,
    TooManyPaymentMethodsError,
    WebhookMalformedError,
    WebhookSignatureError,
)

RETRY_AFTER = timedelta(seconds=1)
# Faults of these kinds are over soon.
_PASSING = frozenset({FaultKind.UNAVAILABLE, FaultKind.ABORTED})

FAULTS: Mapping[type[PaymentsError], tuple[FaultKind, str, str]] = {
    PaymentNotFoundError: (FaultKind.NOT_FOUND, "PAYMENT_NOT_FOUND", "there is no such payment"),
    PaymentExistsError: (
        FaultKind.ALREADY_EXISTS,
        "PAYMENT_EXISTS",
        "the payment belongs to another step",
    ),
    PaymentReversingError: (FaultKind.ABORTED, "PAYMENT_REVERSING", "the payment is being undone"),
    PaymentNotCapturableError: (
        FaultKind.FAILED_PRECONDITION,
        "PAYMENT_NOT_CAPTURABLE",
        "the payment cannot be captured",
    ),
    PaymentNotRefundableError: (
        FaultKind.FAILED_PRECONDITION,
        "PAYMENT_NOT_REFUNDABLE",
        "the payment cannot be refunded",
    ),
    RefundTooLargeError: (
        FaultKind.FAILED_PRECONDITION,
        "REFUND_TOO_LARGE",
        "less is left of the payment than the refund asks for",
    ),
    RefundExistsError: (FaultKind.ALREADY_EXISTS, "REFUND_EXISTS", "the refund belongs to another step"),
    CurrencyMismatchError: (
        FaultKind.INVALID_ARGUMENT,
        "CURRENCY_MISMATCH",
        "the amount is in another currency than the payment",
    ),
    PaymentMethodNotFoundError: (
        FaultKind.NOT_FOUND,
        "PAYMENT_METHOD_NOT_FOUND",
        "the user has no such payment method",
    ),
    TooManyPaymentMethodsError: (
        FaultKind.FAILED_PRECONDITION,
        "TOO_MANY_PAYMENT_METHODS",
        f"a user has at most {MAX_PAYMENT_METHODS} payment methods",
    ),
    TokenUnknownError: (
        FaultKind.FAILED_PRECONDITION,
        "TOKEN_UNKNOWN",
        "the provider does not know the token",
    ),
    RequestIdReusedError: (
        FaultKind.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
        "the request id came before, with another request",
    ),
    OutcomeUnknownError: (
        FaultKind.UNAVAILABLE,
        "PROVIDER_OUTCOME_UNKNOWN",
        "the payment provider did not say what happened; call again with the same bytes",
    ),
    ProviderUnknownError: (
        FaultKind.NOT_FOUND,
        "PROVIDER_UNKNOWN",
        "nothing is taken from a provider of that name",
    ),
    WebhookSignatureError: (
        FaultKind.INVALID_ARGUMENT,
        "BAD_SIGNATURE",
        "the provider did not sign this, or not of late",
    ),
    WebhookMalformedError: (FaultKind.INVALID_ARGUMENT, "BAD_WEBHOOK", "this is no webhook of the provider"),
    NotSettledError: (
        FaultKind.UNAVAILABLE,
        "WEBHOOK_TOO_EARLY",
        "what the webhook is about cannot be recorded yet; send it again",
    ),
    ProviderContradictionError: (
        FaultKind.FAILED_PRECONDITION,
        "PROVIDER_CONTRADICTION",
        "what the provider says cannot have happened to the payment",
    ),
}


def as_fault(error: Exception) -> Fault | None:
    """Returns the Fault for an error of this context, with what the error itself says; None for any other."""
    if not isinstance(error, PaymentsError):
        return None
    kind, reason, message = FAULTS[type(error)]
    message = f"{message}: {error}" if str(error) else message
    return Fault(kind, reason, message, retry_after=RETRY_AFTER if kind in _PASSING else None)


def declined(reason: str) -> Fault:
    """Returns the refusal of a charge that the provider declined for `reason`, an UPPER_SNAKE code."""
    return Fault(FaultKind.FAILED_PRECONDITION, reason, "the payment provider declined the charge")
