"""Owners of sagas that are stopped and continued, told to stop, killed, or whose clock is wrong.

Samples of what `make chaos` does; each sees to it that its fault has fired.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.clock import SystemClock
from chassis.ids import moment_of, new_id
from deploy.local.suite import Suite
from tests.chaos.crash_rounds import Customers, customers
from tests.chaos.findings import Findings
from tests.chaos.market import LEASE_SECONDS, LEASE_VARIABLE
from tests.chaos.owner_rounds import all_take_orders, epochs, kill_under_load, new_owners, stop_and_continue
from tests.chaos.replicas import (
    DOOMED,
    Driven,
    driven_by,
    ended,
    give_to,
    mid_call,
    start_replica,
    still_driven,
)
from tests.chaos.traffic import saga_with
from tests.e2e.books import rows, select
from tests.e2e.eventually import eventually
from tests.e2e.invariants import prove_everything
from tests.e2e.shoppers import Market

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STOPS = 3
ORDERS = 9
SPARE = DOOMED[0]
# Nobody waits so long for a lease to run out: what is taken over before was handed over.
LONG_LEASE = {LEASE_VARIABLE: "60"}
FIVE_MINUTES = timedelta(minutes=5)
RENEWALS = 3


async def test_an_owner_that_slept_past_its_lease_writes_nothing_more(arena: Market) -> None:
    """P6, F6, I17: every write of the sleeper is refused, and its sagas end once."""
    findings, who, owners = Findings(), await customers(arena), await new_owners(arena.suite)
    await all_take_orders(arena, who, owners.replicas.values())
    for number in range(STOPS):
        await stop_and_continue(arena, who, owners, number, findings)
    assert findings.fired == STOPS
    assert findings.fence_refusals >= findings.taken_over >= STOPS
    await findings.prove(arena)


async def test_a_replica_that_is_killed_under_load_loses_nothing(arena: Market) -> None:
    """P5, P8, F1."""
    findings, who, owners = Findings(), await customers(arena), await new_owners(arena.suite)
    await all_take_orders(arena, who, owners.replicas.values())
    await kill_under_load(arena, who, owners, 0, findings)
    assert (findings.fired, findings.taken_over > 0) == (1, True)
    await findings.prove(arena)


@asynccontextmanager
async def orders_under_way(market: Market, who: Customers) -> AsyncIterator[None]:
    """A handful of orders that are paid slowly, and are confirmed once the block is left."""
    async with asyncio.TaskGroup() as group:
        placing = [group.create_task(who.slow.insist({who.sku: 1}, key=str(new_id()))) for _ in range(ORDERS)]
        yield
    assert {task.result().status for task in placing} == {201}


@asynccontextmanager
async def health_of(address: str) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def test_a_replica_that_is_told_to_stop_hands_its_sagas_over_at_once(arena: Market) -> None:
    """P9, F22: not ready, drained, its lease given back, its sagas with others, nothing lost."""
    suite, who = arena.suite, await customers(arena)
    replica = await start_replica(suite, SPARE, LONG_LEASE)
    await all_take_orders(arena, who, [replica])
    async with health_of(suite.address(SPARE)) as health, orders_under_way(arena, who):
        readiness = health.Watch(health_pb2.HealthCheckRequest())
        assert (await readiness.read()).status == health_pb2.HealthCheckResponse.SERVING
        await eventually(lambda: mid_call(suite, replica, "payment"))
        held = await driven_by(suite, replica)
        suite.process(SPARE).send(signal.SIGTERM)
        assert (await readiness.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # They are the others' before the callers are drained.
        assert await driven_by(suite, replica) == []
        await suite.stop_process(SPARE)
        assert suite.process(SPARE).exit_code == 0
        assert await select(suite.dsn("sagas"), "SELECT id FROM replica WHERE id = %(id)s", id=replica) == []
    now = await epochs(suite, held)
    # Given up, and taken: a lease that ran out would raise the epoch once. Some may have ended before.
    raised = {now[saga.saga_id] - saga.epoch for saga in held}
    assert raised >= {2}, "nothing was handed over: the fault did not fire"
    assert raised <= {0, 2}
    await prove_everything(suite, arena.journal)


def wrong_clock(repository: Path, off: timedelta) -> dict[str, str]:
    """The environment of a process whose clock is wrong."""
    folders = [repository / "tests/chaos/skewed_clock", repository, repository / "protos/gen"]
    return {
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "SAGACITY_TEST_CLOCK_OFF_SECONDS": str(off.total_seconds()),
    }


async def lease_left(market: Market, replica: str) -> float:
    """Seconds until a replica's lease runs out, by the database's clock."""
    (row,) = await rows(
        market.suite.dsn("sagas"),
        """SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds
           FROM replica WHERE id = %(id)s""",
        id=replica,
    )
    return float(row["seconds"])


async def leases_left(market: Market, replica: str) -> list[float]:
    """The same over some renewals: so often has it looked for sagas of the dead, too."""
    lefts = [await lease_left(market, replica)]

    async def renewals() -> int:
        lefts.append(await lease_left(market, replica))
        return sum(later > earlier for earlier, later in pairwise(lefts))

    await eventually(renewals, until=lambda seen: seen >= RENEWALS)
    return lefts


async def driven_when_there_are_some(market: Market, replica: str) -> list[Driven]:
    return await eventually(lambda: driven_by(market.suite, replica))


@pytest.mark.parametrize("off", [FIVE_MINUTES, -FIVE_MINUTES], ids=["ahead", "behind"])
async def test_a_clock_that_is_five_minutes_off_does_no_harm_to_leases(
    arena: Market, repository: Path, off: timedelta
) -> None:
    """F21: it takes nothing from those that live, and nobody takes what it has."""
    suite, who = arena.suite, await customers(arena)
    owners = await new_owners(suite)
    await all_take_orders(arena, who, owners.replicas.values())
    replica = await start_replica(suite, SPARE, wrong_clock(repository, off))
    made = moment_of(UUID(replica)) - SystemClock().now()
    assert abs(made - off) < FIVE_MINUTES / 2, "its clock is right: the fault did not fire"
    async with orders_under_way(arena, who):
        held = [
            saga
            for owner in owners.replicas.values()
            for saga in await driven_when_there_are_some(arena, owner)
        ]
        assert max(await leases_left(arena, replica)) <= LEASE_SECONDS
    assert suite.process(SPARE).exit_code is None
    assert await epochs(suite, held) == {saga.saga_id: saga.epoch for saga in held}
    await ended(suite)
    await prove_everything(suite, arena.journal)


async def test_nobody_takes_the_sagas_of_a_replica_whose_clock_is_behind(
    arena: Market, repository: Path
) -> None:
    """F21: its lease would have run out minutes ago, were it the host's clock that counts."""
    suite, who = arena.suite, await customers(arena)
    replica = await start_replica(suite, SPARE, wrong_clock(repository, -FIVE_MINUTES))
    key = str(new_id())
    async with asyncio.TaskGroup() as group:
        placing = group.create_task(who.slow.insist({who.sku: 1}, key=key))
        saga_id, _ = await eventually(lambda: saga_with(suite, key, "payment", "do"))
        async with paused(suite, "inventory"):
            await eventually(lambda: saga_with(suite, key, "stock", "do"))
            await give_to(suite, saga_id, replica)
            await eventually(lambda: saga_with(suite, key, "stock", "undo"))
            held = await driven_by(suite, replica)
            assert max(await leases_left(arena, replica)) <= LEASE_SECONDS
            assert await still_driven(suite, held) == [saga_id]
    assert placing.result().json["code"] == "ORDER_TIMED_OUT"
    await prove_everything(suite, arena.journal)


@asynccontextmanager
async def paused(suite: Suite, name: str) -> AsyncIterator[None]:
    suite.pause(name)
    try:
        yield
    finally:
        suite.resume(name)
