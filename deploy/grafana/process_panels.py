"""Processes and databases: RPCs as their servers and their callers see them, pools and statements."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import Board, Row, graph, number, wide
from deploy.grafana.promql import FAILED, quantile, rate

_CHOSEN: Final = 'service=~"$service"'


_RED: Final = Row(
    "RPCs: rate, errors, time",
    (
        graph(
            "RPCs answered",
            "reqps",
            "By service and method.",
            (
                rate("grpc_server_handled_total", "service, grpc_method", _CHOSEN),
                "{{service}} {{grpc_method}}",
            ),
        ),
        graph(
            "Failed",
            "reqps",
            "Refusals do not count. INTERNAL: a bug, `rpc_failed` in the log. UNAVAILABLE: a database.",
            (
                rate("grpc_server_handled_total", "service, grpc_method, grpc_code", f"{_CHOSEN}, {FAILED}"),
                "{{service}} {{grpc_method}} {{grpc_code}}",
            ),
            alert="SagacityAvailabilityBurnsFast",
        ),
        graph(
            "Time, p95",
            "s",
            "Slow while the database's statements are not: the process is busy, or waits for others.",
            (
                quantile(0.95, "grpc_server_handling_seconds", "service, grpc_method", _CHOSEN),
                "{{service}} {{grpc_method}}",
            ),
        ),
    ),
)
_CALLERS: Final = Row(
    "RPCs as callers see them",
    (
        graph(
            "Called",
            "reqps",
            "By caller and callee.",
            (
                rate("grpc_client_handled_total", "service, grpc_service", _CHOSEN),
                "{{service}} → {{grpc_service}}",
            ),
        ),
        graph(
            "Failed",
            "reqps",
            "More than the server counts: the network, or the server is gone.",
            (
                rate("grpc_client_handled_total", "service, grpc_service, grpc_code", f"{_CHOSEN}, {FAILED}"),
                "{{service}} → {{grpc_service}} {{grpc_code}}",
            ),
            alert="SagacityServiceDown",
        ),
        graph(
            "Time, p95",
            "s",
            "Much above the server's: the network, or the caller is busy.",
            (
                quantile(0.95, "grpc_client_handling_seconds", "service, grpc_service", _CHOSEN),
                "{{service}} → {{grpc_service}}",
            ),
        ),
    ),
)
_PROCESSES: Final = Row(
    "Processes",
    (
        graph(
            "Up",
            "short",
            "Processes that show their metrics.",
            (f'sum by (service) (up{{job=~"sagacity.*", {_CHOSEN}}})', "{{service}}"),
            alert="SagacityTargetDown",
        ),
        graph(
            "Processor",
            "percentunit",
            "Of one core; a process uses one at most. Near 100 %: add a replica.",
            (rate("process_cpu_seconds_total", "service, instance", _CHOSEN), "{{service}} {{instance}}"),
        ),
        graph(
            "Memory",
            "bytes",
            "Grows for hours: a leak. The process is ended at its limit.",
            (f"process_resident_memory_bytes{{{_CHOSEN}}}", "{{service}} {{instance}}"),
        ),
        graph(
            "Event loop, p99 of its delay",
            "s",
            "Above 100 ms often: the process gets no processor, or something blocks it.",
            (
                quantile(0.99, "sagacity_event_loop_lag_seconds", "service, instance", _CHOSEN),
                "{{service}} {{instance}}",
            ),
        ),
        graph(
            "Releases",
            "short",
            "Processes by release; two of them for longer than a rollout: it is stuck.",
            (f"count by (service, version) (sagacity_build_info{{{_CHOSEN}}})", "{{service}} {{version}}"),
        ),
        graph(
            "Spans",
            "ops",
            "What went to the collector; `lost` harms no order.",
            (rate("sagacity_trace_spans_total", "service, outcome", _CHOSEN), "{{service}} {{outcome}}"),
            alert="SagacitySpansLost",
        ),
        wide(
            "Open files and connections",
            "short",
            "Near the limit new connections are refused.",
            (f"process_open_fds{{{_CHOSEN}}}", "{{service}} {{instance}}"),
        ),
        wide(
            "Garbage collections",
            "ops",
            "Of the oldest generation, which take longest.",
            (
                rate("python_gc_collections_total", "service, instance", f'{_CHOSEN}, generation="2"'),
                "{{service}} {{instance}}",
            ),
        ),
    ),
)
SERVICES: Final = Board(
    "services",
    "Sagacity: services",
    "RPCs of every service, as it and as its callers see them, and the processes themselves.",
    (_RED, _CALLERS, _PROCESSES),
    by_service=True,
)
_STATEMENTS: Final = Row(
    "Statements: rate, errors, time",
    (
        number(
            "Callers without a connection, of five minutes",
            "short",
            "They were answered UNAVAILABLE.",
            f"sum(increase(sagacity_pool_timeouts_total{{{_CHOSEN}}}[5m]))",
            alert="SagacityPoolExhausted",
            red_from=1,
        ),
        number(
            "Callers that wait now",
            "short",
            "Above 0 for minutes: statements are slow, or there are too few replicas.",
            f"sum(sagacity_pool_waiting{{{_CHOSEN}}})",
            alert="SagacityPoolExhausted",
            red_from=8,
        ),
        graph(
            "Statements",
            "ops",
            "By service.",
            (rate("sagacity_statement_seconds_count", "service", _CHOSEN), "{{service}}"),
        ),
        graph(
            "Time, p95, the ten slowest",
            "s",
            "Named as in the code: `EXPLAIN` the slow one.",
            (
                f"topk(10, {quantile(0.95, 'sagacity_statement_seconds', 'service, statement', _CHOSEN)})",
                "{{service}} {{statement}}",
            ),
        ),
        graph(
            "Where the time goes, the ten largest",
            "s",
            "Seconds of statements a second: what a faster one would save.",
            (
                f"topk(10, {rate('sagacity_statement_seconds_sum', 'service, statement', _CHOSEN)})",
                "{{service}} {{statement}}",
            ),
        ),
    ),
)
_POOLS: Final = Row(
    "Pools",
    (
        graph(
            "Connections in use",
            "percentunit",
            "Of those that the pool may open. At 100 % for minutes callers wait.",
            (
                f"sagacity_pool_in_use{{{_CHOSEN}}} / sagacity_pool_connections_max{{{_CHOSEN}}}",
                "{{pool}} {{instance}}",
            ),
            alert="SagacityPoolExhausted",
        ),
        graph(
            "Connections open",
            "short",
            "PostgreSQL's `max_connections` has to be above the sum of all that may be opened.",
            (f"sagacity_pool_connections{{{_CHOSEN}}}", "{{pool}} {{instance}}"),
        ),
        graph(
            "Wait for a connection, p99",
            "s",
            "Of the callers that did not get a warm connection at once.",
            (
                quantile(0.99, "sagacity_pool_wait_seconds", "service, pool", _CHOSEN),
                "{{service}} {{pool}}",
            ),
            alert="SagacityPoolExhausted",
        ),
        wide(
            "Callers that wait",
            "short",
            "At this moment, by pool.",
            (f"sagacity_pool_waiting{{{_CHOSEN}}}", "{{pool}} {{instance}}"),
            alert="SagacityPoolExhausted",
        ),
        wide(
            "Without a connection, connections lost",
            "ops",
            "Lost: at a restart of the database. Steadily: something between ends idle connections.",
            (rate("sagacity_pool_timeouts_total", "service, pool", _CHOSEN), "{{service}} {{pool}} got none"),
            (
                rate("sagacity_pool_lost_connections_total", "service, pool", _CHOSEN),
                "{{service}} {{pool}} lost",
            ),
            alert="SagacityPoolExhausted",
        ),
    ),
)
_REPLICATION: Final = Row(
    "Replication",
    (
        graph(
            "Log kept by slots",
            "bytes",
            "By slot. Growing: its reader is away or too slow, and PostgreSQL's disk will be full.",
            (f"max by (slot) (sagacity_replication_slot_kept_bytes{{{_CHOSEN}}})", "{{slot}}"),
            alert="SagacityReplicationSlotBehind",
        ),
        graph(
            "Slots without a reader",
            "short",
            "1: a standby, a receiver of backups or a connector is away.",
            (f"1 - min by (slot) (sagacity_replication_slot_active{{{_CHOSEN}}})", "{{slot}}"),
            alert="SagacityReplicationSlotUnread",
        ),
        graph(
            "Commits that wait for a standby",
            "short",
            "For more than a second. Above 0 for minutes: no order is accepted.",
            (f"max by (database) (sagacity_commits_waiting{{{_CHOSEN}}})", "{{database}}"),
            alert="SagacityCommitsWait",
        ),
    ),
)
DATABASE: Final = Board(
    "database",
    "Sagacity: database",
    "Statements and pools of connections, by service; who receives the log.",
    (_STATEMENTS, _POOLS, _REPLICATION),
    by_service=True,
)
