"""What a process shows of its database's server: who receives its log, and whether commits wait for that.

A slot keeps the log for its reader while that is away, until the disk is full; and a standby that commits
wait for stops every order when it is gone, or has no room. Each process looks by itself: databases may be on
several servers.
"""

import asyncio

from chassis.looks import Look
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
COMMITS_WAITING = gauge(
    "sagacity_commits_waiting",
    "Commits that have waited for a synchronous standby for more than a second; replicas of a service agree.",
    "database",
    of=SERVERS,
    look="alarm at any for minutes: no order is accepted until the standby is back",
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
# What a session waits for, its own role may see. Where the standby is well, a commit waits for a moment; one
# that is connected and acknowledges nothing is no help.
_COMMITS = statement(
    "commits_waiting",
    """
    SELECT current_database() AS database, count(*) AS waiting
    FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'SyncRep'
        AND clock_timestamp() - query_start > interval '1 second'
    """,
)


async def watch(database: Database) -> None:
    """Shows slots, and commits that wait, until it is cancelled.

    Args:
        database: A connection that writes nothing: commits that wait hold those that do.
    """
    slots, commits = Look("replication slots"), Look("commits that wait")
    known: set[str] = set()
    while True:
        with slots.may_fail():
            known = await _show_slots(database, known)
        with commits.may_fail():
            (row,) = await database.fetch(_COMMITS, {})
            COMMITS_WAITING.labels(row["database"]).set(row["waiting"])
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
