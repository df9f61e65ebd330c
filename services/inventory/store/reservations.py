"""Statements on reservations. Reserve and CommitReservation are one each: a use case in one round trip.

How they are built, and why it holds at READ COMMITTED, where all parts of a statement see one snapshot:
- A part that locks reads each row again once it has the lock. Only what such a part returned is decided upon.
- Rows are locked in one order everywhere: the reservation, then stock by SKU. So nothing deadlocks.
- Effects join the parts that they depend on, and never ask them in a sub-select: PostgreSQL evaluates an
  UPDATE anew when its row changed after the snapshot, and keeps the joined rows then, while it would run a
  sub-select (and its locks) again.
- What an UPDATE of stock writes comes from the part that locked, both columns, and not from the row as the
  UPDATE finds it: that is the row of the snapshot at first, and the CHECKs are tried on it before PostgreSQL
  notices that there is a newer one. An order that takes what was returned a moment ago would fail on them.
- The barrier row is written from the decision, and the effects follow from the barrier row. A duplicate
  fails on it.
- What can take stock across its threshold names its trace for the transaction (`set_config`), in a part that
  the UPDATE of stock joins: so the trigger that publishes the crossing finds it (docs/adr/0017). A sale
  crosses nothing, and no request begins an expiry.
"""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from psycopg import errors

from chassis import tracing
from chassis.barrier import SagaCall, is_duplicate
from chassis.outbox import Event, bucket_of
from chassis.postgres import Database, Row, Transaction, statement
from services.inventory.domain import (
    Hold,
    Reservation,
    ReservationExistsError,
    ReservationNotFoundError,
    ReservationState,
    reservation_from_json,
)

_RESERVATION_EXISTS = frozenset({"reservation_pkey", "reservation_order_id_key"})

# Parameters: those of the hold, of the saga call and of the event. Columns: outcome, reply (a reservation,
# or a Fault).
RESERVE = statement(
    "reserve",
    """
    WITH wanted AS MATERIALIZED (
        SELECT w.sku COLLATE "C" AS sku, w.quantity
        FROM unnest(%(skus)s::text[], %(quantities)s::bigint[]) AS w (sku, quantity)
    ), locked AS MATERIALIZED (
        SELECT s.sku, s.on_hand, s.reserved, p.name, p.currency_code, p.price_minor
        FROM wanted w JOIN stock s ON s.sku = w.sku JOIN product p ON p.sku = w.sku
        WHERE p.active
        ORDER BY s.sku
        FOR UPDATE OF s
    ), refusal (rank, kind, reason, message) AS (VALUES
        (1, 'NOT_FOUND', 'PRODUCT_NOT_FOUND', 'a product does not exist or is out of sale'),
        (2, 'FAILED_PRECONDITION', 'CURRENCY_MISMATCH', 'a product has its price in another currency'),
        (3, 'FAILED_PRECONDITION', 'INSUFFICIENT_STOCK', 'there is less than was asked for')
    ), graded AS MATERIALIZED (
        SELECT w.sku, w.quantity, l.on_hand, l.reserved, l.name, l.currency_code, l.price_minor,
            CASE WHEN l.sku IS NULL THEN 1
                WHEN l.currency_code <> %(currency_code)s::char(3) THEN 2
                WHEN l.on_hand - l.reserved < w.quantity THEN 3
            END AS rank
        FROM wanted w LEFT JOIN locked l ON l.sku = w.sku
    ), verdict AS MATERIALIZED (
        SELECT r.rank, r.kind, r.reason, r.message, clock_timestamp() + %(ttl)s::interval AS expire_time
        FROM (SELECT min(g.rank) AS rank FROM graded g) AS worst LEFT JOIN refusal r ON r.rank = worst.rank
    ), settled AS (
        INSERT INTO barrier (saga_id, step, request_hash, outcome, reply)
        SELECT %(saga_id)s::uuid, %(step)s::text, %(request_hash)s::bytea,
            CASE WHEN v.rank IS NULL THEN 'DONE' ELSE 'REFUSED' END,
            CASE WHEN v.rank IS NULL THEN jsonb_build_object(
                'id', %(reservation_id)s::uuid,
                'order_id', %(order_id)s::uuid,
                'state', 'HELD',
                'expire_time', v.expire_time,
                'lines', (
                    SELECT jsonb_agg(jsonb_build_object('sku', g.sku, 'name', g.name, 'quantity', g.quantity,
                        'currency_code', g.currency_code, 'price_minor', g.price_minor) ORDER BY g.sku)
                    FROM graded g
                )
            ) ELSE jsonb_build_object(
                'kind', v.kind, 'reason', v.reason, 'message', v.message, 'fields', '[]'::jsonb,
                'subjects', (
                    SELECT jsonb_agg(jsonb_build_object('subject', g.sku, 'description', CASE v.rank
                        WHEN 1 THEN 'no such product on sale'
                        WHEN 2 THEN format('priced in %%s', g.currency_code)
                        ELSE format('requested %%s, available %%s', g.quantity, g.on_hand - g.reserved)
                    END) ORDER BY g.sku)
                    FROM graded g WHERE g.rank = v.rank
                )
            ) END
        FROM verdict v
        RETURNING outcome, reply
    ), held AS (
        INSERT INTO reservation (id, order_id, state, expire_time, sequence, create_time, update_time)
        SELECT %(reservation_id)s::uuid, %(order_id)s::uuid, 'HELD', v.expire_time, 1, now(), now()
        FROM settled, verdict v
        WHERE settled.outcome = 'DONE'
        RETURNING id, sequence, set_config('sagacity.traceparent', %(traceparent)s::text, true)
    ), priced AS (
        INSERT INTO reservation_line (reservation_id, sku, name, quantity, currency_code, price_minor)
        SELECT held.id, g.sku, g.name, g.quantity, g.currency_code, g.price_minor
        FROM held, graded g
    ), taken AS (
        UPDATE stock s SET on_hand = g.on_hand, reserved = g.reserved + g.quantity
        FROM held, graded g
        WHERE s.sku = g.sku
    ), published AS (
        INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at,
            traceparent)
        SELECT %(event_id)s::uuid, %(aggregate_type)s::text, %(aggregate_id)s::text, %(event_type)s::text,
            %(payload)s::bytea, held.sequence, %(bucket)s::smallint, %(occurred_at)s::timestamptz,
            %(traceparent)s::text
        FROM held
    )
    SELECT outcome, reply FROM settled
    """,
)

