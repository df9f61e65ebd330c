"""Payment methods, payments, their ledger; and the simulated provider's own books."""

from alembic import op

from chassis.barrier import BARRIER_DDL
from chassis.outbox import OUTBOX_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PAYMENTS = """
CREATE TABLE payment_method (
    id             uuid PRIMARY KEY,
    user_id        uuid NOT NULL,
    request_id     uuid NOT NULL,
    provider       text NOT NULL,
    provider_token text NOT NULL CHECK (provider_token ~ '^tok_'),
    brand          text NOT NULL,
    last4          text NOT NULL CHECK (last4 ~ '^[0-9]{4}$'),
    create_time    timestamptz NOT NULL,
    remove_time    timestamptz,
    CONSTRAINT payment_method_request UNIQUE (user_id, request_id)
);

-- No foreign key to payment_method: it would cost a row lock on the hot path, and methods are never deleted.
CREATE TABLE payment (
    id                uuid PRIMARY KEY,
    order_id          uuid NOT NULL,
    user_id           uuid NOT NULL,
    payment_method_id uuid NOT NULL,
    provider          text NOT NULL,
    provider_token    text NOT NULL,
    capture_mode      text NOT NULL CHECK (capture_mode IN ('AUTOMATIC', 'MANUAL')),
    state             text NOT NULL CHECK (state IN ('IN_PROGRESS', 'AUTHORIZED', 'CAPTURED', 'REVERSING',
                          'PARTIALLY_REFUNDED', 'REFUNDED', 'VOIDED', 'DECLINED', 'UNKNOWN')),
    currency_code     char(3) NOT NULL,
    amount_minor      bigint NOT NULL CHECK (amount_minor > 0),
    authorized_minor  bigint NOT NULL DEFAULT 0,
    captured_minor    bigint NOT NULL DEFAULT 0,
    refunded_minor    bigint NOT NULL DEFAULT 0,
    decline_reason    text NOT NULL DEFAULT '',
    sequence          bigint NOT NULL DEFAULT 0,
    create_time       timestamptz NOT NULL,
    update_time       timestamptz NOT NULL,
    CONSTRAINT payment_amounts CHECK (0 <= refunded_minor AND refunded_minor <= captured_minor
        AND captured_minor <= authorized_minor AND authorized_minor <= amount_minor)
) WITH (fillfactor = 70);
CREATE INDEX payment_order ON payment (order_id);
CREATE INDEX payment_user ON payment (user_id, create_time, id);
CREATE INDEX payment_newest ON payment (create_time, id);

CREATE TABLE ledger_entry (
    position      bigint GENERATED ALWAYS AS IDENTITY,
    operation_key text PRIMARY KEY,
    payment_id    uuid NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('AUTHORIZATION', 'CAPTURE', 'VOID', 'REFUND')),
    amount_minor  bigint NOT NULL CHECK (amount_minor >= 0),
    currency_code char(3) NOT NULL,
    create_time   timestamptz NOT NULL
);
CREATE INDEX ledger_entry_payment ON ledger_entry (payment_id, position);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER ledger_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""

# The grants are to PUBLIC because a migration does not know the service's role; other roles cannot connect to
# this database at all.
SIMULATION = """
CREATE SCHEMA provider_simulation;

CREATE TABLE provider_simulation.payment (
    payment_id         uuid PRIMARY KEY,
    token              text NOT NULL,
    currency_code      char(3) NOT NULL,
    amount_minor       bigint NOT NULL,
    authorise_attempts bigint NOT NULL DEFAULT 0,
    authorized_minor   bigint NOT NULL DEFAULT 0,
    captured_minor     bigint NOT NULL DEFAULT 0,
    refunded_minor     bigint NOT NULL DEFAULT 0,
    voided_minor       bigint NOT NULL DEFAULT 0,
    decline_reason     text NOT NULL DEFAULT '',
    cancelled          boolean NOT NULL DEFAULT false,
    deliver_time       timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT payment_amounts CHECK (0 <= refunded_minor AND refunded_minor <= captured_minor
        AND 0 <= voided_minor AND captured_minor + voided_minor <= authorized_minor
        AND authorized_minor <= amount_minor)
) WITH (fillfactor = 70);

CREATE TABLE provider_simulation.operation (
    operation_key  text PRIMARY KEY,
    payment_id     uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('AUTHORIZATION', 'CAPTURE', 'VOID', 'REFUND')),
    amount_minor   bigint NOT NULL CHECK (amount_minor > 0),
    currency_code  char(3) NOT NULL,
    effective_time timestamptz NOT NULL
);

-- What has happened; an authorisation on its way has not.
CREATE VIEW provider_simulation.ledger AS
    SELECT * FROM provider_simulation.operation WHERE effective_time <= clock_timestamp();

GRANT USAGE ON SCHEMA provider_simulation TO PUBLIC;
GRANT SELECT, INSERT, UPDATE ON provider_simulation.payment TO PUBLIC;
GRANT SELECT, INSERT, DELETE ON provider_simulation.operation TO PUBLIC;
GRANT SELECT ON provider_simulation.ledger TO PUBLIC;
"""


def upgrade() -> None:
    for ddl in (PAYMENTS, BARRIER_DDL, OUTBOX_DDL, SIMULATION):
        op.execute(ddl)
