"""The relay: `make bench-events`, `make bench-events JSON=path ARGS="--quick"`.

One relay in a process of its own, PostgreSQL with fsync on and Apache Kafka, all on this machine. A round is
committed as a whole, and measured from before its commit until all of it is acknowledged and deleted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from deploy.local.errors import LocalDeployError
from deploy.local.kafka import ApacheKafka
from tests.bench.engine.children import ROOT
from tests.bench.engine.figures import Figures
from tests.bench.engine.machine import Server, described
from tests.bench.events.figures import show, verdicts
from tests.bench.events.rounds import Bench, Sizes, measured

# Processes that ran, on average, in the minute before.
BUSY_LOAD = 0.5
QUICK = Sizes(rounds=1, round_events=1_000, backlog_events=5_000, warm_up_events=1_000)


async def measure(sizes: Sizes, console: Console) -> Figures:
    """Start the servers, go through the rounds, stop them; returns the figures."""
    # Not in /tmp, which is memory on some machines: there fsync would cost nothing.
    data = ROOT / ".sagacity"
    data.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-events-", dir=data) as name,
        Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress,
    ):
        folder = Path(name)
        bar = progress.add_task("starting PostgreSQL and Kafka", total=sizes.rounds + 2)
        server, broker = Server(folder), ApacheKafka(folder / "kafka", jars=data / "kafka-jars")
        machine = described(folder)
        try:
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(broker.start)

            def say(text: str, steps: int) -> None:
                progress.update(bar, description=text, advance=steps)

            figures = await measured(Bench(sizes, server, broker, folder, say))
        finally:
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(server.stop)
    busy = machine["load_at_the_start"] > BUSY_LOAD
    notes = ["the machine was busy before the run: these figures are not to be quoted"] if busy else []
    return figures | {"machine": machine, "notes": notes, "passed": verdicts(figures)}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Everything small: whether it works.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, max=99, help="Rounds instead of 5.")] = None,
    json_to: Annotated[Path | None, typer.Option(help="Also write the figures there, as JSON.")] = None,
) -> None:
    """Measure one relay on this machine."""
    console = Console()
    sizes = QUICK if quick else Sizes()
    if rounds:
        sizes = dataclasses.replace(sizes, rounds=rounds)
    try:
        figures = asyncio.run(measure(sizes, console))
    except LocalDeployError as error:
        console.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from None
    show(figures, console)
    if json_to is not None:
        json_to.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
