"""How far the outbox is behind, and whether a long transaction holds its database's horizon.

What such a transaction still sees cannot be vacuumed: published events stay in the outbox as dead rows,
which every read steps over. And it may hold an event of its own that nobody else can see yet. One of a
standby that tells its primary what it still reads (hot_standby_feedback) does the same.
"""

import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from chassis.postgres import Database, statement

# Counting stops here: it is read every few seconds, and more than this is "very many".
MAX_WAITING = 100_000

# Everybody may see a session's xmin and xid, but only its own role when its transaction began. Sessions of
# other databases do not hold the tables of this one, and what has no user is autovacuum. Who sends to
# a standby is in no database and holds the tables of all, or its slot does, even when the standby is gone;
# since when, nobody says. A standby that reads nothing names the next transaction, and holds nothing.
_BACKLOG = statement(
    "outbox_backlog",
    """
    WITH holding AS MATERIALIZED (
        SELECT xact_start AS since, greatest(age(backend_xid), age(backend_xmin)) AS behind,
            coalesce(backend_xid, backend_xmin)::text || '/' || pid AS name
        FROM pg_stat_activity
        WHERE (datname = current_database() OR datname IS NULL AND age(backend_xmin) > 0)
            AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
            AND coalesce(backend_xid, backend_xmin) IS NOT NULL
        UNION ALL
        SELECT prepared, age(transaction), gid FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT NULL, age(xmin), xmin::text || '/' || slot_name FROM pg_replication_slots WHERE age(xmin) > 0
    )
    SELECT count(*) AS waiting,
        extract(epoch FROM clock_timestamp() - min(occurred_at))::float8 AS oldest_age_seconds,
        (
            SELECT extract(epoch FROM clock_timestamp() - min(since))::float8 FROM holding
        ) AS oldest_transaction_seconds,
        (SELECT name FROM holding ORDER BY behind DESC, name LIMIT 1) AS holder
    FROM (SELECT occurred_at FROM outbox ORDER BY position LIMIT %(max_waiting)s::bigint) AS first
    """,
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What an outbox holds.

    Attributes:
        waiting: Events that are not published, MAX_WAITING at most.
        oldest_age_seconds: Since the oldest of them happened; None for an empty outbox.
        oldest_transaction_seconds: How long the transaction that holds the horizon has been seen to do so;
            None where none does.
    """

    waiting: int
    oldest_age_seconds: float | None
    oldest_transaction_seconds: float | None


# Who held each database's horizon when it was looked at last, and since when. A transaction of another role
# keeps its age to itself, so it is as old as the time for which it has been watched.
_holders: WeakKeyDictionary[Database, tuple[str, float]] = WeakKeyDictionary()


async def backlog(database: Database) -> Backlog:
    """Reads how far the outbox of a database is behind.

    Raises:
        Fault: UNAVAILABLE.
    """
    (row,) = await database.fetch(_BACKLOG, {"max_waiting": MAX_WAITING})
    age = row["oldest_age_seconds"]
    return Backlog(
        waiting=row["waiting"],
        # The event has the time of the clock of the process that wrote it.
        oldest_age_seconds=None if age is None else max(age, 0.0),
        oldest_transaction_seconds=_held_for(database, row["holder"], row["oldest_transaction_seconds"]),
    )


def _held_for(database: Database, holder: str | None, told_seconds: float | None) -> float | None:
    if holder is None:
        _holders.pop(database, None)
        return None
    known = _holders.get(database)
    if known is None or known[0] != holder:
        known = _holders[database] = (holder, time.monotonic())
    return max(time.monotonic() - known[1], told_seconds or 0.0)
