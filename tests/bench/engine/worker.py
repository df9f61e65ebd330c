"""A process with one engine that loads itself: `python -m tests.bench.engine.worker '{"dsn": ...}'`.

It is asked by one JSON object a line on standard input and answers so on standard output; the end of the
input stops it. What runs is what the orchestrator runs: uvloop, a settled garbage collector, a drain.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil

from chassis.lifecycle import Lifecycle, main
from chassis.telemetry import configure_logging
from tests.bench.engine.questions import Questions
from tests.bench.engine.under_test import Engine, Wiring

MICROSECOND_DIGITS = 6


@dataclass(frozen=True)
class Load:
    """A closed loop: so many coroutines, each accepts a saga, waits for its end, and begins again.

    Attributes:
        concurrent: Coroutines.
        seconds: When they begin no more sagas; 0: as long as there are `sagas`.
        sagas: How many are begun; 0: no bound.
        acknowledged: A file that each acknowledged id is written to; empty: none.
    """

    concurrent: int
    seconds: float = 0.0
    sagas: int = 0
    acknowledged: str = ""


@dataclass
class Seen:
    """What a load saw."""

    states: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    begun: int = 0


async def carry(engine: Engine, load: Load) -> dict[str, Any]:
    """Load the engine; returns the figures."""
    seen, before, started = Seen(), _cpu_seconds(), time.perf_counter()
    end = started + load.seconds if load.seconds else float("inf")
    most = load.sagas or sys.maxsize
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    journal = os.open(load.acknowledged, flags) if load.acknowledged else None

    async def one_after_the_other() -> None:
        while seen.begun < most and (begun := time.perf_counter()) < end:
            seen.begun += 1
            saga_id = await engine.accept()
            if journal is not None:
                os.write(journal, saga_id.bytes)  # in the kernel's hands, so it outlives a kill
            seen.states[await engine.end(saga_id)] += 1
            if load.seconds:  # else it is memory that is looked at
                seen.latencies.append(round(time.perf_counter() - begun, MICROSECOND_DIGITS))

    await asyncio.gather(*(one_after_the_other() for _ in range(load.concurrent)))
    if journal is not None:
        os.close(journal)
    return {
        "seconds": time.perf_counter() - started,
        "sagas": seen.begun,
        "states": dict(seen.states),
        "latencies": seen.latencies,
        "cpu_seconds": _cpu_seconds() - before,
        "rss_mib": psutil.Process().memory_info().rss / 2**20,
    }


async def program(life: Lifecycle) -> None:
    """Start the engine, say so, and carry what is asked for until the input ends."""
    questions = Questions()
    configure_logging("bench", "console")
    engine = await Engine.start(life, Wiring(**json.loads(sys.argv[1])))

    async def answer(question: dict[str, Any]) -> dict[str, Any]:
        return await carry(engine, Load(**question))

    await questions.serve(life, answer, {"replica": engine.replica})


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main(program)
