"""Reverse: gives back whatever a charge took, as its undo or as a step of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import UUID

from chassis.barrier import Json, SagaCall
from chassis.crash_points import crash_point
from chassis.postgres import Row, Statement, Transaction
from services.payments import events, store
from services.payments.app import Payments, settling, steps
from services.payments.app.refund import finish_refunds
from services.payments.domain import (
    FINISHED,
    LedgerKind,
    OutcomeUnknownError,
    Payment,
    PaymentExistsError,
    PaymentNotRefundableError,
    PaymentState,
    movements,
    operation_key,
    reversed_state,
    sources,
)
from services.payments.provider import PaymentTerms, ProviderOutcomeUnknownError, ProviderPayment
from services.payments.unasked import UnaskedOperation

_NEVER_WAS: Json = {}
_STATE = "state"
_Begin = Callable[[Transaction], Awaitable[Row | Json]]
# Given the state that a reversal came to: what the barrier row of its call is to hold.
_Outcome = Callable[[Json], Row]


async def reverse(app: Payments, call: SagaCall, payment_id: UUID) -> PaymentState | None:
    """Voids what is authorised, refunds what is captured, and keeps a late charge from happening.

    From the first transaction on the payment is REVERSING, so that a charge in flight cannot become CAPTURED.
    The provider's cancel is final: after it the amounts that it answers with can only be refunded. What went
    back before by refunds of their own is not given back again.

    Returns:
        The state after it; None where there never was a payment.

    Raises:
        OutcomeUnknownError: The provider did not say; the same call again goes on.
        PaymentExistsError: The payment belongs to another step, so that this is not its undo.
        PaymentNotRefundableError: The provider declined to give the money back; not stored.
    """

    async def begin(tx: Transaction) -> Row | Json:
        return await _begin(app, tx, call, payment_id)

    def outcome(reply: Json) -> Row:
        return {"outcome": "TOMBSTONE", "reply": None, "undo_reply": reply}

    return await _reverse(app, call, begin, outcome, store.STORE_UNDO_REPLY)


async def reverse_as_step(app: Payments, call: SagaCall, payment_id: UUID) -> PaymentState | None:
    """Does the same as a step of its own, whichever step charged.

    Returns:
        The state after it; None where there is no payment.

    Raises:
        Fault: As `barrier.replay`.
        OutcomeUnknownError: The provider did not say; the same call again goes on.
        PaymentNotRefundableError: The provider declined to give the money back; not stored.
    """

    async def begin(tx: Transaction) -> Row | Json:
        return await _begin_step(app, tx, call, payment_id)

    def outcome(reply: Json) -> Row:
        return steps.done(reply) | {"undo_reply": None}

    return await _reverse(app, call, begin, outcome, store.SETTLE_DO)


async def _reverse(
    app: Payments, call: SagaCall, begin: _Begin, outcome: _Outcome, remember: Statement
) -> PaymentState | None:
    begun = await app.database.run(begin)
    if "id" not in begun:
        return _state_of(begun)
    named = {"payment_id": begun["id"]}
    # No refund begins from here on. One that is in flight is settled by its own key first: else it and the
    # refund of what is left could take from one another.
    if begun["captured_minor"] > 0 and await finish_refunds(app, begun["id"]):
        begun = (await app.database.fetch(store.READ_PAYMENT, named))[0]
    try:
        async with asyncio.timeout(app.provider_timeout_seconds):
            answer = await _give_back(app, begun)
    except (ProviderOutcomeUnknownError, TimeoutError) as error:
        raise OutcomeUnknownError from error
    crash_point("payments.reverse.after_provider")
    state = await _settle(app, call, begun, answer, outcome)
    if state is not None:
        return state
    # A duplicate of this call, or another step's reversal, was faster; this step has its own row to settle.
    state = PaymentState((await app.database.fetch(store.READ_PAYMENT, named))[0]["state"])
    if state is PaymentState.REVERSING:
        raise OutcomeUnknownError
    await app.database.fetch(remember, store.key(call) | outcome({_STATE: state.value}))
    return state


async def _begin_step(app: Payments, tx: Transaction, call: SagaCall, payment_id: UUID) -> Row | Json:
    """Returns the payment's row where there is something to reverse, else the reply."""
    named = {"payment_id": payment_id}
    payments = await tx.fetch(store.LOCK_PAYMENT, named)
    claim = await steps.claim(tx, call)
    if claim.reply is not None:
        return claim.reply
    if payments and PaymentState(payments[0]["state"]) not in FINISHED:
        await _mark(app, tx, payment_id)
        return payments[0]
    reply: Json = {_STATE: payments[0]["state"]} if payments else _NEVER_WAS
    await steps.remember(tx, call, steps.done(reply))
    return reply


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
    await _mark(app, tx, payment_id)
    return payments[0]


