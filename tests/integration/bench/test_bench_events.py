"""The relay's benchmark runs, in small, and its counts fit together; the figures are nobody's assertion."""

from pathlib import Path
from typing import Any

import pytest

from tests.bench.events.figures import ROWS
from tests.integration.bench.benchmark import figures_of

# `kafka_jars`: it starts a broker of its own.
pytestmark = [pytest.mark.e2e, pytest.mark.kafka]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
async def measured(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> dict[str, Any]:
    """The figures of one quick run, and what it printed."""
    assert kafka_jars.parent == ROOT / ".sagacity"  # the benchmark takes them from there
    figures = tmp_path_factory.mktemp("bench") / "figures.json"
    written, printed = await figures_of("tests.bench.events", figures, "--quick")
    return written | {"printed": printed}


def test_the_benchmark_of_the_relay_writes_the_promised_keys(measured: dict[str, Any]) -> None:
    keys = {row.key for row in ROWS}
    assert {"events_per_second", "drain_200000_seconds", "resident_memory_growth_mib"} <= keys
    assert keys <= set(measured)
    may_be_nothing = {"lost", "double", "resident_memory_growth_mib", "relay_us", "postgres_us", "kafka_us"}
    assert all(measured[key] > 0 for key in keys - may_be_nothing)
    assert "events/s" in measured["printed"]


def test_every_event_of_the_benchmark_is_in_kafka_once(measured: dict[str, Any]) -> None:
    assert (measured["lost"], measured["double"]) == (0, 0)
