"""The databases crash under load, again and again (F8)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest

from chassis.ids import new_id
from tests.chaos.crash_rounds import Customers, customers
from tests.chaos.findings import Findings, Report
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Market, Shopper

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.timeout(7200)]

CRASHES = 100
# The books are compared so often; what is wrong is found by the end in any case.
PROVE_EVERY = 20
BUYERS = 3
MAX_ORDERS_OF_A_ROUND = 400
WAIT_SECONDS = 5
PAUSE_SECONDS = 0.1
# So many of them before the crash, during it, and after it.
ENOUGH = 3
AWAY = {503, 504}
# An answer while a database is away: the order as it stands, or that nobody knows. Never another.
ANSWERS = {201, 202, *AWAY}


@dataclass
class Round:
    """What the customers of one round did and were told; the keys whose end nobody knows yet."""

    said: list[int] = field(default_factory=list)
    open_keys: list[tuple[Shopper, str]] = field(default_factory=list)
    over: bool = False

    async def buy(self, shopper: Shopper, sku: str) -> None:
        """Send one order after the other, each once, until the round is over."""
        for _ in range(MAX_ORDERS_OF_A_ROUND):
            if self.over:
                return
            key = str(new_id())
            answer = await shopper.place({sku: 1}, key=key, wait_seconds=WAIT_SECONDS)
            self.said.append(answer.status)
            if answer.status != 201:
                self.open_keys.append((shopper, key))
                await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError(f"{MAX_ORDERS_OF_A_ROUND} orders, and the round was not over")

    async def told(self, statuses: set[int], since: int) -> int:
        """Wait until enough customers were told one of `statuses`; how many answers there are by then."""

        async def enough() -> bool:
            return sum(status in statuses for status in self.said[since:]) >= ENOUGH

        await eventually(enough)
        return len(self.said)


async def crash_once(market: Market, who: Customers, findings: Findings) -> None:
    """One round: all databases crash under load, and come back; whoever asked learns how it ended."""
    suite, one = market.suite, Round()
    findings.rounds += 1
    async with asyncio.TaskGroup() as group:
        for shopper in (who.quick, who.slow):
            for _ in range(BUYERS):
                group.create_task(one.buy(shopper, who.sku))
        await one.told({201}, 0)
        suite.postgres.kill()
        crashed = len(one.said)
        await one.told(AWAY, crashed)
        suite.postgres.launch()
        await asyncio.to_thread(suite.postgres.wait_ready)
        healed = len(one.said)
        await one.told({201}, healed)
        one.over = True
    assert set(one.said) <= ANSWERS, Counter(one.said)
    ends = await asyncio.gather(*(shopper.insist({who.sku: 1}, key=key) for shopper, key in one.open_keys))
    assert {answer.status for answer in ends} == {201}
    findings.saw("crash of the databases", taken_over=0, seconds=None)


async def test_a_hundred_crashes_of_the_databases_lose_no_accepted_order(
    arena: Market, report: Report
) -> None:
    """P5, P8, F8."""
    findings, who = report.of("crash of the databases"), await customers(arena)
    for number in range(CRASHES):
        await crash_once(arena, who, findings)
        if number % PROVE_EVERY == PROVE_EVERY - 1:
            await findings.prove(arena)
    assert findings.fired == CRASHES
