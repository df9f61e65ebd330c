"""The trace that a fact of others came in, so that what follows from it here goes on with it.

The code of before goes on: it neither reads nor writes what is new, and what it asks for has no trace.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Readers queue behind an ALTER TABLE that waits: so not for long.
TIMEOUTS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';
"""


def upgrade() -> None:
    """Adds columns without values."""
    op.execute(TIMEOUTS)
    op.execute("ALTER TABLE cancellation_request ADD COLUMN traceparent text")
    op.execute("ALTER TABLE provider_refund ADD COLUMN traceparent text")


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