# The event's payload lacks the id of the order, which the caller does not know: it goes at the end, as text.
COMMIT_RESERVATION = statement(
    "commit_reservation",
    """
    WITH target AS MATERIALIZED (
        SELECT r.id, r.state, r.expire_time FROM reservation r
        WHERE r.id = %(reservation_id)s::uuid
        FOR UPDATE
    ), refusal (reason, kind, message) AS (VALUES
        ('RESERVATION_NOT_FOUND', 'NOT_FOUND', 'there is no such reservation'),
        ('RESERVATION_EXPIRED', 'FAILED_PRECONDITION', 'the time of the hold ran out'),
        ('RESERVATION_RELEASED', 'FAILED_PRECONDITION', 'the stock was given back')
    ), verdict AS MATERIALIZED (
        SELECT found.id, found.state, r.reason, r.kind, r.message
        FROM (
            SELECT t.id, t.state, CASE
                WHEN t.id IS NULL THEN 'RESERVATION_NOT_FOUND'
                WHEN t.state IN ('RELEASED', 'RETURNED') THEN 'RESERVATION_RELEASED'
                WHEN t.state = 'EXPIRED' THEN 'RESERVATION_EXPIRED'
                WHEN t.state = 'HELD' AND t.expire_time <= clock_timestamp() THEN 'RESERVATION_EXPIRED'
            END AS reason
            FROM (VALUES (1)) AS once LEFT JOIN target t ON true
        ) AS found LEFT JOIN refusal r ON r.reason = found.reason
    ), locked AS MATERIALIZED (
        SELECT s.sku, s.on_hand, s.reserved, l.quantity
        FROM verdict v
        JOIN reservation_line l ON l.reservation_id = v.id
        JOIN stock s ON s.sku = l.sku
        WHERE v.reason IS NULL AND v.state = 'HELD'
        ORDER BY s.sku
        FOR UPDATE OF s
    ), settled AS (
        INSERT INTO barrier (saga_id, step, request_hash, outcome, reply)
        SELECT %(saga_id)s::uuid, %(step)s::text, %(request_hash)s::bytea,
            CASE WHEN v.reason IS NULL THEN 'DONE' ELSE 'REFUSED' END,
            CASE WHEN v.reason IS NULL THEN jsonb_build_object('state', 'COMMITTED')
                ELSE jsonb_build_object('kind', v.kind, 'reason', v.reason, 'message', v.message,
                    'fields', '[]'::jsonb, 'subjects', '[]'::jsonb) END
        FROM verdict v
        RETURNING outcome, reply
    ), sold AS (
        UPDATE reservation r SET state = 'COMMITTED', sequence = r.sequence + 1, update_time = now()
        FROM settled, verdict v
        WHERE r.id = v.id AND r.state = 'HELD' AND settled.outcome = 'DONE'
        RETURNING r.id, r.order_id, r.sequence
    ), taken AS (
        UPDATE stock s SET on_hand = l.on_hand - l.quantity, reserved = l.reserved - l.quantity
        FROM sold, locked l
        WHERE s.sku = l.sku
    ), published AS (
        INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at,
            traceparent)
        SELECT %(event_id)s::uuid, %(aggregate_type)s::text, %(aggregate_id)s::text, %(event_type)s::text,
            %(payload)s::bytea || convert_to(sold.order_id::text, 'UTF8'), sold.sequence,
            %(bucket)s::smallint, %(occurred_at)s::timestamptz, %(traceparent)s::text
        FROM sold
    )
    SELECT outcome, reply FROM settled
    """,
)

