"""Owners of sagas that are stopped and continued, and killed, again and again (F1, F6)."""

from __future__ import annotations

import pytest

from tests.chaos.crash_rounds import customers
from tests.chaos.findings import Report
from tests.chaos.owner_rounds import all_take_orders, kill_under_load, new_owners, stop_and_continue
from tests.e2e.shoppers import Market

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.timeout(7200)]

STOPS = 200
KILLS = 20
# The books are compared so often; what is wrong is found by the end in any case.
PROVE_EVERY = 20


async def test_two_hundred_owners_that_slept_past_their_lease_write_nothing(
    arena: Market, report: Report
) -> None:
    """P6, F6."""
    findings, who, owners = (
        report.of("SIGSTOP of an owner"),
        await customers(arena),
        await new_owners(arena.suite),
    )
    await all_take_orders(arena, who, owners.replicas.values())
    for number in range(STOPS):
        await stop_and_continue(arena, who, owners, number, findings)
        if number % PROVE_EVERY == PROVE_EVERY - 1:
            await findings.prove(arena)
    assert findings.fired == STOPS
    assert findings.fence_refusals >= findings.taken_over >= STOPS


async def test_replicas_that_are_killed_under_load_lose_nothing(arena: Market, report: Report) -> None:
    """P5, P8, F1."""
    findings, who, owners = (
        report.of("SIGKILL under load"),
        await customers(arena),
        await new_owners(arena.suite),
    )
    await all_take_orders(arena, who, owners.replicas.values())
    for number in range(KILLS):
        await kill_under_load(arena, who, owners, number, findings)
        await findings.prove(arena)
    assert findings.fired == KILLS
    assert findings.taken_over >= KILLS
