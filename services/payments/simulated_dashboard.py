"""What people and banks do at the simulated provider without asking us; it tells of it by webhooks.

It writes the provider's own books, as `services.payments.simulated_provider` does, and nothing of ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from chassis.ids import NewId
from chassis.postgres import Database, Transaction, statement
from services.payments.domain import LedgerKind
from services.payments.simulated_provider import NAME
from services.payments.unasked import UnaskedOperation

DASHBOARD_REFUND: Final = "DASHBOARD_REFUND"
DISPUTE: Final = "DISPUTE"
DASHBOARD_VOID: Final = "DASHBOARD_VOID"
AUTHORIZATION_EXPIRED: Final = "AUTHORIZATION_EXPIRED"
_TYPES: Final = {
    DASHBOARD_REFUND: "refund.succeeded",
    DISPUTE: "dispute.lost",
    DASHBOARD_VOID: "authorization.voided",
    AUTHORIZATION_EXPIRED: "authorization.expired",
}

_LOCK = statement(
    "dashboard_lock",
    """
    SELECT currency_code, authorized_minor - voided_minor - captured_minor AS held,
        captured_minor - refunded_minor AS taken
    FROM provider_simulation.payment
    WHERE payment_id = %(payment_id)s AND deliver_time <= clock_timestamp() FOR UPDATE
    """,
)
_MAKE = statement(
    "dashboard_make",
    """
    WITH entered AS (
        INSERT INTO provider_simulation.operation
            (operation_key, payment_id, kind, amount_minor, currency_code, effective_time)
        VALUES (%(operation_key)s, %(payment_id)s, %(kind)s, %(minor)s, %(currency_code)s, clock_timestamp())
    )
    UPDATE provider_simulation.payment SET
        refunded_minor = refunded_minor + CASE WHEN %(kind)s = 'REFUND' THEN %(minor)s ELSE 0 END,
        voided_minor = voided_minor + CASE WHEN %(kind)s = 'VOID' THEN %(minor)s ELSE 0 END,
        cancelled = cancelled OR %(kind)s = 'VOID',
        unasked = unasked || jsonb_build_array(%(made)s::jsonb)
    WHERE payment_id = %(payment_id)s
    """,
)


class NotPossibleError(Exception):
    """The payment does not have so much to give back, or nothing to let go."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was made at the dashboard."""

    payment_id: UUID
    operation: UnaskedOperation
    currency: str

    def webhook(self, event_id: str) -> bytes:
        """Returns the body of a webhook that tells of it; the provider sends the same id again and again."""
        made = self.operation
        data = {
            "payment_id": str(self.payment_id),
            "operation_id": made.operation_key,
            "request_key": "",
            "amount_minor": made.amount_minor,
            "currency": self.currency,
        }
        return json.dumps({"id": event_id, "type": _TYPES[made.reason], "data": data}).encode()


class SimulatedDashboard:
    """The simulated provider's own page, where money goes back without our asking.

    Args:
        database: Connections to the provider's books.
        new_id: Makes the provider's ids.
    """

    def __init__(self, database: Database, new_id: NewId) -> None:
        self._database = database
        self._new_id = new_id

    async def refund(
        self, payment_id: UUID, amount_minor: int | None = None, *, reason: str = DASHBOARD_REFUND
    ) -> Made:
        """Gives back an amount, or all that is left; with the reason DISPUTE because one was lost.

        Raises:
            NotPossibleError: There is less left, or nothing.
        """
        return await self._make(payment_id, LedgerKind.REFUND, amount_minor, reason)

    async def void(self, payment_id: UUID, *, reason: str = DASHBOARD_VOID) -> Made:
        """Lets go what is held, for good; with the reason AUTHORIZATION_EXPIRED because its time was over.

        Raises:
            NotPossibleError: Nothing is held.
        """
        return await self._make(payment_id, LedgerKind.VOID, None, reason)

    async def _make(self, payment_id: UUID, kind: LedgerKind, wanted: int | None, reason: str) -> Made:
        prefix = "re" if kind is LedgerKind.REFUND else "vo"
        key = f"{prefix}_{self._new_id().hex}"

        async def make(tx: Transaction) -> Made:
            rows = await tx.fetch(_LOCK, {"payment_id": payment_id})
            most = rows[0]["taken" if kind is LedgerKind.REFUND else "held"] if rows else 0
            minor = most if wanted is None else wanted
            if not 0 < minor <= most:
                raise NotPossibleError
            currency = rows[0]["currency_code"]
            made = {"operation_key": key, "kind": kind.value, "minor": minor, "reason": reason}
            params = made | {"made": made, "payment_id": payment_id, "currency_code": currency}
            await tx.fetch(_MAKE, params)
            return Made(payment_id, UnaskedOperation(key, kind, minor, NAME, reason), currency)

        return await self._database.run(make)
