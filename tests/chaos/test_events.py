"""Relays and consumers are killed, stopped and replaced under twenty writers (P7, F4, F5, F7, F19)."""

from __future__ import annotations

import pytest

from tests.chaos.findings import Findings, Report
from tests.conftest import NewDatabase
from tests.events.checker import Broken, Kind, kinds
from tests.events.processes import children_of
from tests.events.rounds import Seen, Sizes, under_faults
from tests.events.world import new_world

pytestmark = [pytest.mark.chaos, pytest.mark.kafka, pytest.mark.timeout(7200)]

FULL = Sizes(events=10_000, relay_kills=100, relay_stops=20, consumer_kills=50, rebalances=20)
SEED = 20_261_121


def note(findings: Findings, fired: int, found: list[Broken]) -> None:
    """One row of the report."""
    findings.rounds = findings.fired = fired
    findings.lost = int(Kind.LOST in kinds(found))
    findings.double = int(Kind.DOUBLE in kinds(found))


def report_on(report: Report, seen: Seen, found: list[Broken]) -> None:
    """What every kind of fault did."""
    note(report.of("SIGKILL of a relay"), seen.relay_kills, found)
    note(report.of("SIGSTOP of a relay"), seen.relay_stops, found)
    note(report.of("SIGKILL of a consumer"), seen.consumer_kills, found)
    note(report.of("rebalance"), seen.rebalances, found)
    note(report.of("duplicate in Kafka"), seen.duplicates, found)


async def test_ten_thousand_events_are_applied_once_and_in_order(
    new_database: NewDatabase, kafka_bootstrap_servers: str, report: Report
) -> None:
    """P7: 100 relay kills, 50 consumer kills, 20 rebalances, 20 interleaved writers with late commits."""
    async with new_world(new_database, kafka_bootstrap_servers) as world, children_of(world) as children:
        seen, found = await under_faults(world, children, FULL, SEED)
    report_on(report, seen, found)
    assert found == []
    assert seen.fired == FULL
    assert seen.events >= FULL.events
    assert seen.late_commits > 0
    assert seen.rolled_back > 0
    assert seen.duplicates >= seen.killed_after_ack > 0
