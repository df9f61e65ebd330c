"""Crash points, hit in real processes: replicas that die of theirs, while two others stay."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.crash_points import VARIABLE as CRASH_AT
from tests.chaos.crash_targets import DO, FULFIL_ORDER, ORCHESTRATOR, PLACE_ORDER, UNDO, Target
from tests.chaos.findings import Findings
from tests.chaos.replicas import DOOMED, HEALTHY, driven_by, start_replica, taken_over
from tests.chaos.traffic import (
    STOCK,
    confirmed_orders,
    order_that_is_cancelled_at_once,
    order_that_is_undone_late,
    order_until,
    request,
)
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Market, Shopper

AT_ONCE = len(DOOMED)
BUYERS = 3
MAX_LATE_ORDERS = 10
REQUESTS_EACH = 3
# So that there is something left to take when an order is shipped.
MANUAL_CAPTURE = {"SAGACITY_ORCHESTRATOR_CAPTURE_MODE": "manual"}


@dataclass(frozen=True)
class Doomed:
    """A process that waits for its crash point; `replica` is its id in the journal, of an orchestrator."""

    target: Target
    process: str
    pid: int | None
    replica: str | None


@dataclass(frozen=True)
class Customers:
    """Who orders what."""

    quick: Shopper
    slow: Shopper
    sku: str


async def customers(market: Market) -> Customers:
    """Settle the customers of the rounds in."""
    return Customers(
        await market.shopper(), await market.shopper("tok_slow"), await market.product(stock=STOCK)
    )


async def hit(market: Market, who: Customers, targets: Sequence[Target], findings: Findings) -> None:
    """Run traffic until every target has killed its process, and wait until nothing of theirs is left behind.

    All targets are of one kind of saga and direction (`crash_targets.batches`).
    """
    orders = await _orders_to_work_on(market, who, targets)
    doomed = [await _doom(market, target, DOOMED[place]) for place, target in enumerate(targets)]
    findings.rounds += len(targets)
    async with asyncio.TaskGroup() as group:
        for one in doomed:
            group.create_task(_see_it_die(market, one, findings))
        for traffic in _traffic(market, who, doomed, orders):
            group.create_task(traffic)


async def _orders_to_work_on(market: Market, who: Customers, targets: Sequence[Target]) -> list[str]:
    """Confirmed orders for sagas that begin with one; made before anybody is doomed."""
    kind, number = targets[0].kind, REQUESTS_EACH * len(targets)
    if kind == PLACE_ORDER or targets[0].operation is UNDO:
        return []
    if kind != FULFIL_ORDER:
        return await confirmed_orders(who.quick, who.sku, number)
    await _restart_healthy(market, MANUAL_CAPTURE)
    orders = await confirmed_orders(who.quick, who.sku, number)
    await _restart_healthy(market, {})
    return orders


def _traffic(
    market: Market, who: Customers, doomed: Sequence[Doomed], orders: Sequence[str]
) -> Iterator[Coroutine[Any, Any, object]]:
    if orders:
        for place, one in enumerate(doomed):
            yield _requests(market, who, one, orders[place :: len(doomed)])
    elif doomed[0].target.operation is DO:
        for _ in range(BUYERS):
            yield order_until(lambda: _all_dead(market, doomed), who.quick, who.sku)
    elif doomed[0].target.kind == PLACE_ORDER:
        for one in doomed:
            yield _late_orders(market, who, one)
    else:
        for one in doomed:
            yield _orders_cancelled_at_once(market, who, one)


async def _restart_healthy(market: Market, extra: Mapping[str, str]) -> None:
    await asyncio.gather(*(market.suite.restart(name, extra) for name in HEALTHY))


async def _doom(market: Market, target: Target, spare: str) -> Doomed:
    crash = {CRASH_AT: target.crash_at}
    if target.process == ORCHESTRATOR:
        replica = await start_replica(market.suite, spare, crash)
        return Doomed(target, spare, market.suite.process(spare).pid, replica)
    await market.suite.restart(target.process, crash)
    return Doomed(target, target.process, market.suite.process(target.process).pid, None)


async def _see_it_die(market: Market, one: Doomed, findings: Findings) -> None:
    process = market.suite.process(one.process)

    async def exit_code() -> int | None:
        return process.exit_code

    assert await eventually(exit_code, until=lambda code: code is not None) == -signal.SIGKILL, one
    died_at = time.monotonic()
    if one.replica is None:
        market.suite.start_process(one.process)
        await market.suite.wait_ready(one.process)
        findings.saw(one.target.crash_at, taken_over=0, seconds=None)
        return
    left_behind = await driven_by(market.suite, one.replica)
    await taken_over(market.suite, left_behind)
    seconds = time.monotonic() - died_at
    findings.saw(one.target.crash_at, taken_over=len(left_behind), seconds=seconds)


def _is_dead(market: Market, one: Doomed) -> bool:
    # A service may run again by now.
    return market.suite.process(one.process).pid != one.pid


def _all_dead(market: Market, doomed: Sequence[Doomed]) -> bool:
    return all(_is_dead(market, one) for one in doomed)


async def _late_orders(market: Market, who: Customers, one: Doomed) -> None:
    for _ in range(MAX_LATE_ORDERS):
        await order_that_is_undone_late(market, who.slow, who.sku, one.replica)
        if _is_dead(market, one):
            return
    raise AssertionError(f"{MAX_LATE_ORDERS} orders were undone, and {one.target.crash_at} was not reached")


async def _orders_cancelled_at_once(market: Market, who: Customers, one: Doomed) -> None:
    for _ in range(MAX_LATE_ORDERS):
        await order_that_is_cancelled_at_once(market, who.slow, who.sku, one.process)
        if _is_dead(market, one):
            return
    raise AssertionError(f"{MAX_LATE_ORDERS} orders were cancelled, and {one.target.crash_at} not reached")


async def _requests(market: Market, who: Customers, one: Doomed, orders: Sequence[str]) -> None:
    first_to = one.process if one.replica else HEALTHY[0]
    # All of them, also after its death: whose money is taken when it is shipped, is shipped.
    for order_id in orders:
        await request(market.suite, one.target.kind, order_id, who.quick.user_id, first_to)

    async def is_dead() -> bool:
        return _is_dead(market, one)

    # Whoever asked it has heard of its end a little before the kernel has put it away.
    assert await eventually(is_dead), one
