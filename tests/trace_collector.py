"""A collector of the tests' own: a real OTLP server that keeps what it gets, or refuses it, or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from typing_extensions import override

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Seen:
    """A span as it came."""

    process: str
    instance: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool


class TraceCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps spans and the bytes that they came in; `refuses` and `hangs` make it a bad one."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.raw: list[bytes] = []
        self.asked = asyncio.Event()
        self.refuses: grpc.StatusCode | None = None
        self.hangs = False
        self.port = 0

    @property
    def endpoint(self) -> str:
        """What processes are told."""
        return f"http://{LOOPBACK}:{self.port}"

    @override
    async def Export(self, request: Any, context: Any) -> Any:
        self.asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses is not None:
            await context.abort(self.refuses, "not today")
        self.raw.append(request.SerializeToString())
        for group in request.resource_spans:
            resource = _attributes(group.resource.attributes)
            self.spans += [_seen(resource, span) for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> list[Seen]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


@asynccontextmanager
async def collecting() -> AsyncIterator[TraceCollector]:
    """Serve a collector while the block runs."""
    collector = TraceCollector()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
        collector, server
    )
    collector.port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


def _seen(resource: dict[str, Any], span: trace_pb2.Span) -> Seen:
    return Seen(
        process=resource["service.name"],
        instance=resource["service.instance.id"],
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
