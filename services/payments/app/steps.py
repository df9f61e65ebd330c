"""A do that has two transactions: its barrier row is IN_PROGRESS from the first one to the last.

Each takes the payment's lock before it comes to the barrier row, in the order of a charge's second half.
"""

from __future__ import annotations

from dataclasses import dataclass

from chassis import barrier
from chassis.barrier import Json, SagaCall
from chassis.postgres import Row, Transaction
from services.payments import store
from services.payments.app import Payments
from services.payments.app.refusals import as_fault
from services.payments.domain import OutcomeUnknownError, PaymentsError, Refund


@dataclass(frozen=True, slots=True)
class Claim:
    """What the barrier has to say when a do begins.

    Attributes:
        reply: What was answered before; None where the do is to be run.
        resumed: A call before this one may have asked the provider.
    """

    reply: Json | None
    resumed: bool


async def claim(tx: Transaction, call: SagaCall) -> Claim:
    """Takes the barrier row of a do, or finds what is there.

    Raises:
        Fault: As `barrier.replay`.
    """
    if await tx.fetch(store.CLAIM_DO, store.key(call) | {"request_hash": call.request_hash}):
        return Claim(None, resumed=False)
    stored = await barrier.read(tx, call)
    return Claim(barrier.replay(stored, call) if stored else None, resumed=True)


def done(reply: Json) -> Row:
    """Returns the outcome of a do that had its effect."""
    return {"outcome": "DONE", "reply": reply}


def refused(error: PaymentsError) -> Row:
    """Returns the outcome of a do that is refused once and for all."""
    fault = as_fault(error)
    assert fault is not None
    return {"outcome": "REFUSED", "reply": fault.to_json()}


async def remember(tx: Transaction, call: SagaCall | Refund, outcome: Row) -> Row:
    """Stores the outcome of a do that is in progress, and returns it."""
    await tx.fetch(store.SETTLE_DO, store.key(call) | outcome)
    return outcome


async def recall(app: Payments, call: SagaCall) -> Json:
    """Returns the reply of a do that was settled, by this call or by a faster one.

    Raises:
        Fault: As `barrier.replay`.
        OutcomeUnknownError: It is not settled; the same call again goes on.
    """
    stored = await barrier.read(app.database, call)
    reply = barrier.replay(stored, call) if stored else None
    if reply is None:
        raise OutcomeUnknownError
    return reply
