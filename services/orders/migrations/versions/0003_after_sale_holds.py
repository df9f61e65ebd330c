"""The constraints of 0002 hold for the rows that were there before them, too."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

VALIDATIONS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '600s';
ALTER TABLE orders
    VALIDATE CONSTRAINT orders_refunded_within_total,
    VALIDATE CONSTRAINT orders_refund_state_agrees,
    VALIDATE CONSTRAINT orders_cancellation_complete,
    VALIDATE CONSTRAINT orders_cancellation_reason_length,
    VALIDATE CONSTRAINT orders_shipment_complete,
    VALIDATE CONSTRAINT orders_shipment_length;
"""


def upgrade() -> None:
    """Reads the table once; nobody waits for it."""
    op.execute(VALIDATIONS)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
