"""What becomes of a confirmed order: cancelled, shipped, refunded.

Expand only: the code of before goes on, since every column has a default or may be NULL, and no statement of
then makes an order CANCELLED or SHIPPED. The constraints hold for what is written from now on; 0003 looks at
the rows that are there, in a transaction that blocks nobody.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Readers queue behind an ALTER TABLE that waits: so not for long.
TIMEOUTS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';
"""
COLUMNS = """
ALTER TABLE orders
    ADD COLUMN refunded_minor bigint NOT NULL DEFAULT 0,
    ADD COLUMN cancellation_reason text,
    ADD COLUMN carrier text,
    ADD COLUMN tracking_number text;
"""
# Each looks at columns that change in one statement, of rows that an earlier statement of the transaction
# locked: none of them is tried on an older row than the one that is decided on (docs/adr/0004).
CONSTRAINTS = """
ALTER TABLE orders
    ADD CONSTRAINT orders_refunded_within_total
        CHECK (refunded_minor BETWEEN 0 AND COALESCE(total_minor, 0)) NOT VALID,
    ADD CONSTRAINT orders_refund_state_agrees CHECK (
        refund_state = CASE
            WHEN refunded_minor = 0 THEN 'NONE'
            WHEN refunded_minor = total_minor THEN 'FULL'
            ELSE 'PARTIAL'
        END
    ) NOT VALID,
    ADD CONSTRAINT orders_cancellation_complete
        CHECK ((cancellation_reason IS NOT NULL) = (state = 'CANCELLED')) NOT VALID,
    ADD CONSTRAINT orders_cancellation_reason_length
        CHECK (char_length(cancellation_reason) BETWEEN 1 AND 500) NOT VALID,
    ADD CONSTRAINT orders_shipment_complete CHECK (
        num_nulls(carrier, tracking_number) = CASE WHEN state IN ('SHIPPED', 'DELIVERED') THEN 0 ELSE 2 END
    ) NOT VALID,
    ADD CONSTRAINT orders_shipment_length
        CHECK (char_length(carrier) BETWEEN 1 AND 100 AND char_length(tracking_number) <= 100) NOT VALID;
"""
TABLES = """
-- No reference to orders, as in order_history: whatever writes a row here holds the order's lock.
CREATE TABLE order_refund (
    id uuid PRIMARY KEY,
    order_id uuid NOT NULL,
    -- The order's number of the fact that it was made: together with those of order_history, without a gap.
    sequence bigint NOT NULL CHECK (sequence > 1),
    -- The saga that made it.
    saga_id uuid NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    -- Array of objects, one per SKU in SKU order: sku, quantity. Empty where it was by amount.
    lines jsonb NOT NULL CHECK (jsonb_typeof(lines) = 'array'),
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    create_time timestamptz NOT NULL,
    CONSTRAINT order_refund_of_order UNIQUE (order_id, sequence)
);
"""


def upgrade() -> None:
    """Adds everything."""
    for ddl in (TIMEOUTS, COLUMNS, CONSTRAINTS, TABLES):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
