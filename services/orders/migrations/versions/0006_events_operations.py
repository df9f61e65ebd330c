"""What operators do to events: consumers that pause, replays that are counted, an audit.

The code of before goes on: it never reads what is new, and its consumers pause for nobody.
"""

from alembic import op

from chassis.inbox import EVENT_OPERATIONS_DDL

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns without values, and tables."""
    op.execute(EVENT_OPERATIONS_DDL)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
