"""From a seed to its report: build a world, break it, heal it, demand that everything ends well."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from unittest.mock import patch

from orchestrator import executor
from tests.simulation.engine_log import EngineLog, logging_to
from tests.simulation.people import People
from tests.simulation.simulation import Parts, Report, Simulation
from tests.simulation.virtual_loop import StuckError

MAX_ORDERS = 4
MAX_BREAKS = 4
MAX_MEDDLING = 3
_COUNTED = {
    "saga_lost": "fence refusal",
    "lease_was_lost": "lease lost",
    "breaker_opened": "breaker opened",
    "breaker_closed": "breaker closed",
    "saga_dropped": "saga dropped",
    "saga_parked": "parked",
    "saga_overdue": "overdue",
}


def run_seed(seed: int, parts: Parts | None = None) -> Report:
    """Simulate one seed; the same seed gives the same report, to the last entry of its trace."""
    simulation = Simulation(seed, parts or Parts())

    def said(event: str, values: dict[str, Any]) -> None:
        simulation.note("log", event, tuple(values.values()))
        if event in _COUNTED:
            simulation.count(_COUNTED[event])

    # A bound on sagas in flight that is met now and then.
    in_flight = patch.object(executor, "MAX_IN_FLIGHT", simulation.chance.choice((2, 1000, 1000, 1000)))
    with in_flight, logging_to(EngineLog(said, simulation.checker.violated)):
        try:
            simulation.loop.run_until_complete(simulation.spawn(_live(simulation)))
        except StuckError:
            simulation.checker.violated("everything waits, for nothing")
        seconds = simulation.loop.time()
        violations = list(simulation.checker.violations)
        _clear_away(simulation)
    return Report(seed, violations, simulation.counts, seconds, simulation.trace)


async def _live(simulation: Simulation) -> None:
    chance, people = simulation.chance, People(simulation)
    for _ in range(chance.choice((2, 2, 3))):
        simulation.begin_replica()
    until = chance.uniform(4.0, 16.0)
    async with asyncio.TaskGroup() as group:
        spread = chance.choice((0.2, 1.0, until / 2))
        for number in range(chance.randint(1, MAX_ORDERS)):
            group.create_task(people.place(number, chance.uniform(0.0, spread)))
        for _ in range(chance.randint(0, MAX_MEDDLING)):
            group.create_task(people.meddle(chance.uniform(0.2, until)))
        for _ in range(chance.randint(0, MAX_BREAKS)):
            start = chance.uniform(0.1, until - 2.0)
            group.create_task(people.break_something(start, min(chance.uniform(0.5, 12.0), until - start)))
        group.create_task(_heal(simulation, until))
    await people.look_after()
    await simulation.network.idle.wait()
    simulation.checker.ended()


async def _heal(simulation: Simulation, until: float) -> None:
    await asyncio.sleep(until)
    simulation.note("healed")
    simulation.faults = None
    simulation.journal_away = False
    simulation.down.clear()
    simulation.cut_off.clear()


def _clear_away(simulation: Simulation) -> None:
    """End every task, also those of the dead, so that none is found half done by the garbage collector."""
    loop = simulation.loop
    for replica in simulation.replicas:
        loop.continue_host(replica.host)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        try:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        except StuckError:
            gc.collect()
    loop.close()
