"""A process with one relay: `python -m tests.bench.events.worker '{"dsn": ...}'`.

It is asked by a line on standard input to drain its outbox, and answers with what that took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from chassis.kafka import KafkaCluster
from chassis.lifecycle import Lifecycle, main
from chassis.postgres import Database
from chassis.relay import Relay
from chassis.telemetry import configure_logging
from tests.bench.engine.questions import Questions

DRAIN_SECONDS = 900.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Wiring:
    """What the process is told."""

    dsn: str
    servers: str
    topic: str


async def drain(relay: Relay) -> dict[str, Any]:
    """Publish all that is there; returns what it took."""
    process = psutil.Process()
    before = process.cpu_times()
    rss_before = peak = process.memory_info().rss

    async def look() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    started = time.perf_counter()
    try:
        drained = await relay.drain(DRAIN_SECONDS)
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    after = process.cpu_times()
    return {
        "drained": drained,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": after.user + after.system - before.user - before.system,
        "rss_before_mib": rss_before / 2**20,
        "rss_peak_mib": max(peak, process.memory_info().rss) / 2**20,
    }


async def program(life: Lifecycle) -> None:
    """Start the relay as a service does, and drain when asked to until the input ends."""
    questions = Questions()
    configure_logging("bench", "console")
    told = Wiring(**json.loads(sys.argv[1]))
    database = await Database.open(told.dsn, application_name="bench-events")
    life.on_stop(database.close)
    relay = Relay(database, kafka=KafkaCluster(told.servers), topic=told.topic, owner="bench-events")
    life.start(relay.run(), name="relay")

    async def answer(_question: dict[str, Any]) -> dict[str, Any]:
        return await drain(relay)

    await questions.serve(life, answer, {})


if __name__ == "__main__":
    main(program)
