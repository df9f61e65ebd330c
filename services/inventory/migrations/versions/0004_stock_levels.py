"""StockLow and StockBack: a threshold per product, and a trigger that publishes where it is crossed.

Expand only: the code of before goes on, and publishes crossings, too, since the trigger does. Why a trigger:
docs/adr/0017. 0005 looks at the rows that are there, in a transaction that blocks nobody.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Readers queue behind an ALTER TABLE that waits: so not for long.
TIMEOUTS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';
"""
# Beside the stock and not in product: whoever changes the stock has locked this row, and no other.
COLUMNS = """
ALTER TABLE stock
    -- Available units below this are low; 0: never.
    ADD COLUMN low_stock_threshold bigint NOT NULL DEFAULT 0,
    -- Counts the facts published about the product, without a gap; it goes on where product.sequence, which
    -- stays that of ProductCreated, ended.
    ADD COLUMN event_sequence bigint NOT NULL DEFAULT 1,
    ADD CONSTRAINT stock_low_stock_threshold CHECK (low_stock_threshold >= 0) NOT VALID;
"""
# The wire format of protobuf, as far as a StockLow needs it: https://protobuf.dev/programming-guides/encoding
# A field that is 0 is left out, as every encoder of proto3 does.
ENCODERS = r"""
CREATE FUNCTION protobuf_varint(value bigint) RETURNS bytea LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    rest bigint := value;
    bytes bytea := '';
BEGIN
    IF value < 0 THEN
        RAISE EXCEPTION 'a negative number is not encoded here: %', value USING ERRCODE = 'check_violation';
    END IF;
    WHILE rest > 127 LOOP
        bytes := bytes || set_byte('\x00', 0, (rest & 127 | 128)::int);
        rest := rest >> 7;
    END LOOP;
    RETURN bytes || set_byte('\x00', 0, rest::int);
END
$$;
CREATE FUNCTION stock_level_payload(sku text, available bigint, threshold bigint) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN sku = '' THEN '' ELSE
            '\x0a' || protobuf_varint(octet_length(convert_to(sku, 'UTF8'))) || convert_to(sku, 'UTF8') END
        || CASE available WHEN 0 THEN '' ELSE '\x10' || protobuf_varint(available) END
        || CASE threshold WHEN 0 THEN '' ELSE '\x18' || protobuf_varint(threshold) END
$$;
CREATE FUNCTION outbox_bucket(aggregate_id text) RETURNS smallint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (crc32(convert_to(aggregate_id, 'UTF8')) % 16)::smallint
$$;
"""
# BEFORE, so that the row's own new sequence is written with it. PostgreSQL locks the row's newest version
# before it evaluates WHEN, so OLD is never a row that somebody else has changed already, and the position is
# taken under the lock. On the path of every order, where the condition does not hold, nothing is called.
TRIGGER = """
CREATE FUNCTION publish_stock_level() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    available bigint := NEW.on_hand - NEW.reserved;
BEGIN
    NEW.event_sequence := OLD.event_sequence + 1;
    INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at)
    VALUES (
        uuidv7(), 'product', NEW.sku,
        CASE WHEN available < NEW.low_stock_threshold THEN 'sagacity.inventory.v1.StockLow'
            ELSE 'sagacity.inventory.v1.StockBack' END,
        stock_level_payload(NEW.sku, available, NEW.low_stock_threshold),
        NEW.event_sequence, outbox_bucket(NEW.sku), clock_timestamp()
    );
    RETURN NEW;
END
$$;
CREATE TRIGGER stock_level BEFORE UPDATE ON stock FOR EACH ROW
    WHEN ((OLD.on_hand - OLD.reserved < OLD.low_stock_threshold)
        <> (NEW.on_hand - NEW.reserved < NEW.low_stock_threshold))
    EXECUTE FUNCTION publish_stock_level();
"""


def upgrade() -> None:
    """Adds everything."""
    for ddl in (TIMEOUTS, COLUMNS, ENCODERS, TRIGGER):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
