"""The plan of `sagacity capacity` as tables."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from cli.capacity_costs import Costs
from cli.capacity_model import Bottleneck, Plan
from cli.capacity_workload import Workload

# Headings of two lines, and a table of its own for disks: everything fits into a terminal of 80 columns.
_LEFT = frozenset({"process", "database", "topic", "PgBouncer", "relay", "disk"})


def of(workload: Workload, plan: Plan, costs: Costs) -> Group:
    """Everything, for people."""
    busy = "" if costs.was_free else ", busy with other things"
    may_be_lost = "one replica" if workload.zones == 1 else f"one of {workload.zones} zones"
    return Group(
        f"{workload.orders_per_second:,g} orders/s, {plan.peak_orders_per_second:,g} at the peak; "
        f"cores {workload.utilisation:.0%} busy then, with {may_be_lost} lost",
        _processes(plan),
        _databases(plan),
        _topics(plan),
        _disk(plan),
        f"Kafka: {plan.kafka_cores:.1f} cores for the leaders of all partitions",
        f"fills first: {_said(plan.fills_first)}",
        f"where replicas do not help: {_said(plan.replicas_do_not_help)}",
        f"costs measured {costs.date} on {costs.machine}{busy}; docs/scaling.md has the formulas",
    )


def _processes(plan: Plan) -> Table:
    table = _table("process", "replicas", "needed", "cores at\nthe peak", "CPU\nrequest", "memory\nrequest")
    for each in plan.processes:
        table.add_row(
            each.name,
            str(each.replicas),
            str(each.needed_at_peak),
            f"{each.cores_at_peak:.2f}",
            f"{each.cpu_request_cores:.2f}",
            f"{each.memory_request_mib} MiB",
        )
    return table


def _databases(plan: Plan) -> Table:
    table = _table("database", "cores", "connections", "max_connections", "PgBouncer")
    for each in plan.databases:
        table.add_row(
            each.name,
            str(each.cores),
            str(each.connections),
            str(each.max_connections),
            f"yes, pool of {each.pgbouncer_pool}" if each.pgbouncer else "no",
        )
    return table


def _topics(plan: Plan) -> Table:
    table = _table("topic", "partitions", "events/s at\nthe peak", "consumers\nneeded", "relay")
    for each in plan.topics:
        table.add_row(
            each.name,
            str(each.partitions),
            f"{each.events_per_second:,.0f}",
            str(each.consumers_needed or ""),
            f"{each.relay_share:.1%} busy" if not each.debezium else "Debezium",
        )
    return table


def _disk(plan: Plan) -> Table:
    table = _table("disk", "a day", "kept", "WAL a day")
    for database in plan.databases:
        sizes = (database.gib_a_day, database.gib_kept, database.wal_gib_a_day)
        table.add_row(f"database {database.name}", *map(_size, sizes))
    for topic in plan.topics:
        table.add_row(topic.name, _size(topic.gib_a_day), _size(topic.gib_kept), "")
    return table


def _said(bottleneck: Bottleneck) -> str:
    return f"{bottleneck.name}, at {bottleneck.orders_per_second:,.0f} orders/s: {bottleneck.remedy}"


def _size(gib: float) -> str:
    if gib >= 10_000:
        return f"{gib / 1024:,.0f} TiB"
    return f"{gib:,.0f} GiB" if gib >= 10 else f"{gib:.1f} GiB" if gib >= 0.1 else f"{gib * 1024:.0f} MiB"


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
    return table
