"""The orchestrators of a suite under test: who drives what, as the journal has it, and how one is hurt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx2
import psycopg

from deploy.local.suite import Suite
from tests.e2e.books import rows, select
from tests.e2e.eventually import eventually

HEALTHY = ("orchestrator", "orchestrator-2")
DOOMED = ("orchestrator-3", "orchestrator-4", "orchestrator-5")
REPLICAS = len(HEALTHY) + len(DOOMED)
METRICS_SECONDS = 10.0


@dataclass(frozen=True)
class Driven:
    """A saga in a replica's hands, and the epoch in which it has it."""

    saga_id: str
    epoch: int


async def start_replica(suite: Suite, name: str, extra: Mapping[str, str] | None = None) -> str:
    """Start one orchestrator and return its id in the journal; only one may start at a time."""
    known = set(await replica_ids(suite))
    suite.start_process(name, extra)
    await suite.wait_ready(name)
    (mine,) = set(await replica_ids(suite)) - known
    return mine


async def replica_ids(suite: Suite) -> list[str]:
    """The replicas that have a lease, or had one lately."""
    return await select(suite.dsn("sagas"), "SELECT id FROM replica")


async def driven_by(suite: Suite, replica: str) -> list[Driven]:
    """The open sagas that are in a replica's hands."""
    found = await rows(
        suite.dsn("sagas"),
        """SELECT id::text, epoch FROM saga
           WHERE owner = %(replica)s AND state IN ('RUNNING', 'COMPENSATING')""",
        replica=replica,
    )
    return [Driven(row["id"], row["epoch"]) for row in found]


async def still_driven(suite: Suite, sagas: Sequence[Driven]) -> list[str]:
    """Those of `sagas` that nobody else has taken over, nor ended."""
    return await select(
        suite.dsn("sagas"),
        """SELECT saga.id FROM saga JOIN unnest(%(ids)s::uuid[], %(epochs)s::bigint[]) AS was (id, epoch)
               ON was.id = saga.id AND was.epoch = saga.epoch
           WHERE state IN ('RUNNING', 'COMPENSATING')""",
        ids=[saga.saga_id for saga in sagas],
        epochs=[saga.epoch for saga in sagas],
    )


async def mid_call(suite: Suite, replica: str, step: str) -> list[str]:
    """The sagas of a replica whose call of `step` is intended and not known to have ended."""
    return await select(
        suite.dsn("sagas"),
        """SELECT id FROM saga JOIN saga_event e ON saga_id = id AND e.seq = saga.seq
           WHERE owner = %(replica)s AND state = 'RUNNING'
             AND (e.step, e.outcome) = (%(step)s, 'intended')""",
        replica=replica,
        step=step,
    )


async def taken_over(suite: Suite, sagas: Sequence[Driven]) -> None:
    """Wait until none of `sagas` is in the hands that it was in."""
    await eventually(lambda: still_driven(suite, sagas), until=lambda left: not left)


async def ended(suite: Suite) -> None:
    """Wait until no saga is open (P8)."""
    query = "SELECT id FROM saga WHERE state IN ('RUNNING', 'COMPENSATING', 'WAITING')"
    await eventually(lambda: select(suite.dsn("sagas"), query), until=lambda left: not left)


async def give_to(suite: Suite, saga_id: str, replica: str | None) -> None:
    """Let a saga's time run out, and put it into the hands of `replica`, or of nobody: it is unwound there.

    What the sweep finds is a saga of its own that it does not have in memory; the raised epoch fences the
    owner that it had.
    """
    query = """UPDATE saga SET deadline = now(), next_run = now(), update_time = now() - interval '1 minute',
                   owner = %(replica)s, epoch = epoch + 1
               WHERE id = %(saga_id)s AND state = 'RUNNING' AND NOT pivot_intended"""
    async with await psycopg.AsyncConnection.connect(suite.dsn("sagas"), autocommit=True) as connection:
        given = await connection.execute(query, {"saga_id": saga_id, "replica": replica})
    assert given.rowcount == 1, f"saga {saga_id} cannot be unwound any more"


async def metric(suite: Suite, name: str, metric_name: str) -> float:
    """What the process `name` has counted."""
    async with httpx2.AsyncClient(timeout=METRICS_SECONDS, trust_env=False) as client:
        text = (await client.get(suite.metrics_url(name))).text
    found = re.search(rf"^{metric_name} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0
