"""Statements that change an order.

CreateOrder and ConfirmOrder are the hot use cases: one statement each, which carries the order, its history,
the event and the barrier row.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from psycopg.errors import UniqueViolation

from chassis import tracing
from chassis.barrier import Json, SagaCall, is_duplicate
from chassis.outbox import Event, bucket_of
from chassis.postgres import Database, Row, Transaction, statement
from services.orders.domain import (
    Order,
    OrderExistsError,
    OrderItem,
    OrderNotFoundError,
    OrderNumberTakenError,
    OrderState,
    Rejection,
    Sale,
    states_before,
)
from services.orders.store.rows import items_json, new_order, sale_columns

# Events of a one-statement use case follow the row that it wrote and locked, named `written`.
_EVENT_OF_WRITTEN = """
    INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at,
        traceparent)
    SELECT %(event_id)s::uuid, %(event_aggregate_type)s::text, %(event_aggregate_id)s::text,
        %(event_type)s::text, %(event_payload)s::bytea, written.sequence, %(event_bucket)s::smallint,
        %(now)s::timestamptz, %(traceparent)s::text
    FROM written
"""
_NEW_ORDER = """
    SELECT %(id)s::uuid AS id, %(order_number)s::text AS order_number, %(user_id)s::uuid AS user_id,
        %(saga_id)s::uuid AS saga_id, %(state)s::text AS state, %(refund_state)s::text AS refund_state,
        %(items)s::jsonb AS items, %(currency_code)s::char(3) AS currency_code, 1::bigint AS sequence,
        %(now)s::timestamptz AS create_time, %(now)s::timestamptz AS update_time
"""
_NEW_ORDER_COLUMNS = """
    id, order_number, user_id, saga_id, state, refund_state, items, currency_code, sequence, create_time,
    update_time
