"""What can be read of payments and their ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from chassis.page_tokens import decode_page_token, encode_page_token
from services.payments import store
from services.payments.app import Payments
from services.payments.domain import LedgerEntry, Payment, PaymentNotFoundError

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 200


async def get_payment(app: Payments, payment_id: UUID, *, payer: UUID | None) -> Payment:
    """Returns one payment.

    Args:
        app: The context.
        payment_id: Which.
        payer: Whose it must be; None: anybody's.

    Raises:
        PaymentNotFoundError: There is none, or it is somebody else's.
    """
    rows = await app.database.fetch(store.READ_PAYMENT, {"payment_id": payment_id})
    if not rows or payer not in (None, rows[0]["user_id"]):
        raise PaymentNotFoundError
    return store.payment_of(rows[0])


async def list_payments(
    app: Payments, *, order_id: UUID | None, user_id: UUID | None, page_size: int, page_token: str
) -> tuple[Sequence[Payment], str]:
    """Returns a page of payments, newest first, and the token of the next page, empty on the last.

    Args:
        app: The context.
        order_id: Only payments of this order, where given.
        user_id: Only payments of this user, where given.
        page_size: At most so many; 0 means DEFAULT_PAGE_SIZE, and MAX_PAGE_SIZE is the most.
        page_token: Where the page before ended; empty for the first.

    Raises:
        Fault: INVALID_ARGUMENT for a token that is not ours or of another filter.
    """
    chosen = (order_id, user_id)
    after = decode_page_token(page_token, chosen, types=(datetime.fromisoformat, UUID))
    before_time, before_id = after or store.FIRST_PAGE
    size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    params = {
        "order_id": order_id,
        "user_id": user_id,
        "before_time": before_time,
        "before_id": before_id,
        "limit": size + 1,
    }
    rows = await app.database.fetch(store.LIST_PAYMENTS[order_id is not None, user_id is not None], params)
    payments = [store.payment_of(row) for row in rows[:size]]
    if len(rows) <= size:
        return payments, ""
    last = payments[-1]
    return payments, encode_page_token((last.create_time.isoformat(), last.id), chosen)


async def list_ledger_entries(app: Payments, payment_id: UUID) -> Sequence[LedgerEntry]:
    """Returns the ledger of one payment, oldest entry first.

    Raises:
        PaymentNotFoundError: There is no such payment.
    """
    await get_payment(app, payment_id, payer=None)
    rows = await app.database.fetch(store.LIST_LEDGER, {"payment_id": payment_id})
    return [store.entry_of(row) for row in rows]
