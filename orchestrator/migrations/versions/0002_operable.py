"""What operators look for, one saga of an order at a time, the archive of finished sagas."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _columns()
    _indexes()
    _archive()


def _columns() -> None:
    op.execute(
        """
        ALTER TABLE saga
            ADD COLUMN step              text NOT NULL DEFAULT '',
            ADD COLUMN waiting_for       text NOT NULL DEFAULT '',
            ADD COLUMN error_fingerprint text NOT NULL DEFAULT '',
            ADD COLUMN last_error        text NOT NULL DEFAULT ''
        """
    )
    op.execute(
        "ALTER TABLE saga_event ADD COLUMN actor text NOT NULL DEFAULT '',"
        " ADD COLUMN reason text NOT NULL DEFAULT ''"
    )


def _indexes() -> None:
    # The order lock: one saga of an order is under way. A view shows who has it, and since when.
    op.execute(
        "CREATE UNIQUE INDEX saga_lock ON saga (key)"
        " WHERE state IN ('RUNNING', 'COMPENSATING', 'PAUSED', 'PARKED')"
    )
    op.execute("CREATE INDEX saga_waiting ON saga (key, create_time) WHERE state = 'WAITING'")
    op.execute(
        """
        CREATE VIEW order_lock AS
        SELECT key AS order_id, id AS holder, kind, state, create_time AS since FROM saga
         WHERE state IN ('RUNNING', 'COMPENSATING', 'PAUSED', 'PARKED')
        """
    )
    # Each holds only what is rare, so that a million finished sagas cost a search nothing.
    op.execute("CREATE INDEX saga_held ON saga (waiting_for) WHERE waiting_for <> ''")
    op.execute("CREATE INDEX saga_not_completed ON saga (state, id) WHERE state <> 'COMPLETED'")
    op.execute("CREATE INDEX saga_error ON saga (error_fingerprint, id) WHERE error_fingerprint <> ''")
    op.execute("CREATE INDEX saga_kind ON saga (kind, id)")
    # Room in the page for the answer: writing it touches no index then.
    op.execute("ALTER TABLE idempotency SET (fillfactor = 50)")


def _archive() -> None:
    op.execute("CREATE TABLE saga_archive (LIKE saga INCLUDING DEFAULTS, PRIMARY KEY (id))")
    op.execute(
        "ALTER TABLE saga_archive ADD COLUMN archive_time timestamptz NOT NULL DEFAULT clock_timestamp()"
    )
    op.execute("CREATE INDEX saga_archive_key ON saga_archive (key)")
    op.execute(
        "CREATE TABLE saga_event_archive (LIKE saga_event INCLUDING DEFAULTS, PRIMARY KEY (saga_id, seq))"
    )


def downgrade() -> None:
    for table in ("saga_event_archive", "saga_archive"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP VIEW order_lock")
    op.execute("ALTER TABLE idempotency RESET (fillfactor)")
    for index in ("saga_kind", "saga_error", "saga_not_completed", "saga_held", "saga_waiting", "saga_lock"):
        op.execute(f"DROP INDEX {index}")
    op.execute("ALTER TABLE saga_event DROP COLUMN actor, DROP COLUMN reason")
    op.execute(
        "ALTER TABLE saga DROP COLUMN step, DROP COLUMN waiting_for, DROP COLUMN error_fingerprint,"
        " DROP COLUMN last_error"
    )
