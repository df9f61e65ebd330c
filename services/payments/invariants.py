"""What must always hold for money (P1, I8, I9, I10): each query finds only what breaks it.

The two ledgers are read one after the other, by their own connections; so look while nothing is in flight.
"""

from __future__ import annotations

from collections.abc import Mapping

from chassis.postgres import Database, Row, statement

_ENTRY = "operation_key, payment_id, kind, amount_minor, currency_code"
_OURS = statement("our_ledger", f"SELECT {_ENTRY} FROM ledger_entry")  # noqa: S608 - constants of this module
_THEIRS = statement("provider_ledger", f"SELECT {_ENTRY} FROM provider_simulation.ledger")  # noqa: S608
_BROKEN = statement(
    "broken_payments",
    """
    WITH sums AS (
        SELECT payment.id, state, amount_minor AS asked, authorized_minor, captured_minor, refunded_minor,
            (SELECT jsonb_object_agg(kind, total) FROM (
                SELECT kind, sum(entry.amount_minor) AS total FROM ledger_entry AS entry
                WHERE entry.payment_id = payment.id GROUP BY kind) AS per_kind) AS ledger
        FROM payment
    ), read AS (
        SELECT *, coalesce((ledger ->> 'AUTHORIZATION')::bigint, 0) AS authorized,
            coalesce((ledger ->> 'CAPTURE')::bigint, 0) AS captured,
            coalesce((ledger ->> 'VOID')::bigint, 0) AS voided,
            coalesce((ledger ->> 'REFUND')::bigint, 0) AS refunded
        FROM sums
    )
    SELECT 'I8' AS invariant, id::text AS subject FROM read
        WHERE refunded < 0 OR refunded > captured OR captured > authorized OR captured > asked
    UNION ALL SELECT 'LEDGER_TOTALS', id::text FROM read
        WHERE (authorized, captured, refunded) <> (authorized_minor, captured_minor, refunded_minor)
    UNION ALL SELECT 'P1', id::text FROM read
        WHERE state IN ('REFUNDED', 'VOIDED', 'DECLINED') AND authorized - voided - refunded <> 0
    UNION ALL SELECT 'I10', operation_key FROM ledger_entry GROUP BY operation_key HAVING count(*) > 1
    UNION ALL SELECT 'I8', payment.id::text FROM payment JOIN (
            SELECT payment_id, sum(amount_minor) FILTER (WHERE state <> 'REFUSED') AS minor
            FROM refund GROUP BY payment_id) AS refunds ON payment_id = payment.id
        WHERE minor > captured_minor
    UNION ALL SELECT 'REFUNDS', coalesce(refund.id::text, operation_key) FROM refund
        FULL JOIN (SELECT * FROM ledger_entry WHERE operation_key LIKE '%%:refund:%%') AS entry
            ON operation_key = refund.payment_id || ':refund:' || refund.id
        WHERE (refund.payment_id, refund.amount_minor, refund.state)
            IS DISTINCT FROM (entry.payment_id, entry.amount_minor, 'DONE')
            AND (refund.state = 'DONE' OR operation_key IS NOT NULL)
    UNION ALL SELECT 'UNASKED', coalesce(made.operation_key, entry.operation_key)
        FROM provider_operation AS made
        FULL JOIN (SELECT * FROM ledger_entry WHERE operation_key NOT LIKE payment_id || ':%%') AS entry
            ON entry.operation_key = made.operation_key
        WHERE (made.payment_id, made.kind, made.amount_minor)
            IS DISTINCT FROM (entry.payment_id, entry.kind, entry.amount_minor)
    UNION ALL SELECT 'REFUNDS', refund.id::text FROM refund JOIN payment ON payment.id = payment_id
        WHERE refund.state = 'PENDING' AND payment.state IN ('REFUNDED', 'VOIDED', 'DECLINED')
    UNION ALL SELECT 'I16', payment_id::text FROM ledger_entry AS entry
        WHERE kind = 'CAPTURE' AND NOT EXISTS (SELECT FROM payment WHERE id = entry.payment_id)
    """,
)


async def broken_invariants(ours: Database, theirs: Database) -> list[tuple[str, str]]:
    """Returns (invariant, what breaks it) for all that is wrong; nothing, when all is well.

    Args:
        ours: The payments database.
        theirs: The provider's ledger, by its own connections.
    """
    broken = [(row["invariant"], row["subject"]) for row in await ours.fetch(_BROKEN, {})]
    our_entries = _by_key(await ours.fetch(_OURS, {}))
    their_entries = _by_key(await theirs.fetch(_THEIRS, {}))
    differing = sorted(
        key
        for key in our_entries.keys() | their_entries.keys()
        if our_entries.get(key) != their_entries.get(key)
    )
    return broken + [("I9", key) for key in differing]


def _by_key(rows: list[Row]) -> Mapping[str, Row]:
    return {row["operation_key"]: row for row in rows}
