"""Charge: two transactions around a question to the provider.

The first remembers the payment, and with it the provider's keys; the second writes down the answer, unless an
undo began meanwhile. Whoever comes between the two, and whatever died there, asks again with the same keys.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation

from chassis import barrier
from chassis.barrier import SagaCall
from chassis.crash_points import crash_point
from services.payments import events, store
from services.payments.app import Payments, settling
from services.payments.app.refusals import as_fault, declined
from services.payments.domain import (
    CANCELLED_BY_PROVIDER,
    CaptureMode,
    ChargeOrder,
    LedgerKind,
    OutcomeUnknownError,
    Payment,
    PaymentExistsError,
    PaymentMethodNotFoundError,
    PaymentReversingError,
    PaymentState,
    charge_state,
    movements,
    operation_key,
    sources,
)
from services.payments.provider import PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment

# Not those of CAPTURED: to take what is held is another use case's work.
_UNSETTLED = sources(PaymentState.DECLINED)


async def charge(app: Payments, call: SagaCall, order: ChargeOrder) -> Payment:
    """Authorises an amount and, unless capture is manual, captures it; at most once per step, ever.

    Raises:
        Fault: A recorded refusal: PAYMENT_METHOD_NOT_FOUND, the provider's reason for declining, TOMBSTONED.
        OutcomeUnknownError: The provider did not say; the same call again resumes.
        PaymentReversingError: The undo of this payment is at work.
        PaymentExistsError: The payment's id is another step's.
    """
    now = app.clock.now()
    refusal = as_fault(PaymentMethodNotFoundError())
    assert refusal is not None
    try:
        rows = await app.database.fetch(
            store.BEGIN_CHARGE,
            {
                **store.key(call),
                "request_hash": call.request_hash,
                "refusal": refusal.to_json(),
                "payment_id": order.payment_id,
                "order_id": order.order_id,
                "user_id": order.user_id,
                "payment_method_id": order.payment_method_id,
                "capture_mode": order.capture.value,
                "currency_code": order.currency_code,
                "amount_minor": order.amount_minor,
                "now": now,
            },
        )
    except UniqueViolation as error:
        if not barrier.is_duplicate(error):
            raise PaymentExistsError from error
        return await _again(app, call, order.payment_id)
    if rows[0]["outcome"] != "IN_PROGRESS":
        barrier.outcome(rows[0])  # raises the refusal
    payment = Payment(
        id=order.payment_id,
        order_id=order.order_id,
        user_id=order.user_id,
        state=PaymentState.IN_PROGRESS,
        capture_mode=order.capture,
        currency_code=order.currency_code,
        amount_minor=order.amount_minor,
        captured_minor=0,
        refunded_minor=0,
        decline_reason="",
        create_time=now,
        update_time=now,
    )
    return await _ask_and_settle(app, call, payment, rows[0]["provider_token"], asked_before=False)


async def _again(app: Payments, call: SagaCall, payment_id: UUID) -> Payment:
    stored = await barrier.read(app.database, call)
    reply = barrier.replay(stored, call) if stored else None
    if reply is not None:
        return Payment.from_json(reply)
    rows = await app.database.fetch(store.READ_PAYMENT, {"payment_id": payment_id})
    if not rows or rows[0]["state"] not in _UNSETTLED:
        return await _settled_by_another(app, call, payment_id)
    payment = store.payment_of(rows[0])
    return await _ask_and_settle(app, call, payment, rows[0]["provider_token"], asked_before=True)


async def _ask_and_settle(
    app: Payments, call: SagaCall, payment: Payment, token: str, *, asked_before: bool
) -> Payment:
    terms = PaymentTerms(payment.id, token, payment.amount_minor, payment.currency_code)
    try:
        async with asyncio.timeout(app.provider_timeout_seconds):
            answer = await _ask(app, terms, payment.capture_mode, asked_before=asked_before)
    except (ProviderOutcomeUnknownError, TimeoutError) as error:
        await _mark_unknown(app, payment.id)
        raise OutcomeUnknownError from error
    crash_point("payments.charge.after_provider")
    state = charge_state(answer.amounts, decline_reason=answer.decline_reason, cancelled=answer.cancelled)
    if state is None:
        await _mark_unknown(app, payment.id)
        raise OutcomeUnknownError
    return await _settle(app, call, payment, answer, state)


async def _ask(
    app: Payments, terms: PaymentTerms, mode: CaptureMode, *, asked_before: bool
) -> ProviderPayment:
    automatic = mode is CaptureMode.AUTOMATIC
    authorise_key = operation_key(terms.payment_id, LedgerKind.AUTHORIZATION)
    capture_key = operation_key(terms.payment_id, LedgerKind.CAPTURE)
    # Found or not, it is the same key that is sent again where the look decides nothing.
    answer = await app.provider.look_up(terms.payment_id) if asked_before else None
    if answer is None or _undecided(answer):
        answer = await app.provider.authorise(
            terms, operation_key=authorise_key, capture_key=capture_key if automatic else None
        )
    held = answer.amounts.authorized_minor > 0 and not answer.cancelled
    if automatic and held and answer.amounts.captured_minor == 0:
        answer = await app.provider.capture(
            terms.payment_id, operation_key=capture_key, amount_minor=terms.amount_minor
        )
        if answer.decline_reason:
            # What cannot be taken is not kept on hold either.
            void_key = operation_key(terms.payment_id, LedgerKind.VOID)
            cancelled = await app.provider.cancel(terms.payment_id, operation_key=void_key)
            answer = replace(cancelled, decline_reason=answer.decline_reason)
    return answer


def _undecided(answer: ProviderPayment) -> bool:
    return (
        charge_state(answer.amounts, decline_reason=answer.decline_reason, cancelled=answer.cancelled) is None
    )


async def _mark_unknown(app: Payments, payment_id: UUID) -> None:
    await app.database.fetch(store.MARK_UNKNOWN, {"payment_id": payment_id, "now": app.clock.now()})


async def _settle(
    app: Payments, call: SagaCall, payment: Payment, answer: ProviderPayment, state: PaymentState
) -> Payment:
    now = app.clock.now()
    is_declined = state is PaymentState.DECLINED
    settled = replace(
        payment,
        state=state,
        captured_minor=answer.amounts.captured_minor,
        decline_reason=(answer.decline_reason or CANCELLED_BY_PROVIDER) if is_declined else "",
        update_time=now,
    )
    refusal = declined(settled.decline_reason).to_json() if is_declined else None
    # What the provider gave back by itself meanwhile is its webhook's to record. What is declined is over.
    amounts = answer.amounts if is_declined else replace(answer.amounts, refunded_minor=0)
    unasked = answer.unasked if is_declined else ()
    params: dict[str, Any] = store.settlement(
        settled,
        amounts,
        sources=_UNSETTLED,
        entries=movements(payment.id, amounts, unasked=unasked),
        events=events.published(settled, captured_before=False, new_id=app.new_id, now=now),
    )
    outcome = {"outcome": "REFUSED" if is_declined else "DONE", "reply": refusal or settled.to_json()}
    params |= store.key(call) | outcome | {"undo_reply": None}
    if not await settling.settle(app, settled, params, unasked):
        return await _settled_by_another(app, call, payment.id)
    crash_point("payments.charge.after_commit")
    app.published()
    return Payment.from_json(barrier.outcome(outcome))


async def _settled_by_another(app: Payments, call: SagaCall, payment_id: UUID) -> Payment:
    """Answers as the one did who was faster: a duplicate with its reply, a reversal with its tombstone."""
    # A reversal that is no undo of this step does not know its barrier row.
    await app.database.fetch(store.BURY_CHARGE, store.key(call) | {"payment_id": payment_id})
    stored = await barrier.read(app.database, call)
    reply = barrier.replay(stored, call) if stored else None
    if reply is None:
        raise PaymentReversingError
    return Payment.from_json(reply)
