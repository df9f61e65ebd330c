"""What was measured, for `sagacity capacity` to count with: `cli/capacity_costs.json`.

`make bench ARGS="--costs" JSON=cli/capacity_costs.json` writes that file anew, on whatever hardware it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("capacity_costs.json")
PROCESSES = ("gateway", "orchestrator", "orders", "inventory", "payments", "users")
DATABASES = ("orders", "sagas", "inventory", "payments", "users")
TOPICS = ("sagacity.orders.v1", "sagacity.inventory.v1", "sagacity.payments.v1", "sagacity.users.v1")
KINDS = ("confirmed", "confirmed_many", "declined", "declined_many", "order_read", "products_read", "login")
BROKER = "broker"
BACKGROUND = "postgres background"
# What measures needs a processor for itself: with more work waiting than this, for each processor, the
# figures are those of a machine that does something else.
LOAD_OF_A_CORE_MAX = 0.5

ByKind = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Costs:
    """What one operation of each kind costs; names are those of `PROCESSES`, `DATABASES` and `TOPICS`.

    Attributes:
        machine: What it was measured on, as a sentence.
        date: When, YYYY-MM-DD.
        load: How many processes waited for a processor or had one, just before.
        was_free: Whether that is little enough for so many cores.
        orders_per_second: How many confirmed orders were placed a second while they were measured.
        lines_of_many: The lines of an order of the kinds `_many`; of the others, one.
        process_seconds: Processor seconds by kind and process, the broker's among them.
        database_seconds: Processor seconds of PostgreSQL by kind and database, each with its share of the
            background work, by the time of its backends.
        background_share: What the background work is of all that PostgreSQL does, by kind.
        table_bytes: What stays in tables and indexes, by kind and database.
        wal_bytes: What goes through the write-ahead log, by kind and database.
        events: By kind and topic.
        topic_bytes: In Kafka, of one replica, by kind and topic.
        memory_mib: The most that each process held.
        backend_mib: What one backend of PostgreSQL held for itself.
        consumer_events_per_second: What one consumer applies.
        hot_sku_share: The rate of orders of one SKU, as a share of the rate of orders of many.
        relay_events_per_second: What one relay publishes, from the outbox to Kafka's acknowledgement.
        relay_source: Where that figure is from: it is measured apart from the others.
    """

    machine: str
    date: str
    load: float
    was_free: bool
    orders_per_second: float
    lines_of_many: int
    process_seconds: ByKind
    database_seconds: ByKind
    background_share: Mapping[str, float]
    table_bytes: ByKind
    wal_bytes: ByKind
    events: ByKind
    topic_bytes: ByKind
    memory_mib: Mapping[str, float]
    backend_mib: float
    consumer_events_per_second: float
    hot_sku_share: float
    relay_events_per_second: float
    relay_source: str


def is_free(load: float, cores: int) -> bool:
    """Whether a machine of so many cores, with this load, has them for what is to be measured."""
    return load <= cores * LOAD_OF_A_CORE_MAX


def measured() -> Costs:
    """The costs that are committed with this release."""
    return parsed(json.loads(FILE.read_text("utf-8")))


def parsed(figures: Mapping[str, Any]) -> Costs:
    """Read what the benchmark wrote; KeyError where something is missing."""
    machine = figures["machine"]
    cpu = figures["cpu_ms"]
    return Costs(
        machine=f"{machine['cores']} virtual cores, CPython {machine['python']}",
        date=figures["date"],
        load=machine["load_at_the_start"],
        was_free=is_free(machine["load_at_the_start"], machine["cores"]),
        orders_per_second=figures["orders_per_second_meanwhile"],
        lines_of_many=figures["lines_of_many"],
        process_seconds={k: {p: cpu[k][p] / 1000 for p in (*PROCESSES, BROKER)} for k in KINDS},
        database_seconds={kind: _with_background(cpu[kind]) for kind in KINDS},
        background_share={kind: _background_share(cpu[kind]) for kind in KINDS},
        table_bytes=_picked(figures["table_bytes"], DATABASES),
        wal_bytes=_picked(figures["wal_bytes"], DATABASES),
        events=_picked(figures["events"], TOPICS),
        topic_bytes=_picked(figures["topic_bytes"], TOPICS),
        memory_mib={name: figures["peak_rss_mib"][name] for name in PROCESSES},
        backend_mib=figures["backend_mib"],
        consumer_events_per_second=figures["consumer_events_per_second"],
        hot_sku_share=figures["hot_sku_share_of_the_rate"],
        relay_events_per_second=figures["relay"]["events_per_second"],
        relay_source=figures["relay"]["source"],
    )


def _with_background(cpu_ms: Mapping[str, float]) -> Mapping[str, float]:
    """The seconds of each database: of its backends, and of checkpoints, vacuum and the log's writer.

    Those work for all databases of the server; who makes them work is who has work done by backends.
    """
    backends = {name: cpu_ms[f"postgres {name}"] / 1000 for name in DATABASES}
    whole, background = sum(backends.values()), cpu_ms[BACKGROUND] / 1000
    if not whole:
        return {name: background / len(DATABASES) for name in DATABASES}
    return {name: seconds * (1 + background / whole) for name, seconds in backends.items()}


def _background_share(cpu_ms: Mapping[str, float]) -> float:
    whole = cpu_ms[BACKGROUND] + sum(cpu_ms[f"postgres {name}"] for name in DATABASES)
    return cpu_ms[BACKGROUND] / whole if whole else 0.0


def _picked(by_kind: ByKind, names: tuple[str, ...]) -> ByKind:
    # Below zero is noise: a vacuum that freed more than the phase wrote.
    return {kind: {name: max(0.0, by_kind[kind][name]) for name in names} for kind in KINDS}
