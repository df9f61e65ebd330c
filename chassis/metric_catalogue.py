"""The one catalogue of metrics: what each is called, what it says, and which processes show it.

`chassis.telemetry` enters a metric here when it makes it; `python -m deploy.prometheus.catalogue` writes
`docs/metrics.md` from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

GATEWAY: Final = frozenset({"gateway"})
USERS: Final = frozenset({"users"})
PAYMENTS: Final = frozenset({"payments"})
ORDERS: Final = frozenset({"orders"})
ORCHESTRATOR: Final = frozenset({"orchestrator"})
SERVICES: Final = USERS | PAYMENTS | ORDERS | frozenset({"inventory"})
# Who answers gRPC, each with a database; who calls others by it; whose consumers apply facts.
SERVERS: Final = SERVICES | ORCHESTRATOR
CALLERS: Final = GATEWAY | ORCHESTRATOR | ORDERS
CONSUMERS: Final = USERS | ORDERS
EVERY_PROCESS: Final = SERVERS | GATEWAY

Kind = Literal["counter", "gauge", "histogram"]
_UNITS: Final = {"seconds": "seconds", "bytes": "bytes", "info": ""}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As Prometheus shows it, a counter's with `_total`, a histogram's without its suffixes.
        kind: What Prometheus calls its type.
        says: What it counts or measures.
        labels: Names of its labels.
        processes: Who shows it.
        look: When to look at it and where, for people; Markdown, links as from `docs/`.
        buckets: A histogram's upper bounds, without infinity.
    """

    name: str
    kind: Kind
    says: str
    labels: tuple[str, ...]
    processes: frozenset[str]
    look: str = ""
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """The base unit that its name ends with, or empty: a number of things."""
        return _UNITS.get(self.name.removesuffix("_total").rpartition("_")[2], "")

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which a query finds it."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "count", "sum"))
        return (self.name,)


# What prometheus_client's own collectors show of a process on Linux: its memory, its garbage collection.
_OF_PYTHON: Final = (
    Metric("process_virtual_memory_bytes", "gauge", "Virtual memory.", (), EVERY_PROCESS),
    Metric(
        "process_resident_memory_bytes", "gauge", "Memory in use.", (), EVERY_PROCESS,
        look="grows for hours: a leak; the process is ended at its limit",
    ),
    Metric("process_start_time_seconds", "gauge", "When it started, since 1970.", (), EVERY_PROCESS),
    Metric(
        "process_cpu_seconds_total", "counter", "Processor time.", (), EVERY_PROCESS,
        look="near 1 a second: a process uses one core at most; add a replica",
    ),
    Metric("process_open_fds", "gauge", "Open files and connections.", (), EVERY_PROCESS),
    Metric("process_max_fds", "gauge", "Files and connections that it may open.", (), EVERY_PROCESS),
    Metric(
        "python_gc_objects_collected_total", "counter", "Objects that the collector freed.", ("generation",),
        EVERY_PROCESS,
    ),
    Metric(
        "python_gc_objects_uncollectable_total", "counter", "Objects that it could not free.",
        ("generation",), EVERY_PROCESS,
    ),
    Metric(
        "python_gc_collections_total", "counter", "Times that a generation was collected.", ("generation",),
        EVERY_PROCESS,
    ),
    Metric(
        "python_info", "gauge", "1; the interpreter.",
        ("version", "implementation", "major", "minor", "patchlevel"), EVERY_PROCESS,
    ),
)  # fmt: skip
CATALOGUE: Final[dict[str, Metric]] = {metric.name: metric for metric in _OF_PYTHON}


def enter(metric: Metric) -> None:
    """Puts a metric into the catalogue.

    Raises:
        ValueError: There is one of this name.
    """
    if metric.name in CATALOGUE:
        raise ValueError(f"{metric.name} is in the catalogue already")
    CATALOGUE[metric.name] = metric
