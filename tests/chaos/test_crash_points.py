"""Every crash point of orchestrator and services, hit with SIGKILL in a real process (F1, F2)."""

from __future__ import annotations

import pytest

from tests.chaos.crash_rounds import AT_ONCE, customers, hit
from tests.chaos.crash_targets import all_targets, batches
from tests.chaos.findings import Report
from tests.e2e.shoppers import Market

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.timeout(3600)]


KINDS = sorted({target.kind for target in all_targets()})


@pytest.mark.parametrize("kind", KINDS)
async def test_at_every_crash_point_nothing_is_lost_and_nothing_happens_twice(
    arena: Market, report: Report, kind: str
) -> None:
    """P1, P2, P3, P5, P8."""
    targets = [target for target in all_targets() if target.kind == kind]
    findings, who = report.of(f"crash of {kind}"), await customers(arena)
    for batch in batches(targets, AT_ONCE):
        await hit(arena, who, batch, findings)
        await findings.prove(arena)
    assert sorted(findings.faults) == sorted(target.crash_at for target in targets)
