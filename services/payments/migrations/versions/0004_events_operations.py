"""The inbox of the chassis, and what operators do to events: an audit above all. New tables only."""

from alembic import op

from chassis.inbox import EVENT_OPERATIONS_DDL, INBOX_DDL

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns without values, and tables."""
    for ddl in (INBOX_DDL, EVENT_OPERATIONS_DDL):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
