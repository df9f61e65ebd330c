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
from typing import Any, TextIO

import psutil

from chassis.lifecycle import Lifecycle, main
from chassis.telemetry import configure_logging
from tests.bench.engine.under_test import Engine, Wiring

MAX_LINE_BYTES = 65_536
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
            seen.latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(one_after_the_other() for _ in range(load.concurrent)))
    if journal is not None:
        os.close(journal)
    return {
        "seconds": time.perf_counter() - started,
        "sagas": seen.begun,
        "states": dict(seen.states),
        "latencies": [round(latency, MICROSECOND_DIGITS) for latency in seen.latencies]
        if load.seconds
        else [],
        "cpu_seconds": _cpu_seconds() - before,
        "rss_mib": psutil.Process().memory_info().rss / 2**20,
    }


async def program(life: Lifecycle) -> None:
    """Start the engine, say so, and carry what is asked for until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the log goes where it does not mix with the answers
    configure_logging("bench", "console")
    engine = await Engine.start(life, Wiring(**json.loads(sys.argv[1])))
    questions = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(questions), sys.stdin
    )

    async def serve() -> None:
        while line := await questions.readline():
            _say(answers, await carry(engine, Load(**json.loads(line))))
        life.stopping.set()

    life.start(serve(), name="questions")
    _say(answers, {"replica": engine.replica})


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main(program)
