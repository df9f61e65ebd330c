"""Many seeds, on several processes."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.branches import RARE_BRANCHES
from tests.simulation.seeds import run_seed

CHUNK = 50


@dataclass
class Summary:
    """What became of many seeds.

    Attributes:
        failing: What did not hold, by seed.
        virtual_seconds: How long they took by their own clocks.
    """

    seeds: int = 0
    failing: dict[int, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    virtual_seconds: float = 0.0

    def add(self, other: Summary) -> None:
        """Take the figures of other seeds in."""
        self.seeds += other.seeds
        self.failing |= other.failing
        self.counts.update(other.counts)
        self.virtual_seconds += other.virtual_seconds

    def figures(self, seconds: float) -> dict[str, Any]:
        """The figures of a run that took so many seconds, for programs."""
        return {
            "seeds": self.seeds,
            "seconds": round(seconds, 1),
            "seeds_per_second": round(self.seeds / seconds, 1),
            "virtual_seconds": round(self.virtual_seconds),
            "failing": {str(seed): found for seed, found in sorted(self.failing.items())},
            "never_taken": self.never_taken,
            "branches": dict(sorted(self.counts.items())),
        }

    @property
    def never_taken(self) -> list[str]:
        """The rare branches that no seed has taken."""
        return [branch for branch in RARE_BRANCHES if not self.counts[branch]]


def run_chunk(first: int, end: int) -> Summary:
    """Run the seeds from `first` up to `end`, which is not one of them."""
    summary = Summary()
    for seed in range(first, end):
        report = run_seed(seed)
        summary.seeds += 1
        summary.counts.update(report.counts)
        summary.virtual_seconds += report.seconds
        if report.violations:
            summary.failing[seed] = report.violations
    return summary


def run_chunks(first: int, end: int, jobs: int) -> Iterator[Summary]:
    """Run a range of seeds on so many processes; summaries come as they are done."""
    chunks = [(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield run_chunk(*chunk)
        return
    # Forking a process that has threads is asking for trouble.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = [pool.submit(run_chunk, *chunk) for chunk in chunks]
        for done in as_completed(running):
            yield done.result()


def run_seeds(first: int, end: int, jobs: int) -> tuple[Summary, float]:
    """Run a range of seeds; returns the figures and the seconds that it took."""
    started, total = time.perf_counter(), Summary()
    for summary in run_chunks(first, end, jobs):
        total.add(summary)
    return total, time.perf_counter() - started
