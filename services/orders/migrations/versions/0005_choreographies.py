"""What this context does by itself when others tell it something: cancellations, and refunds of the provider.

Expand only: code of before goes on, and knows none of this; it may confirm an order of a deactivated customer
until it is gone.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Readers queue behind an ALTER TABLE that waits: so not for long.
TIMEOUTS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';
"""
TABLES = """
-- Whoever had an order confirmed, or was deactivated. Its row is the lock between the two.
CREATE TABLE customer (
    user_id uuid PRIMARY KEY,
    deactivate_time timestamptz
);

-- Orders that are to be cancelled, and have been. No reference to orders, as in order_history.
CREATE TABLE cancellation_request (
    order_id uuid PRIMARY KEY,
    cause text NOT NULL CHECK (cause IN ('CUSTOMER_DEACTIVATED', 'PAYMENT_VOIDED')),
    state text NOT NULL DEFAULT 'WAITING' CHECK (state IN ('WAITING', 'DONE')),
    -- What became of the order; where it is SHIPPED or DELIVERED it was past the point.
    outcome text CHECK (outcome IN ('CANCELLED', 'REJECTED', 'SHIPPED', 'DELIVERED')),
    -- What the orchestrator said last: a reason in UPPER_SNAKE.
    answer text,
    attempts bigint NOT NULL DEFAULT 0,
    -- Part of the idempotency key, so that a refusal that the order did not follow is not the last word.
    round bigint NOT NULL DEFAULT 1,
    next_try timestamptz NOT NULL DEFAULT now(),
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cancellation_request_complete CHECK ((state = 'DONE') = (outcome IS NOT NULL))
);
CREATE INDEX cancellation_request_due ON cancellation_request (next_try) WHERE state = 'WAITING';

CREATE TABLE provider_refund (
    refund_id uuid PRIMARY KEY,
    order_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency_code char(3) NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
    -- The provider's, in UPPER_SNAKE.
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 100),
    -- WAITING until the order is PENDING no more; RECORDED in order_refund; UNDONE with all of the order;
    -- REFUSED: it does not fit what the order became, and a person has to look at it.
    state text NOT NULL CHECK (state IN ('WAITING', 'RECORDED', 'UNDONE', 'REFUSED')),
    error text,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT provider_refund_error CHECK ((state = 'REFUSED') = (error IS NOT NULL))
);
CREATE INDEX provider_refund_open ON provider_refund (state, create_time)
    WHERE state IN ('WAITING', 'REFUSED');
CREATE INDEX provider_refund_of_order ON provider_refund (order_id);
"""
# NULL: no saga made it, but the provider by itself.
REFUNDS_WITHOUT_SAGA = "ALTER TABLE order_refund ALTER COLUMN saga_id DROP NOT NULL"


def upgrade() -> None:
    """Adds everything."""
    for ddl in (TIMEOUTS, TABLES, REFUNDS_WITHOUT_SAGA):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
