"""What every process shows of itself: its release, its memory and processor, how late its event loop is."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector

from chassis.metric_catalogue import EVERY_PROCESS
from chassis.telemetry import REGISTRY, gauge, histogram
from chassis.version import VERSION

LAG_PERIOD_SECONDS = 0.5

BUILD_INFO: Final = gauge(
    "sagacity_build_info",
    "1; the release of the code that runs.",
    "version",
    of=EVERY_PROCESS,
    look="two versions for longer than a rollout: it is stuck",
)
LOOP_LAG_SECONDS: Final = histogram(
    "sagacity_event_loop_lag_seconds",
    "How much later than asked for the event loop wakes a task, twice a second.",
    of=EVERY_PROCESS,
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    look="above 100 ms often: the process gets no processor, or something blocks it",
)
BUILD_INFO.labels(VERSION).set(1)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


async def watch_event_loop() -> None:
    """Measures, until it is cancelled, how late the event loop is."""
    while True:
        asked_at = time.perf_counter()
        await asyncio.sleep(LAG_PERIOD_SECONDS)
        LOOP_LAG_SECONDS.observe(max(0.0, time.perf_counter() - asked_at - LAG_PERIOD_SECONDS))
