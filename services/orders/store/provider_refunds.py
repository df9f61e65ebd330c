"""Refunds that the payment provider made by itself, each once, and what became of it at its order.

Whoever writes a row here holds the lock of its order.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from chassis import tracing
from chassis.postgres import Database, Row, Transaction, statement
from services.orders.domain import Money, OrderState
from services.orders.provider_refunds import ProviderRefund, ProviderRefundState

_INSERT = statement(
    "insert_provider_refund",
    """
    INSERT INTO provider_refund (refund_id, order_id, payment_id, amount_minor, currency_code, reason, state,
        traceparent)
    VALUES (%(refund_id)s::uuid, %(order_id)s::uuid, %(payment_id)s::uuid, %(amount_minor)s::bigint,
        %(currency_code)s::char(3), %(reason)s::text, %(state)s::text,
        %(traceparent)s::text)
    ON CONFLICT (refund_id) DO NOTHING
    RETURNING refund_id
    """,
)
_READ = statement(
    "read_provider_refund", "SELECT * FROM provider_refund WHERE refund_id = %(refund_id)s::uuid"
)
_SETTLE = statement(
    "settle_provider_refund",
    """
    UPDATE provider_refund SET state = %(state)s::text, error = %(error)s::text, update_time = now()
    WHERE refund_id = %(refund_id)s::uuid AND state = %(waiting)s::text
    """,
)
_UNDONE = statement(
    "provider_refunds_of_undone_order",
    """
    SELECT COALESCE(sum(amount_minor), 0)::bigint AS minor FROM provider_refund
    WHERE order_id = %(order_id)s::uuid AND state = %(undone)s::text
    """,
)
_READY = statement(
    "provider_refunds_to_settle",
    """
    SELECT p.* FROM provider_refund p JOIN orders o ON o.id = p.order_id
    WHERE p.state = %(waiting)s::text AND o.state <> %(pending)s::text
    ORDER BY p.create_time LIMIT %(limit)s::bigint
    """,
)
_CENSUS = statement(
    "count_provider_refunds",
    """
    SELECT state, count(*) AS refunds FROM provider_refund WHERE state = ANY(%(states)s::text[])
    GROUP BY state
    """,
)


class ReadyRefund(NamedTuple):
    """A refund that can be settled, and the trace of the fact that told of it, if any."""

    refund: ProviderRefund
    traceparent: str | None


async def insert(tx: Transaction, refund: ProviderRefund, state: ProviderRefundState) -> bool:
    """Writes a refund down; False where there is one of this id."""
    params: Row = {
        "refund_id": refund.id,
        "order_id": refund.order_id,
        "payment_id": refund.payment_id,
        "amount_minor": refund.amount.minor_units,
        "currency_code": refund.amount.currency_code,
        "reason": refund.reason,
        "state": state,
        "traceparent": tracing.current(),
    }
    return bool(await tx.fetch(_INSERT, params))


async def read(tx: Transaction, refund_id: UUID) -> tuple[ProviderRefund, ProviderRefundState] | None:
    """Reads a refund and what became of it; None where there is none."""
    rows = await tx.fetch(_READ, {"refund_id": refund_id})
    return (_refund(rows[0]), ProviderRefundState(rows[0]["state"])) if rows else None


async def settle(
    tx: Transaction, refund_id: UUID, state: ProviderRefundState, *, error: str | None = None
) -> None:
    """Writes down what became of a refund that waited; `error` is why it does not fit."""
    params = {"refund_id": refund_id, "state": state, "error": error, "waiting": ProviderRefundState.WAITING}
    await tx.fetch(_SETTLE, params)


async def undone_minor(tx: Transaction, order_id: UUID) -> int:
    """Sums the refunds of an undone order, in its minor units."""
    params = {"order_id": order_id, "undone": ProviderRefundState.UNDONE}
    return int((await tx.fetch(_UNDONE, params))[0]["minor"])


async def ready(database: Database, *, limit: int) -> Sequence[ReadyRefund]:
    """Reads refunds that wait and whose orders are PENDING no more, the oldest first."""
    params = {"waiting": ProviderRefundState.WAITING, "pending": OrderState.PENDING, "limit": limit}
    rows = await database.fetch(_READY, params)
    return [ReadyRefund(_refund(row), row["traceparent"]) for row in rows]


async def census(database: Database) -> dict[ProviderRefundState, int]:
    """Counts what waits and what did not fit."""
    states = [ProviderRefundState.WAITING, ProviderRefundState.REFUSED]
    rows = await database.fetch(_CENSUS, {"states": states})
    return dict.fromkeys(states, 0) | {ProviderRefundState(row["state"]): row["refunds"] for row in rows}


def _refund(row: Row) -> ProviderRefund:
    return ProviderRefund(
        id=row["refund_id"],
        order_id=row["order_id"],
        payment_id=row["payment_id"],
        amount=Money(row["currency_code"], row["amount_minor"]),
        reason=row["reason"],
    )
