"""P7, F4, F5, F7, F19: a sample of what `make chaos` does in full (tests/chaos/test_events.py)."""

from __future__ import annotations

import pytest

from tests.conftest import NewDatabase
from tests.events.processes import children_of
from tests.events.rounds import Sizes, under_faults
from tests.events.world import new_world

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.timeout(600)]

SAMPLE = Sizes(events=500, relay_kills=4, relay_stops=1, consumer_kills=2, rebalances=2)
SEED = 7


async def test_no_event_is_lost_or_applied_twice_or_out_of_order(
    new_database: NewDatabase, kafka_bootstrap_servers: str
) -> None:
    """P7: kills of both at their worst moments, a relay past its lease, members that come and go."""
    async with new_world(new_database, kafka_bootstrap_servers) as world, children_of(world) as children:
        seen, found = await under_faults(world, children, SAMPLE, SEED)
    assert found == []
    assert seen.fired == SAMPLE
    assert seen.events >= SAMPLE.events
    assert seen.late_commits > 0
    assert seen.rolled_back > 0
    # Whoever died between Kafka's word and the delete left at least one event that came again.
    assert seen.duplicates >= seen.killed_after_ack > 0
