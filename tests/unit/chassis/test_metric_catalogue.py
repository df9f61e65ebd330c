"""There is one way to make a metric, and everything that has one is named as Prometheus wants it."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families

from chassis import metric_catalogue
from chassis.metric_catalogue import CATALOGUE, EVERY_PROCESS, Metric
from chassis.telemetry import REGISTRY, counter
from chassis.version import VERSION
from deploy.prometheus.catalogue import BEGIN, END, PAGE, load, section_of, tables, written

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ("chassis", "services", "orchestrator", "gateway", "cli", "deploy")
MAKERS = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum", "metrics", "core"}
METRICS = list(load().values())
# What others call them, or what Prometheus itself says of counters.
SCALED = re.compile(r"_(?:ms|millis|milliseconds|minutes|hours|kb|mb|percent)\b")


def imported_from_the_client(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_client"):
            names |= {alias.name for alias in node.names} | set((node.module or "").split(".")[1:])
        if isinstance(node, ast.Import):
            names |= {"core" for alias in node.names if alias.name.startswith("prometheus_client")}
    return names


def test_metrics_are_made_by_telemetry_and_nowhere_else() -> None:
    sources = [path for program in PROGRAMS for path in (ROOT / program).rglob("*.py")]
    makers = [str(path.relative_to(ROOT)) for path in sources if imported_from_the_client(path) & MAKERS]
    assert makers == ["chassis/telemetry.py"]


def test_the_registry_has_what_is_in_the_catalogue_and_nothing_else() -> None:
    registered = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in REGISTRY.collect()
    }
    assert registered == set(CATALOGUE)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_wants_it_and_says_what_it_is(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not SCALED.search(metric.name)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) and label != "le" for label in metric.labels)
    # The scrape configuration gives these to every series.
    assert not set(metric.labels) & {"job", "instance", "service"}
    assert metric.says.endswith((".", "`.", "interpreter."))
    assert metric.processes
    assert metric.processes <= EVERY_PROCESS


@pytest.mark.parametrize(
    "metric", [m for m in METRICS if m.kind == "histogram"], ids=lambda metric: metric.name
)
def test_the_buckets_of_a_histogram_ascend_and_are_few(metric: Metric) -> None:
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert 5 <= len(metric.buckets) <= 16


def test_what_the_clients_own_collectors_show_is_in_the_catalogue() -> None:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    shown = {
        (f"{family.name}_total" if family.type == "counter" else family.name, family.type, label)
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for label in frozenset(frozenset(sample.labels) for sample in family.samples)
    }
    own = metric_catalogue._OF_PYTHON
    assert shown == {(metric.name, metric.kind, frozenset(metric.labels)) for metric in own}


def test_a_name_is_entered_once() -> None:
    name = next(iter(CATALOGUE))
    with pytest.raises(ValueError, match=name):
        metric_catalogue.enter(CATALOGUE[name])


def test_a_counter_that_is_refused_by_the_catalogue_is_not_shown() -> None:
    before = set(CATALOGUE)
    with pytest.raises(ValueError, match="in the catalogue already"):
        counter("saga_started", "Twice.")
    assert set(CATALOGUE) == before


def test_the_page_is_written_between_its_markers_only() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert written(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert written(written(page, "new\n"), "new\n") == written(page, "new\n")


@pytest.mark.parametrize(
    "page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"]
)
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        written(page, "new")


def test_the_page_names_every_metric_with_its_labels_and_who_shows_it() -> None:
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (\w*) \| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _, _ in listed} == {
        (metric.name, metric.kind, metric.labels) for metric in METRICS
    }
    units = {name: unit for name, _, _, unit, _ in listed}
    assert units["http_server_request_seconds"] == "seconds"
    assert units["process_cpu_seconds_total"] == "seconds"
    assert units["process_resident_memory_bytes"] == "bytes"
    assert units["saga_open"] == ""
    shown_by = {name: who for name, _, _, _, who in listed}
    assert shown_by["saga_open"] == "orchestrator"
    assert shown_by["sagacity_consumer_lag"] == "users, orders"


def test_a_metric_of_no_section_is_refused() -> None:
    with pytest.raises(ValueError, match="made_up belongs to no section"):
        section_of("made_up")


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    (line,) = [
        line
        for line in tables([Metric("saga_x", "gauge", "a | b.", (), EVERY_PROCESS)]).splitlines()
        if "a " in line
    ]
    assert r"| a \| b. |" in line


def test_the_release_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION
    assert REGISTRY.get_sample_value("sagacity_build_info", {"version": VERSION}) == 1
