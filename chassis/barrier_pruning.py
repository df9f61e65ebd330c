"""Deletes what the barrier remembers of sagas that are too old to be answered.

A call of a saga beyond the horizon is refused before it reaches the barrier (`chassis.barrier.saga_call`), so
that what is deleted here can have no effect a second time. The margin is for hosts whose clocks differ.
"""

import asyncio
import secrets
from datetime import datetime, timedelta

import psycopg
import structlog

from chassis.barrier import BARRIER_HORIZON
from chassis.clock import Clock
from chassis.errors import Fault
from chassis.ids import uuid7_floor
from chassis.postgres import Database, statement

PRUNING_MARGIN = timedelta(days=1)
PRUNING_BATCH = 1_000
PRUNING_INTERVAL_SECONDS = 300.0
PRUNING_JITTER = 0.5  # of the interval, either way: replicas that started together do not prune together

# UUIDs compare by their bytes, so the ids below a floor are one range of the primary key, the oldest first.
# Rows that another replica has in hand are left to it.
_PRUNE = statement(
    "prune_barrier",
    """
    WITH old AS MATERIALIZED (
        SELECT ctid FROM barrier WHERE saga_id < %(floor)s
        ORDER BY saga_id, step
        LIMIT %(batch)s::bigint
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM barrier WHERE ctid = ANY (ARRAY(SELECT ctid FROM old)) RETURNING saga_id
    )
    SELECT count(*) AS pruned FROM gone
    """,
)

_log = structlog.get_logger(__name__)
_jitter = secrets.SystemRandom()


async def prune(database: Database, now: datetime, *, batch: int = PRUNING_BATCH) -> int:
    """Deletes at most `batch` rows of sagas that are beyond the horizon and its margin.

    Returns:
        How many it were; a full batch means that there may be more.

    Raises:
        Fault: UNAVAILABLE.
    """
    floor = uuid7_floor(now - BARRIER_HORIZON - PRUNING_MARGIN)
    rows = await database.fetch(_PRUNE, {"floor": floor, "batch": batch})
    return int(rows[0]["pruned"])


class BarrierPruning:
    """A background task; several processes may run one each on the same database."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        interval_seconds: float = PRUNING_INTERVAL_SECONDS,
        batch: int = PRUNING_BATCH,
    ) -> None:
        self._database = database
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._batch = batch

    async def run(self) -> None:
        """Prunes until cancelled, without rest after a full batch; what fails is logged and tried again."""
        while True:
            if await self._prune() < self._batch:
                factor = _jitter.uniform(1 - PRUNING_JITTER, 1 + PRUNING_JITTER)
                await asyncio.sleep(self._interval_seconds * factor)

    async def _prune(self) -> int:
        try:
            pruned = await prune(self._database, self._clock.now(), batch=self._batch)
        except (Fault, psycopg.Error) as error:
            _log.warning("barrier_pruning_failed", error=str(error))
            return 0
        if pruned:
            _log.info("barrier_pruned", rows=pruned)
        return pruned
