"""Sold units that come back while their reservation stays.

Expand only: the code of before goes on, since the new column has a default, and no statement of then writes
it or the new state. The constraints hold for what is written from now on; 0003 looks at the rows that are
there, in a transaction that blocks nobody.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Readers queue behind an ALTER TABLE that waits: so not for long.
TIMEOUTS = """
SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';
"""
# Units of the line that came back after they were sold, while the reservation stayed. What a release gave
# back is not counted: the reservation's state tells of it.
COLUMNS = """
ALTER TABLE reservation_line ADD COLUMN returned bigint NOT NULL DEFAULT 0;
"""
# Tried on rows of which the statement has the newest: an earlier one of the transaction locked the
# reservation (docs/adr/0004).
CONSTRAINTS = """
ALTER TABLE reservation_line
    ADD CONSTRAINT reservation_line_returned CHECK (returned BETWEEN 0 AND quantity) NOT VALID;
ALTER TABLE reservation
    -- Replaced in this very statement by one that allows more.
    -- squawk-ignore ban-drop-constraint
    DROP CONSTRAINT reservation_state_check,
    ADD CONSTRAINT reservation_state_check
        CHECK (state IN ('HELD', 'COMMITTED', 'RELEASED', 'EXPIRED', 'RETURNED')) NOT VALID;
"""
# A CHECK cannot look into another table. It looks when the statement has ended that changed both; on the path
# of every order, where neither condition holds, it costs nothing but their evaluation.
RETURNED_AGREES = """
CREATE FUNCTION reservation_returned_agrees() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM reservation r
        CROSS JOIN LATERAL (
            SELECT sum(l.quantity) AS quantity, sum(l.returned) AS returned
            FROM reservation_line l WHERE l.reservation_id = r.id
        ) units
        WHERE r.id = (to_jsonb(NEW) ->> TG_ARGV[0])::uuid
            AND NOT CASE r.state
                WHEN 'RETURNED' THEN units.returned = units.quantity
                WHEN 'COMMITTED' THEN units.returned < units.quantity
                WHEN 'RELEASED' THEN units.returned < units.quantity
                ELSE units.returned = 0
            END
    ) THEN
        RAISE EXCEPTION 'the state of a reservation and what came back of its lines contradict each other'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'reservation_returned_agrees';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER reservation_returned_agrees AFTER UPDATE OF state ON reservation
    FOR EACH ROW WHEN (OLD.state = 'RETURNED' OR NEW.state = 'RETURNED')
    EXECUTE FUNCTION reservation_returned_agrees('id');
CREATE CONSTRAINT TRIGGER reservation_line_returned_agrees AFTER UPDATE OF returned ON reservation_line
    FOR EACH ROW WHEN (OLD.returned <> NEW.returned)
    EXECUTE FUNCTION reservation_returned_agrees('reservation_id');
"""


def upgrade() -> None:
    """Adds everything."""
    for ddl in (TIMEOUTS, COLUMNS, CONSTRAINTS, RETURNED_AGREES):
        op.execute(ddl)


def downgrade() -> None:
    """Refused: a fresh database is made again, never taken back."""
    raise NotImplementedError
