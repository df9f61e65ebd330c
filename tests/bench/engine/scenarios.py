"""Over gRPC, backwards, and for long: what the engine does beside the way forward in process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chassis.identity import new_key_pair
from tests.bench.engine.bench import CONCURRENT, Bench, added_up, share
from tests.bench.engine.children import Measured, Worker, load
from tests.bench.engine.figures import Figures, median
from tests.bench.engine.participant import Serving
from tests.bench.engine.under_test import Wiring

MEMORY_SAMPLES = 4


@dataclass(frozen=True)
class Reached:
    """A participant, and what an engine needs to call it."""

    process: Worker
    address: str
    private_pem: str

    def wiring(self, dsn: str, name: str) -> Wiring:
        """Of an engine that calls it."""
        return Wiring(dsn, name, "grpc", self.address, self.private_pem)


@asynccontextmanager
async def participant(bench: Bench, name: str, dsn: str = "") -> AsyncIterator[Reached]:
    """A participant in a process of its own."""
    private_pem, public_key = new_key_pair("orchestrator")
    serving = Serving({"keys": [public_key]}, dsn)
    async with bench.workers.participant(serving, name) as process:
        yield Reached(process, f"127.0.0.1:{process.hello['port']}", private_pem)


async def over_grpc(bench: Bench) -> Figures:
    """4 no-op steps, each a call to one participant."""
    journal = await asyncio.to_thread(bench.server.journal, "grpc")
    rounds: list[Measured] = []
    shares: list[float] = []
    async with (
        participant(bench, "no-op participant") as reached,
        bench.workers.engine(reached.wiring(journal.service_dsn, "grpc")) as engine,
    ):
        await bench.warm_up(engine)
        for _ in range(bench.sizes.rounds):
            before = await reached.process.ask({})
            rounds.append(await bench.loaded(engine, "4 no-op steps over gRPC"))
            after = await reached.process.ask({})
            shares.append((after["cpu_seconds"] - before["cpu_seconds"]) / rounds[-1].sagas * 1e6)
    spent = share(rounds, os.cpu_count() or 1) | {"participant_us": median(shares)}
    return {
        "grpc_sagas_per_second": median([one.rate("COMPLETED") for one in rounds]),
        "grpc_sagas_per_second_by_round": [round(one.rate("COMPLETED"), 1) for one in rounds],
        "grpc_sagas_by_state": added_up(rounds),
        "grpc_p50_loaded_ms": median([one.p50_ms for one in rounds], 2),
        "processor_time": {"4_steps_over_gRPC": spent},
    }


async def backwards(bench: Bench) -> Figures:
    """The last of 4 steps is refused and 3 are undone; in turn with sagas that go forward."""
    forward_to, back_in = await asyncio.to_thread(
        lambda: (bench.server.journal("forth"), bench.server.journal("back"))
    )
    async with (
        bench.workers.engine(Wiring(forward_to.service_dsn, "forth", "done")) as forth,
        bench.workers.engine(Wiring(back_in.service_dsn, "back", "refused")) as back,
    ):
        await bench.warm_up(forth)
        await bench.warm_up(back)
        forward, undone = [], []
        for _ in range(bench.sizes.rounds):
            forward.append(await bench.loaded(forth, "4 no-op steps, to compare with"))
            undone.append(await bench.loaded(back, "the last of 4 refused, 3 undone"))
    compared = median([one.rate("COMPLETED") for one in forward])
    rate = median([one.rate("COMPENSATED") for one in undone])
    return {
        "unwound_per_second": rate,
        "unwound_per_second_by_round": [round(one.rate("COMPENSATED"), 1) for one in undone],
        "unwound_by_state": added_up(undone),
        "unwind_compared_with": compared,
        "unwind_ratio": round(rate / compared, 3),
        "processor_time": {"4_steps_and_3_undone": share(undone, os.cpu_count() or 1)},
    }


async def for_long(bench: Bench) -> Figures:
    """Resident memory while one process drives saga after saga."""
    sizes = bench.sizes
    journal = await asyncio.to_thread(bench.server.journal, "long")
    step = (sizes.memory_to - sizes.memory_from) // (MEMORY_SAMPLES - 1)
    resident: dict[int, float] = {}
    async with bench.workers.engine(Wiring(journal.service_dsn, "long", "done")) as engine:
        driven = 0
        for many in [sizes.memory_from] + [step] * (MEMORY_SAMPLES - 1):
            bench.say(f"memory over {sizes.memory_to:,} sagas: {driven:,}")
            driven += (await _drive(engine, many, resident, driven)).sagas
    seen = list(resident.values())
    return {
        "resident_memory_mib": {str(sagas): round(mib, 1) for sagas, mib in resident.items()},
        "resident_memory_growth_mib": round(seen[-1] - seen[0], 1),
    }


async def _drive(engine: Worker, sagas: int, resident: dict[int, float], before: int) -> Measured:
    measured = await engine.measure(**load(concurrent=CONCURRENT, sagas=sagas))
    resident[before + measured.sagas] = measured.rss_mib
    return measured
