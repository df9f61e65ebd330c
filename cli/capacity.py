"""`sagacity capacity`: replicas, partitions, connections and disk for a rate of orders."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cli import capacity_costs, capacity_tables
from cli.capacity_model import Plan, plan
from cli.capacity_workload import OutOfBoundsError, Workload
from cli.failures import usage
from cli.options import AsJson
from cli.output import console, document


def capacity(
    *,
    orders_per_second: Annotated[
        float, typer.Option(metavar="N", help="Orders placed a second, on the average of a day.")
    ],
    peak_factor: Annotated[
        float, typer.Option(help="How many times more it is in the busiest minutes; 1: N is the peak.")
    ] = Workload.peak_factor,
    declined_share: Annotated[
        float, typer.Option(help="How many orders are declined and undone, 0 to 1.")
    ] = Workload.declined_share,
    reads_per_order: Annotated[
        float, typer.Option(help="Reads beside each order: orders and pages of products, half and half.")
    ] = Workload.reads_per_order,
    items_per_order: Annotated[float, typer.Option(help="Lines of an order.")] = Workload.items_per_order,
    logins_per_order: Annotated[
        float, typer.Option(help="Logins for each order.")
    ] = Workload.logins_per_order,
    order_seconds: Annotated[
        float, typer.Option(help="How long an order takes, with the payment provider's time.")
    ] = Workload.order_seconds,
    utilisation: Annotated[
        float, typer.Option(help="How busy a core may be at the peak, 0.1 to 0.9.")
    ] = Workload.utilisation,
    zones: Annotated[
        int, typer.Option(help="Failure domains: with one a replica may be lost, else a zone.")
    ] = Workload.zones,
    retention_days: Annotated[
        int, typer.Option(help="How long rows and events are kept.")
    ] = Workload.retention_days,
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
