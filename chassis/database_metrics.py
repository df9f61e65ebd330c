"""What a process knows of its database: the pool of connections, and the time of each statement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chassis.metric_catalogue import SERVERS
from chassis.telemetry import counter, gauge, histogram

CONNECTIONS: Final = gauge("sagacity_pool_connections", "Connections that are open.", "pool", of=SERVERS)
CONNECTIONS_MAX: Final = gauge(
    "sagacity_pool_connections_max", "Connections that a pool may open.", "pool", of=SERVERS
)
IN_USE: Final = gauge(
    "sagacity_pool_in_use",
    "Connections that somebody uses at this moment.",
    "pool",
    of=SERVERS,
    look="at the most for minutes: statements are slow, or there are too few replicas",
)
WAITING: Final = gauge(
    "sagacity_pool_waiting",
    "Callers that wait for a connection at this moment.",
    "pool",
    of=SERVERS,
    look="above 0 for minutes: as above",
)
WAIT_SECONDS: Final = histogram(
    "sagacity_pool_wait_seconds",
    "Time that a caller waited for a connection, of those who did not get a warm one at once.",
    "pool",
    of=SERVERS,
    buckets=(0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5),
)
TIMEOUTS: Final = counter(
    "sagacity_pool_timeouts_total",
    "Callers that got no connection: their patience ended, too many waited, or the database is away.",
    "pool",
    of=SERVERS,
    look="any: callers were answered UNAVAILABLE. [Runbook](runbook.md#sagacitypoolexhausted)",
)
LOST: Final = counter(
    "sagacity_pool_lost_connections_total",
    "Connections that were found cut.",
    "pool",
    of=SERVERS,
    look="rises at a restart of the database; steadily: something between ends idle connections",
)
STATEMENT_SECONDS: Final = histogram(
    "sagacity_statement_seconds",
    "Time of a statement, from sending it to its last row; also of those that failed.",
    "statement",
    of=SERVERS,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5),
    look="the slow statement is named as in the code: `EXPLAIN` it",
)
_observers: dict[str, Callable[[float], None]] = {}


def observe_statement(name: str, seconds: float) -> None:
    """Notes the time of a statement; names are those of the code, so there are not many."""
    observe = _observers.get(name)
    if observe is None:
        observe = _observers[name] = STATEMENT_SECONDS.labels(name).observe
    observe(seconds)


class PoolMetrics:
    """What is counted of one pool.

    Args:
        pool: Its name.
        limit: Connections at most.
        open_now: Says how many are open.
        in_use: Says how many are used.
        waiting: Says how many callers wait.
    """

    def __init__(
        self,
        pool: str,
        *,
        limit: int,
        open_now: Callable[[], float],
        in_use: Callable[[], float],
        waiting: Callable[[], float],
    ) -> None:
        self._pool = pool
        CONNECTIONS_MAX.labels(pool).set(limit)
        # Asked when somebody looks at /metrics, which costs the statements nothing.
        CONNECTIONS.labels(pool).set_function(open_now)
        IN_USE.labels(pool).set_function(in_use)
        WAITING.labels(pool).set_function(waiting)
        self.waited = WAIT_SECONDS.labels(pool).observe
        self.timed_out = TIMEOUTS.labels(pool).inc
        self.lost = LOST.labels(pool).inc

    def forget(self) -> None:
        """Shows the pool no more; what was counted stays."""
        for shown in (CONNECTIONS, CONNECTIONS_MAX, IN_USE, WAITING):
            shown.labels(self._pool)  # another pool of this name may have taken it off before
            shown.remove(self._pool)
