"""What an order, a read and a login cost, by process and database: `make bench ARGS="--costs"`.

Phases of a fixed number of operations on a suite with Apache Kafka and fsync on, each measured until all that
it published was applied, less what an idle suite uses in the same time. What `sagacity capacity` counts with.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chassis.clock import SystemClock
from cli.capacity_costs import FILE, LOAD_OF_A_CORE_MAX, is_free
from deploy.local.programs import ADMIN_EMAIL
from deploy.local.rest import Rest
from deploy.local.suite import MAVEN, Suite
from tests.bench.accounting import CALM_LOOKS, Meter, Snapshot
from tests.bench.engine.machine import described
from tests.bench.load_client import LoadClient
from tests.bench.shop import PASSWORD, SHOPPERS, SKUS, Shopper, prepare

ROOT = Path(__file__).resolve().parents[2]
# So many that relay, consumers and journal have batches to make, as where much is to be done.
CLIENTS = 32
IDLE_SECONDS = 10.0
PRODUCTS_PAGE = 20
MANY_LINES = 5
CONSUMER_SECONDS = 60.0
CONSUMER_LOOK_SECONDS = 0.02
CONSUMER = "users.customer-statistics"
HOT_SKU = "BENCH-0"

Operation = Callable[[LoadClient, int], Awaitable[int]]


@dataclass(frozen=True)
class Sizes:
    """How much is done: rounds, operations of each kind in a round, orders that a consumer is behind."""

    rounds: int = 3
    operations: int = 280
    logins: int = 100
    warm_up: int = 120
    behind: int = 600
    idle_seconds: float = IDLE_SECONDS
    calm_looks: int = CALM_LOOKS
    shoppers: int = SHOPPERS


QUICK = Sizes(
    rounds=1, operations=8, logins=4, warm_up=4, behind=48, idle_seconds=0.5, calm_looks=1, shoppers=4
)


class BusyMachineError(Exception):
    """The machine does something else, so nothing was measured; the message says how busy it is."""


@dataclass
class Used:
    """What one phase used, in all.

    Attributes:
        seconds: Until everything was applied.
        busy_seconds: Until every operation was answered.
    """

    operations: int
    seconds: float
    busy_seconds: float
    cpu_seconds: dict[str, float]
    wal_bytes: dict[str, int]
    events: dict[str, int]
    table_bytes: dict[str, int] = field(default_factory=dict)
    topic_bytes: dict[str, int] = field(default_factory=dict)


class Costs:
    """The phases on one running suite."""

    def __init__(self, suite: Suite, shoppers: list[Shopper], sizes: Sizes) -> None:
        self.meter = Meter(suite)
        self._suite = suite
        self._shoppers = shoppers
        self._sizes = sizes
        self._numbers = itertools.count()
        self._orders: list[tuple[Shopper, str]] = []
        address = urlsplit(suite.gateway_url)
        self._host, self._port = str(address.hostname), int(address.port or 80)

    async def warm_up(self) -> None:
        """Place orders of every kind, that caches are filled and topics there."""
        for operation in (self._order(1), self._order(MANY_LINES), self._order(1, declined=True)):
            await self._run(operation, self._sizes.warm_up)
        await self.meter.settle(self._sizes.calm_looks)

    async def idle(self) -> dict[str, float]:
        """The processor seconds that each process uses in a second without any work."""
        before = await self.meter.snapshot()
        await asyncio.sleep(self._sizes.idle_seconds)
        after = await self.meter.snapshot()
        seconds = after.at - before.at
        return {
            name: max(0.0, now - before.cpu_seconds[name]) / seconds
            for name, now in after.cpu_seconds.items()
        }

    async def phases(self) -> dict[str, Used]:
        """One round: each kind of work by itself."""
        count, logins = self._sizes.operations, self._sizes.logins
        return {
            "confirmed": await self._measured(self._order(1), count),
            "confirmed_many": await self._measured(self._order(MANY_LINES), count),
            "declined": await self._measured(self._order(1, declined=True), count),
            "declined_many": await self._measured(self._order(MANY_LINES, declined=True), count),
            "order_read": await self._measured(self._read_order, count),
            "products_read": await self._measured(self._read_products, count),
            "login": await self._measured(self._log_in, logins),
        }

    async def hot_sku(self) -> float:
        """The rate of orders of one SKU, as a share of the rate of orders of many, in turns."""
        count = self._sizes.operations
        spread = hot = 0.0
        for _ in range(self._sizes.rounds):
            spread += await self._run(self._order(1), count)
            hot += await self._run(self._order(1, sku=HOT_SKU), count)
        return spread / hot

    async def consumer(self) -> float:
        """Events a second that one consumer applied of what had piled up for it."""
        async with Rest(self._suite.gateway_url) as admin:
            await admin.log_in(ADMIN_EMAIL, self._suite.password("admin"))
            path, why = f"/admin/contexts/users/consumers/{CONSUMER}", {"reason": "the benchmark"}
            await admin.post(f"{path}/pause", why)
            await self._run(self._order(1), self._sizes.behind)
            before = self._applied()
            # Two events of each order.
            wanted = before + self._sizes.behind * 2
            await admin.post(f"{path}/resume", why)
        # From the last look at which it had not begun: to join takes it a while.
        begun_at = time.perf_counter()
        async with asyncio.timeout(CONSUMER_SECONDS):
            while (now := self._applied()) < wanted:
                if now == before:
                    begun_at = time.perf_counter()
                await asyncio.sleep(CONSUMER_LOOK_SECONDS)
        return (now - before) / (time.perf_counter() - begun_at)

    def _applied(self) -> float:
        return self.meter.metric("users", "sagacity_consumer_applied_total", group=CONSUMER)

    async def _measured(self, operation: Operation, count: int) -> Used:
        # All is settled: by the warm-up, or by the phase before.
        tables, topics = self.meter.table_bytes(), self.meter.topic_bytes()
        before = await self.meter.snapshot()
        busy_seconds = await self._run(operation, count)
        await self.meter.settle(self._sizes.calm_looks)
        after = await self.meter.snapshot()
        used = self._between(before, after, count, busy_seconds)
        grown, kept = self.meter.table_bytes(), self.meter.topic_bytes()
        used.table_bytes = {name: size - tables[name] for name, size in grown.items()}
        used.topic_bytes = {name: size - topics[name] for name, size in kept.items()}
        return used

    def _between(self, before: Snapshot, after: Snapshot, count: int, busy_seconds: float) -> Used:
        seconds = after.at - before.at
        return Used(
            operations=count,
            seconds=seconds,
            busy_seconds=busy_seconds,
            cpu_seconds={name: now - before.cpu_seconds[name] for name, now in after.cpu_seconds.items()},
            wal_bytes={name: now - before.wal_bytes[name] for name, now in after.wal_bytes.items()},
            events={name: now - before.events[name] for name, now in after.events.items()},
        )

    async def _run(self, operation: Operation, count: int) -> float:
        started = time.perf_counter()
        todo = iter(range(count))

        async def work() -> None:
            async with LoadClient(self._host, self._port) as client:
                for _ in todo:
                    number = next(self._numbers)
                    status = await operation(client, number)
                    assert 0 < status < 500, f"an operation was answered with {status}"

        await asyncio.gather(*(work() for _ in range(CLIENTS)))
        return time.perf_counter() - started

    def _order(self, lines: int, *, declined: bool = False, sku: str | None = None) -> Operation:
        wanted = 402 if declined else 201

        async def place(client: LoadClient, number: int) -> int:
            shopper = self._shoppers[number % len(self._shoppers)]
            skus = [sku or f"BENCH-{(number * 7 + line) % SKUS}" for line in range(lines)]
            body = {
                "items": [{"sku": each, "quantity": 1} for each in skus],
                "currency": "EUR",
                "address_id": shopper.address_id,
                "payment_method_id": shopper.declined_method_id if declined else shopper.payment_method_id,
            }
            headers = _of(shopper) | {"Idempotency-Key": f"costs-{number}", "Prefer": "wait=30"}
            status, answer = await client.post("/api/v1/orders", body, headers)
            assert status == wanted, f"an order was answered with {status}: {answer.decode()}"
            if status == 201:
                self._orders.append((shopper, json.loads(answer)["id"]))
            return status

        return place

    async def _read_order(self, client: LoadClient, number: int) -> int:
        shopper, order_id = self._orders[number % len(self._orders)]
        status, _ = await client.get(f"/api/v1/orders/{order_id}", _of(shopper))
        return status

    async def _read_products(self, client: LoadClient, number: int) -> int:
        headers = _of(self._shoppers[number % len(self._shoppers)])
        status, _ = await client.get(f"/api/v1/products?page_size={PRODUCTS_PAGE}", headers)
        return status

    async def _log_in(self, client: LoadClient, number: int) -> int:
        email = f"bench-{number % len(self._shoppers)}@sagacity.example"
        status, _ = await client.post("/api/v1/sessions", {"email": email, "password": PASSWORD}, {})
        return status


def _of(shopper: Shopper) -> dict[str, str]:
    return {"Authorization": f"Bearer {shopper.token}"}


def check_that_the_machine_is_free(load: float, cores: int) -> None:
    """BusyMachineError where the load is above what leaves the processors to the suite."""
    if not is_free(load, cores):
        raise BusyMachineError(
            f"the load of this machine is {load:.2f}, above {LOAD_OF_A_CORE_MAX:g} for each of its {cores}"
            " processors: costs that are measured now are too high. Wait until it is free,"
            " or take --even-if-busy, which is written into the figures"
        )


async def measure(sizes: Sizes, console: Console, load: float) -> dict[str, Any]:
    """Start a suite with Apache Kafka, go through the phases, stop it.

    Args:
        sizes: How much is done.
        console: Where progress is shown.
        load: That of the machine before; it is written into the figures.

    Returns:
        The costs, as `cli.capacity_costs.parsed` reads them.
    """
    # Not in /tmp, which is memory on some machines: there fsync would cost nothing.
    data = ROOT / ".sagacity"
    data.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-costs-", dir=data) as name,
        Progress(console=console) as progress,
    ):
        folder = Path(name)
        folder.chmod(0o711)  # noqa: ASYNC240 - nothing else runs yet
        bar = progress.add_task("starting the suite", total=sizes.rounds + 4)
        suite = Suite(folder / "suite", sample_data=False, kafka=MAVEN, jars=data / "kafka-jars")
        machine = described(folder) | {"load_at_the_start": load}
        await suite.start()
        try:
            costs = Costs(suite, await prepare(suite, sizes.shoppers), sizes)
            figures = await _go_through(
                costs, sizes, lambda what: progress.update(bar, advance=1, description=what)
            )
            costs.meter.close()
        finally:
            await suite.stop()
    # Measured by another benchmark, so it stays as it is.
    relay = json.loads(FILE.read_text("utf-8"))["relay"]
    return {"machine": machine, "date": SystemClock().now().date().isoformat(), **figures, "relay": relay}


async def _go_through(costs: Costs, sizes: Sizes, tell: Callable[[str], None]) -> dict[str, Any]:
    tell("warming up")
    await costs.warm_up()
    tell("doing nothing")
    idle = await costs.idle()
    rounds = []
    for number in range(sizes.rounds):
        tell(f"round {number + 1}")
        rounds.append(await costs.phases())
    # The less of both: at the beginning a JVM is still busy with itself.
    idle = {name: min(share, idle[name]) for name, share in (await costs.idle()).items()}
    tell("one SKU, and a consumer that is behind")
    figures = {
        "consumer_events_per_second": round(await costs.consumer()),
        "hot_sku_share_of_the_rate": round(await costs.hot_sku(), 2),
        "connections": costs.meter.connections(),
        "backend_mib": round(costs.meter.backend_mib(), 1),
        "peak_rss_mib": {name: round(mib) for name, mib in costs.meter.peak_rss_mib().items()},
        "idle_cpu_cores": {name: round(share, 4) for name, share in idle.items()},
    }
    tell("done")
    confirmed = [each for one in rounds for kind, each in one.items() if kind.startswith("confirmed")]
    rate = sum(each.operations for each in confirmed) / sum(each.busy_seconds for each in confirmed)
    measured = {
        "rounds": sizes.rounds,
        "operations": sizes.operations,
        "orders_per_second_meanwhile": round(rate, 1),
    }
    return {**measured, **_per_operation(rounds, idle), **figures}


def _per_operation(rounds: list[dict[str, Used]], idle: dict[str, float]) -> dict[str, Any]:
    """Processor time as medians of the rounds; bytes and events of all of them together."""
    kinds = tuple(rounds[0])
    return {
        "lines_of_many": MANY_LINES,
        "cpu_ms": {kind: _cpu_ms([each[kind] for each in rounds], idle) for kind in kinds},
        "wal_bytes": {kind: _mean([each[kind] for each in rounds], "wal_bytes") for kind in kinds},
        "table_bytes": {kind: _mean([each[kind] for each in rounds], "table_bytes") for kind in kinds},
        "events": {kind: _mean([each[kind] for each in rounds], "events", 2) for kind in kinds},
        "topic_bytes": {kind: _mean([each[kind] for each in rounds], "topic_bytes") for kind in kinds},
    }


def _cpu_ms(used: list[Used], idle: dict[str, float]) -> dict[str, float]:
    def median(name: str) -> float:
        spent = (each.cpu_seconds[name] - idle[name] * each.seconds for each in used)
        each_operation = (
            max(0.0, seconds) / each.operations for seconds, each in zip(spent, used, strict=True)
        )
        return statistics.median(each_operation)

    return {name: round(median(name) * 1000, 3) for name in used[0].cpu_seconds}


def _mean(used: list[Used], what: str, digits: int = 0) -> dict[str, float]:
    operations = sum(each.operations for each in used)
    names = getattr(used[0], what)
    found = {name: sum(getattr(each, what)[name] for each in used) / operations for name in names}
    return {name: round(mean, digits) if digits else round(mean) for name, mean in found.items()}


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the costs as a table: a line for each process and database."""
    machine = figures["machine"]
    table = Table(title=f"processor milliseconds, {machine['cores']} cores, CPython {machine['python']}")
    table.add_column("process")
    kinds = figures["cpu_ms"]
    for kind in kinds:
        table.add_column(kind, justify="right")
    for name in kinds["confirmed"]:
        table.add_row(name, *(f"{kinds[kind][name]:.2f}" for kind in kinds))
    console.print(table)
