"""Rate, errors and time of every RPC, seen by who answers it and by who calls it.

Label values are bounded: what a server does not serve is counted as one service and method, `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from chassis.metric_catalogue import CALLERS, SERVERS
from chassis.telemetry import counter, histogram

UNKNOWN: Final = "unknown"
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

RPC_HANDLED: Final = counter(
    "grpc_server_handled_total",
    "RPCs that were answered, by status; those that nobody serves are `unknown`.",
    "grpc_service", "grpc_method", "grpc_code",
    of=SERVERS,
    look="INTERNAL: a bug, `rpc_failed` in the log. UNAVAILABLE: its database is away",
)  # fmt: skip
RPC_SECONDS: Final = histogram(
    "grpc_server_handling_seconds",
    "Time to answer an RPC; of a stream, its life.",
    "grpc_service", "grpc_method",
    of=SERVERS,
    buckets=_BUCKETS,
    look="slow while `sagacity_statement_seconds` is not: the process is busy, or waits for others",
)  # fmt: skip
CALLED: Final = counter(
    "grpc_client_handled_total",
    "RPCs that were called, by the status that came back.",
    "grpc_service", "grpc_method", "grpc_code",
    of=CALLERS,
    look="more UNAVAILABLE and DEADLINE_EXCEEDED than the server counts: the network, or the server is gone",
)  # fmt: skip
CALL_SECONDS: Final = histogram(
    "grpc_client_handling_seconds",
    "Time until an RPC that was called was answered.",
    "grpc_service", "grpc_method",
    of=CALLERS,
    buckets=_BUCKETS,
    look="much above the server's time: the network, or the caller is busy",
)  # fmt: skip

# Looking up a labelled child each time costs more than the count itself.
_answered: dict[tuple[str, str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
_called: dict[tuple[bytes, str], tuple[Callable[[], None], Callable[[float], None]]] = {}


def observe_rpc(service: str, method: str, code: str, seconds: float) -> None:
    """Counts an RPC that was answered, and its time.

    Args:
        service: Full name of the service.
        method: Bare name of the method.
        code: Name of the status.
        seconds: From its arrival to the answer.
    """
    found = _answered.get((service, method, code))
    if found is None:
        found = _answered[service, method, code] = (
            RPC_HANDLED.labels(service, method, code).inc,
            RPC_SECONDS.labels(service, method).observe,
        )
    found[0]()
    found[1](seconds)


def observe_unknown_rpc() -> None:
    """Counts an RPC that this server does not serve; its name has no bound and is not kept."""
    RPC_HANDLED.labels(UNKNOWN, UNKNOWN, "UNIMPLEMENTED").inc()


def observe_call(rpc: Any, code: str, seconds: float) -> None:
    """Counts an RPC that was called, and its time.

    Args:
        rpc: What was called: a method of a channel or of a stub.
        code: Name of the status that came back.
        seconds: From the call to the answer.
    """
    # gRPC gives no other way to the name of what a stub's attribute calls.
    path: bytes = getattr(rpc, "_method", b"")
    found = _called.get((path, code))
    if found is None:
        service, _, method = path.decode().removeprefix("/").partition("/")
        service, method = service or UNKNOWN, method or UNKNOWN
        found = _called[path, code] = (
            CALLED.labels(service, method, code).inc,
            CALL_SECONDS.labels(service, method).observe,
        )
    found[0]()
    found[1](seconds)
