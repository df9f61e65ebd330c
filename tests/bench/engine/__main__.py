"""The saga engine beside its targets: `make bench-engine`, `make bench-engine JSON=path ARGS="--quick"`.

Everything runs on this machine, on one PostgreSQL server with fsync on, in the same run; figures are medians
of 5 rounds, and what is compared is measured in turn.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from tests.bench.engine.bench import QUICK, Bench, Sizes
from tests.bench.engine.children import ROOT, Workers
from tests.bench.engine.failover import kill_one_of_two
from tests.bench.engine.figures import Figures, not_measured, show, verdicts
from tests.bench.engine.full_journal import with_a_full_journal
from tests.bench.engine.machine import Server, described
from tests.bench.engine.rival import against_dbos
from tests.bench.engine.scenarios import backwards, for_long, over_grpc

# Processes that ran, on average, in the minute before.
BUSY_LOAD = 0.5
DBOS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
SCENARIOS = {
    "forward": against_dbos,
    "grpc": over_grpc,
    "backwards": backwards,
    "failover": kill_one_of_two,
    "full-journal": with_a_full_journal,
    "memory": for_long,
}


async def measure(sizes: Sizes, chosen: list[str], dbos_python: Path | None, console: Console) -> Figures:
    """Start a server, go through the scenarios, stop it; returns the figures."""
    # Not in /tmp, which is memory on some machines: there fsync would cost nothing.
    data = ROOT / ".sagacity"
    data.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-engine-", dir=data) as name,
        Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress,
    ):
        folder = Path(name)
        bar = progress.add_task("starting PostgreSQL", total=len(chosen))
        server = Server(folder)
        machine = described(folder)
        await asyncio.to_thread(server.start)
        try:
            bench = Bench(sizes, server, Workers(server, folder), dbos_python, _describer(progress, bar))
            if machine["load_at_the_start"] > BUSY_LOAD:
                bench.notes.append("the machine was busy before the run: these figures are not to be quoted")
            figures = not_measured() | {
                "machine": machine,
                "rounds": sizes.rounds,
                "processor_time": {},
            }
            for scenario in chosen:
                merge(figures, await SCENARIOS[scenario](bench))
                progress.advance(bar)
            progress.update(bar, description="done")
        finally:
            await asyncio.to_thread(server.stop)
    return figures | {"notes": bench.notes, "passed": verdicts(figures)}


def merge(figures: Figures, more: Figures) -> None:
    """Add the figures of a scenario."""
    figures["processor_time"] |= more.pop("processor_time", {})
    figures.update(more)


def _describer(progress: Progress, bar: object) -> Callable[[str], None]:
    return lambda text: progress.update(bar, description=text)  # type: ignore[arg-type]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Everything small: whether it works.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"A scenario, of {', '.join(SCENARIOS)}.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=99, help="Rounds instead of 5.")] = None,
    json_to: Annotated[Path | None, typer.Option(help="Also write the figures there, as JSON.")] = None,
    dbos_python: Annotated[Path, typer.Option(help="An interpreter that has DBOS.")] = DBOS_PYTHON,
) -> None:
    """Measure the saga engine on this machine, and DBOS beside it."""
    console = Console()
    sizes = QUICK if quick else Sizes()
    if rounds:
        sizes = dataclasses.replace(sizes, rounds=rounds)
    unknown = set(only or ()) - set(SCENARIOS)
    if unknown:
        raise typer.BadParameter(f"there is no scenario {', '.join(sorted(unknown))}", param_hint="--only")
    rival = dbos_python if dbos_python.exists() else None
    figures = asyncio.run(measure(sizes, only or list(SCENARIOS), rival, console))
    show(figures, console)
    if json_to is not None:
        json_to.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
