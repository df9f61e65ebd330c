"""The saga log, the idempotency keys and the replicas."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _sagas()
    _keys_and_replicas()


def _sagas() -> None:
    op.execute(
        """
        CREATE TABLE saga (
            id              uuid PRIMARY KEY,
            kind            text NOT NULL,
            version         integer NOT NULL,
            definition_hash text NOT NULL,
            key             uuid NOT NULL,
            state           text NOT NULL CHECK (state IN ('RUNNING', 'COMPENSATING', 'WAITING', 'PAUSED',
            'PARKED',                                                'COMPLETED', 'COMPENSATED')),
            seq             bigint NOT NULL CHECK (seq >= 0),
            epoch           bigint NOT NULL CHECK (epoch > 0),
            owner           text,
            context         jsonb NOT NULL,
            deadline        timestamptz NOT NULL,
            next_run        timestamptz NOT NULL DEFAULT clock_timestamp(),
            attempts        integer NOT NULL DEFAULT 0,
            pivot_intended  boolean NOT NULL DEFAULT false,
            refusal         jsonb,
            create_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
            update_time     timestamptz NOT NULL DEFAULT clock_timestamp()
        ) WITH (fillfactor = 70)
        """
    )
    # Claims look only at open sagas, so that finished ones cost them nothing.
    op.execute("CREATE INDEX saga_open ON saga (next_run) WHERE state IN ('RUNNING', 'COMPENSATING')")
    op.execute("CREATE INDEX saga_key ON saga (key)")
    # No foreign key: events are only written by the statement that has just written their saga, and the check
    # would cost each of an order's fifteen events a locked read of the saga's row.
    op.execute(
        """
        CREATE TABLE saga_event (
            saga_id   uuid NOT NULL,
            seq       bigint NOT NULL,
            step      text NOT NULL,
            op        text NOT NULL,
            attempt   integer NOT NULL,
            outcome   text NOT NULL,
            detail    text NOT NULL,
            recorded  boolean NOT NULL,
            request   bytea,
            reply     bytea,
            at        timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (saga_id, seq)
        )
        """
    )


def _keys_and_replicas() -> None:
    op.execute(
        """
        CREATE TABLE idempotency (
            caller       text NOT NULL,
            rpc          text NOT NULL,
            key          text NOT NULL,
            request_hash bytea NOT NULL,
            saga_id      uuid NOT NULL,
            answer       bytea,
            expires_at   timestamptz NOT NULL,
            PRIMARY KEY (caller, rpc, key)
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX idempotency_saga ON idempotency (saga_id)")
    op.execute("CREATE INDEX idempotency_expiry ON idempotency (expires_at)")
    op.execute("CREATE TABLE replica (id text PRIMARY KEY, expires_at timestamptz NOT NULL)")


def downgrade() -> None:
    for table in ("replica", "idempotency", "saga_event", "saga"):
        op.execute(f"DROP TABLE {table}")
