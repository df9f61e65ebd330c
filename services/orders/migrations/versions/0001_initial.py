"""Orders and their history, and the barrier and outbox of the chassis."""

from alembic import op

from chassis.barrier import BARRIER_DDL
from chassis.outbox import OUTBOX_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE orders (
    id uuid PRIMARY KEY,
    order_number text NOT NULL CONSTRAINT orders_order_number_key UNIQUE
        CHECK (order_number ~ '^SG(-[0-9A-HJKMNP-TV-Z]{4}){2,5}$'),
    user_id uuid NOT NULL,
    -- The saga that placed it.
    saga_id uuid NOT NULL,
    state text NOT NULL
        CHECK (state IN ('PENDING', 'CONFIRMED', 'REJECTED', 'CANCELLED', 'SHIPPED', 'DELIVERED')),
    refund_state text NOT NULL CHECK (refund_state IN ('NONE', 'PARTIAL', 'FULL')),
    -- Arrays of objects, one per SKU in SKU order: sku, quantity; in lines also name, unit_price_minor.
    items jsonb NOT NULL CHECK (jsonb_typeof(items) = 'array' AND jsonb_array_length(items) > 0),
    lines jsonb CHECK (jsonb_typeof(lines) = 'array' AND jsonb_array_length(lines) > 0),
    currency_code char(3) NOT NULL CHECK (currency_code ~ '^[A-Z]{3}$'),
    subtotal_minor bigint CHECK (subtotal_minor >= 0),
    discount_minor bigint CHECK (discount_minor BETWEEN 0 AND subtotal_minor),
    shipping_minor bigint CHECK (shipping_minor >= 0),
    tax_minor bigint CHECK (tax_minor >= 0),
    total_minor bigint CHECK (total_minor = subtotal_minor - discount_minor + shipping_minor + tax_minor),
    shipping_address jsonb,
    payment_id uuid,
    reservation_id uuid,
    rejection_reason text CHECK (rejection_reason ~ '^[A-Z][A-Z0-9_]{0,62}$'),
    rejection_message text CHECK (char_length(rejection_message) <= 1000),
    -- Counts the facts published about this order, without a gap: consumers halt at one.
    sequence bigint NOT NULL CHECK (sequence > 0),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    -- CONFIRMED implies sold and paid, and only an order that is or was CONFIRMED is either.
    CONSTRAINT orders_sale_complete CHECK (
        num_nulls(lines, subtotal_minor, discount_minor, shipping_minor, tax_minor, total_minor,
            shipping_address, payment_id, reservation_id)
        = CASE WHEN state IN ('PENDING', 'REJECTED') THEN 9 ELSE 0 END
    ),
    CONSTRAINT orders_rejection_complete CHECK (
        num_nulls(rejection_reason, rejection_message) = CASE WHEN state = 'REJECTED' THEN 0 ELSE 2 END
    )
);
CREATE INDEX orders_newest ON orders (create_time, id);
CREATE INDEX orders_newest_of_user ON orders (user_id, create_time, id);
CREATE INDEX orders_newest_in_state ON orders (state, create_time, id);

-- No reference to orders: whatever writes a row here has the order in hand, and nothing deletes orders.
CREATE TABLE order_history (
    order_id uuid NOT NULL,
    sequence bigint NOT NULL,
    previous_state text,
    state text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (order_id, sequence),
    CHECK ((sequence = 1) = (previous_state IS NULL)),
    -- Mirrors TRANSITIONS in domain.py; a test compares them.
    CONSTRAINT order_history_transition CHECK (
        COALESCE(previous_state, '') || '>' || state IN (
            '>PENDING',
            'PENDING>CONFIRMED',
            'PENDING>REJECTED',
            'CONFIRMED>SHIPPED',
            'CONFIRMED>CANCELLED',
            'SHIPPED>DELIVERED'
        )
    )
);
"""


def upgrade() -> None:
    """Creates everything."""
    for ddl in (TABLES, BARRIER_DDL, OUTBOX_DDL):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
