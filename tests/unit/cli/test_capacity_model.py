"""The formulas of `sagacity capacity`: more load never needs less, and nothing is planned that cannot run."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cli import capacity_model
from cli.capacity_costs import BACKGROUND, DATABASES, FILE, KINDS, measured, parsed
from cli.capacity_model import CONSUMERS, Plan, lost_of, partitions_for, plan, replicas_for
from cli.capacity_workload import BOUNDS, Workload

COSTS = measured()
# A plan has no state: fifty of each are enough.
FEW = settings(max_examples=50, deadline=None)

peak_factors = st.floats(1, 10)
rates = st.floats(BOUNDS["orders_per_second"].least, 5_000)
workloads = st.builds(
    Workload,
    orders_per_second=rates,
    peak_factor=peak_factors,
    declined_share=st.floats(0, 1),
    reads_per_order=st.floats(0, 100),
    items_per_order=st.floats(1, 100),
    logins_per_order=st.floats(0, 10),
    order_seconds=st.floats(0.01, 30),
    utilisation=st.floats(0.1, 0.9),
    zones=st.integers(1, 10),
    retention_days=st.integers(1, 3_650),
)


def sizes(made: Plan) -> list[float]:
    """Everything that more load may make bigger and never smaller."""
    return [
        *(number for each in made.processes for number in (each.replicas, each.needed_at_peak)),
        *(each.replicas * each.cpu_request_cores for each in made.processes),
        *(number for each in made.databases for number in (each.cores, each.connections, each.gib_a_day)),
        *(number for each in made.topics for number in (each.partitions, each.events_per_second)),
        made.kafka_cores,
    ]


@FEW
@given(workloads, st.floats(1, 2))
def test_more_orders_never_need_less(workload: Workload, more: float) -> None:
    bigger = replace(workload, orders_per_second=workload.orders_per_second * more)
    pairs = zip(sizes(plan(workload, COSTS)), sizes(plan(bigger, COSTS)), strict=True)
    assert all(big >= small - 1e-6 for small, big in pairs)


@FEW
@given(workloads, st.sampled_from(["reads_per_order", "logins_per_order", "items_per_order", "peak_factor"]))
def test_more_of_anything_beside_an_order_never_needs_less(workload: Workload, name: str) -> None:
    value = min(BOUNDS[name].most, getattr(workload, name) * 1.5)
    pairs = zip(
        sizes(plan(workload, COSTS)), sizes(plan(replace(workload, **{name: value}), COSTS)), strict=True
    )
    assert all(big >= small - 1e-6 for small, big in pairs)


@FEW
@given(workloads, st.floats(0.1, 0.9))
def test_idler_cores_never_mean_fewer_replicas(workload: Workload, other: float) -> None:
    idle, busy = sorted((workload.utilisation, other))
    fewer, more = (plan(replace(workload, utilisation=each), COSTS) for each in (busy, idle))
    assert all(a.replicas <= b.replicas for a, b in zip(fewer.processes, more.processes, strict=True))


@FEW
@given(workloads)
def test_no_process_is_alone_and_what_is_left_after_a_loss_is_enough(workload: Workload) -> None:
    for each in plan(workload, COSTS).processes:
        assert each.replicas >= max(2, workload.zones)
        left = each.replicas - lost_of(each.replicas, workload.zones)
        assert left >= each.needed_at_peak
        assert each.cores_at_peak <= left * workload.utilisation * (1 + 1e-6)
        assert 0 < each.cpu_request_cores <= 1
        assert each.memory_request_mib > COSTS.memory_mib[each.name]


@FEW
@given(workloads)
def test_every_consumer_process_has_a_partition(workload: Workload) -> None:
    made = plan(workload, COSTS)
    replicas = {each.name: each.replicas for each in made.processes}
    for topic in made.topics:
        assert topic.partitions >= max((replicas[name] for name in CONSUMERS[topic.name]), default=1)
        assert topic.partitions >= topic.consumers_needed
        assert topic.partitions.bit_count() == 1


@FEW
@given(workloads)
def test_a_database_takes_the_connections_of_a_rolling_update(workload: Workload) -> None:
    made = plan(workload, COSTS)
    replicas = {each.name: each.replicas for each in made.processes}
    connections = {each.name: each for each in made.databases}
    for process, database in capacity_model.DATABASE_OF.items():
        running = replicas[process] + max(1, math.ceil(replicas[process] / 4))
        assert connections[database].connections > running * capacity_model.POOL_MAX[process]
        assert connections[database].pgbouncer == bool(connections[database].pgbouncer_pool)


@FEW
@given(workloads)
def test_what_fills_first_does_not_fill_before_the_load_that_was_asked_for(workload: Workload) -> None:
    asked = workload.orders_per_second
    assert plan(workload, COSTS).fills_first.orders_per_second >= asked * (1 - 1e-6)


@FEW
@given(st.integers(1, 5_000), st.integers(1, 10))
def test_one_replica_fewer_would_not_do(needed: int, zones: int) -> None:
    replicas = replicas_for(needed, zones)
    fewer = replicas - 1
    assert fewer < max(2, zones) or fewer - lost_of(fewer, zones) < needed


@FEW
@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_partitions_are_not_twice_what_is_needed(needed: int, replicas: int) -> None:
    assert partitions_for(needed, replicas) < 2 * max(4, 2 * needed, replicas)


def test_what_every_gateway_reads_is_a_wall_and_more_gateways_read_more() -> None:
    few, many = (
        next(each for each in plan(Workload(rate), COSTS).processes if each.name == "gateway")
        for rate in (10, 1_000)
    )
    assert 0 < few.cores_of_each < many.cores_of_each
    alone = capacity_model._work("gateway", Workload(1_000), COSTS)
    assert math.isclose(many.cores_at_peak, alone + (many.needed_at_peak - 1) * many.cores_of_each)
    costs = replace(COSTS, database_seconds=dict.fromkeys(KINDS, dict.fromkeys(DATABASES, 0.0)))
    walls = [wall.name for wall in capacity_model._walls(Workload(10), costs)]
    assert "reading of sagacity.orders.v1 in each gateway" in walls


@FEW
@given(workloads)
def test_no_gateway_is_planned_beyond_its_wall(workload: Workload) -> None:
    gateway = next(each for each in plan(workload, COSTS).processes if each.name == "gateway")
    assert gateway.cores_of_each <= capacity_model.HEARD_SHARE_MAX * workload.utilisation


def test_a_relay_that_is_too_busy_is_debezium() -> None:
    slow, fast = (plan(Workload(rate, peak_factor=1), COSTS) for rate in (10, 90_000))
    assert not any(each.debezium for each in slow.topics)
    busiest = max(fast.topics, key=lambda each: each.events_per_second)
    assert busiest.events_per_second > COSTS.relay_events_per_second
    assert busiest.debezium


def test_a_slow_payment_provider_needs_more_orchestrators_by_littles_law() -> None:
    slow = plan(Workload(1_000, peak_factor=1, order_seconds=30), COSTS)
    needed = {each.name: each.needed_at_peak for each in slow.processes}
    assert needed["orchestrator"] == 1_000 * 30 / (1_000 * 0.6)


def test_the_bounds_are_those_of_the_code() -> None:
    from gateway.edge import MAX_REQUESTS_IN_FLIGHT
    from orchestrator.executor import MAX_IN_FLIGHT

    assert capacity_model.IN_FLIGHT_MAX == {"gateway": MAX_REQUESTS_IN_FLIGHT, "orchestrator": MAX_IN_FLIGHT}


@FEW
@given(workloads)
def test_a_server_takes_what_is_connected_to_it_and_its_superusers(workload: Workload) -> None:
    """Behind PgBouncer that is its pool, and those who go past it."""
    for each in plan(workload, COSTS).databases:
        behind = each.pgbouncer_pool + capacity_model.RESERVED_CONNECTIONS
        held = behind if each.pgbouncer else each.connections
        assert 0 <= each.max_connections - held - capacity_model.SUPERUSER_CONNECTIONS < 100


def test_behind_pgbouncer_a_server_has_the_pool_and_not_all_of_our_connections() -> None:
    busiest = plan(Workload(3_000), COSTS).databases[0]
    assert busiest.pgbouncer
    assert busiest.max_connections < busiest.connections


def test_the_background_work_of_postgresql_is_borne_by_its_databases() -> None:
    figures = json.loads(FILE.read_text("utf-8"))
    for kind in KINDS:
        spent = figures["cpu_ms"][kind]
        whole = sum(spent[name] for name in (BACKGROUND, *(f"postgres {each}" for each in DATABASES)))
        assert math.isclose(sum(COSTS.database_seconds[kind].values()), whole / 1000, abs_tol=1e-9)
        assert math.isclose(COSTS.background_share[kind] * whole, spent[BACKGROUND], abs_tol=1e-9)


def test_background_work_without_that_of_any_backend_is_shared_evenly() -> None:
    figures = json.loads(FILE.read_text("utf-8"))
    figures["cpu_ms"]["login"] |= {f"postgres {name}": 0.0 for name in DATABASES} | {BACKGROUND: 5.0}
    assert parsed(figures).database_seconds["login"] == dict.fromkeys(DATABASES, 0.001)


def test_costs_of_a_busy_machine_are_known_as_such() -> None:
    figures = json.loads(FILE.read_text("utf-8"))
    cores = figures["machine"]["cores"]
    for load, free in ((0.0, True), (0.5 * cores, True), (0.5 * cores + 0.01, False)):
        figures["machine"]["load_at_the_start"] = load
        assert parsed(figures).was_free is free
