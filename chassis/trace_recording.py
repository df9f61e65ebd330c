"""Spans by OpenTelemetry, sent to a collector (OTLP over gRPC) by a thread that nobody waits for.

What cannot be sent is lost, within bounds, and counted: the queue is BatchSpanProcessor's, and the stop has a
time of its own. Loaded only where a collector is named.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from typing import Final, Self
from urllib.parse import urlsplit

import grpc
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace import Span as NativeSpan
from typing_extensions import override

from chassis import grpc_errors, ids, tracing
from chassis.config import SettingsError
from chassis.errors import Fault
from chassis.trace_metrics import SPANS
from chassis.tracing import ENDPOINT, Attributes, Kind, Span, Trace, Value
from chassis.version import VERSION

DISABLED: Final = "OTEL_SDK_DISABLED"
# Spans that wait for the collector, where OTEL_BSP_MAX_QUEUE_SIZE does not say another number.
MAX_WAITING = 2_048
# At the stop what is left may be sent for so long; then the exporter is cut off, and has a moment to notice.
LAST_EXPORT_SECONDS = 2.0
CUT_OFF_SECONDS = 0.5

_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
log = structlog.get_logger(__name__)


class Recording:
    """The spans of this process, from its start to its stop."""

    def __init__(self, provider: TracerProvider, exporter: CountingExporter) -> None:
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("sagacity", VERSION)

    @classmethod
    def start(cls, process: str, environment: Mapping[str, str]) -> Self | None:
        """Record this process's spans, where the environment names a collector; None where it does not.

        Everything else about the exporter, the queue and the sampler is set by OpenTelemetry's own variables,
        which its SDK reads.

        Raises:
            SettingsError: A variable has a value that cannot be.
        """
        endpoint = environment.get(ENDPOINT, "").strip()
        if not endpoint or environment.get(DISABLED, "").strip().lower() == "true":
            return None
        if not _is_address(endpoint):
            raise SettingsError(f"{ENDPOINT} is no address such as http://otel-collector:4317")
        resource = Resource.create(
            {
                "service.name": f"sagacity-{process}",
                "service.version": VERSION,
                "service.instance.id": str(ids.new_id()),
            }
        )
        try:
            exporter = CountingExporter(OTLPSpanExporter(endpoint=endpoint))
            waiting = int(environment.get(OTEL_BSP_MAX_QUEUE_SIZE) or MAX_WAITING)
            queue = BatchSpanProcessor(exporter, max_queue_size=waiting)
            # Not at the interpreter's exit, where nothing bounds it: `stop` does it.
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(BoundedQueue(queue, exporter, waiting))
        except (ValueError, RuntimeError, OSError) as error:
            raise SettingsError(f"a variable OTEL_... cannot be used: {type(error).__name__}") from None
        # Their lines repeat by the second and quote the collector; ours says once that it is away.
        for name in "opentelemetry.exporter", "opentelemetry.sdk":
            logging.getLogger(name).setLevel(logging.CRITICAL)
        recording = cls(provider, exporter)
        tracing.record_with(recording)
        return recording

    def begin(self, name: str, kind: Kind, parent: Trace | None, attributes: Attributes) -> Span:
        """Begins a span; without a parent the first of a new trace."""
        context = Context() if parent is None else parent.native or _remote(parent)
        return _Recorded(_begun(self._tracer, name, kind, context, attributes))

    async def stop(self) -> None:
        """Sends what is left, within a bound, whether the collector is there or not."""
        tracing.record_with(None)
        if self._exporter.is_away:
            self._exporter.shutdown()
        ended = _in_thread(self._provider.shutdown)
        _, unfinished = await asyncio.wait({ended}, timeout=LAST_EXPORT_SECONDS)
        if unfinished:
            # In a thread as well, for closing its channel takes a lock that may be held.
            cut = _in_thread(self._exporter.shutdown)
            await asyncio.wait({ended, cut}, timeout=CUT_OFF_SECONDS)
        self._exporter.give_up()


class CountingExporter(SpanExporter):
    """Counts what is sent and what is lost, and says so in the log once per outage."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_losing = False
        self._had_no_room = False
        self.is_away = False

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._waiting -= len(spans)
        try:
            result = self._exporter.export(spans)
        except (grpc.RpcError, ValueError):
            # A call on a channel that was closed at the stop.
            result = SpanExportResult.FAILURE
        self.is_away = result is not SpanExportResult.SUCCESS
        if self.is_away:
            self._lost(len(spans))
        else:
            self._sent(len(spans))
        return result

    def has_room(self, limit: int) -> bool:
        """Whether one more span may wait; where it may not, it is lost."""
        with self._lock:
            if self._waiting < limit:
                self._waiting += 1
                return True
            self._had_no_room = True
        self._lost(1)
        return False

    def give_up(self) -> None:
        """Counts what waits still as lost."""
        with self._lock:
            left, self._waiting = self._waiting, 0
        if left:
            self._lost(left)

    def _sent(self, spans: int) -> None:
        SPANS.labels("sent").inc(spans)
        with self._lock:
            # One that is only too slow takes some and loses others: that is one outage, not many.
            is_over = self._is_losing and not self._had_no_room
            self._had_no_room = False
            if is_over:
                self._is_losing = False
        if is_over:
            log.info("traces_sent_again")

    def _lost(self, spans: int) -> None:
        SPANS.labels("lost").inc(spans)
        with self._lock:
            is_first, self._is_losing = not self._is_losing, True
        if is_first:
            log.warning("traces_lost")

    @override
    def shutdown(self) -> None:
        self._exporter.shutdown()

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class BoundedQueue(SpanProcessor):
    """Takes spans only while there is room, for a full BatchSpanProcessor loses some and tells nobody."""

    def __init__(self, queue: BatchSpanProcessor, exporter: CountingExporter, limit: int) -> None:
        self._queue = queue
        self._exporter = exporter
        self._limit = limit

    @override
    def on_end(self, span: ReadableSpan) -> None:
        # Those that are not sampled go nowhere.
        if (
            span.context is not None
            and span.context.trace_flags.sampled
            and self._exporter.has_room(self._limit)
        ):
            self._queue.on_end(span)

    @override
    def shutdown(self) -> None:
        self._queue.shutdown()  # type: ignore[no-untyped-call]

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._queue.force_flush(timeout_millis)


