"""What a service shows of its outbox where Debezium publishes it: the replication slot, and the horizon.

The outbox itself tells nothing then: what was published stays in it for a day.
"""

import asyncio
import time
from dataclasses import dataclass

from chassis.looks import Look
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
STALLED_SECONDS = gauge(
    "sagacity_outbox_slot_stalled_seconds",
    "How long the reader of the outbox's replication slot has confirmed nothing though an event came; 0: it "
    "does. Only where Debezium publishes.",
    "topic",
    of=SERVICES,
    look="minutes: facts do not come, however few they are",
)
# Everybody may see the slots. One that was made and never read has confirmed nothing yet.
_SLOT = statement(
    "outbox_slot",
    """
    SELECT active,
        greatest(0, pg_wal_lsn_diff(
            pg_current_wal_lsn(), coalesce(confirmed_flush_lsn, restart_lsn)
        ))::float8 AS behind_bytes,
        pg_wal_lsn_diff(coalesce(confirmed_flush_lsn, restart_lsn), '0/0')::float8 AS confirmed
    FROM pg_replication_slots WHERE slot_name = %(slot)s::text
    """,
)
_NEWEST = statement("newest_in_outbox", "SELECT coalesce(max(position), 0) AS newest FROM outbox")


@dataclass(frozen=True, slots=True)
class Slot:
    """The state of a replication slot.

    Attributes:
        active: Whether somebody reads it.
        behind_bytes: How much of the log is not confirmed; None where there is no slot.
        confirmed: Up to which place in the log it is; None where there is no slot.
    """

    active: bool
    behind_bytes: float | None
    confirmed: float | None = None


class Stall:
    """Since when a slot has stood still though events came.

    That it is behind does not tell: the log of a server goes on without this outbox, and a reader that has
    nothing to read confirms nothing. Nor does the outbox tell where in the log an event is. But who reads
    moves the slot for each event, so one that came while the slot stood still is waiting. One that came in
    the same look as a move may be what moved it; where it is not, the next one tells.
    """

    def __init__(self) -> None:
        self._confirmed: float | None = None
        self._newest: int | None = None
        self._since: float | None = None

    def seconds(self, confirmed: float | None, newest: int, now: float) -> float:
        """Takes what a look found, `newest` the last event's position; returns for how long it has stood."""
        came = self._newest is not None and newest > self._newest
        if confirmed != self._confirmed:
            self._since = None
        elif came and self._since is None:
            self._since = now
        self._confirmed, self._newest = confirmed, newest
        return 0.0 if self._since is None else now - self._since


def name_of(topic: str) -> str:
    """Returns the name of a topic's slot; that of sagacity.orders.v1 is sagacity_orders_outbox."""
    return f"sagacity_{topic.split('.')[1]}_outbox"


async def read(database: Database, name: str) -> Slot:
    """Reads the state of a slot.

    Raises:
        Fault: UNAVAILABLE.
    """
    rows = await database.fetch(_SLOT, {"slot": name})
    if not rows:
        return Slot(active=False, behind_bytes=None)
    return Slot(rows[0]["active"], rows[0]["behind_bytes"], rows[0]["confirmed"])


async def watch(database: Database, topic: str) -> None:
    """Shows slot and horizon of a database's outbox until it is cancelled."""
    look, horizon_look = Look("slot of the outbox"), Look("horizon of the outbox")
    horizon = OutboxWatch(topic)
    stall = Stall()
    while True:
        with look.may_fail():
            slot = await read(database, name_of(topic))
            ACTIVE.labels(topic).set(slot.active)
            if slot.behind_bytes is not None:
                BEHIND_BYTES.labels(topic).set(slot.behind_bytes)
            # After the slot: an event that moved it meanwhile is one that the next look sees move it.
            (last,) = await database.fetch(_NEWEST, {})
            STALLED_SECONDS.labels(topic).set(stall.seconds(slot.confirmed, last["newest"], time.monotonic()))
        with horizon_look.may_fail():
            horizon.show_horizon(await backlog(database))
        await asyncio.sleep(REFRESH_SECONDS)
