"""What a process shows of its database's server: who receives its log, and whether commits wait for that.

A slot keeps the log for its reader while that is away, until the disk is full; and a standby that commits
wait for stops every order when it is gone. Each process looks by itself: databases may be on several servers.
"""

import asyncio
import re
from collections.abc import Collection
from contextlib import suppress

from chassis.errors import Fault
from chassis.metric_catalogue import SERVERS
from chassis.postgres import Database, statement
from chassis.telemetry import gauge

REFRESH_SECONDS = 10.0

ACTIVE = gauge(
    "sagacity_replication_slot_active",
    "1 while somebody reads this replication slot of the database's server; processes of one server agree.",
    "slot",
    of=SERVERS,
    look="0: a standby, a receiver of backups or a connector is away, and the log is kept for it",
)
KEPT_BYTES = gauge(
    "sagacity_replication_slot_kept_bytes",
    "Log that the database's server keeps for this slot; processes of one server agree.",
    "slot",
    of=SERVERS,
    look="grows for minutes: its reader is away or too slow, and the disk will be full",
)
STANDBYS_MISSING = gauge(
    "sagacity_synchronous_standbys_missing",
    "Standbys that every commit waits for (`synchronous_standby_names`) and that are not connected.",
    "database",
    of=SERVERS,
    look="alarm at any: no order is accepted until they are back",
)
# Everybody may see the slots. One of a base backup is gone with it, under a name that never comes again.
_SLOTS = statement(
    "replication_slots",
    """
    SELECT slot_name AS slot, active,
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::float8 AS kept_bytes
    FROM pg_replication_slots WHERE NOT temporary
    """,
)
# Nor are the names of those that are connected anybody's secret; who of them is synchronous is.
_STANDBYS = statement(
    "synchronous_standbys",
    """
    SELECT current_database() AS database, current_setting('synchronous_standby_names') AS wanted,
        ARRAY(SELECT application_name FROM pg_stat_replication) AS connected
    """,
)
_COUNTED_FORM = re.compile(r"(?:(?:any|first)\s+)?(\d+)\s*\((.*)\)", re.IGNORECASE | re.DOTALL)


def missing_standbys(wanted: str, connected: Collection[str]) -> int:
    """Counts the standbys that commits wait for in vain.

    Args:
        wanted: `synchronous_standby_names`: empty, a list of names, or one in `ANY n (...)`, `FIRST n (...)`,
            `n (...)`; `*` is any name.
        connected: The names of the standbys that are there.
    """
    if not wanted.strip():
        return 0
    form = _COUNTED_FORM.fullmatch(wanted.strip())
    count, listed = (int(form[1]), form[2]) if form else (1, wanted)
    names = {name.strip().strip('"').lower() for name in listed.split(",")}
    there = sum("*" in names or name.lower() in names for name in connected)
    return max(0, count - there)


async def watch(database: Database) -> None:
    """Shows slots and standbys of a database's server until it is cancelled."""
    known: set[str] = set()
    while True:
        # A database that is away says nothing; the gauges stay as they were.
        with suppress(Fault):
            known = await _show_slots(database, known)
            (row,) = await database.fetch(_STANDBYS, {})
            missing = missing_standbys(row["wanted"], row["connected"])
            STANDBYS_MISSING.labels(row["database"]).set(missing)
        await asyncio.sleep(REFRESH_SECONDS)


async def _show_slots(database: Database, known: set[str]) -> set[str]:
    """Shows the slots that are there, and no more those that were; returns their names."""
    rows = await database.fetch(_SLOTS, {})
    for row in rows:
        ACTIVE.labels(row["slot"]).set(row["active"])
        KEPT_BYTES.labels(row["slot"]).set(row["kept_bytes"])
    found = {row["slot"] for row in rows}
    for gone in known - found:
        ACTIVE.remove(gone)
        KEPT_BYTES.remove(gone)
    return found
