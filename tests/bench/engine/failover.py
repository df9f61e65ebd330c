"""kill -9 of one of two replicas under load: when its sagas go on, and that none is lost or done twice."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from chassis.barrier import BARRIER_DDL
from deploy.local.postgres import Access
from orchestrator.leases import RENEW_SECONDS
from tests.bench.engine.bench import Bench
from tests.bench.engine.children import Worker, WorkerError, load
from tests.bench.engine.definition import FOUR_STEPS
from tests.bench.engine.figures import Figures, median
from tests.bench.engine.participant import LEDGER_DDL
from tests.bench.engine.scenarios import Reached, participant
from tests.bench.engine.under_test import LEASE_SECONDS

CONCURRENT_EACH = 32
# How long the replica that lives is loaded after the kill: past the lease, so that it takes over under load.
AFTER_THE_KILL_SECONDS = LEASE_SECONDS + 2.0
POLL_SECONDS = 0.02
TAKEOVER_SECONDS = 120.0
QUIET_SECONDS = 120.0
ID_BYTES = 16
STEPS = len(FOUR_STEPS.steps)

_OPEN_OF = "SELECT id, epoch, seq FROM saga WHERE owner = %s AND state IN ('RUNNING', 'COMPENSATING')"
_STILL = """
    SELECT count(*)
      FROM saga s JOIN unnest(%s::uuid[], %s::bigint[], %s::bigint[]) AS w(id, epoch, seq) ON w.id = s.id
     WHERE s.epoch <= w.epoch OR s.seq <= w.seq
"""
_OPEN = "SELECT count(*) FROM saga WHERE state NOT IN ('COMPLETED', 'COMPENSATED')"
_LOST = """
    SELECT count(*) FROM unnest(%s::uuid[]) AS a(id)
     WHERE NOT EXISTS (SELECT 1 FROM saga s WHERE s.id = a.id AND s.state IN ('COMPLETED', 'COMPENSATED'))
