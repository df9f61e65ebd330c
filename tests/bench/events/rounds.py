"""The measurements: rounds of events, and a backlog."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from chassis.config import environment
from chassis.migrations import upgrade
from deploy.local.children import dies_with_parent
from deploy.local.kafka import ApacheKafka
from deploy.local.postgres import Access
from tests.bench.engine.children import Worker
from tests.bench.engine.figures import Figures, median
from tests.bench.engine.machine import Server
from tests.bench.events.outbox import append
from tests.bench.events.worker import Wiring

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "services.orders"
TOPIC = "sagacity.orders.v1"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: Of which the median is taken.
        round_events: In one round.
        backlog_events: In the backlog.
        warm_up_events: Before the first round.
    """

    rounds: int = 5
    round_events: int = 20_000
    backlog_events: int = 200_000
    warm_up_events: int = 20_000


@dataclass(frozen=True)
class Bench:
    """One run; `say` tells what is going on, and how many steps of it are done."""

    sizes: Sizes
    server: Server
    broker: ApacheKafka
    folder: Path
    say: Callable[[str, int], None]


@dataclass(frozen=True)
class Measured:
    """One measurement; processor times in seconds."""

    events: int
    seconds: float
    relay_cpu: float
    postgres_cpu: float
    kafka_cpu: float
    growth_mib: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


async def measured(bench: Bench) -> Figures:
    """Every figure."""
    sizes = bench.sizes
    access = await asyncio.to_thread(bench.server.database, "source")
    await asyncio.to_thread(upgrade, PACKAGE, access.owner_dsn)
    async with _relay(bench, access) as relay:
        bench.say("warming up", 0)
        await _measure(bench, relay, access, sizes.warm_up_events)
        rounds = []
        for number in range(sizes.rounds):
            bench.say(f"round {number + 1} of {sizes.rounds}", 1)
            rounds.append(await _measure(bench, relay, access, sizes.round_events))
        bench.say(f"a backlog of {sizes.backlog_events:,}", 1)
        backlog = await _measure(bench, relay, access, sizes.backlog_events)
    published = sizes.warm_up_events + sum(one.events for one in rounds) + backlog.events
    surplus = await _in_kafka(bench) - published
    bench.say("done", 1)
    return {
        "rounds": sizes.rounds,
        "round_events": sizes.round_events,
        "backlog_events": sizes.backlog_events,
        "events_per_second": round(median([one.rate for one in rounds])),
        "events_per_second_worst": round(min(one.rate for one in rounds)),
        "drain_200000_per_second": round(backlog.rate),
        "drain_200000_seconds": round(backlog.seconds, 2),
        "resident_memory_growth_mib": round(backlog.growth_mib, 1),
        "lost": max(-surplus, 0),
        "double": max(surplus, 0),
        "relay_us": median([one.relay_cpu / one.events * 1e6 for one in rounds]),
        "postgres_us": median([one.postgres_cpu / one.events * 1e6 for one in rounds]),
        "kafka_us": median([one.kafka_cpu / one.events * 1e6 for one in rounds]),
    }


async def _measure(bench: Bench, relay: Worker, access: Access, events: int) -> Measured:
    def write() -> psycopg.Connection:
        connection = psycopg.connect(access.service_dsn)
        append(connection, events, seed=events)
        return connection

    connection = await asyncio.to_thread(write)
    bench.server.settle()
    postgres, kafka, started = bench.server.cpu_seconds(), _kafka_cpu(bench), time.perf_counter()
    connection.commit()
    answer = await relay.ask({})
    seconds = time.perf_counter() - started
    connection.close()
    assert answer["drained"], "the relay did not come to an end"
    return Measured(
        events=events,
        seconds=seconds,
        relay_cpu=answer["cpu_seconds"],
        postgres_cpu=bench.server.cpu_seconds() - postgres,
        kafka_cpu=_kafka_cpu(bench) - kafka,
        growth_mib=answer["rss_peak_mib"] - answer["rss_before_mib"],
    )


def _kafka_cpu(bench: Bench) -> float:
    times = psutil.Process(bench.broker.pid).cpu_times()
    return times.user + times.system


async def _in_kafka(bench: Bench) -> int:
    reader = AIOKafkaConsumer(TOPIC, bootstrap_servers=bench.broker.bootstrap_servers)
    await reader.start()
    try:
        partitions = reader.partitions_for_topic(TOPIC) or set()
        ends = await reader.end_offsets([TopicPartition(TOPIC, partition) for partition in partitions])
        return sum(ends.values())
    finally:
        await reader.stop()


@asynccontextmanager
async def _relay(bench: Bench, access: Access) -> AsyncIterator[Worker]:
    told = Wiring(access.service_dsn, bench.broker.bootstrap_servers, TOPIC)
    log = bench.folder / "relay.log"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.bench.events.worker", json.dumps(dataclasses.asdict(told))),
            cwd=ROOT,
            env={**environment(), "PYTHONPATH": paths},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
    worker = Worker(process, log, bench.server)
    try:
        await worker.ready()
        yield worker
    finally:
        await worker.stop()
