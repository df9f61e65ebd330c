"""What the gateway counts: requests by route and status, and their time."""

from typing import Final

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
