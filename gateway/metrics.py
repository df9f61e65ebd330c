"""What the gateway counts: requests by route and status, and their time."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from chassis.telemetry import REGISTRY

REQUESTS: Final = Counter(
    "http_server_requests_total",
    "Requests that were answered.",
    ["http_method", "http_route", "http_status"],
    registry=REGISTRY,
)
SECONDS: Final = Histogram(
    "http_server_request_seconds",
    "Time to answer a request.",
    ["http_method", "http_route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
LIVE_STREAMS: Final = Gauge(
    "gateway_live_streams",
    "Streams of order updates that are open.",
    registry=REGISTRY,
)
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Counts a request.

    Args:
        method: The HTTP method; a made-up one is counted as OTHER.
        route: The route's template, never the address: addresses have no bound.
        status: The HTTP status.
        seconds: How long it took.
    """
    known = method if method in METHODS else "OTHER"
    REQUESTS.labels(known, route, str(status)).inc()
    SECONDS.labels(known, route).observe(seconds)
