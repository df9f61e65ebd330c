"""What a running suite has used: processor time by process and database, log, rows, events, memory.

Processor time is what the figures per order are made of: unlike a rate it hardly depends on what else the
machine does meanwhile.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from aiokafka import AIOKafkaConsumer
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import make_conninfo

from deploy.local.suite import Suite

DATABASES = ("users", "inventory", "payments", "orders", "sagas")
PUBLISHERS = ("users", "inventory", "payments", "orders")
TOPICS = tuple(f"sagacity.{context}.v1" for context in PUBLISHERS)
BACKGROUND = "postgres background"
CLIENT = "bench client"
METER = "bench meter"
SETTLE_SECONDS = 120.0
# Looking costs those who are looked at, too.
LOOK_SECONDS = 0.5
HTTP_SECONDS = 5.0
# Kafka shows an event to consumers, and they show their lag, a moment after it left the outbox.
CALM_LOOKS = 3
OPEN_SAGA = "SELECT 1 FROM saga WHERE state IN ('RUNNING', 'COMPENSATING') LIMIT 1"


@dataclass
class Snapshot:
    """Sums since the start, at one moment."""

    at: float
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    wal_bytes: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)


class Meter:
    """Looks at one running suite."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._connections: dict[str, psycopg.Connection[Any]] = {}

    def close(self) -> None:
        """Close the connections by which it looks."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    async def snapshot(self) -> Snapshot:
        """What was used until now."""
        taken = Snapshot(time.perf_counter())
        backends = await asyncio.to_thread(self._backends)
        pids = {name: pid for name, pid in self._suite.pids.items() if name != "postgres"}
        taken.cpu_seconds = {name: _tree_seconds(pid) for name, pid in pids.items()}
        taken.wal_bytes = dict.fromkeys(DATABASES, 0)
        of_databases = dict.fromkeys(DATABASES, 0.0)
        looking = sum(_own_seconds(connection.info.backend_pid) for connection in self._connections.values())
        for pid, database, wal_bytes in backends:
            of_databases[database] += _own_seconds(pid)
            taken.wal_bytes[database] += wal_bytes
        postgres = self._suite.pids["postgres"]
        rest = _tree_seconds(postgres) - sum(of_databases.values()) - looking
        taken.cpu_seconds |= {f"postgres {name}": spent for name, spent in of_databases.items()}
        own = psutil.Process().cpu_times()
        taken.cpu_seconds |= {BACKGROUND: rest, CLIENT: own.user + own.system}
        taken.events = await self._ends()
        return taken

    async def settle(self, calm_looks: int = CALM_LOOKS) -> None:
        """Wait until all that was published is applied; TimeoutError after `SETTLE_SECONDS`."""
        async with asyncio.timeout(SETTLE_SECONDS):
            calm = 0
            while calm < calm_looks:
                calm = calm + 1 if await asyncio.to_thread(self._is_calm) else 0
                await asyncio.sleep(LOOK_SECONDS)

    def metric(self, process: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples at one process, of those that have these labels."""
        with urllib.request.urlopen(self._suite.metrics_url(process), timeout=HTTP_SECONDS) as answer:  # noqa: S310
            text = answer.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def table_bytes(self) -> dict[str, int]:
        """What each database's tables and indexes take, after a vacuum: what stays of what was done."""
        return {name: self._table_bytes(name) for name in DATABASES}

    def topic_bytes(self) -> dict[str, int]:
        """What Kafka's log has of each topic; nothing where the broker keeps no files of ours."""
        data = self._suite.data_dir / "kafka" / "kafka-data"
        found = dict.fromkeys(TOPICS, 0)
        for log in data.glob("*/*.log"):
            topic = log.parent.name.rpartition("-")[0]
            if topic in found:
                found[topic] += log.stat().st_size
        return found

    def connections(self) -> dict[str, int]:
        """How many connections each database has."""
        held = dict.fromkeys(DATABASES, 0)
        for _, database, _ in self._backends():
            held[database] += 1
        return held

    def backend_mib(self) -> float:
        """What a backend of PostgreSQL holds for itself alone, in MiB: the median of all."""
        held = [psutil.Process(pid).memory_full_info().uss for pid, _, _ in self._backends()]
        return float(statistics.median(held)) / 1024 / 1024

    def peak_rss_mib(self) -> dict[str, float]:
        """The most memory that each process has held, in MiB."""
        return {name: _peak_mib(pid) for name, pid in self._suite.pids.items()}

    def _backends(self) -> list[tuple[int, str, int]]:
        rows = self._connection("postgres").execute(
            "SELECT pid, datname, coalesce((pg_stat_get_backend_wal(pid)).wal_bytes, 0)::bigint"
            " FROM pg_stat_activity WHERE datname = ANY(%s) AND backend_type = 'client backend'"
            " AND application_name <> %s",
            [list(DATABASES), METER],
        )
        return [(pid, database, wal_bytes) for pid, database, wal_bytes in rows.fetchall()]

    def _is_calm(self) -> bool:
        # First: a saga that is over has published all that it will; a customer may be answered before it is.
        if self._connection("sagas").execute(OPEN_SAGA).fetchone():
            return False
        for context in PUBLISHERS:
            row = self._connection(context).execute("SELECT count(*) FROM outbox").fetchone()
            if row is None or row[0]:
                return False
        return not any(self.metric(name, "sagacity_consumer_lag") for name in ("users", "orders"))

    def _table_bytes(self, database: str) -> int:
        self._connection(database).execute("VACUUM")
        row = (
            self._connection(database)
            .execute(
                "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
                " JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.relkind = 'r' AND n.nspname = 'public' AND c.relname <> 'outbox'"
            )
            .fetchone()
        )
        assert row is not None
        return int(row[0])

    def _connection(self, database: str) -> psycopg.Connection[Any]:
        # Kept: what a connection costs to make would be seen as background work of the server.
        if database not in self._connections:
            dsn = make_conninfo(self._suite.postgres.admin_dsn, dbname=database, application_name=METER)
            self._connections[database] = psycopg.connect(dsn, autocommit=True)
        return self._connections[database]

    async def _ends(self) -> dict[str, int]:
        # Of no group: it has every partition as soon as it has started.
        consumer = AIOKafkaConsumer(*TOPICS, bootstrap_servers=self._suite.broker.bootstrap_servers)
        await consumer.start()
        try:
            ends = dict.fromkeys(TOPICS, 0)
            places = consumer.assignment()
            for place, end in (await consumer.end_offsets(list(places))).items() if places else ():
                ends[place.topic] += end
            return ends
        finally:
            await consumer.stop()


def _own_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _tree_seconds(pid: int) -> float:
    """User and system time of a process, of its children that live, and of those that it waited for."""
    root = psutil.Process(pid)
    times = root.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    return total + sum(_own_seconds(child.pid) for child in root.children(recursive=True))


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return psutil.Process(pid).memory_info().rss / 1024 / 1024
