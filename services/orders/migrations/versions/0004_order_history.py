"""The order-history projection: lists of orders, in generations; and the inbox of the chassis.

New tables only: the code of before goes on and knows nothing of them. An empty database needs no copy of its
orders; one with orders gets its first generation from the processes of this release.
"""

from alembic import op

from chassis.inbox import INBOX_DDL

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
-- What lists look for; what they show is read from orders. No reference to those: rows follow the events.
CREATE TABLE order_listing (
    generation bigint NOT NULL,
    order_id uuid NOT NULL,
    user_id uuid NOT NULL,
    order_number text NOT NULL,
    state text NOT NULL,
    refund_state text NOT NULL,
    currency_code char(3) NOT NULL,
    -- NULL until CONFIRMED.
    total_minor bigint,
    refunded_minor bigint NOT NULL,
    -- Of the newest fact that is in the row.
    sequence bigint NOT NULL CHECK (sequence > 0),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (generation, order_id)
);
CREATE INDEX order_listing_by_time ON order_listing (generation, state, create_time, order_id);
CREATE INDEX order_listing_by_time_of_user
    ON order_listing (generation, user_id, state, create_time, order_id);
CREATE INDEX order_listing_by_total
    ON order_listing (generation, currency_code, state, total_minor, order_id) WHERE total_minor IS NOT NULL;
CREATE INDEX order_listing_by_total_of_user
    ON order_listing (generation, user_id, currency_code, state, total_minor, order_id)
    WHERE total_minor IS NOT NULL;

CREATE TABLE order_listing_generation (
    generation bigint PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('COPYING', 'FOLLOWING', 'RETIRED')),
    -- The orders up to this id are copied.
    copied_to uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    copied bigint NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now(),
    switch_time timestamptz,
    retire_time timestamptz CHECK ((retire_time IS NOT NULL) = (state = 'RETIRED'))
);
-- One row: which generation the lists are read from; 0: none yet.
CREATE TABLE order_listing_head (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    active_generation bigint NOT NULL,
    last_generation bigint NOT NULL CHECK (last_generation >= active_generation)
);
INSERT INTO order_listing_generation (generation, state)
    SELECT 1, CASE WHEN EXISTS (SELECT FROM orders) THEN 'COPYING' ELSE 'FOLLOWING' END;
INSERT INTO order_listing_head (active_generation, last_generation)
    SELECT CASE WHEN state = 'FOLLOWING' THEN 1 ELSE 0 END, 1 FROM order_listing_generation;
"""


def upgrade() -> None:
    """Creates everything."""
    for ddl in (INBOX_DDL, TABLES):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
