"""What the provider did without being asked, each once; and the webhooks that told of it.

Expand only: code of before writes no such rows and reads none.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PROVIDER_WEBHOOKS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- Written with the entry in the ledger that has the same key; by it an operation has its effect once,
-- whatever webhook tells of it. No reference to payment: whatever writes a row here holds the payment's lock.
CREATE TABLE provider_operation (
    id            uuid PRIMARY KEY,
    provider      text NOT NULL,
    operation_key text NOT NULL CHECK (operation_key ~ '^[A-Za-z0-9_-]{1,100}$'),
    payment_id    uuid NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('REFUND', 'VOID')),
    amount_minor  bigint NOT NULL CHECK (amount_minor > 0),
    reason        text NOT NULL CHECK (reason ~ '^[A-Z][A-Z0-9_]{0,63}$'),
    create_time   timestamptz NOT NULL,
    CONSTRAINT provider_operation_key UNIQUE (provider, operation_key)
);
CREATE INDEX provider_operation_payment ON provider_operation (payment_id);

CREATE TABLE provider_webhook (
    provider     text NOT NULL,
    event_id     text NOT NULL,
    payment_id   uuid NOT NULL,
    receive_time timestamptz NOT NULL,
    PRIMARY KEY (provider, event_id)
);
CREATE INDEX provider_webhook_oldest ON provider_webhook (receive_time);

-- The simulated provider's own: what it did by itself to a payment, so that each of its answers can say so.
ALTER TABLE provider_simulation.payment ADD COLUMN unasked jsonb NOT NULL DEFAULT '[]';
"""


def upgrade() -> None:
    """Adds the tables and the column."""
    op.execute(PROVIDER_WEBHOOKS)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
