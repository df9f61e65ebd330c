"""Traces: to which trace what is going on belongs, and spans of it where a collector is named.

The trace travels in a `traceparent` (W3C Trace Context, level 2): in the header of a request, the metadata of
an RPC, the row of a saga, the row of an event and the header of its message. It is handed on whether spans
are recorded or not. Spans are begun here only, by functions that say what they hold: ids that we made, names
of ours, codes and numbers, and nothing that a person typed (ADR 0021).

An entry begins what came from outside of this task: it goes on with the trace that came along, or is the
first span of a new one. A part is a span of what is going on; where nothing is traced there is none, so
that polls and probes make no traces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Final, Literal, NamedTuple, Protocol, Self

from typing_extensions import override

from chassis.errors import Fault, FaultKind

TRACEPARENT: Final = "traceparent"
# OpenTelemetry's own variable, which it shares with all that is traced beside us.
ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
# A later version may add fields; those we know take 55 characters.
MAX_TRACEPARENT_CHARACTERS = 256
SAMPLED: Final = 0x01
_KNOWN_FLAGS: Final = 0x03
_GRAMMAR: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?")
_NO_VERSION: Final = "ff"
# What a client did wrong is no error of the server that says so.
_SERVER_ERRORS: Final = frozenset(
    {
        FaultKind.UNKNOWN,
        FaultKind.DEADLINE_EXCEEDED,
        FaultKind.UNIMPLEMENTED,
        FaultKind.INTERNAL,
        FaultKind.UNAVAILABLE,
        FaultKind.DATA_LOSS,
    }
)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int
Attributes = Mapping[str, Value]


class Trace(NamedTuple):
    """A place in a trace: the span that is going on here, or that of whoever asked for it."""

    trace_id: str
    span_id: str
    flags: int
    # What the recorder knows of a span of its own.
    native: Any = None

    @property
    def traceparent(self) -> str:
        """As it is handed on."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


class Span:
    """A stretch of work. This one is recorded by nobody, and costs nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """What is done inside belongs to it."""
        return self

    def __exit__(self, _kind: object, _error: object, _traceback: object) -> None:
        """It ends; an error that leaves the block is its error."""

    @property
    def traceparent(self) -> str | None:
        """What to hand on to whoever goes on with it elsewhere; None where nothing is recorded."""
        return None

    def set(self, name: str, value: Value) -> None:
        """Says more about it."""

    def rename(self, name: str) -> None:
        """Names it once that is known."""

    def fail(self, error_type: str) -> None:
        """Says that it failed; an error that leaves the block afterwards says nothing more."""

    def refused(self, fault: Fault) -> None:
        """Says what an RPC answers instead of its reply."""

    def end(self) -> None:
        """Ends one that was never entered."""


class Recorder(Protocol):
    """Who records spans."""

    def begin(self, name: str, kind: Kind, parent: Trace | None, attributes: Attributes) -> Span:
        """Begins a span; without a parent the first of a new trace."""


class _Handed(Span):
    """Hands a trace on that nobody records here."""

    __slots__ = ("_token", "_trace")

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self._token: Token[Trace | None] | None = None

    @override
    def __enter__(self) -> Self:
        self._token = here.set(self._trace)
        return self

    @override
    def __exit__(self, _kind: object, _error: object, _traceback: object) -> None:
        if self._token is not None:
            here.reset(self._token)


NOTHING: Final = Span()
here: Final[ContextVar[Trace | None]] = ContextVar("trace", default=None)
_recorder: Recorder | None = None


def record_with(recorder: Recorder | None) -> None:
    """Has spans recorded from now on in this process; None: no more."""
    global _recorder  # noqa: PLW0603 - one per process, set at its start; looked at for every statement
    _recorder = recorder


def parse(traceparent: object) -> Trace | None:
    """Reads a traceparent; None for anything that is none by the grammar of W3C Trace Context."""
    if not isinstance(traceparent, str) or len(traceparent) > MAX_TRACEPARENT_CHARACTERS:
        return None
    found = _GRAMMAR.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _NO_VERSION or (version == "00" and more):
        return None
    if not (trace_id.strip("0") and span_id.strip("0")):
        return None
    return Trace(trace_id, span_id, int(flags, 16) & _KNOWN_FLAGS)


def current() -> str | None:
    """The traceparent of what is going on here, to be handed on; None where nothing is traced."""
    trace = here.get()
    return None if trace is None else trace.traceparent


def name_trace(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """A processor of structlog's: puts the ids of the trace into the line."""
    trace = here.get()
    if trace is not None:
        event["trace_id"] = trace.trace_id
        event["span_id"] = trace.span_id
    return event


