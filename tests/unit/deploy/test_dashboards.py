"""The dashboards are complete, readable, and ask for metrics that there are."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from deploy.grafana.__main__ import FOLDER
from deploy.grafana.boards import BOARDS
from deploy.grafana.json_model import COLUMNS, dashboard
from deploy.grafana.panels import Unit
from tests.unit.deploy.metric_names import METRICS, wrong_in
from tests.unit.deploy.promql_names import asked
from tests.unit.deploy.test_alerts import ALERTS, RECORDED

FILES = sorted(FOLDER.glob("*.json"))
DASHBOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text("utf-8")) for path in FILES}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in DASHBOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
# Variables of Grafana's own, and of ours, as an expression may have them when it is sent.
SENT = {"$__rate_interval": "1m", "$service": "users|orders"}
NOT_DRAWN = {
    # Said better by what is drawn beside it.
    "process_virtual_memory_bytes", "process_start_time_seconds", "process_max_fds", "python_info",
    "python_gc_objects_collected_total", "python_gc_objects_uncollectable_total",
    "sagacity_outbox_horizon_alarms_total", "sagacity_cancellations_asked_total",
    "sagacity_cancellations_finished_total",
}  # fmt: skip


def sent(expression: str) -> str:
    for variable, value in SENT.items():
        expression = expression.replace(variable, value)
    return expression


def test_there_are_the_five_dashboards_as_the_code_has_them() -> None:
    assert set(DASHBOARDS) == {"orders", "sagas", "events", "services", "database"}
    assert {board.name: dashboard(board) for board in BOARDS} == DASHBOARDS


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_what_grafana_needs_to_provision_it(name: str) -> None:
    board = DASHBOARDS[name]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", board["uid"])
    assert board["title"]
    assert isinstance(board["schemaVersion"], int)
    assert "id" not in board, "Grafana gives it"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    assert len({board["uid"] for board in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_first_row_is_rate_errors_and_time(name: str) -> None:
    rows = [panel["title"] for panel in DASHBOARDS[name]["panels"] if panel["type"] == "row"]
    assert rows[0].endswith("rate, errors, time")
    assert DASHBOARDS[name]["panels"][0]["type"] == "row"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_overlaps_another_or_leaves_the_screen(name: str) -> None:
    places = [panel["gridPos"] for panel in DASHBOARDS[name]["panels"]]
    for place in places:
        assert min(place["x"], place["y"]) >= 0
        assert min(place["w"], place["h"]) > 0
        assert place["x"] + place["w"] <= COLUMNS
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_a_title_a_unit_and_words_that_help(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"] in get_args(Unit)
    assert panel["description"].endswith((".", "?"))
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])
    assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_for_metrics_that_there_are(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert wrong_in(sent(target["expr"]), RECORDED) == []


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_the_unit_of_what_it_shows(panel: dict[str, Any]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        seconds = re.search(r"_seconds(?:_bucket|\b)", target["expr"]) and "_count" not in target["expr"]
        if "histogram_quantile" in target["expr"] or (seconds and "cpu" not in target["expr"]):
            assert unit == "s", target["expr"]
        if "_bytes" in target["expr"]:
            assert unit == "bytes", target["expr"]
        if ":ratio" in target["expr"]:
            assert unit == "percentunit", target["expr"]


@pytest.mark.parametrize("panel", PANELS)
def test_what_a_legend_names_is_left_by_its_expression(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        found = asked(sent(target["expr"]))
        own = {
            label
            for selector in found.selectors
            if selector.metric in METRICS
            for label in METRICS[selector.metric].labels
        } | {"instance", "service"}
        assert named <= (found.groups or own), target["expr"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_link_leads_to_an_entry_of_the_runbook(panel: dict[str, Any]) -> None:
    for link in panel["links"]:
        where, _, entry = link["url"].partition("#")
        assert where == "${repository:raw}docs/runbook.md"
        assert entry in {name.lower() for name in ALERTS}


def test_every_metric_is_drawn_somewhere() -> None:
    drawn = {
        selector.metric
        for board in DASHBOARDS.values()
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for selector in asked(sent(target["expr"])).selectors
    }
    # What a recorded ratio is made of is drawn by it.
    missing = {name for name, metric in METRICS.items() if not drawn & set(metric.series)}
    assert missing == NOT_DRAWN


def test_the_folder_has_nothing_else(tmp_path: Path) -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{board.name}.json" for board in BOARDS}
