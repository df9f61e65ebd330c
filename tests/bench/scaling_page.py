"""The figures of docs/scaling.md, written from cli/capacity_costs.json: `python -m tests.bench.scaling_page`.

`make bench ARGS="--costs" JSON=cli/capacity_costs.json` does it, too.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from cli import capacity_tables
from cli.capacity_costs import (
    BROKER,
    DATABASES,
    FILE,
    PROCESSES,
    TOPICS,
    Costs,
    measured,
)
from cli.capacity_model import plan
from cli.capacity_workload import Workload

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
EXAMPLE_RATE = 100.0
EXAMPLE_WIDTH = 100
PROSE_WIDTH = 120
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measured_how(costs: Costs) -> str:
    """When and on what, and how far to trust it."""
    said = (
        f"Measured {costs.date} on {costs.machine}, at {costs.orders_per_second:g} confirmed orders a second;"
        f" the machine's load was {costs.load:g} before."
    )
    if not costs.was_free:
        said += (
            " **That machine was busy with other things, and the figures are too high** for one that is free:"
            " relay, consumers and journal work in batches, which were small."
        )
    return "\n".join(textwrap.wrap(said, PROSE_WIDTH)) + "\n"


def postgresql(costs: Costs) -> str:
    """What the figures of the databases have in them."""
    said = (
        "PostgreSQL by database, from the times of its backends. Its background work (checkpoints, vacuum,"
        f" the log's writer) is {costs.background_share['confirmed']:.0%} of what it does for an order;"
        " each database has its share of that, by the times of the backends. A read costs the orders database"
        f" {_ms(costs.database_seconds['order_read']['orders'] * 1000) or 'less than 0.05 ms'}, a page of"
        " products the inventory database"
        f" {_ms(costs.database_seconds['products_read']['inventory'] * 1000) or 'less than 0.05 ms'}."
    )
    return "\n".join(textwrap.wrap(said, PROSE_WIDTH)) + "\n"


def processes(costs: Costs) -> str:
    """What each operation costs each process, and what a core gives."""
    kinds = ("confirmed", "declined", "order_read", "products_read", "login")
    rows = []
    for name in (*PROCESSES, BROKER):
        cost = [costs.process_seconds[kind][name] * 1000 for kind in kinds]
        more = costs.process_seconds["confirmed_many"][name] * 1000 - cost[0]
        line = _ms(more / (costs.lines_of_many - 1))
        gives = f"{1000 / cost[0]:,.0f}" if name in PROCESSES else ""
        rows.append(
            [name if name != BROKER else "Kafka's broker", _ms(cost[0]), line, *map(_ms, cost[1:]), gives]
        )
    headings = [
        "process",
        "confirmed",
        "a line more",
        "declined",
        "order read",
        "page of products",
        "login",
        "orders/s of a core",
    ]
    return table(headings, rows)


def databases(costs: Costs) -> str:
    """What an order costs each database."""
    rows = [
        [
            name,
            _ms(costs.database_seconds["confirmed"][name] * 1000),
            _ms(costs.database_seconds["declined"][name] * 1000),
            f"{1 / costs.database_seconds['confirmed'][name]:,.0f}",
            f"{costs.table_bytes['confirmed'][name]:,.0f} B",
            f"{costs.wal_bytes['confirmed'][name]:,.0f} B",
        ]
        for name in DATABASES
    ]
    headings = [
        "database",
        "confirmed",
        "declined",
        "orders/s of a core",
        "rows and indexes",
        "write-ahead log",
    ]
    return table(headings, rows)


def topics(costs: Costs) -> str:
    """What an order publishes."""
    rows = [
        [
            f"`{name}`",
            f"{costs.events['confirmed'][name]:g}",
            f"{costs.topic_bytes['confirmed'][name]:,.0f} B",
        ]
        for name in TOPICS
    ]
    return table(["topic", "events an order", "bytes an order, one copy"], rows)


def others(costs: Costs) -> str:
    """What is no cost of an order."""
    peak = max(costs.memory_mib.values())
    rows = [
        [
            "one relay; not measured with the others",
            f"{costs.relay_events_per_second:,.0f} events/s ({costs.relay_source})",
        ],
        ["one consumer that is behind", f"{costs.consumer_events_per_second:,.0f} events/s"],
        ["orders of one SKU, beside orders of many", f"{costs.hot_sku_share:g} of the rate"],
        ["memory of a process, the most", f"{peak:.0f} MiB"],
        ["memory of a PostgreSQL backend, its own", f"{costs.backend_mib:g} MiB"],
        ["measured", f"{costs.date}, {costs.machine}"],
    ]
    return table(["", ""], rows)


def example(costs: Costs) -> str:
    """What `sagacity capacity --orders-per-second 100` prints."""
    workload = Workload(EXAMPLE_RATE)
    said = io.StringIO()
    Console(file=said, width=EXAMPLE_WIDTH, color_system=None).print(
        capacity_tables.of(workload, plan(workload, costs), costs)
    )
    lines = [line.rstrip() for line in said.getvalue().splitlines()]
    return "```text\n" + "\n".join(line for line in lines if line) + "\n```\n"


BLOCKS = {
    each.__name__: each for each in (measured_how, processes, postgresql, databases, topics, others, example)
}


def rendered(page: str, costs: Costs) -> str:
    """The page with its figures as they are in `costs`."""
    return _BLOCK.sub(lambda match: match[1] + BLOCKS[match[2]](costs) + match[3], page)


def write() -> None:
    """Bring the page up to date."""
    PAGE.write_text(rendered(PAGE.read_text("utf-8"), measured()), "utf-8")


def is_committed_file(path: Path) -> bool:
    """Whether these are the figures that the page quotes."""
    return path.resolve() == FILE.resolve()


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds >= 0.05 else ""


if __name__ == "__main__":
    write()
