"""What an event of the orders topic costs a gateway that reads it: `python -m tests.bench.live_updates`.

Every gateway reads all of it, so this is work that more gateways do not share; cli/capacity_model.py counts
with it. Events come at a pace from another process; this one does what a gateway does with them, and no more.
`--quick` is one pace for a second: whether it works.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaProducer
from typing_extensions import override

from chassis.kafka import KafkaCluster
from deploy.local.kafka import ApacheKafka
from gateway.live import TOPIC, LiveUpdates
from tests.e2e.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
PACES = (300, 1_000, 3_000)
SECONDS = 10
TICK_SECONDS = 0.02
# About what an event of an order is, with its headers.
PAYLOAD = b"x" * 250
HEADERS = [(f"ce_header_{number}", b"y" * 20) for number in range(8)]


class Counting(LiveUpdates):
    """A gateway's live updates, with nobody who waits for any."""

    heard = 0

    @override
    def wake(self, order_id: str) -> None:
        self.heard += 1
        super().wake(order_id)


async def publish(bootstrap_servers: str, pace: int, events: int) -> None:
    """Publish so many events at a pace, as a relay does: many at once."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        begun, sent = time.monotonic(), 0
        while sent < events:
            due = min(events, int((time.monotonic() - begun) * pace))
            futures = [
                await producer.send(TOPIC, PAYLOAD, key=f"{number:036}".encode(), headers=HEADERS)
                for number in range(sent, due)
            ]
            await asyncio.gather(*futures)
            sent = due
            await asyncio.sleep(TICK_SECONDS)
    finally:
        await producer.stop()


async def cost_of_an_event(bootstrap_servers: str, pace: int, seconds: int) -> float:
    """Processor seconds of a gateway for an event at this pace, less what it uses while nothing comes."""
    live = Counting(max_streams=1, max_streams_per_user=1)
    following = asyncio.create_task(live.follow(KafkaCluster(bootstrap_servers)))
    try:
        await _published(bootstrap_servers, pace, 1, until=live)
        idle = time.process_time()
        await asyncio.sleep(seconds)
        idle = time.process_time() - idle
        before, live.heard = time.process_time(), 0
        await _published(bootstrap_servers, pace, pace * seconds, until=live)
        return (time.process_time() - before - idle) / live.heard
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _published(bootstrap_servers: str, pace: int, events: int, *, until: Counting) -> None:
    """Have another process publish, and wait until all of it was heard."""
    arguments = ("-m", "tests.bench.live_updates", bootstrap_servers, str(pace), str(events))
    await eventually(partial(_follows, until))
    publishing = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT)
    assert await publishing.wait() == 0
    await eventually(partial(_heard, until), until=lambda heard: heard >= events)


async def _follows(live: Counting) -> bool:
    return live._follows


async def _heard(live: Counting) -> int:
    return live.heard


async def measure(paces: Sequence[int], seconds: int) -> None:
    """Start a broker, and print what an event costs at each pace."""
    with tempfile.TemporaryDirectory() as folder:
        broker = ApacheKafka(Path(folder), jars=ROOT / ".sagacity" / "kafka-jars")
        await asyncio.to_thread(broker.prepare)
        broker.launch()
        await asyncio.to_thread(broker.wait_ready)
        try:
            await publish(broker.bootstrap_servers, paces[-1], 1)
            for pace in paces:
                cost = await cost_of_an_event(broker.bootstrap_servers, pace, seconds)
                print(f"{pace:,} events a second: {cost * 1e6:.0f} us each")  # noqa: T201 - what it says
        finally:
            await asyncio.to_thread(broker.stop)


if __name__ == "__main__":
    if sys.argv[1:] == ["--quick"]:
        asyncio.run(measure(PACES[:1], seconds=1))
    elif sys.argv[1:]:
        asyncio.run(publish(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    else:
        asyncio.run(measure(PACES, SECONDS))
