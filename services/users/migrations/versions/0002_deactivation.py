"""Deactivated users, of whom nothing personal is left, and cancelled orders in the statistics.

Expand only: code of before reads a deactivated user as one without an e-mail, and counts no cancellation.
What it consumed is not consumed again: refunds and cancellations of before stay in the amounts spent.
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
# Whom somebody made DEACTIVATED by hand before has no time, and keeps what is personal until they are
# deactivated once more.
USERS = """
ALTER TABLE users
    ALTER COLUMN email DROP NOT NULL,
    ALTER COLUMN display_name DROP NOT NULL,
    ALTER COLUMN password_hash DROP NOT NULL,
    ADD COLUMN deactivate_time timestamptz,
    ADD CONSTRAINT users_anonymised CHECK (
        CASE WHEN deactivate_time IS NULL THEN num_nulls(email, display_name, password_hash) = 0
            ELSE state = 'DEACTIVATED' AND num_nonnulls(email, display_name, password_hash) = 0 END
    ) NOT VALID;
"""
STATISTICS = """
ALTER TABLE customer_statistics
    ADD COLUMN orders_cancelled bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT customer_statistics_cancelled CHECK (orders_cancelled >= 0) NOT VALID;
"""


def upgrade() -> None:
    """Adds everything."""
    for ddl in (TIMEOUTS, USERS, STATISTICS):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
