"""The formulas of `sagacity capacity`: pure functions from costs and workload to a plan.

They are those of docs/scaling.md. Work is processor seconds a second, which is cores. Little's law (L = λW:
what is in a system is what arrives a second times how long it stays; J. D. C. Little, Operations Research 9,
1961) gives what is in flight. The rest is rounding up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from cli.capacity_costs import BROKER, DATABASES, PROCESSES, TOPICS, Costs
from cli.capacity_workload import Workload

MIN_REPLICAS: Final = 2
SECONDS_A_DAY: Final = 86_400
# What a gateway and an orchestrator process take at once; a test compares them with the code.
IN_FLIGHT_MAX: Final = {"gateway": 1_000, "orchestrator": 1_000}
DATABASE_OF: Final = {
    "users": "users",
    "inventory": "inventory",
    "payments": "payments",
    "orders": "orders",
    "orchestrator": "sagas",
}
# What every gateway reads whole, for live updates, and the processor time of an event: measured at 3,000 a
# second by `python -m tests.bench.live_updates`. At 300 it is six times as much, of all 4 % of a core.
HEARD_TOPIC: Final = "sagacity.orders.v1"
HEARD_SECONDS: Final = 20e-6
# Of what a gateway may use: beyond it gateways are mostly busy with reading, however many there are.
HEARD_SHARE_MAX: Final = 0.5
# Connections that a process opens at most. Each has one beside its pool that tells whether it is ready, and
# payments has a second pool, its simulated provider's. A test asks processes that run.
POOL_MAX: Final = {"users": 9, "inventory": 9, "payments": 17, "orders": 9, "orchestrator": 7}
# Who has consumer groups on a topic; a gateway reads it too, but all of it and in no group.
CONSUMERS: Final = {
    "sagacity.orders.v1": ("users", "orders"),
    "sagacity.payments.v1": ("orders",),
    "sagacity.users.v1": ("orders",),
    "sagacity.inventory.v1": (),
}
MIN_PARTITIONS: Final = 4
# Partitions are hard to add later, so there are twice as many as the peak needs.
PARTITION_HEADROOM: Final = 2
KAFKA_COPIES: Final = 3
# What a rolling update starts beside what runs (Kubernetes: maxSurge 25 %).
SURGE_SHARE: Final = 0.25
# Migrations, backups, monitoring and people.
RESERVED_CONNECTIONS: Final = 10
# PostgreSQL's `superuser_reserved_connections`, as it is by default: of `max_connections`, but not for us.
SUPERUSER_CONNECTIONS: Final = 3
DEFAULT_MAX_CONNECTIONS: Final = 100
# A judgement, no measurement: beyond it backends cost more memory than they are worth.
DIRECT_CONNECTIONS_MAX: Final = 500
# Also a judgement: a primary of a size that can be had everywhere.
PRIMARY_CORES_MAX: Final = 32
MEMORY_HEADROOM: Final = 1.25
MEMORY_STEP_MIB: Final = 16
CPU_STEP: Final = 0.05
# Against 0.30000000000000004, which would be one more.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ProcessPlan:
    """How a process is to be run: replicas, and what one of them asks for.

    Of the cores at the peak `cores_of_each` are work that every replica does; the rest is shared by all.
    """

    name: str
    replicas: int
    needed_at_peak: int
    cores_at_peak: float
    cores_of_each: float
    cpu_request_cores: float
    memory_request_mib: int


@dataclass(frozen=True)
class DatabasePlan:
    """What a database has to bear. Bytes a day are those of the average, cores those of the peak.

    `connections` are those of our processes and of others: to PgBouncer where there is one. `max_connections`
    is the server's, which has only PgBouncer's pool then.
    """

    name: str
    cores: int
    connections: int
    max_connections: int
    pgbouncer: bool
    pgbouncer_pool: int
    gib_a_day: float
    gib_kept: float
    wal_gib_a_day: float


@dataclass(frozen=True)
class TopicPlan:
    """How a topic is to be made, and how busy its relay is at the peak."""

    name: str
    partitions: int
    events_per_second: float
    consumers_needed: int
    relay_share: float
    debezium: bool
    gib_a_day: float
    gib_kept: float


@dataclass(frozen=True)
class Bottleneck:
    """What fills first, at how many orders a second (of the average), and what is to be done then."""

    name: str
    orders_per_second: float
    remedy: str


@dataclass(frozen=True)
class Plan:
    """The whole answer."""

    peak_orders_per_second: float
    processes: tuple[ProcessPlan, ...]
    databases: tuple[DatabasePlan, ...]
    topics: tuple[TopicPlan, ...]
    kafka_cores: float
    fills_first: Bottleneck
    replicas_do_not_help: Bottleneck


def plan(workload: Workload, costs: Costs) -> Plan:
    """Work out a deployment for a workload."""
    processes = tuple(_process(name, workload, costs) for name in PROCESSES)
    replicas = {each.name: each.replicas for each in processes}
    return Plan(
        peak_orders_per_second=workload.peak,
        processes=processes,
        databases=tuple(_database(name, replicas, workload, costs) for name in DATABASES),
        topics=tuple(_topic(name, replicas, workload, costs) for name in TOPICS),
        kafka_cores=_work(BROKER, workload, costs) / workload.utilisation,
        fills_first=min((_fills(each, workload) for each in processes), key=_order),
        replicas_do_not_help=min(_walls(workload, costs), key=_order),
    )


def replicas_for(needed: int, zones: int) -> int:
    """The fewest replicas of which `needed` are left when one of them, or one of several zones, is lost.

    Replicas are spread evenly over the zones; each zone has one.
    """
    without_a_zone = _ceil(needed * zones / (zones - 1)) if zones > 1 else needed + 1
    replicas = max(MIN_REPLICAS, zones, without_a_zone)
    while replicas - lost_of(replicas, zones) < needed:
        replicas += 1
    return replicas


def lost_of(replicas: int, zones: int) -> int:
    """How many replicas go with the fullest zone; with one zone: one."""
    return math.ceil(replicas / zones) if zones > 1 else 1


def partitions_for(needed: int, replicas: int) -> int:
    """The power of two from `MIN_PARTITIONS` on that gives every consumer process one, and headroom."""
    least = max(MIN_PARTITIONS, needed * PARTITION_HEADROOM, replicas)
    return 1 << (least - 1).bit_length()


def _process(name: str, workload: Workload, costs: Costs) -> ProcessPlan:
    work, each = _work(name, workload, costs), _work_of_each(name, workload, costs)
    # Python runs on one core at a time, so one core is what a replica gives.
    needed = max(1, _ceil((work - each) / (workload.utilisation - each)))
    if name in IN_FLIGHT_MAX:
        in_flight = workload.peak * workload.order_seconds
        needed = max(needed, _ceil(in_flight / (IN_FLIGHT_MAX[name] * workload.utilisation)))
    alone = min(workload.utilisation, max(CPU_STEP, _ceil(work / CPU_STEP) * CPU_STEP))
    return ProcessPlan(
        name=name,
        replicas=replicas_for(needed, workload.zones),
        needed_at_peak=needed,
        cores_at_peak=work + (needed - 1) * each,
        cores_of_each=each,
        cpu_request_cores=round(alone if needed == 1 else workload.utilisation, 2),
        memory_request_mib=_ceil(costs.memory_mib[name] * MEMORY_HEADROOM / MEMORY_STEP_MIB)
        * MEMORY_STEP_MIB,
    )


def _database(name: str, replicas: dict[str, int], workload: Workload, costs: Costs) -> DatabasePlan:
    work = workload.peak * workload.per_order(costs.database_seconds, name, costs)
    cores = max(1, _ceil(work / workload.utilisation))
    connections = RESERVED_CONNECTIONS + sum(
        (replicas[process] + _surge(replicas[process])) * POOL_MAX[process]
        for process, database in DATABASE_OF.items()
        if database == name
    )
    orders_a_day = workload.orders_per_second * SECONDS_A_DAY
    stays = orders_a_day * workload.per_order(costs.table_bytes, name, costs) / 2**30
    logged = orders_a_day * workload.per_order(costs.wal_bytes, name, costs) / 2**30
    through = connections > DIRECT_CONNECTIONS_MAX
    # Twice the cores: the rule of PostgreSQL's wiki, "Number Of Database Connections".
    pool = max(RESERVED_CONNECTIONS, 2 * cores) if through else 0
    held = (pool + RESERVED_CONNECTIONS if through else connections) + SUPERUSER_CONNECTIONS
    return DatabasePlan(
        name=name,
        cores=cores,
        connections=connections,
        max_connections=max(DEFAULT_MAX_CONNECTIONS, _ceil(held / 50) * 50),
        pgbouncer=through,
        pgbouncer_pool=pool,
        gib_a_day=stays,
        gib_kept=stays * workload.retention_days,
        wal_gib_a_day=logged,
    )


def _topic(name: str, replicas: dict[str, int], workload: Workload, costs: Costs) -> TopicPlan:
    events = workload.peak * workload.per_order(costs.events, name, costs)
    needed = max(1, _ceil(events / (costs.consumer_events_per_second * workload.utilisation)))
    members = max((replicas[process] for process in CONSUMERS[name]), default=1)
    a_day = workload.orders_per_second * SECONDS_A_DAY * KAFKA_COPIES / 2**30
    kept = a_day * workload.per_order(costs.topic_bytes, name, costs)
    share = events / costs.relay_events_per_second
    return TopicPlan(
        name=name,
        partitions=partitions_for(needed, members),
        events_per_second=events,
        consumers_needed=needed if CONSUMERS[name] else 0,
        relay_share=share,
        debezium=share > workload.utilisation,
        gib_a_day=kept,
        gib_kept=kept * workload.retention_days,
    )


def _fills(process: ProcessPlan, workload: Workload) -> Bottleneck:
    left = process.replicas - lost_of(process.replicas, workload.zones)
    shared = process.cores_at_peak - process.needed_at_peak * process.cores_of_each
    work = (shared + left * process.cores_of_each) / workload.orders_per_second
    at = left * workload.utilisation / max(work, _ROUNDING)
    if process.name in IN_FLIGHT_MAX:
        room = left * IN_FLIGHT_MAX[process.name] * workload.utilisation
        at = min(at, room / (workload.peak_factor * workload.order_seconds))
    return Bottleneck(process.name, at, f"add replicas of {process.name}: it keeps no state")


def _walls(workload: Workload, costs: Costs) -> list[Bottleneck]:
    """Where more replicas change nothing: primaries of databases, relays, what each gateway reads."""
    walls = []
    for name in DATABASES:
        cost = workload.per_order(costs.database_seconds, name, costs) * workload.peak_factor
        at = PRIMARY_CORES_MAX * workload.utilisation / max(cost, _ROUNDING)
        remedy = f"beyond {PRIMARY_CORES_MAX} cores of its primary the database {name} has to be distributed"
        walls.append(Bottleneck(f"database {name}", at, remedy))
    for topic in TOPICS:
        events = workload.per_order(costs.events, topic, costs) * workload.peak_factor
        at = costs.relay_events_per_second * workload.utilisation / max(events, _ROUNDING)
        walls.append(Bottleneck(f"relay of {topic}", at, "publish that outbox with Debezium"))
    heard = workload.per_order(costs.events, HEARD_TOPIC, costs) * workload.peak_factor * HEARD_SECONDS
    at = HEARD_SHARE_MAX * workload.utilisation / max(heard, _ROUNDING)
    remedy = "have gateways without Kafka, where streams look every three seconds"
    walls.append(Bottleneck(f"reading of {HEARD_TOPIC} in each gateway", at, remedy))
    return walls


def _work(name: str, workload: Workload, costs: Costs) -> float:
    return workload.peak * workload.per_order(costs.process_seconds, name, costs)


def _work_of_each(name: str, workload: Workload, costs: Costs) -> float:
    """The part of the work that every replica does, however many there are; bounded as its wall is."""
    if name != "gateway":
        return 0.0
    heard = workload.peak * workload.per_order(costs.events, HEARD_TOPIC, costs) * HEARD_SECONDS
    return min(heard, HEARD_SHARE_MAX * workload.utilisation)


def _surge(replicas: int) -> int:
    return _ceil(replicas * SURGE_SHARE)


def _ceil(value: float) -> int:
    return math.ceil(value - _ROUNDING)


def _order(bottleneck: Bottleneck) -> float:
    return bottleneck.orders_per_second
