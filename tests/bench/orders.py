"""Orders over REST against the whole embedded suite: `make bench`, `make bench JSON=path`.

Two phases on a warm suite: as many orders as N clients can place (orders per second), then a steady 50 orders
a second with arrivals at fixed times, measured from when each order was due, so that a stall is not hidden
(latencies).
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import psutil
import typer
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.local.errors import LocalDeployError
from deploy.local.suite import Suite
from tests.bench import costs as costs_of_operations
from tests.bench import scaling_page
from tests.bench.accounting import Meter, Snapshot
from tests.bench.load_client import LoadClient
from tests.bench.shop import SKUS, Shopper, prepare

STEADY_RATE = 50
STEADY_CLIENTS = 40
WARM_UP_SECONDS = 3.0


@dataclass
class Phase:
    """What a phase saw."""

    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    wal_bytes: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)

    def see(self, status: int, seconds: float) -> None:
        """Count one answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 201:
            self.latencies.append(seconds)

    @property
    def rate(self) -> float:
        """Confirmed orders a second."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """A percentile of the latencies, in milliseconds; of one, that one, of none 0."""
        if len(self.latencies) < 2:
            return sum(self.latencies) * 1000
        return statistics.quantiles(self.latencies, n=100)[percent - 1] * 1000


class Bench:
    """A running suite and those who order from it."""

    def __init__(self, suite: Suite, shoppers: list[Shopper]) -> None:
        self.meter = Meter(suite)
        self._shoppers = shoppers
        self._number = 0
        address = urlsplit(suite.gateway_url)
        self._host, self._port = str(address.hostname), int(address.port or 80)

    async def closed_loop(self, clients: int, seconds: float) -> Phase:
        """Each client places one order after the other."""
        phase, end = Phase(), time.perf_counter() + seconds
        before, started = await self.meter.snapshot(), time.perf_counter()

        async def run() -> None:
            async with LoadClient(self._host, self._port) as client:
                while time.perf_counter() < end:
                    begun = time.perf_counter()
                    phase.see(await self._place(client), time.perf_counter() - begun)

        await asyncio.gather(*(run() for _ in range(clients)))
        return await self._ended(phase, started, before)

    async def open_loop(self, rate: int, seconds: float) -> Phase:
        """Orders arrive at fixed times, whether the earlier ones were answered or not."""
        phase, due = Phase(), asyncio.Queue[float]()
        before, started = await self.meter.snapshot(), time.perf_counter()

        async def serve() -> None:
            async with LoadClient(self._host, self._port) as client:
                while (at := await due.get()) >= 0:
                    phase.see(await self._place(client), time.perf_counter() - at)

        async with asyncio.TaskGroup() as group:
            for _ in range(STEADY_CLIENTS):
                group.create_task(serve())
            for number in range(int(rate * seconds)):
                at = started + number / rate
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                due.put_nowait(at)
            for _ in range(STEADY_CLIENTS):
                due.put_nowait(-1.0)
        return await self._ended(phase, started, before)

    async def _place(self, client: LoadClient) -> int:
        self._number += 1
        shopper = self._shoppers[self._number % len(self._shoppers)]
        items = [{"sku": f"BENCH-{(self._number * 7 + line) % SKUS}", "quantity": 1} for line in range(2)]
        body = {
            "items": items,
            "currency": "EUR",
            "address_id": shopper.address_id,
            "payment_method_id": shopper.payment_method_id,
        }
        headers = {
            "Authorization": f"Bearer {shopper.token}",
            "Idempotency-Key": f"bench-{self._number}",
            "Prefer": "wait=30",
        }
        status, _ = await client.post("/api/v1/orders", body, headers)
        return status

    async def _ended(self, phase: Phase, started: float, before: Snapshot) -> Phase:
        phase.seconds = time.perf_counter() - started
        after = await self.meter.snapshot()
        phase.cpu_seconds = {name: now - before.cpu_seconds[name] for name, now in after.cpu_seconds.items()}
        phase.wal_bytes = {name: now - before.wal_bytes[name] for name, now in after.wal_bytes.items()}
        phase.events = {name: now - before.events[name] for name, now in after.events.items()}
        return phase


async def measure(clients: int, seconds: float, console: Console) -> dict[str, Any]:
    """Start a suite, load it, stop it; returns the figures."""
    with (
        tempfile.TemporaryDirectory(prefix="sagacity-bench-") as folder,
        Progress(console=console) as progress,
    ):
        bar = progress.add_task("starting the suite", total=4)
        suite = Suite(Path(folder), sample_data=False)
        await suite.start()
        try:
            bench = Bench(suite, await prepare(suite))
            progress.update(bar, advance=1, description="warming up")
            await bench.closed_loop(clients, WARM_UP_SECONDS)
            progress.update(bar, advance=1, description=f"{clients} clients, as fast as they can")
            flat_out = await bench.closed_loop(clients, seconds)
            progress.update(bar, advance=1, description=f"{STEADY_RATE} orders a second")
            steady = await bench.open_loop(STEADY_RATE, seconds)
            peak = bench.meter.peak_rss_mib()
            connections = bench.meter.connections()
            bench.meter.close()
            progress.update(bar, advance=1, description="done")
        finally:
            await suite.stop()
    return _figures(clients, flat_out, steady, peak) | {"connections": connections}


def _figures(clients: int, flat_out: Phase, steady: Phase, peak: dict[str, float]) -> dict[str, Any]:
    return {
        "orders_per_second": round(flat_out.rate, 1),
        "p50_ms": round(steady.percentile_ms(50), 1),
        "p95_ms": round(steady.percentile_ms(95), 1),
        "p99_ms": round(steady.percentile_ms(99), 1),
        "peak_rss_mib": round(max(mib for name, mib in peak.items() if name != "broker"), 1),
        "clients": clients,
        "steady_orders_per_second": STEADY_RATE,
        "flat_out_p95_ms": round(flat_out.percentile_ms(95), 1),
        "flat_out_statuses": flat_out.statuses,
        "steady_statuses": steady.statuses,
        "peak_rss_mib_by_process": {name: round(mib, 1) for name, mib in peak.items()},
        "cpu_ms_per_order": _each(flat_out.cpu_seconds, flat_out, scale=1000),
        "wal_bytes_per_order": _each(flat_out.wal_bytes, flat_out),
        "events_per_order": _each(flat_out.events, flat_out),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
    }


def _each(sums: Mapping[str, float], phase: Phase, scale: int = 1) -> dict[str, float]:
    return {name: round(total * scale / max(1, len(phase.latencies)), 2) for name, total in sums.items()}


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the figures as tables."""
    machine = figures["machine"]
    table = Table(title=f"orders, {machine['cores']} cores, CPython {machine['python']}, fsync on")
    for heading in ("figure", "measured", "to reach"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    steady = f"at {figures['steady_orders_per_second']} orders/s"
    flat_out = f"confirmed orders/s, {figures['clients']} clients"
    table.add_row(flat_out, f"{figures['orders_per_second']}", "100")
    table.add_row(f"p50 {steady}", f"{figures['p50_ms']} ms", "")
    table.add_row(f"p95 {steady}", f"{figures['p95_ms']} ms", "200 ms")
    table.add_row(f"p99 {steady}", f"{figures['p99_ms']} ms", "")
    table.add_row("peak memory of a process", f"{figures['peak_rss_mib']} MiB", "150 MiB")
    console.print(table)
    shares = Table(title="by process")
    for heading in ("process", "processor time an order", "peak memory"):
        shares.add_column(heading, justify="left" if heading == "process" else "right")
    for name, spent in figures["cpu_ms_per_order"].items():
        mib = figures["peak_rss_mib_by_process"].get(name)
        shares.add_row(name, f"{spent} ms", f"{mib} MiB" if mib else "")
    console.print(shares)
    kept = Table(title="by database")
    for heading in ("database", "log an order", "events an order", "connections"):
        kept.add_column(heading, justify="left" if heading == "database" else "right")
    for name, wal_bytes in figures["wal_bytes_per_order"].items():
        events = figures["events_per_order"].get(f"sagacity.{name}.v1")
        kept.add_row(name, f"{wal_bytes:,.0f} B", f"{events or ''}", f"{figures['connections'][name]}")
    console.print(kept)
    console.print(f"answers: flat out {figures['flat_out_statuses']}, steady {figures['steady_statuses']}")


def main(
    *,
    clients: Annotated[int, typer.Option(min=1, max=500, help="Concurrent clients of the first phase.")] = 32,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Length of each phase.")] = 20.0,
    json_to: Annotated[Path | None, typer.Option(help="Also write the figures there, as JSON.")] = None,
    costs: Annotated[
        bool, typer.Option("--costs", help="Measure instead what `sagacity capacity` counts with.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="With --costs: whether it works.")] = False,
    even_if_busy: Annotated[
        bool, typer.Option("--even-if-busy", help="With --costs: on a machine that does something else.")
    ] = False,
) -> None:
    """Measure confirmed orders per second, latencies and memory of the whole suite on this machine."""
    console = Console()
    whole_costs = costs and not quick
    if json_to is not None and scaling_page.is_committed_file(json_to) and not whole_costs:
        raise typer.BadParameter("only --costs without --quick is written there", param_hint="--json-to")
    if costs:
        sizes = costs_of_operations.QUICK if quick else costs_of_operations.Sizes()
        load = round(os.getloadavg()[0], 2)
        try:
            if not (quick or even_if_busy):
                costs_of_operations.check_that_the_machine_is_free(load, os.cpu_count() or 1)
            figures = asyncio.run(costs_of_operations.measure(sizes, console, load))
        except (LocalDeployError, costs_of_operations.BusyMachineError) as error:
            console.print(str(error), style="red", highlight=False)
            raise typer.Exit(1) from None
        costs_of_operations.show(figures, console)
    else:
        figures = uvloop.run(measure(clients, seconds, console))
        show(figures, console)
    if json_to is not None:
        json_to.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        if costs and scaling_page.is_committed_file(json_to):
            scaling_page.write()


if __name__ == "__main__":
    typer.run(main)
