"""Refunds of their own: each knows its saga, and counts against its payment from the moment it is begun.

Expand only: code of before neither reads nor writes the table, and makes no refund but the one of a reversal.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REFUNDS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- No reference to payment: whatever writes a row here holds the payment's lock. The barrier's key is here so
-- that whoever settles a refund can answer the step that asked for it.
CREATE TABLE refund (
    id           uuid PRIMARY KEY,
    payment_id   uuid NOT NULL,
    saga_id      uuid NOT NULL,
    step         text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    reason       text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    state        text NOT NULL CHECK (state IN ('PENDING', 'DONE', 'REFUSED')),
    create_time  timestamptz NOT NULL,
    update_time  timestamptz NOT NULL,
    CONSTRAINT refund_of_step UNIQUE (saga_id, step)
);
CREATE INDEX refund_payment ON refund (payment_id);
"""


def upgrade() -> None:
    """Adds the table."""
    op.execute(REFUNDS)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
