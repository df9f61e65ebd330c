"""Writing down what became of a payment, with what its provider did by itself."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from chassis.postgres import Row, Transaction
from services.payments import store
from services.payments.app import Payments
from services.payments.domain import Payment
from services.payments.provider import ProviderPayment
from services.payments.unasked import UnaskedOperation


async def settle(app: Payments, after: Payment, params: Row, unasked: Sequence[UnaskedOperation]) -> bool:
    """Runs SETTLE_PAYMENT in a transaction of its own; returns whether it changed the payment."""
    if not unasked:
        return bool(await app.database.fetch(store.SETTLE_PAYMENT, params))
    return await app.database.run(lambda tx: settle_in(tx, after, params, unasked))


async def settle_in(
    tx: Transaction, after: Payment, params: Row, unasked: Sequence[UnaskedOperation]
) -> bool:
    """Runs SETTLE_PAYMENT, and remembers what the provider did by itself; whether it changed the payment.

    Args:
        tx: The transaction.
        after: The payment as it is then.
        params: Those of SETTLE_PAYMENT; the entries of `unasked` are among them.
        unasked: What is recorded now for the first time.
    """
    changed = bool(await tx.fetch(store.SETTLE_PAYMENT, params))
    if changed and unasked:
        await tx.fetch(store.RECORD_OPERATIONS, store.operations(after, unasked))
    return changed


async def unrecorded(
    tx: Transaction, payment_id: UUID, answer: ProviderPayment
) -> tuple[UnaskedOperation, ...]:
    """Returns what the provider did by itself and is not recorded; who calls holds the payment's lock."""
    rows = await tx.fetch(store.OPERATIONS_RECORDED, {"payment_id": payment_id})
    recorded = {row["operation_key"] for row in rows}
    return tuple(made for made in answer.unasked if made.operation_key not in recorded)