"""
# The barrier row comes first, and the order waits for it: the undo of the step takes both locks in the same
# order. A call that came before hits barrier_pkey, and never gets as far as the order.
_CREATE = statement(
    "create_order",
    f"""
    WITH new AS ({_NEW_ORDER}
    ), settled AS (
        INSERT INTO barrier (saga_id, step, outcome, request_hash, reply)
        SELECT new.saga_id, %(step)s::text, 'DONE', %(request_hash)s::bytea, to_jsonb(new) FROM new
        RETURNING outcome, reply
    ), written AS (
        INSERT INTO orders ({_NEW_ORDER_COLUMNS})
        SELECT new.* FROM new, settled
        RETURNING id, state, sequence
    ), history AS (
        INSERT INTO order_history (order_id, sequence, previous_state, state, at)
        SELECT id, sequence, NULL, state, %(now)s::timestamptz FROM written
    ), event AS ({_EVENT_OF_WRITTEN})
    SELECT outcome, reply FROM settled
    """,  # noqa: S608 - constants of this module
)
# The order is locked before anything is decided, so that the decision is about its newest version. The first
# refusal is stored: no such order, its state, the request itself, what request and order do not share, that
# the customer was deactivated.
# Effects join the decision and never ask for it in a sub-select, which PostgreSQL would run again for a row
# that changed after the snapshot.
# The customer's row is made or locked, and its newest version decided on, too: a deactivation that comes
# meanwhile waits, and then finds the order confirmed. Only of a deactivated customer a row comes back that
# says when; that of any other one is not written again.
_CONFIRM = statement(
    "confirm_order",
    f"""
    WITH found AS (
        SELECT id, user_id, state, items, currency_code FROM orders
        WHERE id = %(id)s::uuid AND user_id = %(user_id)s::uuid
        FOR UPDATE
    ), standing AS (
        INSERT INTO customer (user_id) SELECT user_id FROM found
        ON CONFLICT (user_id) DO UPDATE SET deactivate_time = customer.deactivate_time
            WHERE customer.deactivate_time IS NOT NULL
        RETURNING deactivate_time
    ), decided AS (
        SELECT found.state, COALESCE(
            CASE WHEN found.id IS NULL THEN %(not_found)s::jsonb END,
            %(refused_in_state)s::jsonb -> found.state,
            %(refused_request)s::jsonb,
            CASE WHEN found.items <> %(items)s::jsonb THEN %(other_items)s::jsonb END,
            CASE WHEN found.currency_code <> %(currency_code)s::char(3) THEN %(other_currency)s::jsonb END,
            CASE WHEN standing.deactivate_time IS NOT NULL THEN %(customer_deactivated)s::jsonb END
        ) AS fault
        FROM (SELECT) AS always LEFT JOIN found ON true LEFT JOIN standing ON true
    ), written AS (
        UPDATE orders AS o SET
            state = %(state)s::text,
            lines = %(lines)s::jsonb,
            subtotal_minor = %(subtotal_minor)s::bigint,
            discount_minor = %(discount_minor)s::bigint,
            shipping_minor = %(shipping_minor)s::bigint,
            tax_minor = %(tax_minor)s::bigint,
            total_minor = %(total_minor)s::bigint,
            shipping_address = %(shipping_address)s::jsonb,
            payment_id = %(payment_id)s::uuid,
            reservation_id = %(reservation_id)s::uuid,
            sequence = o.sequence + 1,
            update_time = %(now)s::timestamptz
        FROM decided
        WHERE decided.fault IS NULL AND o.id = %(id)s::uuid AND o.state = ANY(%(states_before)s::text[])
        RETURNING o.*
    ), history AS (
        INSERT INTO order_history (order_id, sequence, previous_state, state, at)
        SELECT written.id, written.sequence, decided.state, written.state, %(now)s::timestamptz
        FROM written, decided
    ), event AS ({_EVENT_OF_WRITTEN})
    INSERT INTO barrier (saga_id, step, outcome, request_hash, reply)
    SELECT %(saga_id)s::uuid, %(step)s::text, CASE WHEN written.id IS NULL THEN 'REFUSED' ELSE 'DONE' END,
        %(request_hash)s::bytea, CASE WHEN written.id IS NULL THEN decided.fault ELSE to_jsonb(written) END
    FROM decided LEFT JOIN written ON true
    RETURNING outcome, reply
    """,  # noqa: S608 - constants of this module
)
_INSERT = statement(
    "insert_order",
    f"""
    WITH written AS (
        INSERT INTO orders ({_NEW_ORDER_COLUMNS}) {_NEW_ORDER}
        ON CONFLICT DO NOTHING
        RETURNING id, state, sequence
    )
    INSERT INTO order_history (order_id, sequence, previous_state, state, at)
    SELECT id, sequence, NULL, state, %(now)s FROM written
    RETURNING sequence
    """,  # noqa: S608 - constants of this module
)
_LOCK = statement("lock_order", "SELECT state FROM orders WHERE id = %(id)s FOR UPDATE")
_EXISTS = statement("order_exists", "SELECT id FROM orders WHERE id = %(id)s")
_REJECT = statement(
    "reject_order",
    """
    WITH written AS (
        UPDATE orders SET
            state = %(state)s,
            rejection_reason = %(reason)s,
            rejection_message = %(message)s,
            sequence = sequence + 1,
            update_time = %(now)s
        WHERE id = %(id)s AND state = ANY(%(states_before)s)
        RETURNING *
    ), history AS (
        INSERT INTO order_history (order_id, sequence, previous_state, state, at)
        SELECT id, sequence, %(previous_state)s, state, %(now)s FROM written
    )
    SELECT to_jsonb(written) AS reply, sequence FROM written
    """,
)


async def create_order(database: Database, call: SagaCall, order: Order, placed: Event) -> Row | None:
    """Stores a PENDING order with everything that belongs to it.

    Returns:
        Outcome and reply of the barrier row; None where this call has one already.

    Raises:
        OrderExistsError: there is an order of this id, and this call did not make it.
        OrderNumberTakenError: another order has this number.
    """
    params = new_order(order, call.saga_id) | _barrier(call) | _outbox(placed)
    try:
        return (await database.fetch(_CREATE, params))[0]
    except UniqueViolation as error:
        if is_duplicate(error):
            return None
        if error.diag.constraint_name == "orders_pkey":
            raise OrderExistsError from error
        if error.diag.constraint_name == "orders_order_number_key":
            raise OrderNumberTakenError from error
        raise


async def confirm_order(
    database: Database,
    call: SagaCall,
    *,
    order_id: UUID,
    user_id: UUID,
    items: Sequence[OrderItem],
    sale: Sale,
    refusals: Mapping[str, Json | None],
    confirmed: Event,
) -> Row | None:
    """Makes a PENDING order CONFIRMED, or stores why not, with everything that belongs to it.

    Args:
        database: runs the statement.
        call: identity of the call.
        order_id: which order.
        user_id: whose it must be.
        items: what must have been asked for.
        sale: what the order gets.
        refusals: the faults to store, by their names in the statement: `not_found`, `other_items`,
            `other_currency`, `customer_deactivated`; `refused_in_state`, one per state in which the order
            cannot be confirmed; `refused_request`, which refuses whatever the order is, unless it is None.
        confirmed: the event.

    Returns:
        Outcome and reply of the barrier row; None where this call has one already.
    """
    params: Row = {
        "id": order_id,
        "user_id": user_id,
        "state": OrderState.CONFIRMED,
        "states_before": list(states_before(OrderState.CONFIRMED)),
        "items": items_json(items),
        "now": confirmed.occurred_at,
    }
    params |= sale_columns(sale) | _barrier(call) | _outbox(confirmed) | dict(refusals)
    try:
        return (await database.fetch(_CONFIRM, params))[0]
    except UniqueViolation as error:
        if is_duplicate(error):
            return None
        raise


async def insert_order(tx: Transaction, order: Order, saga_id: UUID) -> int:
    """Inserts a PENDING order with its history and leaves the row locked.

    Returns:
        The sequence of the event that tells of it.

    Raises:
        OrderExistsError: there is an order of this id.
        OrderNumberTakenError: another order has this number.
    """
    rows = await tx.fetch(_INSERT, new_order(order, saga_id))
    if rows:
        return int(rows[0]["sequence"])
    if await tx.fetch(_EXISTS, {"id": order.id}):
        raise OrderExistsError
    raise OrderNumberTakenError


async def lock_order(tx: Transaction, order_id: UUID) -> OrderState:
    """Locks an order until the transaction ends.

    Raises:
        OrderNotFoundError: there is none.
    """
    rows = await tx.fetch(_LOCK, {"id": order_id})
    if not rows:
        raise OrderNotFoundError
    return OrderState(rows[0]["state"])


async def reject_order(
    tx: Transaction, order_id: UUID, previous_state: OrderState, rejection: Rejection, at: datetime
) -> tuple[Json, int]:
    """Makes an order REJECTED that is locked and may become so.

    Returns:
        The order as `order_from_json` reads it, and the sequence of the event that tells of it.
    """
    params = {
        "id": order_id,
        "state": OrderState.REJECTED,
        "previous_state": previous_state,
        "states_before": list(states_before(OrderState.REJECTED)),
        "reason": rejection.reason,
        "message": rejection.message,
        "now": at,
    }
    row = (await tx.fetch(_REJECT, params))[0]
    return row["reply"], row["sequence"]


def _barrier(call: SagaCall) -> Row:
    return {"saga_id": call.saga_id, "step": call.step, "request_hash": call.request_hash}


def _outbox(event: Event) -> Row:
    return {
        "event_id": event.id,
        "event_aggregate_type": event.aggregate_type,
        "event_aggregate_id": event.aggregate_id,
        "event_type": event.type,
        "event_payload": event.payload,
        "event_bucket": bucket_of(event.aggregate_id),
        "traceparent": tracing.current(),
    }
