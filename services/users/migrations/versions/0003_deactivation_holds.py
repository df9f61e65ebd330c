"""The constraints of 0002 hold for the rows that were there before it, too; admins are found by an index."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

VALIDATIONS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '600s';
ALTER TABLE users VALIDATE CONSTRAINT users_anonymised;
ALTER TABLE customer_statistics VALIDATE CONSTRAINT customer_statistics_cancelled;
"""
# One that was not finished is invalid, and in the way.
LEFT_OVER = "DROP INDEX CONCURRENTLY IF EXISTS users_active_admin"
ADMINS = """
CREATE INDEX CONCURRENTLY users_active_admin ON users (id) WHERE role = 'ADMIN' AND state = 'ACTIVE'
"""


def upgrade() -> None:
    """Reads the tables; nobody waits for it."""
    op.execute(VALIDATIONS)
    with op.get_context().autocommit_block():
        op.execute(LEFT_OVER)
        op.execute(ADMINS)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
