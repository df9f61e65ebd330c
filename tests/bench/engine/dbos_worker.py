"""DBOS Transact doing 4 no-op steps, in a process and a venv of its own: nothing of ours is imported here.

It is asked as our engine's process is (`worker.py`): one JSON object a line on standard input, one a line on
standard output. Its documented ways to run many workflows at once are there: coroutines on an event loop
(uvloop, as ours) that await them or start them and wait for their handles, and threads.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import threading
import time
from typing import Any

import uvloop
from dbos import DBOS, DBOSConfig

GARBAGE_THRESHOLD = 20_000
MICROSECOND_DIGITS = 6


@DBOS.step()
async def step_one() -> None:
    pass


@DBOS.step()
async def step_two() -> None:
    pass


@DBOS.step()
async def step_three() -> None:
    pass


@DBOS.step()
async def step_four() -> None:
    pass


@DBOS.workflow()
async def four_steps() -> None:
    await step_one()
    await step_two()
    await step_three()
    await step_four()


@DBOS.step()
def blocking_step_one() -> None:
    pass


@DBOS.step()
def blocking_step_two() -> None:
    pass


@DBOS.step()
def blocking_step_three() -> None:
    pass


@DBOS.step()
def blocking_step_four() -> None:
    pass


@DBOS.workflow()
def blocking_four_steps() -> None:
    blocking_step_one()
    blocking_step_two()
    blocking_step_three()
    blocking_step_four()


async def with_coroutines(concurrent: int, seconds: float, *, handles: bool) -> list[float]:
    """So many coroutines, each runs one workflow after the other; returns the latencies in seconds.

    With `handles` a workflow is started in the background and its result waited for, else it is awaited.
    """
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        while (begun := time.perf_counter()) < end:
            if handles:
                handle = await DBOS.start_workflow_async(four_steps)
                await handle.get_result()
            else:
                await four_steps()
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(one_after_the_other() for _ in range(concurrent)))
    return latencies


def with_threads(concurrent: int, seconds: float) -> list[float]:
    """The same with threads."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def one_after_the_other() -> None:
        while (begun := time.perf_counter()) < end:
            blocking_four_steps()
            latencies.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=one_after_the_other) for _ in range(concurrent)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


async def measured(question: dict[str, Any]) -> dict[str, Any]:
    before, started = _cpu_seconds(), time.perf_counter()
    if question["way"] == "threads":
        latencies = await asyncio.to_thread(with_threads, question["concurrent"], question["seconds"])
    else:
        handles = question["way"] == "handles"
        latencies = await with_coroutines(question["concurrent"], question["seconds"], handles=handles)
    return {
        "seconds": time.perf_counter() - started,
        "sagas": len(latencies),
        "states": {"COMPLETED": len(latencies)},
        "latencies": [round(latency, MICROSECOND_DIGITS) for latency in latencies],
        "cpu_seconds": _cpu_seconds() - before,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def serve(dsn: str, pool_size: int) -> None:
    config: DBOSConfig = {
        "name": "bench-engine",
        "system_database_url": dsn,
        "sys_db_pool_size": pool_size,
        "log_level": "ERROR",
        "enable_otlp": False,
        "application_version": "bench",
    }
    DBOS(config=config)
    DBOS.launch()
    # Its asynchronous interface gives the loop DBOS's own pool of threads, in place of asyncio's few.
    await (await DBOS.start_workflow_async(four_steps)).get_result()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    _say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        _say(await measured(json.loads(line)))
    DBOS.destroy()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
