"""The constraint of 0004 holds for the rows that were there before it, too."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

VALIDATIONS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '600s';
ALTER TABLE stock VALIDATE CONSTRAINT stock_low_stock_threshold;
"""


def upgrade() -> None:
    """Reads the table once; nobody waits for it."""
    op.execute(VALIDATIONS)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
