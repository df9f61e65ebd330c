"""What the scenarios share: how much is measured, the server, the processes, the progress on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.engine.children import Measured, Worker, Workers, load
from tests.bench.engine.figures import Figures, median
from tests.bench.engine.machine import Server

CONCURRENT = 64


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: Of which the median is taken.
        seconds: Of one measurement with 64 concurrent.
        alone_seconds: Of one measurement of one saga after the other.
        warm_up_seconds: Before the first round.
        finished: Sagas in the full journal.
        memory_from: Sagas after which the resident memory is looked at first.
        memory_to: And last.
        before_the_kill_seconds: How long both replicas are loaded before one is killed.
    """

    rounds: int = 5
    seconds: float = 4.0
    alone_seconds: float = 2.0
    warm_up_seconds: float = 2.0
    finished: int = 1_000_000
    memory_from: int = 50_000
    memory_to: int = 200_000
    before_the_kill_seconds: float = 3.0


QUICK = Sizes(
    rounds=1,
    seconds=0.5,
    alone_seconds=0.3,
    warm_up_seconds=0.2,
    finished=2_000,
    memory_from=200,
    memory_to=800,
    before_the_kill_seconds=1.0,
)


@dataclass
class Bench:
    """One run."""

    sizes: Sizes
    server: Server
    workers: Workers
    dbos_python: Path | None
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)

    async def loaded(self, worker: Worker, what: str) -> Measured:
        """One measurement of an engine with 64 concurrent."""
        self.say(what)
        self.server.settle()
        return await worker.measure(**load(concurrent=CONCURRENT, seconds=self.sizes.seconds))

    async def warm_up(self, worker: Worker) -> None:
        """Let caches fill and plans be made before the first round."""
        await worker.measure(**load(concurrent=CONCURRENT, seconds=self.sizes.warm_up_seconds))


def share(measured: list[Measured], cores: int) -> Figures:
    """Whose processor time a saga is, and how much of the machine was busy."""
    python = median([one.cpu_seconds / one.sagas * 1e6 for one in measured])
    postgres = median([one.postgres_cpu_seconds / one.sagas * 1e6 for one in measured])
    busy = [(one.cpu_seconds + one.postgres_cpu_seconds) / one.seconds / cores for one in measured]
    return {
        "python_us": python,
        "postgres_us": postgres,
        "python_share": round(python / (python + postgres), 3),
        "cores_busy": median(busy, 3),
    }


def added_up(measured: list[Measured]) -> dict[str, int]:
    """In which states the sagas of all rounds ended."""
    total: Counter[str] = Counter()
    for one in measured:
        total.update(one.states)
    return dict(total)