# --- entries


def http_request(method: str, traceparent: object) -> Span:
    """A request of a client; its route and status are told to `answered`."""
    known = method if method in _METHODS else "_OTHER"
    return _entry(known, "server", traceparent, {"http.request.method": known})


def http_answered(span: Span, method: str, route: str | None, status: int) -> None:
    """Says what became of a request; the route is the template, never the path."""
    span.set("http.response.status_code", status)
    if route is not None:
        span.set("http.route", route)
        span.rename(f"{method if method in _METHODS else '_OTHER'} {route}")
    if status >= 500:
        span.fail(str(status))


def rpc_server(path: str, traceparent: object) -> Span:
    """A call of an RPC of ours; `path` is /package.Service/Method."""
    return _entry(path[1:], "server", traceparent, _rpc(path))


def event_processed(topic: str, group: str, *, event_id: str, event_type: str, traceparent: object) -> Span:
    """A handler's work on an event that Kafka brought."""
    attributes = _messaging(topic, "process", event_id, event_type) | {"messaging.consumer.group.name": group}
    return _entry(f"process {topic}", "consumer", traceparent, attributes)


def saga(kind: str, *, saga_id: object, order_id: object, traceparent: str | None) -> Span:
    """A saga while one replica has it in memory."""
    attributes = {
        "sagacity.saga.kind": kind,
        "sagacity.saga.id": str(saga_id),
        "sagacity.order.id": str(order_id),
    }
    return _entry(f"saga {kind}", "internal", traceparent, attributes)


def handed_on(traceparent: object) -> Span:
    """No span: what is done inside belongs to that trace."""
    return _Handed(parse(traceparent))


# --- parts


def statement(name: str) -> Span:
    """One SQL statement, by the name that it has in the code."""
    if _recorder is None:
        return NOTHING
    return _part(name, "client", {"db.system.name": "postgresql", "db.query.summary": name})


def rpc_client(rpc: object) -> Span:
    """A call that we make of a method of a stub."""
    if _recorder is None:
        return NOTHING
    # gRPC keeps the name to itself; without it the span would have none, and nothing else would be wrong.
    method = getattr(rpc, "_method", b"/unknown/unknown")
    path = method.decode() if isinstance(method, bytes) else str(method)
    return _part(path[1:], "client", _rpc(path))


def saga_step(step: str, operation: str, *, attempt: int, participant: str) -> Span:
    """One call of a step, or of its undo, with the wait for its answer."""
    if _recorder is None:
        return NOTHING
    attributes: dict[str, Value] = {
        "sagacity.step": step,
        "sagacity.operation": operation,
        "sagacity.attempt": attempt,
        "sagacity.participant": participant,
    }
    return _part(f"{step} {operation}", "internal", attributes)


def event_sent(topic: str, *, event_id: str, event_type: str, traceparent: object) -> Span:
    """An event on its way to Kafka; it is not entered, and ends when Kafka has it or does not take it."""
    if _recorder is None:
        return NOTHING
    parent = parse(traceparent)
    if parent is None or not parent.flags & SAMPLED:
        return NOTHING
    attributes = _messaging(topic, "send", event_id, event_type)
    return _recorder.begin(f"send {topic}", "producer", parent, attributes)


def is_server_error(kind: FaultKind) -> bool:
    """Whether a server that answers so has failed."""
    return kind in _SERVER_ERRORS


def _entry(name: str, kind: Kind, traceparent: object, attributes: Attributes) -> Span:
    parent = parse(traceparent)
    if _recorder is not None:
        return _recorder.begin(name, kind, parent, attributes)
    return NOTHING if parent is None and here.get() is None else _Handed(parent)


def _part(name: str, kind: Kind, attributes: Attributes) -> Span:
    parent = here.get()
    if _recorder is None or parent is None or not parent.flags & SAMPLED:
        return NOTHING
    return _recorder.begin(name, kind, parent, attributes)


def _rpc(path: str) -> Attributes:
    service, _, method = path[1:].partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _messaging(topic: str, operation: str, event_id: str, event_type: str) -> dict[str, Value]:
    return {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.message.id": event_id,
        "sagacity.event.type": event_type,
    }
