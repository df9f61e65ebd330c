"""The invariants that one database can tell of by itself: each query returns only what breaks one."""

from __future__ import annotations

_BARRIER = {"I16": "SELECT concat_ws(' ', saga_id, step) FROM barrier WHERE outcome = 'IN_PROGRESS'"}
QUERIES: dict[str, dict[str, str]] = {
    "orders": {
        **_BARRIER,
        "I2": "SELECT saga_id FROM orders GROUP BY saga_id HAVING count(*) > 1",
        "I6": """
            SELECT id FROM orders WHERE subtotal_minor <> (
                SELECT sum((line ->> 'quantity')::bigint * (line ->> 'unit_price_minor')::bigint)
                FROM jsonb_array_elements(lines) AS line)""",
        "I8": """
            SELECT id FROM orders WHERE refunded_minor > coalesce(total_minor, 0) OR refunded_minor <> (
                SELECT coalesce(sum(amount_minor), 0) FROM order_refund WHERE order_id = orders.id)""",
        "I23": "SELECT aggregate FROM inbox WHERE halted UNION ALL SELECT aggregate FROM dead_letter",
        "I28": """
            SELECT id FROM orders JOIN customer USING (user_id)
            WHERE deactivate_time IS NOT NULL AND state IN ('PENDING', 'CONFIRMED')""",
        "I19": """
            SELECT coalesce(o.id, h.order_id) FROM orders o FULL JOIN (
                SELECT order_id, count(*) AS facts, min(sequence) AS first, max(sequence) AS last,
                    (array_agg(state ORDER BY sequence DESC) FILTER (WHERE state IS NOT NULL))[1] AS state
                FROM (
                    SELECT order_id, sequence, state FROM order_history
                    UNION ALL SELECT order_id, sequence, NULL FROM order_refund
                ) fact GROUP BY order_id) h ON h.order_id = o.id
            WHERE (h.first, h.last, h.facts, h.state)
                IS DISTINCT FROM (1, o.sequence, o.sequence, o.state)""",
    },
    "inventory": {
        **_BARRIER,
        "I11": "SELECT sku FROM stock WHERE on_hand < 0 OR reserved < 0 OR reserved > on_hand",
        "I12": """
            SELECT sku FROM stock WHERE reserved <> (
                SELECT coalesce(sum(quantity), 0)
                FROM reservation_line l JOIN reservation r ON r.id = reservation_id
                WHERE l.sku = stock.sku AND state = 'HELD')""",
        "I13": """
            SELECT sku FROM stock WHERE
                (SELECT coalesce(sum(delta), 0) FROM stock_movement m WHERE m.sku = stock.sku) <> on_hand + (
                SELECT coalesce(sum(
                    CASE WHEN state IN ('COMMITTED', 'RETURNED') THEN quantity ELSE returned END), 0)
                FROM reservation_line l JOIN reservation r ON r.id = reservation_id
                WHERE l.sku = stock.sku)""",
        "I14": """
            SELECT concat_ws(' ', order_id, sku)
            FROM reservation r JOIN reservation_line ON r.id = reservation_id
            GROUP BY order_id, sku HAVING count(*) > 1""",
        "I15": """
            SELECT id FROM reservation WHERE state = 'HELD' AND expire_time < now() - interval '1 minute'""",
    },
    "payments": {
        **_BARRIER,
        "I24": "SELECT id FROM refund WHERE state = 'PENDING'",
        "I8": """
            SELECT payment_id FROM payment p JOIN (
                SELECT payment_id,
                    coalesce(sum(amount_minor) FILTER (WHERE kind = 'AUTHORIZATION'), 0) AS authorized,
                    coalesce(sum(amount_minor) FILTER (WHERE kind = 'CAPTURE'), 0) AS captured,
                    coalesce(sum(amount_minor) FILTER (WHERE kind = 'REFUND'), 0) AS refunded
                FROM ledger_entry GROUP BY payment_id) l ON payment_id = id
            WHERE refunded > captured OR captured > authorized OR captured > amount_minor
                OR (authorized, captured, refunded) <> (authorized_minor, captured_minor, refunded_minor)""",
        "I9": """
            SELECT coalesce(ours.operation_key, theirs.operation_key)
            FROM ledger_entry ours FULL JOIN provider_simulation.ledger theirs USING (operation_key)
            WHERE (ours.payment_id, ours.kind, ours.amount_minor, ours.currency_code)
                IS DISTINCT FROM (
                    theirs.payment_id, theirs.kind, theirs.amount_minor, theirs.currency_code)""",
        "I10": """
            SELECT concat_ws(' ', payment_id, kind) FROM provider_simulation.operation
            WHERE kind IN ('AUTHORIZATION', 'CAPTURE') GROUP BY payment_id, kind HAVING count(*) > 1
            UNION ALL SELECT operation_key FROM ledger_entry GROUP BY operation_key HAVING count(*) > 1""",
        "P1": """
            SELECT order_id FROM payment WHERE captured_minor > refunded_minor
            GROUP BY order_id HAVING count(*) > 1
            UNION ALL SELECT payment_id FROM provider_simulation.ledger
            WHERE payment_id NOT IN (SELECT id FROM payment)
        """,
    },
    "sagas": {
        "I4": "SELECT concat_ws(' ', id, state) FROM saga WHERE state NOT IN ('COMPLETED', 'COMPENSATED')",
        "I16": """
            SELECT concat_ws(' ', saga_id, step, op) FROM saga_event WHERE step <> '' AND outcome = 'done'
            GROUP BY saga_id, step, op HAVING count(*) > 1""",
        "I17": """
            SELECT id FROM saga LEFT JOIN (
                SELECT saga_id, count(*) AS events, min(seq) AS first, max(seq) AS last
                FROM saga_event GROUP BY saga_id
            ) e ON saga_id = id WHERE (first, last, events) IS DISTINCT FROM (1, seq, seq)""",
        "I18": """
            WITH intent AS (SELECT saga_id, step, op, seq FROM saga_event WHERE outcome = 'intended')
            SELECT late.saga_id FROM saga_event late JOIN intent unwind USING (saga_id)
            WHERE unwind.op = 'unwind' AND late.op = 'do' AND late.seq > unwind.seq
            UNION ALL
            SELECT done.saga_id FROM intent done JOIN intent undone USING (saga_id, step)
            JOIN intent later USING (saga_id) JOIN intent later_undone
                ON (later_undone.saga_id, later_undone.step) = (done.saga_id, later.step)
            WHERE (done.op, undone.op, later.op, later_undone.op) = ('do', 'undo', 'do', 'undo')
                AND done.seq < later.seq AND undone.seq < later_undone.seq""",
        "I24": """
            SELECT concat_ws(' ', caller, idempotency.key) FROM idempotency LEFT JOIN saga ON id = saga_id
            WHERE answer IS NULL AND (state IS NULL OR state IN ('COMPLETED', 'COMPENSATED'))""",
    },
    "users": {"I23": "SELECT aggregate FROM inbox WHERE halted UNION ALL SELECT aggregate FROM dead_letter"},
}
