"""The engine's benchmark runs, in small, and its counts fit together; the figures are nobody's assertion."""

from pathlib import Path
from typing import Any

import pytest

from tests.bench.engine.figures import ROWS
from tests.integration.bench.benchmark import figures_of

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[3]
RIVAL = {"dbos_workflows_per_second", "ratio_to_dbos", "dbos_p50_alone_ms", "p50_alone_ratio"}


@pytest.fixture(scope="module")
async def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of one quick run where DBOS is not installed, and what it printed."""
    figures = tmp_path_factory.mktemp("bench") / "figures.json"
    missing = figures.with_name("no-python")
    written, printed = await figures_of(
        "tests.bench.engine", figures, "--quick", "--dbos-python", str(missing)
    )
    return written | {"printed": printed}


def test_the_benchmark_of_the_engine_writes_the_promised_keys(measured: dict[str, Any]) -> None:
    keys = {row.key for row in ROWS}
    assert {"sagas_per_second", "ratio_to_dbos", "grpc_sagas_per_second", "takeover_seconds"} <= keys
    assert keys <= set(measured)
    assert {key for key in keys if measured[key] is None} == RIVAL
    may_be_nothing = {"lost", "double_effects", "resident_memory_growth_mib"}
    assert all(measured[key] > 0 for key in keys - RIVAL - may_be_nothing)


def test_without_dbos_the_benchmark_says_that_it_left_it_out(measured: dict[str, Any]) -> None:
    assert any("DBOS was left out" in note for note in measured["notes"])
    assert "DBOS was left out" in measured["printed"]


def test_every_saga_of_the_benchmark_ends_as_its_scenario_wants(measured: dict[str, Any]) -> None:
    assert set(measured["sagas_by_state"]) == {"COMPLETED"}
    assert set(measured["unwound_by_state"]) == {"COMPENSATED"}
    assert set(measured["grpc_sagas_by_state"]) == {"COMPLETED"}


def test_the_books_of_the_kill_fit_together(measured: dict[str, Any]) -> None:
    assert measured["taken_over"] > 0
    assert measured["completed_after_kills"] >= measured["acknowledged"] > 0
    assert (measured["lost"], measured["double_effects"], measured["missing_effects"]) == (0, 0, 0)
