"""Logs for people or machines, and metrics for Prometheus; one catalogue."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, Final, Literal

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from chassis.config import environment
from chassis.metric_catalogue import EVERY_PROCESS, Metric, enter
from chassis.tracing import name_trace

METRICS_REQUEST_LIMIT_BYTES = 8_192
METRICS_READ_SECONDS = 5.0

REGISTRY: Final = CollectorRegistry()
_SECRET_PARTS: Final = ("password", "secret", "token", "authorization", "dsn", "private")
# Half of the lines of /metrics, and nobody asks when a counter was made.
disable_created_metrics()  # type: ignore[no-untyped-call]


def counter(
    name: str, says: str, *labels: str, of: frozenset[str] = EVERY_PROCESS, look: str = ""
) -> Counter:
    """A counter that `/metrics` of the processes `of` shows; see `chassis.metric_catalogue.Metric`."""
    full_name = name if name.endswith("_total") else f"{name}_total"
    enter(Metric(full_name, "counter", says, labels, of, look))
    return Counter(name, says, labels, registry=REGISTRY)


def gauge(name: str, says: str, *labels: str, of: frozenset[str] = EVERY_PROCESS, look: str = "") -> Gauge:
    """A value that goes up and down, that `/metrics` of the processes `of` shows."""
    enter(Metric(name, "gauge", says, labels, of, look))
    return Gauge(name, says, labels, registry=REGISTRY)


def histogram(
    name: str,
    says: str,
    *labels: str,
    buckets: tuple[float, ...],
    of: frozenset[str] = EVERY_PROCESS,
    look: str = "",
) -> Histogram:
    """A distribution that `/metrics` of the processes `of` shows; `buckets` are upper bounds."""
    enter(Metric(name, "histogram", says, labels, of, look, buckets))
    return Histogram(name, says, labels, registry=REGISTRY, buckets=buckets)


def configure_logging(service: str, log_format: Literal["console", "json"]) -> None:
    """Send structlog's and the standard library's records to standard output, one line each."""
    json = log_format == "json"
    colours = sys.stdout.isatty() and "NO_COLOR" not in environment()
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(
            colors=colours,
            # The default shows the variables of every frame, and with them whatever is secret.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )

    def name_service(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["service"] = service
        return event

    shared: list[Any] = [
        name_service,
        structlog.contextvars.merge_contextvars,
        # Behind what adds values: one that is bound to the context is hidden as well.
        _hide_secrets,
        name_trace,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatted: list[Any] = [structlog.processors.format_exc_info] if json else []
    structlog.configure(
        processors=[*shared, *formatted, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *formatted, renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _hide_secrets(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """A last net under "nobody logs a secret": by the name of the value."""
    for key in event:
        if any(part in key.lower() for part in _SECRET_PARTS):
            event[key] = "***"
    return event


async def serve_metrics(listen: str) -> asyncio.Server | None:
    """Serve `GET /metrics` on host:port until the server is closed; nothing for an empty address."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    return await asyncio.start_server(_answer, host, int(port), limit=METRICS_REQUEST_LIMIT_BYTES)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(METRICS_READ_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        found = head.startswith(b"GET /metrics ")
        body = generate_latest(REGISTRY) if found else b"there is only /metrics here\n"
        status = b"200 OK" if found else b"404 Not Found"
        kind = CONTENT_TYPE_LATEST.encode() if found else b"text/plain"
        writer.write(
            b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status, kind, len(body), body)
        )
        await writer.drain()
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return  # a client that does not speak HTTP, or has gone
    finally:
        writer.close()
