"""Writes the tables of docs/metrics.md from the code: `python -m deploy.prometheus.catalogue [PAGE]`.

Only what stands between the two markers; the rest of the page is written by hand.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from chassis.metric_catalogue import (
    CALLERS,
    CATALOGUE,
    CONSUMERS,
    EVERY_PROCESS,
    SERVERS,
    SERVICES,
    Metric,
)

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
BEGIN: Final = "<!-- Generated from the code by `make gen`: begin. -->"
END: Final = "<!-- Generated from the code by `make gen`: end. -->"
PROGRAMS: Final = (
    "gateway",
    "orchestrator",
    "services.users",
    "services.inventory",
    "services.payments",
    "services.orders",
)
# A metric belongs to the first section that has its prefix.
SECTIONS: Final[Sequence[tuple[str, tuple[str, ...]]]] = (
    ("REST", ("http_server_", "gateway_")),
    ("RPCs", ("grpc_",)),
    ("Sagas", ("saga_",)),
    ("Outbox and relay", ("sagacity_relay_", "sagacity_outbox_")),
    ("Consumers", ("sagacity_consumer_", "sagacity_dead_letters", "sagacity_halted_keys")),
    ("The payment provider", ("payments_provider_",)),
    ("Orders that are called off by themselves", ("sagacity_cancellations_", "sagacity_provider_refunds_")),
    (
        "Databases",
        ("sagacity_pool_", "sagacity_statement_", "sagacity_replication_", "sagacity_commits_"),
    ),
    ("Traces", ("sagacity_trace_",)),
    ("Processes", ("sagacity_build_", "sagacity_event_loop_", "process_", "python_")),
)
_GROUPS: Final = (
    (EVERY_PROCESS, "all"),
    (SERVERS, "all but the gateway"),
    (SERVICES, "users, inventory, payments, orders"),
    (CALLERS, "gateway, orchestrator, orders"),
    (CONSUMERS, "users, orders"),
)


def load() -> dict[str, Metric]:
    """Returns the catalogue of all programs, by name; making a metric enters it."""
    for program in PROGRAMS:
        importlib.import_module(f"{program}.__main__")
    return dict(CATALOGUE)


def written(page: str, tables: str) -> str:
    """Returns the page with the tables in place of those that are there.

    Raises:
        ValueError: The page has not each marker once, in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError("the page must have each marker of the catalogue once")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def tables(metrics: Sequence[Metric]) -> str:
    """Returns a table for each section, in their order; in it metrics are as the code has them.

    Raises:
        ValueError: A metric belongs to no section.
    """
    by_section: dict[str, list[Metric]] = {title: [] for title, _ in SECTIONS}
    for metric in metrics:
        by_section[section_of(metric.name)].append(metric)
    return "\n".join(
        line for title, members in by_section.items() if members for line in _section(title, members)
    )


def section_of(name: str) -> str:
    """Returns the title of a metric's section.

    Raises:
        ValueError: There is none.
    """
    for title, prefixes in SECTIONS:
        if name.startswith(prefixes):
            return title
    raise ValueError(f"{name} belongs to no section of the catalogue")


def _section(title: str, metrics: Sequence[Metric]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield "| metric | type | labels | unit | shown by | says | look when |"
    yield "|---|---|---|---|---|---|---|"
    for metric in sorted(metrics, key=lambda one: one.name):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        cells = (
            f"`{metric.name}`", metric.kind, labels, metric.unit, _shown_by(metric), metric.says, metric.look,
        )  # fmt: skip
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _shown_by(metric: Metric) -> str:
    for group, words in _GROUPS:
        if metric.processes == group:
            return words
    return ", ".join(sorted(metric.processes))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    target.write_text(written(PAGE.read_text("utf-8"), tables(list(load().values()))), "utf-8")