"""
_DOUBLE = "SELECT count(*) FROM (SELECT FROM ledger GROUP BY saga_id, step, operation HAVING count(*) > 1)"
_ENDED = "SELECT count(*) FROM saga WHERE state = 'COMPLETED'"
_LINES = "SELECT count(*) FROM ledger"
_BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"


class VoidError(Exception):
    """A round in which nothing was there to be taken over says nothing."""


@dataclass(frozen=True)
class Killed:
    """What a round saw."""

    takeover_seconds: float
    taken_over: int
    acknowledged: int
    lost: int


async def kill_one_of_two(bench: Bench) -> Figures:
    """Rounds of two replicas, of which one is killed; then the books are compared."""
    journal, books = await asyncio.to_thread(
        lambda: (bench.server.journal("failover"), _books(bench, "participant"))
    )
    async with (
        participant(bench, "participant with a ledger", books.service_dsn) as reached,
        await psycopg.AsyncConnection.connect(journal.owner_dsn, autocommit=True) as watch,
        await psycopg.AsyncConnection.connect(books.owner_dsn, autocommit=True) as ledger,
    ):
        rounds = [
            await _round(bench, journal, reached, watch, number) for number in range(bench.sizes.rounds)
        ]
        calls = (await reached.process.ask({}))["calls"]
        completed, lines = await _number(watch, _ENDED), await _number(ledger, _LINES)
        double = await _number(ledger, _DOUBLE)
    taken_over = sum(one.taken_over for one in rounds)
    bench.notes.append(
        f"kill -9: {taken_over} sagas of {len(rounds)} killed replicas were taken over, with leases of"
        f" {LEASE_SECONDS:g} s; {calls - lines} repeated calls came to the barrier"
    )
    return {
        "takeover_seconds": median([one.takeover_seconds for one in rounds], 2),
        "takeover_seconds_by_round": [round(one.takeover_seconds, 2) for one in rounds],
        "takeover_seconds_worst": round(max(one.takeover_seconds for one in rounds), 2),
        "taken_over": taken_over,
        "acknowledged": sum(one.acknowledged for one in rounds),
        "completed_after_kills": completed,
        "lost": sum(one.lost for one in rounds),
        "double_effects": double,
        "missing_effects": STEPS * completed - lines,
        "repeated_calls": calls - lines,
        "lease_seconds": LEASE_SECONDS,
    }


def _books(bench: Bench, name: str) -> Access:
    access = bench.server.database(name)
    with psycopg.connect(access.owner_dsn, autocommit=True) as owner:
        owner.execute(BARRIER_DDL)
        owner.execute(LEDGER_DDL)
    return access


async def _round(
    bench: Bench, journal: Access, reached: Reached, watch: psycopg.AsyncConnection[Any], number: int
) -> Killed:
    bench.say("two replicas under load")
    names = f"doomed-{number}", f"survivor-{number}"
    files = [bench.workers.folder / f"{name}.acknowledged" for name in names]
    async with (
        bench.workers.engine(reached.wiring(journal.service_dsn, names[0])) as doomed,
        bench.workers.engine(reached.wiring(journal.service_dsn, names[1])) as survivor,
    ):
        loaded_seconds = bench.sizes.before_the_kill_seconds + RENEW_SECONDS + AFTER_THE_KILL_SECONDS
        async with asyncio.TaskGroup() as group:
            group.create_task(_load_until_killed(doomed, files[0]))
            group.create_task(_load(survivor, files[1], loaded_seconds))
            # At any moment between two renewals of the lease: what is left of it differs from round to round.
            await asyncio.sleep(bench.sizes.before_the_kill_seconds + random.uniform(0, RENEW_SECONDS))  # noqa: S311
            bench.say("kill -9 of one replica")
            killed_at = time.perf_counter()
            await doomed.kill()
            await _reach_zero(watch, _BACKENDS, [names[0]], TAKEOVER_SECONDS)
            rows = await (await watch.execute(_OPEN_OF, [doomed.hello["replica"]])).fetchall()
            if not rows:
                raise VoidError("the killed replica had no open saga")
            left = [list(column) for column in zip(*rows, strict=True)]
            await _reach_zero(watch, _STILL, left, TAKEOVER_SECONDS)
            takeover_seconds = time.perf_counter() - killed_at
        bench.say("until all sagas have ended")
        await _reach_zero(watch, _OPEN, [], QUIET_SECONDS, strict=False)
    acknowledged = [saga_id for file in files for saga_id in _acknowledged(file)]
    lost = await _number(watch, _LOST, [acknowledged])
    return Killed(takeover_seconds, len(rows), len(acknowledged), lost)


async def _load(worker: Worker, acknowledged: Path, seconds: float) -> None:
    await worker.measure(**load(concurrent=CONCURRENT_EACH, seconds=seconds, acknowledged=str(acknowledged)))


async def _load_until_killed(worker: Worker, acknowledged: Path) -> None:
    try:
        await _load(worker, acknowledged, TAKEOVER_SECONDS)
    except WorkerError:
        return
    raise VoidError("the replica that was to be killed outlived its load")


async def _number(
    connection: psycopg.AsyncConnection[Any], query: str, params: list[Any] | None = None
) -> int:
    row = await (await connection.execute(query, params or [])).fetchone()
    assert row is not None
    return int(row[0])


async def _reach_zero(
    connection: psycopg.AsyncConnection[Any],
    query: str,
    params: list[Any],
    seconds: float,
    *,
    strict: bool = True,
) -> None:
    """Ask until the answer is 0; after so long a TimeoutError, or nothing with `strict` off."""
    end = time.perf_counter() + seconds
    while await _number(connection, query, params):
        if time.perf_counter() > end:
            if strict:
                raise TimeoutError(f"not within {seconds:g} s: {query}")
            return
        await asyncio.sleep(POLL_SECONDS)


def _acknowledged(file: Path) -> list[UUID]:
    data = file.read_bytes()
    return [UUID(bytes=data[at : at + ID_BYTES]) for at in range(0, len(data), ID_BYTES)]
