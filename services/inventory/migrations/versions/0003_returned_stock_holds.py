"""The constraints of 0002 hold for the rows that were there before them, too."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

VALIDATIONS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '600s';
ALTER TABLE reservation_line VALIDATE CONSTRAINT reservation_line_returned;
ALTER TABLE reservation VALIDATE CONSTRAINT reservation_state_check;
"""


def upgrade() -> None:
    """Reads the tables once; nobody waits for it."""
    op.execute(VALIDATIONS)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
