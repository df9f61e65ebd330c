"""A sample of the crash points, hit with SIGKILL in real processes; `make chaos` hits every one.

One of each family is in it: each moment of each kind of saga, forward and back, and the services' own points.
Which one changes from day to day; SAGACITY_TEST_ROTATION says it.
"""

from __future__ import annotations

import pytest

from chassis.clock import SystemClock
from tests.chaos.crash_rounds import AT_ONCE, customers, hit
from tests.chaos.crash_targets import JOURNAL_POINTS, SERVICE_POINTS, all_targets, batches, points_in, sample
from tests.chaos.findings import Findings
from tests.chaos.traffic import REQUESTS
from tests.conftest import ENVIRONMENT
from tests.e2e.shoppers import Market
from tests.events.rounds import CONSUMER_POINT, RELAY_POINTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROTATION = int(ENVIRONMENT.get("SAGACITY_TEST_ROTATION") or SystemClock().now().toordinal())


def test_every_crash_point_of_the_code_has_traffic_that_comes_there() -> None:
    assert set(points_in("services")) == set(SERVICE_POINTS)
    of_events = {*RELAY_POINTS, CONSUMER_POINT}
    assert {*points_in("orchestrator"), *points_in("chassis")} == {*JOURNAL_POINTS, *of_events}
    assert points_in("gateway") == []


def test_every_kind_of_saga_has_traffic() -> None:
    assert {target.kind for target in all_targets()} <= {"place_order", *REQUESTS}


def test_a_sample_has_one_of_each_family_and_all_come_in_turn() -> None:
    targets = all_targets()
    families = {target.family for target in targets}
    assert {target.family for target in sample(targets, 0)} == families
    assert len(sample(targets, 0)) == len(families)
    assert {target for turn in range(len(targets)) for target in sample(targets, turn)} == set(targets)


@pytest.mark.timeout(600)
async def test_at_a_crash_point_nothing_is_lost_and_nothing_happens_twice(arena: Market) -> None:
    """P1, P2, P3, P5, P8, F1, F2."""
    findings, who, targets = Findings(), await customers(arena), sample(all_targets(), ROTATION)
    for batch in batches(targets, AT_ONCE):
        await hit(arena, who, batch, findings)
    await findings.prove(arena)
    assert sorted(findings.faults) == sorted(target.crash_at for target in targets)
