"""The named statements of this context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from chassis import tracing
from chassis.barrier import SagaCall
from chassis.outbox import Event, bucket_of
from chassis.postgres import Row, Statement, statement
from services.payments.domain import (
    Amounts,
    CaptureMode,
    LedgerEntry,
    LedgerKind,
    Movement,
    Payment,
    PaymentMethod,
    PaymentState,
    Refund,
    RefundState,
)
from services.payments.unasked import UnaskedOperation

PAYMENT_COLUMNS = """id, order_id, user_id, state, capture_mode, currency_code, amount_minor, captured_minor,
    refunded_minor, decline_reason, create_time, update_time"""
METHOD_COLUMNS = "id, user_id, provider, brand, last4, create_time"

# charge and reverse

# The barrier row comes first, so that of two calls with one payment id a duplicate is always told from
# another step's call by the constraint that it violates.
BEGIN_CHARGE = statement(
    "begin_charge",
    """
    WITH method AS (
        SELECT provider, provider_token FROM payment_method
        WHERE id = %(payment_method_id)s AND user_id = %(user_id)s AND remove_time IS NULL
    ), remembered AS (
        INSERT INTO barrier (saga_id, step, outcome, request_hash, reply)
        SELECT %(saga_id)s, %(step)s, CASE WHEN found THEN 'IN_PROGRESS' ELSE 'REFUSED' END,
            %(request_hash)s, CASE WHEN found THEN NULL ELSE %(refusal)s::jsonb END
        FROM (SELECT EXISTS (SELECT FROM method) AS found) AS decided
        RETURNING outcome, reply
    ), begun AS (
        INSERT INTO payment (id, order_id, user_id, payment_method_id, provider, provider_token, capture_mode,
            state, currency_code, amount_minor, create_time, update_time)
        SELECT %(payment_id)s, %(order_id)s, %(user_id)s, %(payment_method_id)s, provider, provider_token,
            %(capture_mode)s, 'IN_PROGRESS', %(currency_code)s, %(amount_minor)s, %(now)s, %(now)s
        FROM remembered, method
    )
    SELECT outcome, reply, provider_token FROM remembered LEFT JOIN method ON true
    """,
)

# The last half of whatever moves money. A movement that the ledger holds already stays as it is; what
# the barrier answered once stays too, and the outcome of a do that was cut off is the given one.
SETTLE_PAYMENT = statement(
    "settle_payment",
    """
    WITH changed AS (
        UPDATE payment SET state = %(state)s, authorized_minor = %(authorized_minor)s,
            captured_minor = %(captured_minor)s, refunded_minor = %(refunded_minor)s,
            decline_reason = %(decline_reason)s, update_time = %(now)s,
            sequence = sequence + cardinality(%(event_ids)s::uuid[])
        WHERE id = %(payment_id)s AND state = ANY(%(sources)s::text[])
            AND refunded_minor = %(refunded_before)s
        RETURNING id, currency_code, sequence
    ), entries AS (
        INSERT INTO ledger_entry (operation_key, payment_id, kind, amount_minor, currency_code, create_time)
        SELECT entry.operation_key, id, entry.kind, entry.minor, currency_code, %(now)s
        FROM changed, unnest(%(operation_keys)s::text[], %(kinds)s::text[], %(minors)s::bigint[])
            WITH ORDINALITY AS entry (operation_key, kind, minor, place)
        ORDER BY entry.place
        ON CONFLICT (operation_key) DO NOTHING
    ), events AS (
        INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at,
            traceparent)
        SELECT event.id, %(aggregate_type)s, changed.id::text, event.type, event.payload,
            changed.sequence - cardinality(%(event_ids)s::uuid[]) + event.place, %(bucket)s, %(now)s,
            %(traceparent)s::text
        FROM changed, unnest(%(event_ids)s::uuid[], %(event_types)s::text[], %(event_payloads)s::bytea[])
            WITH ORDINALITY AS event (id, type, payload, place)
        ORDER BY event.place
    ), remembered AS (
        UPDATE barrier SET outcome = CASE WHEN outcome = 'IN_PROGRESS' THEN %(outcome)s ELSE outcome END,
            reply = coalesce(reply, %(reply)s::jsonb),
            undo_reply = coalesce(undo_reply, %(undo_reply)s::jsonb)
        FROM changed
        WHERE saga_id = %(saga_id)s AND step = %(step)s
    )
    SELECT id FROM changed
    """,
)
MARK_UNKNOWN = statement(
    "mark_payment_unknown",
    """
    UPDATE payment SET state = 'UNKNOWN', update_time = %(now)s
    WHERE id = %(payment_id)s AND state = 'IN_PROGRESS'
    """,
)
CLAIM_UNDO = statement(
    "claim_reversal",
    """
    INSERT INTO barrier (saga_id, step, outcome, undo_reply)
    SELECT %(saga_id)s, %(step)s, 'TOMBSTONE', %(undo_reply)s::jsonb
    WHERE NOT EXISTS (SELECT FROM payment WHERE id = %(payment_id)s)
    ON CONFLICT DO NOTHING
    RETURNING outcome
    """,
)
LOCK_BARRIER = statement(
    "lock_barrier_of_payment",
    "SELECT outcome, undo_reply FROM barrier WHERE saga_id = %(saga_id)s AND step = %(step)s FOR UPDATE",
)
# A do that was cut off must not be resumed after its undo; what was answered once stays.
STORE_UNDO_REPLY = statement(
    "store_undo_reply",
    """
    UPDATE barrier SET outcome = CASE WHEN outcome = 'IN_PROGRESS' THEN 'TOMBSTONE' ELSE outcome END,
        undo_reply = coalesce(undo_reply, %(undo_reply)s::jsonb)
    WHERE saga_id = %(saga_id)s AND step = %(step)s
    """,
)
_WITH_MONEY = f"SELECT {PAYMENT_COLUMNS}, authorized_minor, provider, provider_token FROM payment"  # noqa: S608
READ_PAYMENT = statement("read_payment", f"{_WITH_MONEY} WHERE id = %(payment_id)s")
LOCK_PAYMENT = statement("lock_payment", f"{_WITH_MONEY} WHERE id = %(payment_id)s FOR UPDATE")
BEGIN_REVERSAL = statement(
    "begin_reversal",
    """
    UPDATE payment SET state = 'REVERSING', update_time = %(now)s
    WHERE id = %(payment_id)s AND state = ANY(%(sources)s::text[])
    """,
)

# A charge that was cut off, and whose payment another step has reversed, has nothing left to resume.
BURY_CHARGE = statement(
    "bury_charge",
    """
    UPDATE barrier SET outcome = 'TOMBSTONE'
    WHERE saga_id = %(saga_id)s AND step = %(step)s AND outcome = 'IN_PROGRESS'
        AND EXISTS (SELECT FROM payment WHERE id = %(payment_id)s AND state IN ('VOIDED', 'REFUNDED'))
    RETURNING outcome
    """,
)

# capture, refund, and a reversal that is a step of its own

CLAIM_DO = statement(
    "claim_do",
    """
    INSERT INTO barrier (saga_id, step, outcome, request_hash)
    VALUES (%(saga_id)s, %(step)s, 'IN_PROGRESS', %(request_hash)s)
    ON CONFLICT DO NOTHING
    RETURNING outcome
    """,
)
SETTLE_DO = statement(
    "settle_do",
    """
    UPDATE barrier SET outcome = %(outcome)s, reply = %(reply)s::jsonb
    WHERE saga_id = %(saga_id)s AND step = %(step)s AND outcome = 'IN_PROGRESS'
    """,
)
# Refunds are read and changed by who holds the lock of their payment.
REFUND_COLUMNS = "id, payment_id, saga_id, step, amount_minor, state"
BEGIN_REFUND = statement(
    "begin_refund",
    f"""
    INSERT INTO refund (id, payment_id, saga_id, step, amount_minor, reason, state, create_time, update_time)
    VALUES (%(refund_id)s, %(payment_id)s, %(saga_id)s, %(step)s, %(amount_minor)s, %(reason)s, 'PENDING',
        %(now)s, %(now)s)
    ON CONFLICT (id) DO NOTHING
    RETURNING {REFUND_COLUMNS}
    """,  # noqa: S608 - constants of this module
)
READ_REFUND = statement(
    "read_refund",
    f"SELECT {REFUND_COLUMNS} FROM refund WHERE id = %(refund_id)s",  # noqa: S608 - constants of this module
)
REFUNDS_IN_FLIGHT = statement(
    "refunds_in_flight",
    f"""
    SELECT {REFUND_COLUMNS} FROM refund WHERE payment_id = %(payment_id)s AND state = 'PENDING'
    ORDER BY create_time, id LIMIT %(limit)s
    """,  # noqa: S608 - constants of this module
)
SUM_IN_FLIGHT = statement(
    "sum_refunds_in_flight",
    """
    SELECT coalesce(sum(amount_minor), 0)::bigint AS minor FROM refund
    WHERE payment_id = %(payment_id)s AND state = 'PENDING'
    """,
)
SETTLE_REFUND = statement(
    "settle_refund",
    "UPDATE refund SET state = %(state)s, update_time = %(now)s WHERE id = %(refund_id)s",
)

# what the provider does by itself

OPERATIONS_RECORDED = statement(
    "provider_operations_recorded",
    "SELECT operation_key FROM provider_operation WHERE payment_id = %(payment_id)s",
)
RECORD_OPERATIONS = statement(
    "record_provider_operations",
    """
    INSERT INTO provider_operation
        (id, provider, operation_key, payment_id, kind, amount_minor, reason, create_time)
    SELECT made.id, %(provider)s, made.operation_key, %(payment_id)s, kind, minor, made.reason, %(now)s
    FROM unnest(%(ids)s::uuid[], %(keys)s::text[], %(kinds)s::text[], %(minors)s::bigint[],
        %(reasons)s::text[]) AS made (id, operation_key, kind, minor, reason)
    """,
)
WEBHOOK_SEEN = statement(
    "provider_webhook_seen",
    "SELECT event_id FROM provider_webhook WHERE provider = %(provider)s AND event_id = %(event_id)s",
)
# Each takes some of the oldest with it, so that the table is as long as it must be, and nobody prunes it.
# What comes again after it was forgotten has no effect either: its operation is recorded.
REMEMBER_WEBHOOK = statement(
    "remember_provider_webhook",
    """
    WITH forgotten AS (
        DELETE FROM provider_webhook WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM provider_webhook WHERE receive_time < %(forget_before)s
            ORDER BY receive_time LIMIT %(batch)s::bigint FOR UPDATE SKIP LOCKED))
    )
    INSERT INTO provider_webhook (provider, event_id, payment_id, receive_time)
    VALUES (%(provider)s, %(event_id)s, %(payment_id)s, %(now)s)
    ON CONFLICT DO NOTHING
    RETURNING event_id
    """,
)

# lists

FIRST_PAGE = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))


def _list_payments(*conditions: str) -> Statement:
    chosen = " AND ".join(("(create_time, id) < (%(before_time)s, %(before_id)s)", *conditions))
    return statement(
        "list_payments",
        f"SELECT {PAYMENT_COLUMNS} FROM payment WHERE {chosen}"  # noqa: S608 - constants of this module
        " ORDER BY create_time DESC, id DESC LIMIT %(limit)s",
    )


_OF_ORDER, _OF_USER = "order_id = %(order_id)s", "user_id = %(user_id)s"
# One statement per filter, so that each has the plan that suits it. Keys: by order, by user.
LIST_PAYMENTS: Mapping[tuple[bool, bool], Statement] = {
    (False, False): _list_payments(),
    (True, False): _list_payments(_OF_ORDER),
    (False, True): _list_payments(_OF_USER),
    (True, True): _list_payments(_OF_ORDER, _OF_USER),
}
LIST_LEDGER = statement(
    "list_ledger_entries",
    """
    SELECT operation_key, payment_id, kind, amount_minor, currency_code, create_time
    FROM ledger_entry WHERE payment_id = %(payment_id)s ORDER BY position
    """,
)

# payment methods

LOCK_USER = statement(
    "lock_payment_methods_of_user",
    "SELECT pg_advisory_xact_lock(hashtextextended('payment_method ' || %(user_id)s::uuid::text, 0))",
)
METHOD_OF_REQUEST = statement(
    "payment_method_of_request",
    f"""
    SELECT {METHOD_COLUMNS}, provider_token FROM payment_method
    WHERE user_id = %(user_id)s AND request_id = %(request_id)s
    """,  # noqa: S608 - constants of this module
)
COUNT_METHODS = statement(
    "count_payment_methods",
    "SELECT count(*) AS count FROM payment_method WHERE user_id = %(user_id)s AND remove_time IS NULL",
)
INSERT_METHOD = statement(
    "insert_payment_method",
    """
    INSERT INTO payment_method (id, user_id, request_id, provider, provider_token, brand, last4, create_time)
    VALUES (%(id)s, %(user_id)s, %(request_id)s, %(provider)s, %(provider_token)s, %(brand)s, %(last4)s,
        %(create_time)s)
    """,
)
LIST_METHODS = statement(
    "list_payment_methods",
    f"""
    SELECT {METHOD_COLUMNS} FROM payment_method WHERE user_id = %(user_id)s AND remove_time IS NULL
    ORDER BY create_time, id
    """,  # noqa: S608 - constants of this module
)
REMOVE_METHOD = statement(
    "remove_payment_method",
    """
    UPDATE payment_method SET remove_time = %(now)s
    WHERE id = %(payment_method_id)s AND user_id = %(user_id)s AND remove_time IS NULL
    RETURNING id
    """,
)

# rows


def payment_of(row: Row) -> Payment:
    """Returns the payment of a row that has PAYMENT_COLUMNS."""
    values = {name: row[name] for name in Payment.__slots__}
    state, mode = PaymentState(row["state"]), CaptureMode(row["capture_mode"])
    return Payment(**values | {"state": state, "capture_mode": mode})


def method_of(row: Row) -> PaymentMethod:
    """Returns the payment method of a row that has METHOD_COLUMNS."""
    return PaymentMethod(**{name: row[name] for name in PaymentMethod.__slots__})


def entry_of(row: Row) -> LedgerEntry:
    """Returns the ledger entry of a row of LIST_LEDGER."""
    return LedgerEntry(**row | {"kind": LedgerKind(row["kind"])})


def refund_of(row: Row) -> Refund:
    """Returns the refund of a row that has REFUND_COLUMNS."""
    return Refund(**row | {"state": RefundState(row["state"])})


def key(call: SagaCall | Refund) -> Row:
    """Returns the parameters that name a barrier row."""
    return {"saga_id": call.saga_id, "step": call.step}


def operations(payment: Payment, unasked: Sequence[UnaskedOperation]) -> Row:
    """Returns the parameters of RECORD_OPERATIONS for what one provider made, one at least."""
    return {
        "payment_id": payment.id,
        "provider": unasked[0].provider,
        "now": payment.update_time,
        "ids": [made.id for made in unasked],
        "keys": [made.operation_key for made in unasked],
        "kinds": [made.kind.value for made in unasked],
        "minors": [made.amount_minor for made in unasked],
        "reasons": [made.reason for made in unasked],
    }


def settlement(
    payment: Payment,
    amounts: Amounts,
    *,
    sources: Sequence[PaymentState],
    entries: Sequence[Movement],
    events: Sequence[Event],
    refunded_before: int = 0,
) -> Row:
    """Returns the parameters of SETTLE_PAYMENT but the barrier's.

    Args:
        payment: As it will be.
        amounts: What became of its money.
        sources: The states from which it may come there.
        entries: What the ledger is to hold.
        events: What is published.
        refunded_before: What had gone back when all this was worked out; where more has, nothing is changed.
    """
    return {
        "refunded_before": refunded_before,
        "payment_id": payment.id,
        "state": payment.state.value,
        "authorized_minor": amounts.authorized_minor,
        "captured_minor": amounts.captured_minor,
        "refunded_minor": amounts.refunded_minor,
        "decline_reason": payment.decline_reason,
        "now": payment.update_time,
        "sources": [state.value for state in sources],
        "operation_keys": [entry.operation_key for entry in entries],
        "kinds": [entry.kind.value for entry in entries],
        "minors": [entry.amount_minor for entry in entries],
        "aggregate_type": events[0].aggregate_type if events else "",
        "bucket": bucket_of(str(payment.id)),
        "traceparent": tracing.current(),
        "event_ids": [event.id for event in events],
        "event_types": [event.type for event in events],
        "event_payloads": [event.payload for event in events],
    }
