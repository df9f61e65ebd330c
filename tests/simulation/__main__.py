"""`python -m tests.simulation --seed 7 --verbose`, or `--seeds 0:100000 --jobs 2`, or `--planted`."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from tests.simulation.branches import RARE_BRANCHES
from tests.simulation.planted_bugs import PLANTED, first_found
from tests.simulation.runner import Summary, run_chunks
from tests.simulation.seeds import run_seed

MAX_SHOWN_FAILURES = 20


def main(
    *,
    seed: Annotated[int | None, typer.Option(help="One seed, with its trace.")] = None,
    seeds: Annotated[str, typer.Option(help="A range, FIRST:END.")] = "0:1000",
    jobs: Annotated[int, typer.Option(help="Processes.")] = 2,
    planted: Annotated[bool, typer.Option(help="How many seeds find each planted bug.")] = False,
    verbose: Annotated[bool, typer.Option(help="Journal entries and log lines in full.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Simulate the saga engine; exit code 1 where something did not hold."""
    if planted:
        sys.exit(show_planted())
    if seed is not None:
        sys.exit(show_seed(seed, verbose=verbose, as_json=as_json))
    first, _, end = seeds.partition(":")
    sys.exit(show_range(int(first), int(end), jobs, as_json=as_json))


def show_seed(seed: int, *, verbose: bool, as_json: bool) -> int:
    """Print what happened in one seed."""
    report = run_seed(seed)
    if as_json:
        told = {
            "seed": seed,
            "violations": report.violations,
            "branches": dict(sorted(report.counts.items())),
        }
        print(json.dumps(told, indent=2))  # noqa: T201 - it is what was asked for
        return int(bool(report.violations))
    for moment, what, *details in report.trace:
        print(f"{moment:9.4f}  {what:<12} {' '.join(_shown(item, verbose=verbose) for item in details)}")  # noqa: T201
    for violation in report.violations:
        print(f"VIOLATED: {violation}")  # noqa: T201
    return int(bool(report.violations))


def _shown(item: Any, *, verbose: bool) -> str:
    if isinstance(item, UUID):
        return f"saga-{item.int & 0xFFFFF}"
    if isinstance(item, bytes):
        return f"{len(item)} bytes"
    if isinstance(item, tuple):
        parts = [part for part in item if part is not None and part != ""]
        return f"({', '.join(_shown(part, verbose=verbose) for part in parts)})"
    text = str(item)
    return text if verbose else text[:60]


def show_planted() -> int:
    """Print how many seeds each planted bug needed to be found; 1 where one was not."""
    table, missed = Table("planted bug", "seeds", "found as"), 0
    for name in PLANTED:
        found = first_found(name)
        missed += found is None
        table.add_row(
            name, str(found.seed + 1) if found else "not found", found.violations[0] if found else ""
        )
    Console().print(table)
    return int(missed > 0)


def show_range(first: int, end: int, jobs: int, *, as_json: bool) -> int:
    """Run a range of seeds behind a progress bar, and print its figures."""
    started, total = time.perf_counter(), Summary()
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("seeds", total=end - first)
        for summary in run_chunks(first, end, jobs):
            total.add(summary)
            progress.advance(bar, summary.seeds)
            for seed, violations in summary.failing.items():
                if len(total.failing) <= MAX_SHOWN_FAILURES:
                    console.print(f"seed {seed}: {violations[0]}")
    seconds = time.perf_counter() - started
    if as_json:
        print(json.dumps(total.figures(seconds), indent=2))  # noqa: T201 - it is what was asked for
    else:
        show(total, seconds)
    return int(bool(total.failing))


def show(total: Summary, seconds: float) -> None:
    """The figures of a run, for people."""
    table = Table("branch", "times", title="how often each branch was taken", title_justify="left")
    for branch in RARE_BRANCHES:
        table.add_row(branch, f"{total.counts[branch]:,}")
    for branch in sorted(set(total.counts) - set(RARE_BRANCHES)):
        table.add_row(f"[dim]{branch}", f"[dim]{total.counts[branch]:,}")
    console = Console()
    console.print(table)
    rate = total.seeds / seconds
    console.print(f"{total.seeds:,} seeds in {seconds:.1f} s, {rate:.0f} a second; {len(total.failing)} fail")
    for branch in total.never_taken:
        console.print(f"never taken: {branch}")
    for seed in sorted(total.failing)[:MAX_SHOWN_FAILURES]:
        console.print(f"to see it: python -m tests.simulation --seed {seed} --verbose")


if __name__ == "__main__":
    typer.run(main)
