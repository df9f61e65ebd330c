"""Grafana's JSON of a dashboard, as file provisioning reads it (schema 39, Grafana 11)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from deploy.grafana.panels import Board, Panel, Row

SCHEMA_VERSION: Final = 39
COLUMNS: Final = 24
GRAPH_HEIGHT: Final = 8
NUMBER_HEIGHT: Final = 4
TAG: Final = "sagacity"

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_GREEN_ONLY: Final[list[dict[str, Any]]] = [{"color": "green", "value": None}]


def dashboard(board: Board) -> dict[str, Any]:
    """Returns the JSON of a dashboard."""
    return {
        "uid": f"sagacity-{board.name}",
        "title": board.title,
        "description": board.about,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {"list": list(_variables(board))},
        "links": [_other_dashboards()],
        "panels": list(_panels(board)),
    }


def _variables(board: Board) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "refresh": 1,
        "options": [],
        "current": {},
    }
    if board.by_service:
        query = 'label_values(up{job=~"sagacity.*"}, service)'
        yield {
            "name": "service",
            "label": "Service",
            "type": "query",
            "datasource": _DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": "services"},
            "hide": 0,
            "multi": True,
            "includeAll": True,
            "refresh": 2,
            "sort": 1,
            "options": [],
            "current": {"text": ["All"], "value": ["$__all"]},
        }
    # Whoever serves the repository somewhere sets this one value; docs/runbook.md says how.
    where = ""
    yield {
        "name": "repository",
        "label": "Address of the repository, with its last slash",
        "type": "textbox",
        "query": where,
        "hide": 0,
        "options": [{"selected": True, "text": where, "value": where}],
        "current": {"text": where, "value": where},
    }


def _other_dashboards() -> dict[str, Any]:
    return {
        "title": "Sagacity",
        "type": "dashboards",
        "tags": [TAG],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def _panels(board: Board) -> Iterator[dict[str, Any]]:
    top, panel_id = 0, 1
    for row in board.rows:
        yield _heading(row, panel_id, top)
        top, panel_id = top + 1, panel_id + 1
        left = height = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            tall = NUMBER_HEIGHT if panel.kind == "stat" else GRAPH_HEIGHT
            place = {"x": left, "y": top, "w": panel.width, "h": tall}
            yield _panel(panel, panel_id, place)
            left, height, panel_id = left + panel.width, max(height, tall), panel_id + 1
        top += height


def _heading(row: Row, panel_id: int, top: int) -> dict[str, Any]:
    return {
        "id": panel_id,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        "panels": [],
    }


def _panel(panel: Panel, panel_id: int, place: dict[str, int]) -> dict[str, Any]:
    link = {
        "title": "Runbook",
        "url": f"${{repository:raw}}docs/runbook.md#{panel.alert.lower()}",
        "targetBlank": True,
    }
    return {
        "id": panel_id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "links": [link] if panel.alert else [],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _number_options() if panel.kind == "stat" else _graph_options(),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = list(_GREEN_ONLY)
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    field: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [],
    }
    if panel.kind == "timeseries":
        field["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 10,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return field


def _graph_options() -> dict[str, Any]:
    legend = {
        "showLegend": True,
        "displayMode": "table",
        "placement": "bottom",
        "calcs": ["lastNotNull", "max"],
    }
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _number_options() -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "area",
        "textMode": "value",
        "orientation": "auto",
        "justifyMode": "auto",
    }
