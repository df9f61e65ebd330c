"""Statements on sold units that come back while their reservation stays."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis import tracing
from chassis.postgres import Transaction, statement
from services.inventory.domain import Reservation, ReservationState, WantedLine
from services.inventory.store.reservations import reservation

LOCK_RESERVATION = statement(
    "lock_reservation", "SELECT id FROM reservation WHERE id = %(reservation_id)s FOR UPDATE"
)

# Runs under the lock of the reservation that an earlier statement took, so that its lines are the newest.
# Stock is locked here, in SKU order, and written from what that lock returned, and the trace is named
# for its trigger: as in store/reservations.py.
RESTOCK = statement(
    "restock",
    """
    WITH back AS MATERIALIZED (
        SELECT b.sku COLLATE "C" AS sku, b.quantity, b.movement_id, b.request_id,
            set_config('sagacity.traceparent', %(traceparent)s::text, true)
        FROM unnest(%(skus)s::text[], %(quantities)s::bigint[], %(movement_ids)s::uuid[],
            %(request_ids)s::uuid[]) AS b (sku, quantity, movement_id, request_id)
    ), locked AS MATERIALIZED (
        SELECT s.sku, s.on_hand, s.reserved, b.quantity, b.movement_id, b.request_id
        FROM back b JOIN stock s ON s.sku = b.sku
        ORDER BY s.sku
        FOR UPDATE OF s
    ), stocked AS (
        UPDATE stock s SET on_hand = l.on_hand + l.quantity, reserved = l.reserved
        FROM locked l
        WHERE s.sku = l.sku
    ), moved AS (
        INSERT INTO stock_movement
            (id, sku, delta, reason, caller, request_id, on_hand_after, reserved_after, create_time)
        SELECT l.movement_id, l.sku, l.quantity, %(reason)s::text, %(caller)s::text, l.request_id,
            l.on_hand + l.quantity, l.reserved, %(now)s::timestamptz
        FROM locked l
    ), lines AS (
        UPDATE reservation_line l SET returned = l.returned + b.quantity
        FROM back b
        WHERE l.reservation_id = %(reservation_id)s::uuid AND l.sku = b.sku
    )
    UPDATE reservation SET state = %(state)s::text, sequence = sequence + 1, update_time = now()
    WHERE id = %(reservation_id)s::uuid
    RETURNING sequence
    """,
)


@dataclass(frozen=True, slots=True)
class Return:
    """Units that come back.

    Attributes:
        state: Of the reservation after it.
        lines: One per SKU.
        caller: With `request_ids` the name of the movements that are written, one per line.
    """

    reservation_id: UUID
    state: ReservationState
    lines: Collection[WantedLine]
    reason: str
    caller: str
    movement_ids: Collection[UUID]
    request_ids: Collection[UUID]


async def lock_reservation(tx: Transaction, reservation_id: UUID) -> Reservation:
    """Reads one reservation and keeps others from changing it and its lines.

    Raises:
        ReservationNotFoundError: There is none.
    """
    await tx.fetch(LOCK_RESERVATION, {"reservation_id": reservation_id})
    # A new statement: it sees what was committed while the lock was waited for.
    return await reservation(tx, reservation_id)


async def restock(tx: Transaction, change: Return, now: datetime) -> int:
    """Writes stock, movements, lines and the reservation, which is locked; returns its event's sequence."""
    rows = await tx.fetch(
        RESTOCK,
        {
            "reservation_id": change.reservation_id,
            "state": change.state.value,
            "skus": [line.sku for line in change.lines],
            "quantities": [line.quantity for line in change.lines],
            "reason": change.reason,
            "caller": change.caller,
            "movement_ids": list(change.movement_ids),
            "request_ids": list(change.request_ids),
            "now": now,
            "traceparent": tracing.current(),
        },
    )
    return int(rows[0]["sequence"])
