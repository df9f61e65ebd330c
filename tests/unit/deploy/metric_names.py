"""Which metrics, labels and label values there are, for those who look at what asks for them."""

from __future__ import annotations

from chassis.errors import FaultKind
from chassis.inbox import ConsumerState
from chassis.metric_catalogue import Metric
from deploy.prometheus.catalogue import load
from gateway.metrics import METHODS
from gateway.routes import admin, admin_events, orders, products, provider_webhooks, sessions, system, users
from gateway.routing import GuardedRoute
from orchestrator.metrics import OPEN
from orchestrator.sagas import DEFINITIONS
from services.payments.measured_provider import OPERATIONS, OUTCOMES
from tests.unit.deploy.promql_names import OF_A_TARGET, Selector, asked

METRICS: dict[str, Metric] = load()
SERIES: dict[str, Metric] = {name: metric for metric in METRICS.values() for name in metric.series}
_ROUTES = {
    route.path
    for module in (admin, admin_events, orders, products, provider_webhooks, sessions, system, users)
    for route in module.ROUTER.routes
    if isinstance(route, GuardedRoute)
}
_KINDS = {kind for kind, _ in DEFINITIONS.sagas}
# The values that the code gives to labels; what is asked for has to be one of them.
VALUES: dict[str, dict[str, set[str]]] = {
    "http_server_requests_total": {"http_route": _ROUTES, "http_method": set(METHODS)},
    "http_server_request_seconds": {"http_route": _ROUTES, "http_method": set(METHODS)},
    "grpc_server_handled_total": {"grpc_code": {*FaultKind, "OK"}},
    "grpc_client_handled_total": {"grpc_code": {*FaultKind, "OK"}},
    "saga_open": {"state": {str(state) for state in OPEN}},
    "saga_started_total": {"kind": _KINDS},
    "saga_finished_total": {"kind": _KINDS, "outcome": {"COMPLETED", "COMPENSATED"}},
    "saga_step_seconds": {"kind": _KINDS, "outcome": {"done", "refused", "unknown"}},
    "sagacity_consumer_stopped": {"state": {str(state) for state in ConsumerState}},
    "payments_provider_calls_total": {"outcome": set(OUTCOMES), "operation": set(OPERATIONS)},
    "sagacity_trace_spans_total": {"outcome": {"sent", "lost"}},
    "python_gc_collections_total": {"generation": {"0", "1", "2"}},
}
# Anything that a program's name or a status may be.
_FREE = {"http_status", "service", "job", "instance", "slot"}


def wrong_in(expression: str, recorded: set[str]) -> list[str]:
    """Return what an expression asks for that there is not; `recorded` are the names of recording rules."""
    found = asked(expression)
    wrong = [fault for selector in found.selectors for fault in _wrong(selector, recorded)]
    labels = {label for selector in found.selectors for label in labels_of(selector.metric)}
    return wrong + [f"nothing has the label {label}" for label in found.groups - labels]


def labels_of(series: str) -> set[str]:
    """Return the labels that a series may have."""
    if series not in SERIES:
        return set(OF_A_TARGET)
    return OF_A_TARGET | set(SERIES[series].labels) | ({"le"} if series.endswith("_bucket") else set())


def _wrong(selector: Selector, recorded: set[str]) -> list[str]:
    if selector.metric == "up" or selector.metric in recorded:
        return []
    metric = SERIES.get(selector.metric)
    if metric is None:
        return [f"there is no {selector.metric}"]
    wrong = []
    for label, operator, value in selector.matchers:
        if label not in labels_of(selector.metric):
            wrong.append(f"{selector.metric} has no label {label}")
        elif label == "le" and float(value) not in metric.buckets:
            wrong.append(f"{selector.metric} has no bucket {value}")
        elif label not in _FREE | {"le"}:
            wrong += _wrong_values(metric.name, label, value.split("|") if "~" in operator else [value])
    return wrong


def _wrong_values(metric: str, label: str, values: list[str]) -> list[str]:
    known = VALUES.get(metric, {}).get(label, set())
    return [f"{metric} never has {label}={value}" for value in values if value not in known]
