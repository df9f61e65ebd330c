"""Products, stock and its movements, reservations, and the barrier and outbox of the chassis."""

from alembic import op

from chassis.barrier import BARRIER_DDL
from chassis.outbox import OUTBOX_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SKUs sort by their bytes everywhere, in Python too: the order in which rows are locked must not hang on a
# locale.
TABLES = """
CREATE TABLE product (
    sku text COLLATE "C" PRIMARY KEY CHECK (sku ~ '^[A-Z0-9][A-Z0-9._-]{0,63}$'),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description text NOT NULL CHECK (char_length(description) <= 4000),
    category text NOT NULL CHECK (char_length(category) <= 100),
    currency_code char(3) NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
    price_minor bigint NOT NULL CHECK (price_minor >= 0),
    active boolean NOT NULL,
    -- Counts the changes: the etag.
    version bigint NOT NULL CHECK (version > 0),
    -- Counts the facts published about this product, without a gap: consumers halt at one.
    sequence bigint NOT NULL CHECK (sequence > 0),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);
CREATE INDEX product_category ON product (category, sku);

-- Apart from product, because every order writes it: small rows, free space beside them, and no index on
-- what changes.
CREATE TABLE stock (
    sku text COLLATE "C" PRIMARY KEY REFERENCES product (sku),
    on_hand bigint NOT NULL CHECK (on_hand >= 0),
    reserved bigint NOT NULL CHECK (reserved >= 0),
    CHECK (reserved <= on_hand)
) WITH (fillfactor = 70);

CREATE TABLE stock_movement (
    id uuid PRIMARY KEY,
    sku text COLLATE "C" NOT NULL REFERENCES product (sku),
    delta bigint NOT NULL CHECK (delta <> 0),
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    -- Who asked, and the name that they gave their request: the same pair again changes nothing.
    caller text NOT NULL,
    request_id uuid NOT NULL,
    -- What the stock was after it: the reply, whenever the request comes again.
    on_hand_after bigint NOT NULL,
    reserved_after bigint NOT NULL,
    create_time timestamptz NOT NULL,
    UNIQUE (caller, request_id)
);
CREATE INDEX stock_movement_of_product ON stock_movement (sku, create_time);

-- One reservation an order: stock that is held twice for it would be sold once.
CREATE TABLE reservation (
    id uuid PRIMARY KEY,
    order_id uuid NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('HELD', 'COMMITTED', 'RELEASED', 'EXPIRED')),
    expire_time timestamptz NOT NULL,
    -- Counts the facts published about this reservation, without a gap.
    sequence bigint NOT NULL CHECK (sequence > 0),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX reservation_due ON reservation (expire_time) WHERE state = 'HELD';

-- No references: the one statement that writes a line has its reservation and its stock row in hand, and
-- nothing ever deletes either. Two checks a line are what this saves on the path of every order.
CREATE TABLE reservation_line (
    reservation_id uuid NOT NULL,
    sku text COLLATE "C" NOT NULL,
    name text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    currency_code char(3) NOT NULL,
    price_minor bigint NOT NULL CHECK (price_minor >= 0),
    PRIMARY KEY (reservation_id, sku)
);
"""


def upgrade() -> None:
    """Creates everything."""
    for ddl in (TABLES, BARRIER_DDL, OUTBOX_DDL):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
