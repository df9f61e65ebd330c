"""Statements that change an order after it was sold. Each is about one that is locked."""

from datetime import datetime
from uuid import UUID

from chassis.barrier import Json
from chassis.postgres import Row, Statement, Transaction, statement
from services.orders.domain import Order, OrderRefund, OrderState, RefundState, Shipment, states_before
from services.orders.refunds import RefundExistsError
from services.orders.store import reads, writes
from services.orders.store.rows import REPLY, items_json


def _go(name: str, columns: str) -> Statement:
    return statement(
        name,
        f"""
        WITH o AS (
            UPDATE orders SET
                state = %(state)s,
                {columns},
                sequence = sequence + 1,
                update_time = %(now)s
            WHERE id = %(id)s AND state = ANY(%(states_before)s)
            RETURNING *
        ), history AS (
            INSERT INTO order_history (order_id, sequence, previous_state, state, at)
            SELECT id, sequence, %(previous_state)s, state, %(now)s FROM o
        )
        SELECT {REPLY} AS reply, sequence FROM o
        """,  # noqa: S608 - constants of this module
    )


_CANCEL = _go("cancel_order", "cancellation_reason = %(reason)s")
_SHIP = _go("ship_order", "carrier = %(carrier)s, tracking_number = %(tracking_number)s")
_INSERT_REFUND = statement(
    "insert_order_refund",
    """
    INSERT INTO order_refund (id, order_id, sequence, saga_id, amount_minor, lines, reason, create_time)
    SELECT %(refund_id)s, id, sequence + 1, %(saga_id)s::uuid, %(amount_minor)s, %(lines)s, %(reason)s,
        %(now)s
    FROM orders WHERE id = %(id)s
    ON CONFLICT (id) DO NOTHING
    RETURNING id
    """,
)
_REFUND = statement(
    "refund_order",
    f"""
    WITH o AS (
        UPDATE orders SET
            refunded_minor = refunded_minor + %(amount_minor)s,
            refund_state = %(refund_state)s,
            sequence = sequence + 1,
            update_time = %(now)s
        WHERE id = %(id)s
        RETURNING *
    )
    SELECT {REPLY} AS reply, sequence FROM o
    """,  # noqa: S608 - constants of this module
)


async def lock_whole_order(tx: Transaction, order_id: UUID) -> Order:
    """Locks an order until the transaction ends, and reads it with its refunds.

    Raises:
        OrderNotFoundError: there is none.
    """
    await writes.lock_order(tx, order_id)
    # In a new statement, whose snapshot has the refunds of whoever held the lock before.
    return await reads.order_by_id(tx, order_id)


async def cancel_order(tx: Transaction, order: Order, reason: str, at: datetime) -> tuple[Json, int]:
    """Makes an order CANCELLED that is locked and may become so.

    Returns:
        The order as `order_from_json` reads it, and the sequence of the event that tells of it.
    """
    return await _written(tx, _CANCEL, _going(order, OrderState.CANCELLED, at) | {"reason": reason})


async def ship_order(tx: Transaction, order: Order, shipment: Shipment, at: datetime) -> tuple[Json, int]:
    """Makes an order SHIPPED that is locked and may become so.

    Returns:
        As `cancel_order`.
    """
    columns = {"carrier": shipment.carrier, "tracking_number": shipment.tracking_number}
    return await _written(tx, _SHIP, _going(order, OrderState.SHIPPED, at) | columns)


async def refund_order(
    tx: Transaction, order: Order, refund: OrderRefund, refund_state: RefundState, saga_id: UUID | None
) -> tuple[Json, int]:
    """Records a refund of an order that is locked and can have it; no saga where the provider made it.

    Returns:
        As `cancel_order`.

    Raises:
        RefundExistsError: there is a refund of this id, of this order or of another one.
    """
    params: Row = {
        "id": order.id,
        "refund_id": refund.id,
        "saga_id": saga_id,
        "amount_minor": refund.amount.minor_units,
        "lines": items_json(refund.lines),
        "reason": refund.reason,
        "refund_state": refund_state,
        "now": refund.create_time,
    }
    if not await tx.fetch(_INSERT_REFUND, params):
        raise RefundExistsError("there is another refund of this id")
    return await _written(tx, _REFUND, params)


def _going(order: Order, state: OrderState, at: datetime) -> Row:
    return {
        "id": order.id,
        "state": state,
        "previous_state": order.state,
        "states_before": list(states_before(state)),
        "now": at,
    }


async def _written(tx: Transaction, s: Statement, params: Row) -> tuple[Json, int]:
    row = (await tx.fetch(s, params))[0]
    return row["reply"], row["sequence"]