# No row: there is no such reservation. sequence is null where nothing was given back, because it had been
# before. The lines are locked, too, though the lock on their reservation keeps others away: who waited for
# that lock sees the lines of its snapshot, from before units of them came back, unless it locks them itself.
RELEASE = statement(
    "release_reservation",
    """
    WITH target AS MATERIALIZED (
        SELECT r.id, r.order_id, r.state, set_config('sagacity.traceparent', %(traceparent)s::text, true)
        FROM reservation r
        WHERE r.id = %(reservation_id)s::uuid
        FOR UPDATE
    ), locked AS MATERIALIZED (
        SELECT s.sku, s.on_hand, s.reserved,
            CASE t.state WHEN 'COMMITTED' THEN l.quantity - l.returned ELSE 0 END AS sold,
            CASE t.state WHEN 'HELD' THEN l.quantity ELSE 0 END AS held
        FROM target t
        JOIN reservation_line l ON l.reservation_id = t.id
        JOIN stock s ON s.sku = l.sku
        WHERE t.state IN ('HELD', 'COMMITTED')
        ORDER BY s.sku
        FOR UPDATE OF l, s
    ), returned AS (
        UPDATE stock s SET on_hand = l.on_hand + l.sold, reserved = l.reserved - l.held
        FROM locked l
        WHERE s.sku = l.sku
    ), released AS (
        UPDATE reservation r SET state = 'RELEASED', sequence = r.sequence + 1, update_time = now()
        FROM target t
        WHERE r.id = t.id AND r.state IN ('HELD', 'COMMITTED')
        RETURNING r.state, r.sequence
    )
    SELECT t.order_id, coalesce(released.state, t.state) AS state, released.sequence
    FROM target t LEFT JOIN released ON true
    """,
)

# now() and not clock_timestamp(), which cannot use the index; it is the earlier one, so no hold ends before
# its time.
EXPIRE_DUE = statement(
    "expire_due_reservations",
    """
    WITH due AS MATERIALIZED (
        SELECT r.id FROM reservation r
        WHERE r.state = 'HELD' AND r.expire_time <= now()
        ORDER BY r.expire_time
        LIMIT %(batch)s::bigint
        FOR UPDATE SKIP LOCKED
    ), back AS MATERIALIZED (
        SELECT l.sku, sum(l.quantity)::bigint AS quantity
        FROM due JOIN reservation_line l ON l.reservation_id = due.id
        GROUP BY l.sku
    ), locked AS MATERIALIZED (
        SELECT s.sku, s.on_hand, s.reserved, back.quantity
        FROM back JOIN stock s ON s.sku = back.sku
        ORDER BY s.sku
        FOR UPDATE OF s
    ), returned AS (
        UPDATE stock s SET on_hand = l.on_hand, reserved = l.reserved - l.quantity
        FROM locked l
        WHERE s.sku = l.sku
    )
    UPDATE reservation r SET state = 'EXPIRED', sequence = r.sequence + 1, update_time = now()
    FROM due
    WHERE r.id = due.id
    RETURNING r.id, r.order_id, r.sequence
    """,
)

