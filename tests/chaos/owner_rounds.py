"""Replicas that are stopped and continued, or killed, while they drive sagas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chassis.ids import new_id
from deploy.local.suite import Suite
from tests.chaos.crash_rounds import Customers
from tests.chaos.findings import Findings
from tests.chaos.replicas import HEALTHY, Driven, driven_by, metric, mid_call, start_replica, taken_over
from tests.chaos.traffic import WAIT_SECONDS, order_until
from tests.e2e.books import rows, select
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Answer, Market, Shopper

FENCES = "saga_fence_refusals_total"
ORDERS_AT_ONCE = 6
BUYERS = 4
# Where the sagas are when their owner is stopped: the participant that is stopped with it, and the step.
# "": nobody is; the customer pays slowly.
MOMENTS = (("", "payment"), ("inventory", "reservation"), ("payments", "payment"))


@dataclass
class Owners:
    """The ids in the journal of the two orchestrators that stay."""

    replicas: dict[str, str]


async def new_owners(suite: Suite) -> Owners:
    """Start both orchestrators anew, one after the other, to know their ids."""
    replicas = {}
    for name in HEALTHY:
        await suite.stop_process(name)
        replicas[name] = await start_replica(suite, name)
    return Owners(replicas)


async def all_take_orders(market: Market, who: Customers, replicas: Collection[str]) -> None:
    """Wait until the gateway is connected with all of `replicas`: it hands orders out in turn."""
    keys: list[str] = []

    async def without_an_order() -> set[str]:
        keys.append(str(new_id()))
        await who.quick.insist({who.sku: 1}, key=keys[-1])
        query = """SELECT DISTINCT owner FROM saga JOIN idempotency ON saga_id = id
                   WHERE idempotency.key = ANY (%(keys)s)"""
        return set(replicas) - set(await select(market.suite.dsn("sagas"), query, keys=keys))

    await eventually(without_an_order, until=lambda without: not without)


async def stop_and_continue(
    market: Market, who: Customers, owners: Owners, number: int, findings: Findings
) -> None:
    """One round: an owner sleeps past its lease, all its sagas change hands, it wakes, and may write nothing.

    The call that it was in ends well or not; what it writes after that comes with an epoch that is over.
    """
    suite, victim = market.suite, HEALTHY[number % len(HEALTHY)]
    participant, step = MOMENTS[number % len(MOMENTS)]
    findings.rounds += 1
    refused_before = await metric(suite, victim, FENCES)
    async with _under_way(market, who, participant) as placing:
        await eventually(lambda: mid_call(suite, owners.replicas[victim], step))
        suite.pause(victim)
        held = await driven_by(suite, owners.replicas[victim])
        assert held, "the owner that was stopped drove nothing"
        stopped_at = time.monotonic()
        await taken_over(suite, held)
        seconds = time.monotonic() - stopped_at
        lost = await _raised(suite, held)
        if participant:
            suite.resume(participant)
        suite.resume(victim)
        fences = await eventually(
            lambda: metric(suite, victim, FENCES),
            until=lambda refused: refused - refused_before >= len(lost) > 0,
        )
        await _all_confirmed(placing)
    refusals = int(fences - refused_before)
    findings.saw(f"SIGSTOP at {step}", taken_over=len(lost), seconds=seconds, fences=refusals)


@asynccontextmanager
async def _under_way(
    market: Market, who: Customers, participant: str
) -> AsyncIterator[list[asyncio.Task[Answer]]]:
    """A handful of orders at once, that come no further than the participant which is stopped."""
    shopper = who.quick if participant else who.slow
    if participant:
        market.suite.pause(participant)
    try:
        yield [asyncio.create_task(_insist(shopper, who.sku)) for _ in range(ORDERS_AT_ONCE)]
    finally:
        if participant:
            market.suite.resume(participant)
        for name in HEALTHY:
            market.suite.resume(name)


async def _insist(shopper: Shopper, sku: str) -> Answer:
    return await shopper.insist({sku: 1}, key=str(new_id()), wait_seconds=WAIT_SECONDS)


async def _all_confirmed(placing: list[asyncio.Task[Answer]]) -> None:
    answers = await asyncio.gather(*placing)
    assert {answer.status for answer in answers} == {201}, answers


async def _raised(suite: Suite, held: list[Driven]) -> list[Driven]:
    """Those of `held` that somebody has taken over, and not those that had just ended."""
    now = await epochs(suite, held)
    return [saga for saga in held if now[saga.saga_id] > saga.epoch]


async def epochs(suite: Suite, sagas: list[Driven]) -> dict[str, int]:
    """In which epoch each of them is by now."""
    found = await rows(
        suite.dsn("sagas"),
        "SELECT id::text, epoch FROM saga WHERE id = ANY (%(ids)s::uuid[])",
        ids=[saga.saga_id for saga in sagas],
    )
    return {row["id"]: row["epoch"] for row in found}


async def kill_under_load(
    market: Market, who: Customers, owners: Owners, number: int, findings: Findings
) -> None:
    """One round: kill -9 of one of two replicas under load; its sagas go on, and nobody notices."""
    suite, victim = market.suite, HEALTHY[number % len(HEALTHY)]
    findings.rounds += 1
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        buying = [
            group.create_task(order_until(done.is_set, shopper, who.sku))
            for shopper in (who.quick, who.slow)
            for _ in range(BUYERS)
        ]
        await eventually(lambda: mid_call(suite, owners.replicas[victim], "payment"))
        suite.kill(victim)
        killed_at = time.monotonic()
        left_behind = await driven_by(suite, owners.replicas[victim])
        assert left_behind, "the replica that was killed drove nothing"
        await taken_over(suite, left_behind)
        seconds = time.monotonic() - killed_at
        done.set()
    assert sum(task.result() for task in buying) > 0
    findings.saw("SIGKILL under load", taken_over=len(left_behind), seconds=seconds)
    owners.replicas[victim] = await start_replica(suite, victim)
    await all_take_orders(market, who, owners.replicas.values())
