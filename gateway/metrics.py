"""What the gateway counts: requests by route and status, and their time."""

from collections.abc import Iterable, MutableMapping
from typing import Any, Final

from chassis.metric_catalogue import GATEWAY
from chassis.telemetry import counter, gauge, histogram

REQUESTS: Final = counter(
    "http_server_requests_total",
    "Requests by route and status; those of no route, or refused before it was looked for, have `none`; "
    "499: the client went away.",
    "http_method", "http_route", "http_status",
    of=GATEWAY,
    look="5xx: [runbook](runbook.md#sagacityavailabilityburnsfast). 401, 403, 429 that grow: somebody tries",
)  # fmt: skip
SECONDS: Final = histogram(
    "http_server_request_seconds",
    "Time to answer a request; of a stream, its life.",
    "http_method", "http_route",
    of=GATEWAY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    look="a slow route: compare with `grpc_client_handling_seconds` of the gateway",
)  # fmt: skip
LIVE_STREAMS: Final = gauge(
    "gateway_live_streams",
    "Streams of order updates that are open.",
    of=GATEWAY,
    look="near `SAGACITY_GATEWAY_LIVE_STREAMS`: more are refused; add a gateway",
)
NO_ROUTE: Final = "none"
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
OTHER: Final = "OTHER"
# What is nobody's fault but ours, and what alarms are about.
FAILURES: Final = (500, 502, 503, 504)


def show_from_the_beginning(routes: Iterable[tuple[str, str]]) -> None:
    """Shows failures and times as 0 before there are any: for Prometheus what appears later never rose.

    Args:
        routes: Methods with the templates of their routes; what has no route is shown besides.
    """
    known = list(routes)
    for method, route in [*known, *((method, NO_ROUTE) for method in (*METHODS, OTHER))]:
        for status in FAILURES:
            REQUESTS.labels(method, route, str(status))
    for method, route in known:
        SECONDS.labels(method, route)


def known_method(method: str) -> str:
    """Returns an HTTP method; OTHER for one that a client made up."""
    return method if method in METHODS else OTHER


def template_of(scope: MutableMapping[str, Any]) -> str | None:
    """Returns the template of a request's route, never its address, which a client typed; None: no route."""
    return getattr(scope.get("route"), "path", None)


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Counts a request.

    Args:
        method: The HTTP method; a made-up one is counted as OTHER.
        route: The route's template, never the address: addresses have no bound.
        status: The HTTP status.
        seconds: How long it took.
    """
    known = known_method(method)
    REQUESTS.labels(known, route, str(status)).inc()
    SECONDS.labels(known, route).observe(seconds)
