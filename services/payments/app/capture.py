"""Capture: takes what a charge with manual capture left on hold, in two transactions around the provider.

The payment stays AUTHORIZED while the provider is asked, so that a reversal may begin at any moment: what it
cancels is not captured any more, and what was captured before it is refunded by it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

from chassis import barrier
from chassis.barrier import SagaCall
from chassis.crash_points import crash_point
from chassis.postgres import Row, Transaction
from services.payments import events, store
from services.payments.app import Payments, steps
from services.payments.domain import (
    CANCELLED_BY_PROVIDER,
    WITH_MONEY,
    LedgerKind,
    OutcomeUnknownError,
    Payment,
    PaymentNotCapturableError,
    PaymentNotFoundError,
    PaymentReversingError,
    PaymentState,
    movements,
    operation_key,
)
from services.payments.provider import ProviderOutcomeUnknownError, ProviderPayment


async def capture(app: Payments, call: SagaCall, payment_id: UUID) -> Payment:
    """Takes what is authorised, at most once; what is captured already is a success.

    Raises:
        Fault: A recorded refusal: PAYMENT_NOT_FOUND, PAYMENT_NOT_CAPTURABLE.
        OutcomeUnknownError: The provider did not say; the same call again resumes.
        PaymentReversingError: A reversal began while the provider was asked; the same call again is told how
            it ended.
    """

    async def begin(tx: Transaction) -> Row:
        rows = await tx.fetch(store.LOCK_PAYMENT, {"payment_id": payment_id})
        claim = await steps.claim(tx, call)
        if claim.reply is not None:
            return steps.done(claim.reply)
        outcome = _without_asking(rows, resumed=claim.resumed)
        return rows[0] if outcome is None else await steps.remember(tx, call, outcome)

    begun = await app.database.run(begin)
    if "outcome" in begun:
        return Payment.from_json(barrier.outcome(begun))
    try:
        async with asyncio.timeout(app.provider_timeout_seconds):
            answer = await app.provider.capture(
                payment_id,
                operation_key=operation_key(payment_id, LedgerKind.CAPTURE),
                amount_minor=begun["amount_minor"],
            )
    except (ProviderOutcomeUnknownError, TimeoutError) as error:
        raise OutcomeUnknownError from error
    crash_point("payments.capture.after_provider")

    async def settle(tx: Transaction) -> bool:
        return await _settle(app, tx, call, payment_id, answer)

    if await app.database.run(settle):
        app.published()
    return Payment.from_json(await steps.recall(app, call))


def _without_asking(rows: list[Row], *, resumed: bool) -> Row | None:
    """Returns the outcome that the payment's state decides; None where the provider is to be asked."""
    if not rows:
        return steps.refused(PaymentNotFoundError())
    payment = store.payment_of(rows[0])
    if payment.state is PaymentState.AUTHORIZED:
        return None
    if payment.state in WITH_MONEY:
        return steps.done(payment.to_json())
    if payment.state is PaymentState.REVERSING and resumed:
        # An earlier attempt may still arrive at the provider, until the reversal has cancelled there.
        raise PaymentReversingError
    return steps.refused(PaymentNotCapturableError(f"it is {payment.state}"))


async def _settle(
    app: Payments, tx: Transaction, call: SagaCall, payment_id: UUID, answer: ProviderPayment
) -> bool:
    """Writes down the provider's answer; returns whether there is something to publish."""
    rows = await tx.fetch(store.LOCK_PAYMENT, {"payment_id": payment_id})
    decided = _without_asking(rows, resumed=True)
    if decided is not None:
        # A duplicate, another step's capture or a reversal was faster.
        await steps.remember(tx, call, decided)
        return False
    if answer.amounts.captured_minor == 0:
        reason = answer.decline_reason or (CANCELLED_BY_PROVIDER if answer.cancelled else "")
        if not reason:
            raise OutcomeUnknownError
        refusal = PaymentNotCapturableError(f"the provider declined with {reason}")
        await steps.remember(tx, call, steps.refused(refusal))
        return False
    now = app.clock.now()
    # What the provider gave back by itself meanwhile is its webhook's to record.
    amounts = replace(answer.amounts, refunded_minor=0)
    captured = replace(
        store.payment_of(rows[0]),
        state=PaymentState.CAPTURED,
        captured_minor=answer.amounts.captured_minor,
        update_time=now,
    )
    params = store.settlement(
        captured,
        amounts,
        sources=[PaymentState.AUTHORIZED],
        entries=movements(payment_id, amounts),
        events=events.published(captured, captured_before=False, new_id=app.new_id, now=now),
    )
    outcome = steps.done(captured.to_json()) | {"undo_reply": None}
    await tx.fetch(store.SETTLE_PAYMENT, params | store.key(call) | outcome)
    return True
