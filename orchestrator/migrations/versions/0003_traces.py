"""The trace and the request that a saga began in, so that whoever takes it over goes on with them.

The code of before goes on: it neither reads nor writes what is new, and its sagas have neither.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns without values to the journal and to its archive."""
    op.execute("ALTER TABLE saga ADD COLUMN traceparent text, ADD COLUMN request_id text")
    op.execute("ALTER TABLE saga_archive ADD COLUMN traceparent text, ADD COLUMN request_id text")


def downgrade() -> None:
    op.execute("ALTER TABLE saga_archive DROP COLUMN traceparent, DROP COLUMN request_id")
    op.execute("ALTER TABLE saga DROP COLUMN traceparent, DROP COLUMN request_id")
