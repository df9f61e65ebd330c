"""Refund: gives back some or all of what was captured, in two transactions around the provider.

The first remembers the refund, which counts against what is left of the payment from then on; the second
writes down the answer. Whoever meets it between the two, the same call again or a reversal of the payment,
asks the provider with its key.
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
    Amounts,
    LedgerKind,
    Movement,
    OutcomeUnknownError,
    Payment,
    PaymentNotFoundError,
    PaymentNotRefundableError,
    PaymentsError,
    Refund,
    RefundExistsError,
    RefundOrder,
    RefundState,
    RefundTooLargeError,
    check_refundable,
    refund_key,
    refunded_state,
)
from services.payments.provider import ProviderOutcomeUnknownError, ProviderPayment

# A reversal settles at most so many refunds in flight, each within the provider's time-out; another call of
# it goes on.
MAX_FINISHED_REFUNDS = 8


async def refund(app: Payments, call: SagaCall, order: RefundOrder) -> Payment:
    """Gives back an amount, at most once per step; several refunds never come to more than was captured.

    Raises:
        Fault: A recorded refusal: PAYMENT_NOT_FOUND, PAYMENT_NOT_REFUNDABLE, REFUND_TOO_LARGE,
            CURRENCY_MISMATCH.
        OutcomeUnknownError: The provider did not say; the same call again resumes.
        RefundExistsError: The refund's id is another step's.
    """

    async def begin(tx: Transaction) -> Row | Refund:
        return await _begin(app, tx, call, order)

    begun = await app.database.run(begin)
    if not isinstance(begun, Refund):
        return Payment.from_json(barrier.outcome(begun))
    await _ask_and_settle(app, begun)
    return Payment.from_json(await steps.recall(app, call))


async def finish_refunds(app: Payments, payment_id: UUID) -> bool:
    """Settles the refunds of a payment that are in flight; returns whether there were any.

    Raises:
        OutcomeUnknownError: The provider did not say, or there were more than one call settles.
    """
    params = {"payment_id": payment_id, "limit": MAX_FINISHED_REFUNDS}
    in_flight = await app.database.fetch(store.REFUNDS_IN_FLIGHT, params)
    for row in in_flight:
        await _ask_and_settle(app, store.refund_of(row))
    if len(in_flight) == MAX_FINISHED_REFUNDS:
        raise OutcomeUnknownError
    return bool(in_flight)


async def _begin(app: Payments, tx: Transaction, call: SagaCall, order: RefundOrder) -> Row | Refund:
    """Returns the refund where the provider is to be asked, else the outcome."""
    named = {"payment_id": order.payment_id, "refund_id": order.refund_id}
    rows = await tx.fetch(store.LOCK_PAYMENT, named)
    claim = await steps.claim(tx, call)
    if claim.reply is not None:
        return steps.done(claim.reply)
    if claim.resumed:
        return store.refund_of((await tx.fetch(store.READ_REFUND, named))[0])
    try:
        if not rows:
            raise PaymentNotFoundError
        in_flight = await tx.fetch(store.SUM_IN_FLIGHT, named)
        check_refundable(store.payment_of(rows[0]), order, in_flight_minor=in_flight[0]["minor"])
    except PaymentsError as error:
        return await steps.remember(tx, call, steps.refused(error))
    begun = await tx.fetch(
        store.BEGIN_REFUND,
        named
        | store.key(call)
        | {"amount_minor": order.amount_minor, "reason": order.reason, "now": app.clock.now()},
    )
    if not begun:
        raise RefundExistsError
    return store.refund_of(begun[0])


async def _ask_and_settle(app: Payments, begun: Refund) -> None:
    try:
        async with asyncio.timeout(app.provider_timeout_seconds):
            answer = await app.provider.refund(
                begun.payment_id,
                operation_key=refund_key(begun.payment_id, begun.id),
                amount_minor=begun.amount_minor,
            )
    except (ProviderOutcomeUnknownError, TimeoutError) as error:
        raise OutcomeUnknownError from error
    crash_point("payments.refund.after_provider")

    async def settle(tx: Transaction) -> bool:
        return await _settle(app, tx, begun, answer)

    if await app.database.run(settle):
        app.published()


async def _settle(app: Payments, tx: Transaction, begun: Refund, answer: ProviderPayment) -> bool:
    """Writes down the provider's answer; returns whether there is something to publish."""
    now = app.clock.now()
    named = {"payment_id": begun.payment_id, "refund_id": begun.id, "now": now}
    row = (await tx.fetch(store.LOCK_PAYMENT, named))[0]
    current = store.refund_of((await tx.fetch(store.READ_REFUND, named))[0])
    if current.state is not RefundState.PENDING:
        return False  # a duplicate of this call, or a reversal, was faster
    if answer.moved_minor == 0:
        await steps.remember(tx, begun, steps.refused(_declined(begun, answer)))
        await tx.fetch(store.SETTLE_REFUND, named | {"state": RefundState.REFUSED.value})
        return False
    before = store.payment_of(row)
    refunded = before.refunded_minor + begun.amount_minor
    state = refunded_state(before.state, captured_minor=before.captured_minor, refunded_minor=refunded)
    after = replace(before, state=state, refunded_minor=refunded, update_time=now)
    movement = Movement(refund_key(before.id, begun.id), LedgerKind.REFUND, begun.amount_minor)
    params = store.settlement(
        after,
        Amounts(row["authorized_minor"], before.captured_minor, refunded),
        sources=[before.state],
        entries=[movement],
        events=events.published(
            after,
            captured_before=True,
            new_id=app.new_id,
            now=now,
            refunded_before=before.refunded_minor,
            refund_id=begun.id,
        ),
        refunded_before=before.refunded_minor,
    )
    outcome = steps.done(after.to_json()) | {"undo_reply": None}
    await tx.fetch(store.SETTLE_PAYMENT, params | store.key(begun) | outcome)
    await tx.fetch(store.SETTLE_REFUND, named | {"state": RefundState.DONE.value})
    return True


def _declined(begun: Refund, answer: ProviderPayment) -> PaymentsError:
    """Returns why the provider gave nothing back.

    Raises:
        OutcomeUnknownError: Nothing says that it never will.
    """
    if answer.decline_reason:
        return PaymentNotRefundableError(f"the provider declined with {answer.decline_reason}")
    if answer.amounts.captured_minor - answer.amounts.refunded_minor < begun.amount_minor:
        return RefundTooLargeError()
    raise OutcomeUnknownError
