"""Accounts, address books, customer statistics, and the outbox and inbox of the chassis."""

from alembic import op

from chassis.consumer import INBOX_DDL
from chassis.outbox import OUTBOX_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE users (
    id uuid PRIMARY KEY,
    email text NOT NULL UNIQUE CHECK (char_length(email) BETWEEN 3 AND 254 AND email !~ '[A-Z]'),
    display_name text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 100),
    role text NOT NULL CHECK (role IN ('CUSTOMER', 'SUPPORT', 'ADMIN')),
    state text NOT NULL CHECK (state IN ('ACTIVE', 'BLOCKED', 'DEACTIVATED')),
    password_hash text NOT NULL CHECK (starts_with(password_hash, '$argon2id$')),
    -- Counts the facts published about this user, without a gap: consumers halt at one.
    version bigint NOT NULL CHECK (version > 0),
    create_time timestamptz NOT NULL
);

CREATE TABLE user_address (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    request_id uuid NOT NULL,
    recipient text NOT NULL CHECK (char_length(recipient) BETWEEN 1 AND 200),
    line1 text NOT NULL CHECK (char_length(line1) BETWEEN 1 AND 200),
    line2 text NOT NULL CHECK (char_length(line2) <= 200),
    city text NOT NULL CHECK (char_length(city) BETWEEN 1 AND 100),
    region text NOT NULL CHECK (char_length(region) <= 100),
    postal_code text NOT NULL CHECK (char_length(postal_code) <= 20),
    country_code text NOT NULL CHECK (country_code ~ '^[A-Z]{2}$'),
    create_time timestamptz NOT NULL,
    UNIQUE (user_id, request_id)
);

-- No reference to users: a fact about an order counts whether or not this database knows the customer.
CREATE TABLE customer_statistics (
    user_id uuid PRIMARY KEY,
    orders_placed bigint NOT NULL CHECK (orders_placed >= 0),
    orders_confirmed bigint NOT NULL CHECK (orders_confirmed >= 0),
    orders_rejected bigint NOT NULL CHECK (orders_rejected >= 0)
) WITH (fillfactor = 70);

CREATE TABLE customer_amount_spent (
    user_id uuid NOT NULL,
    currency_code text NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    PRIMARY KEY (user_id, currency_code)
) WITH (fillfactor = 70);
"""


def upgrade() -> None:
    """Creates everything."""
    for ddl in (TABLES, OUTBOX_DDL, INBOX_DDL):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
