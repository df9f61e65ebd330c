"""StockLow and StockBack belong to the trace that the statement which crossed the threshold has named.

Expand only, and nobody waits: a function is replaced. The code of before names no trace, and its crossings
have none, as before; what is named ends with its transaction, so that none is left on a pooled connection.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What was named and has ended reads as '', what never was as NULL.
FUNCTION = """
CREATE OR REPLACE FUNCTION publish_stock_level() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    available bigint := NEW.on_hand - NEW.reserved;
BEGIN
    NEW.event_sequence := OLD.event_sequence + 1;
    INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at,
        traceparent)
    VALUES (
        uuidv7(), 'product', NEW.sku,
        CASE WHEN available < NEW.low_stock_threshold THEN 'sagacity.inventory.v1.StockLow'
            ELSE 'sagacity.inventory.v1.StockBack' END,
        stock_level_payload(NEW.sku, available, NEW.low_stock_threshold),
        NEW.event_sequence, outbox_bucket(NEW.sku), clock_timestamp(),
        nullif(current_setting('sagacity.traceparent', true), '')
    );
    RETURN NEW;
END
$$;
"""


def upgrade() -> None:
    """Replaces the function; its trigger stays."""
    op.execute(FUNCTION)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