class _Recorded(Span):
    """A span of OpenTelemetry's."""

    __slots__ = ("_native", "_settled", "_token", "_trace")

    def __init__(self, native: NativeSpan) -> None:
        of = native.get_span_context()
        self._native = native
        self._settled = False
        self._token: Token[Trace | None] | None = None
        self._trace = Trace(
            f"{of.trace_id:032x}",
            f"{of.span_id:016x}",
            int(of.trace_flags),
            set_span_in_context(native, Context()),
        )

    @override
    def __enter__(self) -> Self:
        self._token = tracing.here.set(self._trace)
        return self

    @override
    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        if self._token is not None:
            tracing.here.reset(self._token)
        if error is not None and not self._settled:
            self._failed_by(error)
        self._native.end()

    @property
    @override
    def traceparent(self) -> str | None:
        return self._trace.traceparent

    @override
    def set(self, name: str, value: Value) -> None:
        self._native.set_attribute(name, value)

    @override
    def rename(self, name: str) -> None:
        self._native.update_name(name)

    @override
    def fail(self, error_type: str) -> None:
        self._settled = True
        self._native.set_attribute("error.type", error_type)
        self._native.set_status(Status(StatusCode.ERROR))

    @override
    def refused(self, fault: Fault) -> None:
        self._settled = True
        self._describe(fault)
        if tracing.is_server_error(fault.kind):
            self.fail(fault.kind.name)

    @override
    def end(self) -> None:
        self._native.end()

    def _failed_by(self, error: object) -> None:
        # Never its text, which may hold what a person typed.
        if isinstance(error, Fault):
            self._describe(error)
            self.fail(error.kind.name)
            return
        state = getattr(error, "sqlstate", None)
        if isinstance(state, str):
            self._native.set_attribute("db.response.status_code", state)
        self.fail(state if isinstance(state, str) else type(error).__name__)

    def _describe(self, fault: Fault) -> None:
        self._native.set_attribute("rpc.grpc.status_code", grpc_errors.status_code(fault.kind).value[0])
        self._native.set_attribute("sagacity.reason", fault.reason)


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _begun(tracer: Tracer, name: str, kind: Kind, context: Context, attributes: Attributes) -> NativeSpan:
    return tracer.start_span(
        name,
        context=context,
        kind=_KINDS[kind],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )


def _remote(trace: Trace) -> Context:
    span_context = SpanContext(
        int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=TraceFlags(trace.flags)
    )
    return set_span_in_context(NonRecordingSpan(span_context), Context())


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    # A daemon, unlike the loop's own threads: the process ends although it hangs.
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    def run() -> None:
        try:
            work()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name="traces-stop", daemon=True).start()
    return done
