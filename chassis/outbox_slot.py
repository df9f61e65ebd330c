"""What a service shows of its outbox where Debezium publishes it: the replication slot, and the horizon.

The outbox itself tells nothing then: what was published stays in it for a day.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from chassis.errors import Fault
from chassis.metric_catalogue import SERVICES
from chassis.outbox_backlog import backlog
from chassis.postgres import Database, statement
from chassis.relay_metrics import OutboxWatch
from chassis.telemetry import gauge

REFRESH_SECONDS = 10.0

ACTIVE = gauge(
    "sagacity_outbox_slot_active",
    "1 while somebody reads the replication slot of the outbox; only where Debezium publishes.",
    "topic",
    of=SERVICES,
    look="0: the connector or its slot is not there, and nothing is published",
)
BEHIND_BYTES = gauge(
    "sagacity_outbox_slot_behind_bytes",
    "Log that the reader of the outbox's replication slot has not confirmed; only where Debezium publishes.",
    "topic",
    of=SERVICES,
    look="grows for minutes: facts come late, and PostgreSQL keeps its log until the disk is full",
)
# Everybody may see the slots. One that was made and never read has confirmed nothing yet.
_SLOT = statement(
    "outbox_slot",
    """
    SELECT active,
        greatest(0, pg_wal_lsn_diff(
            pg_current_wal_lsn(), coalesce(confirmed_flush_lsn, restart_lsn)
        ))::float8 AS behind_bytes
    FROM pg_replication_slots WHERE slot_name = %(slot)s::text
    """,
)


@dataclass(frozen=True, slots=True)
class Slot:
    """The state of a replication slot.

    Attributes:
        active: Whether somebody reads it.
        behind_bytes: How much of the log is not confirmed; None where there is no slot.
    """

    active: bool
    behind_bytes: float | None


def name_of(topic: str) -> str:
    """Returns the name of a topic's slot; that of sagacity.orders.v1 is sagacity_orders_outbox."""
    return f"sagacity_{topic.split('.')[1]}_outbox"


async def read(database: Database, name: str) -> Slot:
    """Reads the state of a slot.

    Raises:
        Fault: UNAVAILABLE.
    """
    rows = await database.fetch(_SLOT, {"slot": name})
    return Slot(rows[0]["active"], rows[0]["behind_bytes"]) if rows else Slot(active=False, behind_bytes=None)


async def watch(database: Database, topic: str) -> None:
    """Shows slot and horizon of a database's outbox until it is cancelled."""
    horizon = OutboxWatch(topic)
    while True:
        # A database that is away says nothing; the gauges stay as they were.
        with suppress(Fault):
            slot = await read(database, name_of(topic))
            ACTIVE.labels(topic).set(slot.active)
            if slot.behind_bytes is not None:
                BEHIND_BYTES.labels(topic).set(slot.behind_bytes)
            horizon.show_horizon(await backlog(database))
        await asyncio.sleep(REFRESH_SECONDS)
