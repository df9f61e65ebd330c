"""Reverse: the undo of a charge, whatever became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

from chassis.barrier import Json, SagaCall
from chassis.postgres import Row, Transaction
from services.payments import events, store
from services.payments.app import Payments
from services.payments.domain import (
    LedgerKind,
    OutcomeUnknownError,
    PaymentExistsError,
    PaymentState,
    movements,
    operation_key,
    reversed_state,
    sources,
)
from services.payments.provider import PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment

_NEVER_WAS: Json = {}
_STATE = "state"


async def reverse(app: Payments, call: SagaCall, payment_id: UUID) -> PaymentState | None:
    """Voids what is authorised, refunds what is captured, and keeps a late charge from happening.

    From the first transaction on the payment is REVERSING, so that a charge in flight cannot become CAPTURED.
    The provider's cancel is final: after it the amounts that it answers with can only be refunded.

    Returns:
        The state after it; None where there never was a payment.

    Raises:
        OutcomeUnknownError: The provider did not say; the same call again goes on.
        PaymentExistsError: The payment belongs to another step, so that this is not its undo.
    """

    async def begin(tx: Transaction) -> Row | Json:
        return await _begin(app, tx, call, payment_id)

    begun = await app.database.run(begin)
    if "id" not in begun:
        return _state_of(begun)
    try:
        async with asyncio.timeout(app.provider_timeout_seconds):
            answer = await _give_back(app, begun)
    except (ProviderOutcomeUnknownError, TimeoutError) as error:
        raise OutcomeUnknownError from error
    return await _settle(app, call, begun, answer)


async def _begin(app: Payments, tx: Transaction, call: SagaCall, payment_id: UUID) -> Row | Json:
    """Returns the payment's row where there is something to reverse, else the reply."""
    named = {**store.key(call), "payment_id": payment_id}
    if await tx.fetch(store.CLAIM_UNDO, {**named, "undo_reply": _NEVER_WAS}):
        return _NEVER_WAS
    # The payment before its barrier row, in the order of the charge's second half.
    payments = await tx.fetch(store.LOCK_PAYMENT, named)
    barriers = await tx.fetch(store.LOCK_BARRIER, named)
    if not barriers:
        raise PaymentExistsError
    stored = barriers[0]
    if stored["undo_reply"] is not None:
        return dict(stored["undo_reply"])
    if stored["outcome"] == "REFUSED" or not payments:
        reply: Json = {_STATE: payments[0]["state"]} if payments else _NEVER_WAS
        await tx.fetch(store.STORE_UNDO_REPLY, {**named, "undo_reply": reply})
        return reply
    reversible = [state.value for state in sources(PaymentState.REVERSING)]
    await tx.fetch(store.BEGIN_REVERSAL, {**named, "now": app.clock.now(), "sources": reversible})
    return payments[0]


async def _give_back(app: Payments, row: Row) -> ProviderPayment:
    terms = PaymentTerms(row["id"], row["provider_token"], row["amount_minor"], row["currency_code"])
    if row["authorized_minor"] == 0:
        # The charge may not have got there yet: only what the provider knows can be cancelled.
        await app.provider.open(terms)
    answer = await app.provider.cancel(
        terms.payment_id, operation_key=operation_key(terms.payment_id, LedgerKind.VOID)
    )
    captured = answer.amounts.captured_minor - answer.amounts.refunded_minor
    if captured > 0:
        answer = await app.provider.refund(
            terms.payment_id,
            operation_key=operation_key(terms.payment_id, LedgerKind.REFUND),
            amount_minor=captured,
        )
    return answer


async def _settle(app: Payments, call: SagaCall, row: Row, answer: ProviderPayment) -> PaymentState | None:
    state = reversed_state(answer.amounts)
    if state is None:
        raise OutcomeUnknownError
    before = store.payment_of(row)
    now = app.clock.now()
    settled = replace(
        before,
        state=state,
        captured_minor=answer.amounts.captured_minor,
        refunded_minor=answer.amounts.refunded_minor,
        update_time=now,
    )
    captured_before = before.captured_minor > 0
    params = store.settlement(
        settled,
        answer.amounts,
        sources=sources(state),
        entries=movements(before.id, answer.amounts),
        events=events.published(settled, captured_before=captured_before, new_id=app.new_id, now=now),
    )
    # A do that was cut off must not be resumed after its undo; one that was done keeps its reply.
    outcome = {"outcome": "TOMBSTONE", "reply": None, "undo_reply": {_STATE: state.value}}
    if await app.database.fetch(store.SETTLE_PAYMENT, params | store.key(call) | outcome):
        app.published()
        return state
    # A duplicate of this call was faster.
    payments = await app.database.fetch(store.READ_PAYMENT, {"payment_id": before.id})
    return PaymentState(payments[0]["state"])


def _state_of(reply: Json) -> PaymentState | None:
    return PaymentState(reply[_STATE]) if _STATE in reply else None
