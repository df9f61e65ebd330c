"""The figures of the relay: what is to be reached, and how they are shown."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.bench.engine.figures import Figures, Row

ROWS = (
    Row("events_per_second", "from the outbox to acknowledged, one relay: events/s", at_least=5_000),
    Row("events_per_second_worst", "  the worst round"),
    Row("drain_200000_per_second", "a backlog drains: events/s", at_least=5_000),
    Row("drain_200000_seconds", "  in", " s"),
    Row("resident_memory_growth_mib", "  memory of the process that it adds at most", " MiB", at_most=8),
    Row("lost", "events that are not in Kafka, all rounds", at_most=0),
    Row("double", "events that are in Kafka twice, all rounds", at_most=0),
    Row("relay_us", "processor time of one event: the relay", " us"),
    Row("postgres_us", "  PostgreSQL", " us"),
    Row("kafka_us", "  Kafka", " us"),
)
_VERDICTS = {None: "", True: "[green]pass[/]", False: "[red]miss[/]"}


def verdicts(figures: Figures) -> dict[str, bool]:
    """Which figures with a target pass."""
    return {row.key: passed for row in ROWS if (passed := row.passes(figures)) is not None}


def show(figures: Figures, console: Console) -> None:
    """Print the figures, and what they depend on."""
    machine = figures["machine"]
    title = f"the relay, {machine['cores']} cores, CPython {machine['python']}, fsync on, Apache Kafka"
    table = Table(title=f"{title}, medians of {figures['rounds']}")
    for heading in ("figure", "measured", "to reach", ""):
        table.add_column(heading, justify="right" if heading in {"measured", "to reach"} else "left")
    for row in ROWS:
        table.add_row(
            row.says, f"{figures[row.key]:,}{row.unit}", row.target(), _VERDICTS[row.passes(figures)]
        )
    console.print(table)
    sizes = f"{figures['round_events']:,} events a round, {figures['backlog_events']:,} in the backlog"
    for note in [sizes, *figures["notes"]]:
        console.print(f"- {note}", highlight=False)