async def _mark(app: Payments, tx: Transaction, payment_id: UUID) -> None:
    reversible = [state.value for state in sources(PaymentState.REVERSING)]
    params = {"payment_id": payment_id, "now": app.clock.now(), "sources": reversible}
    await tx.fetch(store.BEGIN_REVERSAL, params)


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
        if answer.decline_reason:
            # Not stored: a person is needed, and afterwards the same call goes on.
            raise PaymentNotRefundableError(f"the provider declined with {answer.decline_reason}")
    return answer


async def _settle(
    app: Payments, call: SagaCall, row: Row, answer: ProviderPayment, outcome: _Outcome
) -> PaymentState | None:
    """Writes down how a reversal ended, and returns it; None where the payment has changed meanwhile."""
    state = reversed_state(answer.amounts)
    if state is None:
        raise OutcomeUnknownError
    named = store.key(call) | outcome({_STATE: state.value})
    if answer.unasked:
        settled = await app.database.run(lambda tx: _settle_with_unasked(app, tx, row["id"], answer, named))
    else:
        after = _after(app, row, answer)
        params = _settlement(app, row, after, answer, ()) | named
        settled = bool(await app.database.fetch(store.SETTLE_PAYMENT, params))
    if not settled:
        return None
    app.published()
    return state


async def _settle_with_unasked(
    app: Payments, tx: Transaction, payment_id: UUID, answer: ProviderPayment, named: Row
) -> bool:
    """Settles also what the provider did by itself and no webhook has told of, each under its own key.

    After a reversal the provider has nothing left to give back, so that the answer names all of it.
    """
    row = (await tx.fetch(store.LOCK_PAYMENT, {"payment_id": payment_id}))[0]
    unasked = await settling.unrecorded(tx, payment_id, answer)
    after = _after(app, row, answer)
    params = _settlement(app, row, after, answer, unasked) | named
    return await settling.settle_in(tx, after, params, unasked)


def _after(app: Payments, row: Row, answer: ProviderPayment) -> Payment:
    state = reversed_state(answer.amounts)
    assert state is not None
    return replace(
        store.payment_of(row),
        state=state,
        captured_minor=answer.amounts.captured_minor,
        refunded_minor=answer.amounts.refunded_minor,
        update_time=app.clock.now(),
    )


def _settlement(
    app: Payments, row: Row, after: Payment, answer: ProviderPayment, unasked: Sequence[UnaskedOperation]
) -> Row:
    refunded_before: int = row["refunded_minor"]
    return store.settlement(
        after,
        answer.amounts,
        sources=[PaymentState.REVERSING],
        entries=movements(after.id, answer.amounts, refunded_before=refunded_before, unasked=unasked),
        events=events.published(
            after,
            captured_before=row["captured_minor"] > 0,
            new_id=app.new_id,
            now=after.update_time,
            refunded_before=refunded_before,
            unasked=unasked,
        ),
        refunded_before=refunded_before,
    )


def _state_of(reply: Json) -> PaymentState | None:
    return PaymentState(reply[_STATE]) if _STATE in reply else None
