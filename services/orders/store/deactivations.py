"""What this context knows of customers: whether they were deactivated.

The row of a customer is the lock between an order that is confirmed and a deactivation that is applied:
ConfirmOrder makes or locks it and reads its newest version (`store/writes.py`), and so does a deactivation
before it looks for open orders. Whoever comes second sees what the first one did.
"""

from datetime import datetime
from uuid import UUID

from chassis.postgres import Transaction, statement

_DEACTIVATE = statement(
    "deactivate_customer",
    """
    INSERT INTO customer (user_id, deactivate_time) VALUES (%(user_id)s::uuid, %(at)s::timestamptz)
    ON CONFLICT (user_id) DO UPDATE
        SET deactivate_time = COALESCE(customer.deactivate_time, EXCLUDED.deactivate_time)
    """,
)


async def deactivate(tx: Transaction, user_id: UUID, at: datetime) -> None:
    """Remembers that a customer was deactivated, and leaves the row locked; the first time stays."""
    await tx.fetch(_DEACTIVATE, {"user_id": user_id, "at": at})
