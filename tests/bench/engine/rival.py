"""4 no-op steps, ours and DBOS's in turn on one server; and one at a time."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.bench.engine.bench import CONCURRENT, Bench, added_up, share
from tests.bench.engine.children import Measured, Worker, load
from tests.bench.engine.figures import Figures, median
from tests.bench.engine.under_test import Wiring

WAYS = ("coroutines", "handles", "threads")
# Its default is 20. With a connection for each workflow in flight it did half as many again, so it has those.
POOL_SIZE = CONCURRENT


@dataclass(frozen=True)
class Ways:
    """How DBOS is used with many workflows at once, and with one."""

    loaded: str
    alone: str


async def against_dbos(bench: Bench) -> Figures:
    """Rates and latencies of both; without DBOS of ours alone."""
    cores = os.cpu_count() or 1
    async with AsyncExitStack() as stack:
        journal = await asyncio.to_thread(bench.server.journal, "forward")
        ours = await stack.enter_async_context(
            bench.workers.engine(Wiring(journal.service_dsn, "forward", "done"))
        )
        await bench.warm_up(ours)
        dbos = await _dbos(bench, stack)
        ways = await _faster_ways(bench, dbos) if dbos else Ways("", "")
        rounds = [await _round(bench, ours, dbos, ways) for _ in range(bench.sizes.rounds)]
    forward, alone = [one[0] for one in rounds], [one[1] for one in rounds]
    figures: Figures = {
        "sagas_per_second": median([one.rate("COMPLETED") for one in forward]),
        "sagas_per_second_by_round": [round(one.rate("COMPLETED"), 1) for one in forward],
        "sagas_by_state": added_up(forward),
        "p50_loaded_ms": median([one.p50_ms for one in forward], 2),
        "p50_alone_ms": median([one.p50_ms for one in alone], 2),
        "processor_time": {"4_steps_in_process": share(forward, cores)},
    }
    if dbos is None:
        return figures
    theirs, their_alone = [one[2] for one in rounds if one[2]], [one[3] for one in rounds if one[3]]
    rate, p50 = (
        median([one.rate("COMPLETED") for one in theirs]),
        median([one.p50_ms for one in their_alone], 2),
    )
    figures["processor_time"]["DBOS"] = share(theirs, cores)
    return figures | {
        "dbos_workflows_per_second": rate,
        "dbos_workflows_per_second_by_round": [round(one.rate("COMPLETED"), 1) for one in theirs],
        "dbos_way": ways.loaded,
        "dbos_way_alone": ways.alone,
        "dbos_p50_alone_ms": p50,
        "ratio_to_dbos": round(figures["sagas_per_second"] / rate, 2),
        "p50_alone_ratio": round(figures["p50_alone_ms"] / p50, 3),
    }


async def _dbos(bench: Bench, stack: AsyncExitStack) -> Worker | None:
    """A process with DBOS; None, and a note, where no interpreter has it."""
    if bench.dbos_python is None:
        bench.notes.append("DBOS was left out: it is not installed (make bench-engine installs it)")
        return None
    bench.say("starting DBOS")
    access = await asyncio.to_thread(bench.server.database, "dbos")
    return await stack.enter_async_context(bench.workers.dbos(bench.dbos_python, access.owner_dsn, POOL_SIZE))


async def _faster_ways(bench: Bench, dbos: Worker) -> Ways:
    """Which of DBOS's ways does more with 64, and which answers sooner alone, here and now."""
    rates, latencies = {}, {}
    for way in WAYS:
        bench.say(f"DBOS with {way}")
        await dbos.measure(way=way, concurrent=CONCURRENT, seconds=bench.sizes.warm_up_seconds)
        loaded = await dbos.measure(way=way, concurrent=CONCURRENT, seconds=bench.sizes.seconds)
        alone = await dbos.measure(way=way, concurrent=1, seconds=bench.sizes.alone_seconds)
        rates[way], latencies[way] = loaded.rate("COMPLETED"), alone.p50_ms
    said = ", ".join(f"{way} {rates[way]:.0f}/s and alone {latencies[way]:.1f} ms" for way in WAYS)
    bench.notes.append(f"DBOS is measured in its faster ways ({said}), with {POOL_SIZE} connections")
    return Ways(max(rates, key=rates.__getitem__), min(latencies, key=latencies.__getitem__))


async def _round(
    bench: Bench, ours: Worker, dbos: Worker | None, ways: Ways
) -> tuple[Measured, Measured, Measured | None, Measured | None]:
    """Ours with 64 and alone, then theirs."""
    forward = await bench.loaded(ours, "4 no-op steps in process")
    bench.say("one saga alone")
    alone = await ours.measure(**load(concurrent=1, seconds=bench.sizes.alone_seconds))
    if dbos is None:
        return forward, alone, None, None
    bench.say("DBOS: 4 no-op steps")
    bench.server.settle()
    theirs = await dbos.measure(way=ways.loaded, concurrent=CONCURRENT, seconds=bench.sizes.seconds)
    bench.say("DBOS: one workflow alone")
    their_alone = await dbos.measure(way=ways.alone, concurrent=1, seconds=bench.sizes.alone_seconds)
    return forward, alone, theirs, their_alone
