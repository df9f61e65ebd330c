"""Domain facts as the events that are published."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

from google.protobuf.message import Message

from chassis.ids import NewId
from chassis.outbox import Event
from sagacity.common.v1.money_pb2 import Money
from sagacity.payments.v1 import events_pb2
from services.payments.domain import CaptureMode, LedgerKind, Payment, PaymentState
from services.payments.unasked import UnaskedOperation, total

TOPIC: Final = "sagacity.payments.v1"
AGGREGATE: Final = "payment"


def published(
    payment: Payment,
    *,
    captured_before: bool,
    new_id: NewId,
    now: datetime,
    refunded_before: int = 0,
    refund_id: UUID | None = None,
    unasked: Collection[UnaskedOperation] = (),
) -> tuple[Event, ...]:
    """Returns the events that tell how a payment came to its present state, oldest first.

    A payment that was captured without our knowing, and reversed, was charged first: consumers that add up
    what they are told come to 0. A mere authorisation charges nobody and has no event.

    Args:
        payment: As it is now.
        captured_before: Whether its capture was published already.
        new_id: Makes the events' ids.
        now: When it came to its state, UTC.
        refunded_before: What of its refunds was published already.
        refund_id: The refund of a saga that brought it there; None for a reversal.
        unasked: What the provider did by itself to bring it there; what goes beyond it a saga did.
    """
    facts: list[Message] = []
    if payment.captured_minor > 0 and not captured_before:
        facts.append(_captured(payment))
    by_provider = [made for made in unasked if made.kind is LedgerKind.REFUND]
    facts += [_refunded_by_provider(payment, made) for made in by_provider]
    by_saga = payment.refunded_minor - refunded_before - total(unasked, LedgerKind.REFUND)
    if by_saga > 0:
        facts.append(_refunded(payment, by_saga, refund_id))
    if payment.state is PaymentState.VOIDED:
        facts.append(_voided(payment, [made for made in unasked if made.kind is LedgerKind.VOID]))
    elif payment.state is PaymentState.DECLINED:
        facts.append(_declined(payment))
    return tuple(
        Event(
            new_id(),
            AGGREGATE,
            str(payment.id),
            fact.DESCRIPTOR.full_name,
            fact.SerializeToString(deterministic=True),
            now,
        )
        for fact in facts
    )


def _captured(payment: Payment) -> Message:
    manual = payment.capture_mode is CaptureMode.MANUAL
    fact = events_pb2.PaymentCaptured if manual else events_pb2.PaymentCharged
    return fact(
        payment_id=str(payment.id),
        order_id=str(payment.order_id),
        user_id=str(payment.user_id),
        amount=Money(currency_code=payment.currency_code, minor_units=payment.captured_minor),
    )


def _refunded(payment: Payment, minor: int, refund_id: UUID | None) -> Message:
    return events_pb2.PaymentRefunded(
        payment_id=str(payment.id),
        order_id=str(payment.order_id),
        amount=Money(currency_code=payment.currency_code, minor_units=minor),
        refund_id=str(refund_id) if refund_id else "",
        origin=events_pb2.REFUND_ORIGIN_SAGA,
    )


def _refunded_by_provider(payment: Payment, made: UnaskedOperation) -> Message:
    return events_pb2.PaymentRefunded(
        payment_id=str(payment.id),
        order_id=str(payment.order_id),
        amount=Money(currency_code=payment.currency_code, minor_units=made.amount_minor),
        refund_id=str(made.id),
        origin=events_pb2.REFUND_ORIGIN_PROVIDER,
        provider_reason=made.reason,
    )


def _voided(payment: Payment, by_provider: list[UnaskedOperation]) -> Message:
    return events_pb2.PaymentVoided(
        payment_id=str(payment.id),
        order_id=str(payment.order_id),
        origin=events_pb2.REFUND_ORIGIN_PROVIDER if by_provider else events_pb2.REFUND_ORIGIN_SAGA,
        provider_reason=by_provider[0].reason if by_provider else "",
    )


def _declined(payment: Payment) -> Message:
    return events_pb2.PaymentDeclined(
        payment_id=str(payment.id),
        order_id=str(payment.order_id),
        user_id=str(payment.user_id),
        reason=payment.decline_reason,
    )
