"""What a dashboard is made of, without Grafana's JSON: rows of panels, each with its queries and its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Grafana's names of units.
Unit = Literal["reqps", "ops", "s", "percentunit", "short", "bytes"]
Kind = Literal["timeseries", "stat"]


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and how its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        title: What it shows.
        unit: Grafana's name of the unit.
        about: What it means and what to do about it; shown beside the title.
        queries: What is drawn.
        alert: The alert whose entry in the runbook it links to; empty: none.
        kind: A course over time, or the newest number.
        width: In Grafana's columns, of which there are 24.
        stacked: Whether the series are added up.
        red_from: The number from which it is red; None: never.
    """

    title: str
    unit: Unit
    about: str
    queries: tuple[Query, ...]
    alert: str = ""
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    red_from: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; they flow from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; `by_service` gives it the choice of services, as `$service`."""

    name: str
    title: str
    about: str
    rows: tuple[Row, ...]
    by_service: bool = False


def graph(title: str, unit: Unit, about: str, *queries: tuple[str, str], alert: str = "") -> Panel:
    """A course over time; a query is an expression and a legend."""
    return Panel(title, unit, about, tuple(Query(*query) for query in queries), alert)


def wide(title: str, unit: Unit, about: str, *queries: tuple[str, str], alert: str = "") -> Panel:
    """The same, half as wide as the screen."""
    return Panel(title, unit, about, tuple(Query(*query) for query in queries), alert, width=12)


def stacked(title: str, unit: Unit, about: str, *queries: tuple[str, str], alert: str = "") -> Panel:
    """The same as `graph`, the series added up."""
    return Panel(title, unit, about, tuple(Query(*query) for query in queries), alert, stacked=True)


def number(title: str, unit: Unit, about: str, expression: str, *, alert: str, red_from: float) -> Panel:
    """The newest value, red where it is no good."""
    queries = (Query(expression, title),)
    return Panel(title, unit, about, queries, alert, kind="stat", width=6, red_from=red_from)
