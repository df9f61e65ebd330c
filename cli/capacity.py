"""`sagacity capacity`: replicas, partitions, connections and disk for a rate of orders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, TypeAlias

import typer

from cli import capacity_costs, capacity_tables
from cli.capacity_model import Plan, plan
from cli.capacity_workload import OutOfBoundsError, Workload
from cli.failures import usage
from cli.options import AsJson
from cli.output import console, document

Rate: TypeAlias = Annotated[
    float, typer.Option(metavar="N", help="Orders placed a second, on the average of a day.")
]
PeakFactor: TypeAlias = Annotated[
    float, typer.Option(help="How many times more it is in the busiest minutes; 1: N is the peak.")
]
DeclinedShare: TypeAlias = Annotated[
    float, typer.Option(help="How many orders are declined and undone, 0 to 1.")
]
Reads: TypeAlias = Annotated[
    float, typer.Option(help="Reads beside each order: orders and pages of products, half and half.")
]
Items: TypeAlias = Annotated[float, typer.Option(help="Lines of an order.")]
Logins: TypeAlias = Annotated[float, typer.Option(help="Logins for each order.")]
OrderSeconds: TypeAlias = Annotated[
    float, typer.Option(help="How long an order takes, with the payment provider's time.")
]
Utilisation: TypeAlias = Annotated[
    float, typer.Option(help="How busy a core may be at the peak, 0.1 to 0.9.")
]
Zones: TypeAlias = Annotated[
    int, typer.Option(help="Failure domains: with one a replica may be lost, else a zone.")
]
RetentionDays: TypeAlias = Annotated[int, typer.Option(help="How long rows and events are kept.")]


def capacity(
    *,
    orders_per_second: Rate,
    peak_factor: PeakFactor = Workload.peak_factor,
    declined_share: DeclinedShare = Workload.declined_share,
    reads_per_order: Reads = Workload.reads_per_order,
    items_per_order: Items = Workload.items_per_order,
    logins_per_order: Logins = Workload.logins_per_order,
    order_seconds: OrderSeconds = Workload.order_seconds,
    utilisation: Utilisation = Workload.utilisation,
    zones: Zones = Workload.zones,
    retention_days: RetentionDays = Workload.retention_days,
    as_json: AsJson = False,
) -> None:
    """Work out a deployment for a rate of orders, from measured costs; it calls nobody."""
    try:
        workload = Workload(
            orders_per_second=orders_per_second,
            peak_factor=peak_factor,
            declined_share=declined_share,
            reads_per_order=reads_per_order,
            items_per_order=items_per_order,
            logins_per_order=logins_per_order,
            order_seconds=order_seconds,
            utilisation=utilisation,
            zones=zones,
            retention_days=retention_days,
        )
    except OutOfBoundsError as error:
        raise usage(str(error)) from None
    costs = capacity_costs.measured()
    worked_out: Plan = plan(workload, costs)
    if as_json:
        measured_on = {"machine": costs.machine, "date": costs.date}
        document({"workload": asdict(workload), "measured": measured_on, "plan": asdict(worked_out)})
        return
    console().print(capacity_tables.of(workload, worked_out, costs))
