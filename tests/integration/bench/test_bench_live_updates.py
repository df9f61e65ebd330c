"""The benchmark of what a gateway hears runs, in small; the figure is nobody's assertion."""

import re
from pathlib import Path

import pytest

from tests.integration.bench.benchmark import ROOT, output_of


# `kafka_jars`: it starts a broker of its own.
@pytest.mark.e2e
@pytest.mark.kafka
async def test_the_benchmark_of_live_updates_tells_what_an_event_costs(kafka_jars: Path) -> None:
    assert kafka_jars.parent == ROOT / ".sagacity"  # the benchmark takes them from there
    said = await output_of("tests.bench.live_updates", "--quick")
    assert re.fullmatch(r"300 events a second: -?\d+ us each", said.splitlines()[-1])
