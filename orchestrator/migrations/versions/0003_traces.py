"""The trace that a saga began in, so that whoever takes it over goes on with it.

The code of before goes on: it neither reads nor writes what is new, and its sagas have no trace.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column without values to the journal and to its archive."""
    op.execute("ALTER TABLE saga ADD COLUMN traceparent text")
    op.execute("ALTER TABLE saga_archive ADD COLUMN traceparent text")


def downgrade() -> None:
    op.execute("ALTER TABLE saga_archive DROP COLUMN traceparent")
    op.execute("ALTER TABLE saga DROP COLUMN traceparent")
