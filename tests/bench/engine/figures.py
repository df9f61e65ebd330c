"""The figures: what is to be reached, how they are shown, how they are written down."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        key: Of the figure.
        says: What it is.
        unit: Of the figure, for people.
        at_least: The figure passes from here on.
        at_most: The figure passes up to here.
    """

    key: str
    says: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    def passes(self, figures: Figures) -> bool | None:
        """Whether the figure is what is to be reached; None where nothing is, or it was not measured."""
        value = figures.get(self.key)
        if value is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def target(self) -> str:
        """What is to be reached, for people."""
        if self.at_least is not None:
            return f">= {self.at_least:,g}{self.unit}"
        return "" if self.at_most is None else f"<= {self.at_most:,g}{self.unit}"


ROWS = (
    Row("sagas_per_second", "4 no-op steps in process, 64 concurrent: sagas/s", at_least=2_000),
    Row("dbos_workflows_per_second", "DBOS, 4 no-op steps, 64 concurrent: workflows/s"),
    Row("ratio_to_dbos", "  ours to DBOS's", " x", at_least=20),
    Row("p50_alone_ms", "one saga alone: p50", " ms"),
    Row("dbos_p50_alone_ms", "DBOS, one workflow alone: p50", " ms"),
    Row("p50_alone_ratio", "  ours to DBOS's", " x", at_most=round(1 / 3, 3)),
    Row("grpc_sagas_per_second", "4 no-op steps over gRPC, 64 concurrent: sagas/s", at_least=800),
    Row("unwound_per_second", "the last of 4 refused, 3 undone: sagas/s"),
    Row("unwind_ratio", "  to the forward rate", " x", at_least=0.5),
    Row("takeover_seconds", "kill -9 of one of two replicas: its sagas go on after", " s", at_most=5),
    Row("takeover_seconds_worst", "  the worst round", " s", at_most=5),
    Row("lost", "  sagas lost, all rounds", at_most=0),
    Row("double_effects", "  double effects, all rounds", at_most=0),
    Row("full_journal_ratio", "with a full journal, to that with an empty one", " x", at_least=0.9),
    Row("resident_memory_growth_mib", "memory that a long run adds", " MiB", at_most=5),
)


def median(values: Sequence[float], digits: int = 1) -> float:
    """The median, rounded for people."""
    return round(statistics.median(values), digits)


def not_measured() -> Figures:
    """Every figure of the table, none of them measured yet."""
    return {row.key: None for row in ROWS}


def verdicts(figures: Figures) -> dict[str, bool]:
    """Which figures with a target pass."""
    return {row.key: passed for row in ROWS if (passed := row.passes(figures)) is not None}


def show(figures: Figures, console: Console) -> None:
    """Print the figures, and what they depend on."""
    machine = figures["machine"]
    title = f"the saga engine, {machine['cores']} cores, CPython {machine['python']}, fsync on"
    table = Table(title=f"{title}, medians of {figures['rounds']}")
    for heading in ("figure", "measured", "to reach", ""):
        table.add_column(heading, justify="right" if heading in {"measured", "to reach"} else "left")
    for row in ROWS:
        value = figures[row.key]
        if value is None:
            continue
        measured = f"{value:,}{row.unit}"
        table.add_row(row.says, measured, row.target(), _VERDICT(row.passes(figures)))
    console.print(table)
    if figures["processor_time"]:
        _show_shares(figures, console)
    for note in figures["notes"]:
        console.print(f"- {note}", highlight=False)


def _show_shares(figures: Figures, console: Console) -> None:
    shares = Table(title="processor time of one saga; Python: the engine's process and its load")
    for heading in ("", "Python", "PostgreSQL", "Python's share", "participant", "cores busy"):
        shares.add_column(heading, justify="left" if heading == "" else "right")
    for name, share in figures["processor_time"].items():
        shares.add_row(
            name.replace("_", " "),
            f"{share['python_us']:,} us",
            f"{share['postgres_us']:,} us",
            f"{share['python_share']:.0%}",
            f"{share['participant_us']:,} us" if "participant_us" in share else "",
            f"{share['cores_busy']:.0%}",
        )
    console.print(shares)


_VERDICT: Callable[[bool | None], str] = {None: "", True: "[green]pass[/]", False: "[red]miss[/]"}.__getitem__