RESERVATION = statement(
    "reservation",
    """
    SELECT jsonb_build_object('id', r.id, 'order_id', r.order_id, 'state', r.state,
        'expire_time', r.expire_time, 'lines', (
            SELECT jsonb_agg(jsonb_build_object('sku', l.sku, 'name', l.name, 'quantity', l.quantity,
                'currency_code', l.currency_code, 'price_minor', l.price_minor, 'returned', l.returned)
                ORDER BY l.sku)
            FROM reservation_line l WHERE l.reservation_id = r.id
        )) AS reservation
    FROM reservation r WHERE r.id = %(reservation_id)s::uuid
    """,
)


async def reserve(database: Database, call: SagaCall, hold: Hold, event: Event) -> Row | None:
    """Runs RESERVE; None where the barrier has the call already.

    Raises:
        ReservationExistsError: The reservation is there, or the order has another one: not by this call.
    """
    params = {
        "reservation_id": hold.reservation_id,
        "order_id": hold.order_id,
        "skus": [line.sku for line in hold.lines],
        "quantities": [line.quantity for line in hold.lines],
        "currency_code": hold.currency_code,
        "ttl": hold.ttl,
    }
    try:
        rows = await database.fetch(RESERVE, params | _call_params(call) | _event_params(event))
    except errors.UniqueViolation as error:
        if is_duplicate(error):
            return None
        if error.diag.constraint_name in _RESERVATION_EXISTS:
            raise ReservationExistsError(str(hold.reservation_id)) from error
        raise
    return rows[0]


async def commit_reservation(
    database: Database, call: SagaCall, reservation_id: UUID, event: Event
) -> Row | None:
    """Runs COMMIT_RESERVATION; None where the barrier has the call already."""
    params = {"reservation_id": reservation_id} | _call_params(call) | _event_params(event)
    try:
        rows = await database.fetch(COMMIT_RESERVATION, params)
    except errors.UniqueViolation as error:
        if is_duplicate(error):
            return None
        raise
    return rows[0]


async def release(tx: Transaction, reservation_id: UUID) -> tuple[UUID, ReservationState, int | None] | None:
    """Gives the stock of a reservation back; None where there is none.

    Returns:
        The order, the state now, and the sequence of the event to publish: None where nothing changed.
    """
    rows = await tx.fetch(RELEASE, {"reservation_id": reservation_id, "traceparent": tracing.current()})
    if not rows:
        return None
    row = rows[0]
    return row["order_id"], ReservationState(row["state"]), row["sequence"]


async def expire_due(tx: Transaction, batch: int) -> Collection[Row]:
    """Expires at most `batch` holds whose time ran out; returns id, order_id and sequence of each."""
    return await tx.fetch(EXPIRE_DUE, {"batch": batch})


async def reservation(source: Database | Transaction, reservation_id: UUID) -> Reservation:
    """Reads one reservation.

    Raises:
        ReservationNotFoundError: There is none.
    """
    rows = await source.fetch(RESERVATION, {"reservation_id": reservation_id})
    if not rows:
        raise ReservationNotFoundError(str(reservation_id))
    return reservation_from_json(rows[0]["reservation"])


def _call_params(call: SagaCall) -> dict[str, Any]:
    return {"saga_id": call.saga_id, "step": call.step, "request_hash": call.request_hash}


def _event_params(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "traceparent": tracing.current(),
        "aggregate_type": event.aggregate_type,
        "aggregate_id": event.aggregate_id,
        "event_type": event.type,
        "payload": event.payload,
        "bucket": bucket_of(event.aggregate_id),
        "occurred_at": event.occurred_at,
    }
