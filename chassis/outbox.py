"""The outbox: events that are written in the use case's transaction, and published later by the relay.

The columns carry the names of Debezium's outbox event router beside our own position, sequence and bucket, so
that Debezium can take the place of the built-in relay.
"""

import zlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis import tracing
from chassis.postgres import Transaction, statement

BUCKETS = 16

# Frozen: migrations that were released run it. A change is a new migration, not an edit.
# The autovacuum settings suit a queue: what was published is dead, and reads step over it until vacuumed.
OUTBOX_DDL = """
CREATE TABLE outbox (
    position bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    id uuid NOT NULL,
    aggregatetype text NOT NULL,
    aggregateid text NOT NULL,
    type text NOT NULL,
    payload bytea NOT NULL,
    sequence bigint NOT NULL CHECK (sequence > 0),
    bucket smallint NOT NULL CHECK (bucket BETWEEN 0 AND 15),
    occurred_at timestamptz NOT NULL,
    traceparent text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE TABLE outbox_lease (
    bucket smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 15),
    owner text,
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO outbox_lease (bucket) SELECT generate_series(0, 15);
"""

_APPEND = statement(
    "append_to_outbox",
    "INSERT INTO outbox"
    " (id, aggregatetype, aggregateid, type, payload, sequence, bucket, occurred_at, traceparent)"
    " VALUES (%(id)s, %(aggregate_type)s, %(aggregate_id)s, %(type)s, %(payload)s, %(sequence)s, %(bucket)s,"
    " %(occurred_at)s, %(traceparent)s)",
)


@dataclass(frozen=True, slots=True)
class Event:
    """A fact about one aggregate."""

    id: UUID
    aggregate_type: str
    aggregate_id: str
    type: str  # the protobuf message's full name, such as "sagacity.orders.v1.OrderPlaced"
    payload: bytes
    occurred_at: datetime


def bucket_of(aggregate_id: str) -> int:
    """Returns the bucket, 0 to BUCKETS - 1, of an aggregate: the same in every process and release."""
    return zlib.crc32(aggregate_id.encode()) % BUCKETS


async def append(tx: Transaction, event: Event, *, sequence: int, traceparent: str | None = None) -> None:
    """Writes an event beside the change that it tells of.

    Args:
        tx: The transaction of the change; it must hold the lock of the aggregate's row already, or positions
            would not follow commits and events could be published out of order.
        event: The fact.
        sequence: The aggregate's own number of the event, from 1 without gaps; read from the locked row.
        traceparent: W3C trace context of the change; None: that of what is going on here, if any.
    """
    params = {
        "id": event.id,
        "aggregate_type": event.aggregate_type,
        "aggregate_id": event.aggregate_id,
        "type": event.type,
        "payload": event.payload,
        "sequence": sequence,
        "bucket": bucket_of(event.aggregate_id),
        "occurred_at": event.occurred_at,
        "traceparent": traceparent or tracing.current(),
    }
    await tx.fetch(_APPEND, params)
