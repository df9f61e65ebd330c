"""The benchmark runs and says what it promises to say; what it measures is nobody's assertion."""

import os
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.capacity_costs import DATABASES, FILE, measured, parsed
from cli.capacity_model import plan
from cli.capacity_workload import Workload
from deploy.local.errors import LocalDeployError
from tests.bench import costs as costs_of_operations
from tests.bench import orders
from tests.bench.costs import BusyMachineError, check_that_the_machine_is_free
from tests.integration.bench.benchmark import figures_of

# The benchmark of costs starts Apache Kafka, and waits until everything is applied.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[3]


async def test_the_benchmark_of_orders_writes_the_promised_keys(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    written, _ = await figures_of("tests.bench.orders", figures, "--clients", "2", "--seconds", "1")
    keys = {"orders_per_second", "p50_ms", "p95_ms", "p99_ms", "peak_rss_mib"}
    assert all(written[key] > 0 for key in keys)
    assert set(written["steady_statuses"]) == {"201"}


async def test_the_costs_of_operations_are_whole_for_the_calculator(tmp_path: Path, kafka_jars: Path) -> None:
    figures = tmp_path / "costs.json"
    written, _ = await figures_of("tests.bench.orders", figures, "--costs", "--quick")
    costs = parsed(written)
    for kind in ("confirmed", "declined"):
        assert costs.events[kind] == measured().events[kind]
    # Of all kinds together: a server tells of its log seconds later, in a run this short in another phase.
    assert all(sum(of_kind[name] for of_kind in costs.wal_bytes.values()) > 0 for name in DATABASES)
    assert sum(costs.process_seconds["confirmed"].values()) > 0
    assert costs.consumer_events_per_second > 0
    assert plan(Workload(100), costs).processes


def test_a_machine_that_does_something_else_is_refused_with_its_load() -> None:
    check_that_the_machine_is_free(load=1.0, cores=2)
    with pytest.raises(
        BusyMachineError, match=r"load of this machine is 1\.01, above 0\.5 for each of its 2"
    ):
        check_that_the_machine_is_free(load=1.01, cores=2)


@pytest.mark.parametrize("load", [0.0, 50.0])
def test_costs_are_measured_on_a_free_machine_only_unless_told_otherwise(
    load: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measurements = []

    async def measure(*_: object) -> dict[str, Any]:
        measurements.append(load)
        raise LocalDeployError("far enough")

    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(costs_of_operations, "measure", measure)
    with pytest.raises(typer.Exit):
        orders.main(costs=True)
    assert ("--even-if-busy" in capsys.readouterr().out) is (load > 1)
    assert len(measurements) == (0 if load > 1 else 1)
    with pytest.raises(typer.Exit):
        orders.main(costs=True, even_if_busy=True)
    assert "far enough" in capsys.readouterr().out


@pytest.mark.parametrize(("costs", "quick"), [(True, True), (False, False)])
def test_what_is_not_the_whole_does_not_become_the_committed_costs(*, costs: bool, quick: bool) -> None:
    before = FILE.read_bytes()
    with pytest.raises(typer.BadParameter):
        orders.main(costs=costs, quick=quick, json_to=FILE)
    assert FILE.read_bytes() == before
