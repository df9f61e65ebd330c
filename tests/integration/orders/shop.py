"""A database with many orders, as releases before the projection left them: rows, and no events."""

from __future__ import annotations

import psycopg

USERS = 40
# Two orders a minute, of the users in turn; the states change every USERS orders, half of them CONFIRMED.
_FILL = """
    WITH one AS (
        SELECT n, lpad(to_hex(n), 12, '0') AS hex,
            ('00000000-0000-7000-9000-' || lpad((n % {users})::text, 12, '0'))::uuid AS user_id,
            '2026-01-01T00:00:00Z'::timestamptz + make_interval(mins => n / 2) AS at,
            (ARRAY['PENDING', 'REJECTED', 'CANCELLED', 'SHIPPED', 'CONFIRMED', 'CONFIRMED', 'CONFIRMED',
                'CONFIRMED'])[1 + (n / {users}) % 8] AS state,
            CASE WHEN n % 3 = 0 THEN 'USD' ELSE 'EUR' END AS currency
        FROM generate_series(1, {count}) AS n
    ), two AS (
        SELECT one.*, (hex || '70008000' || lpad('{series}', 12, '0'))::uuid AS id,
            'SG-' || upper(substr(hex, 5, 4) || '-' || substr(hex, 9, 4)) || '-{series}' AS number,
            CASE WHEN state NOT IN ('PENDING', 'REJECTED') THEN 1000 + (n * 7919) % 5000 END AS total,
            CASE WHEN state = 'SHIPPED' AND n % 2 = 0 THEN 100 ELSE 0 END AS refunded,
            CASE WHEN state = 'PENDING' THEN 1 WHEN state IN ('CONFIRMED', 'REJECTED') THEN 2
                ELSE 3 END AS facts
        FROM one
    )
    INSERT INTO orders (id, order_number, user_id, saga_id, state, refund_state, items, currency_code,
        sequence, create_time, update_time, refunded_minor, lines, subtotal_minor, discount_minor,
        shipping_minor, tax_minor, total_minor, shipping_address, payment_id, reservation_id,
        rejection_reason, rejection_message, cancellation_reason, carrier, tracking_number)
    SELECT id, number, user_id, id, state, CASE WHEN refunded > 0 THEN 'PARTIAL' ELSE 'NONE' END,
        '[{{"sku": "LAMP", "quantity": 1}}]', currency, facts, at, at, refunded,
        CASE WHEN total > 0
            THEN '[{{"sku": "LAMP", "name": "Lamp", "quantity": 1, "unit_price_minor": 1}}]'::jsonb END,
        total, 0 * total, 0 * total, 0 * total, total,
        CASE WHEN total > 0 THEN '{{"recipient": "A", "line1": "B", "line2": "", "city": "C", "region": "",
            "postal_code": "", "country_code": "DE"}}'::jsonb END,
        CASE WHEN total > 0 THEN id END, CASE WHEN total > 0 THEN id END,
        CASE WHEN state = 'REJECTED' THEN 'OUT_OF_STOCK' END, CASE WHEN state = 'REJECTED' THEN '' END,
        CASE WHEN state = 'CANCELLED' THEN 'Why' END,
        CASE WHEN state = 'SHIPPED' THEN 'DHL' END, CASE WHEN state = 'SHIPPED' THEN '' END
    FROM two
"""


def fill_shop(dsn: str, count: int, *, series: str = "0001") -> None:
    """Put so many orders into the table, each number of a series of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_FILL.format(count=count, users=USERS, series=series))
        connection.execute("VACUUM ANALYZE orders")
