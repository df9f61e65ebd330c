"""The outermost layer, plain ASGI.

Request ids, bounds, security headers, and the last net under everything.
"""

import re
import time
from collections.abc import Callable
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import tracing
from chassis.clock import Clock
from chassis.ids import NewId
from gateway.metrics import NO_ROUTE, known_method, observe, template_of
from gateway.problems import Problem, ProblemError, internal, overloaded, render
from gateway.routing import MAX_BODY_BYTES, too_large

MAX_REQUESTS_IN_FLIGHT: Final = 1000
MAX_TARGET_CHARACTERS: Final = 8192  # path and query together
MAX_HEADERS: Final = 100
EVENT_STREAM: Final = "text/event-stream"
ALIVE: Final = "/healthz"  # never refused for load: a probe must not restart a busy gateway
PROBES: Final = frozenset({ALIVE, "/readyz"})  # asked every few seconds: no traces of their own

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_LOG: Final = structlog.get_logger(__name__)

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # nearly everything is somebody's own; a route that is not says so itself
}


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, clock: Clock, new_id: NewId) -> None:
        self._app = app
        self._clock = clock
        self._new_id = new_id
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(self._new_id())
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        exchange = _Exchange(send, request_id, self._on_stream)
        started = time.perf_counter()
        if (refusal := self._refusal(scope, headers)) is not None:
            await self._render(refusal, scope, receive, exchange)
            observe(scope["method"], NO_ROUTE, exchange.status, time.perf_counter() - started)
            return
        self._in_flight += 1
        with _span(scope, headers) as span:
            try:
                await self._app(scope, self._uncounted_while_awaited(receive), exchange)
            except ClientDisconnect:
                _LOG.info("the client went away", request_id=request_id)
            except Exception:
                _LOG.exception(
                    "a request failed",
                    request_id=request_id,
                    method=known_method(scope["method"]),
                    route=template_of(scope) or NO_ROUTE,
                )
                if exchange.started:
                    raise  # half an answer is out: only cutting the connection tells the client
                await self._render(internal(), scope, receive, exchange)
            finally:
                self._in_flight -= not exchange.streams
                route = template_of(scope)
                observe(scope["method"], route or NO_ROUTE, exchange.status, time.perf_counter() - started)
                tracing.http_answered(span, scope["method"], route, exchange.status)

    def _on_stream(self) -> None:
        """Gives a request's place away once it is a stream: those have a bound of their own."""
        self._in_flight -= 1

    def _uncounted_while_awaited(self, receive: Receive) -> Receive:
        """Gives a request's place away while its body is awaited: slow senders must not hold them all."""
        complete = False

        async def receive_body() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            self._in_flight -= 1
            try:
                message = await receive()
            finally:
                self._in_flight += 1
            complete = not message.get("more_body", False)
            if complete and self._in_flight > MAX_REQUESTS_IN_FLIGHT:
                raise ProblemError(overloaded())
            return message

        return receive_body

    def _refusal(self, scope: Scope, headers: Headers) -> Problem | None:
        if self._in_flight >= MAX_REQUESTS_IN_FLIGHT and scope["path"] != ALIVE:
            return overloaded()
        if len(scope["path"]) + len(scope["query_string"]) > MAX_TARGET_CHARACTERS:
            return Problem(
                414, "URI_TOO_LONG", f"The address is longer than {MAX_TARGET_CHARACTERS} characters."
            )
        if len(scope["headers"]) > MAX_HEADERS:
            return Problem(431, "TOO_MANY_HEADERS", f"The request has more than {MAX_HEADERS} headers.")
        length = headers.get("content-length", "0")
        if not _LENGTH.fullmatch(length) or int(length) > MAX_BODY_BYTES:
            return too_large()
        return None

    async def _render(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        response = render(problem, request_id=scope["state"]["request_id"], now=self._clock.now())
        await response(scope, receive, send)


def _span(scope: Scope, headers: Headers) -> tracing.Span:
    """The request's span, in the client's trace where it names one; two of them name none."""
    if scope["path"] in PROBES:
        return tracing.NOTHING
    given = headers.getlist(tracing.TRACEPARENT)
    return tracing.http_request(scope["method"], given[0] if len(given) == 1 else None)


class _Exchange:
    """The way back to the client: adds our headers, and knows whether the answer has begun."""

    def __init__(self, send: Send, request_id: str, on_stream: Callable[[], None]) -> None:
        self._send = send
        self._request_id = request_id
        self._on_stream = on_stream
        self.started = False
        self.streams = False
        self.status = 499  # what nobody answered: the client went away

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            if headers.get("content-type", "").startswith(EVENT_STREAM):
                self.streams = True
                self._on_stream()
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)
