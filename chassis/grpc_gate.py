"""What every call passes: identity, policy, validation, deadline; on its way out faults, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import grpc
import grpc.aio
import structlog
from typing_extensions import override

from chassis import grpc_errors, tracing
from chassis.cancellation import is_cancelled
from chassis.errors import Fault, FaultKind
from chassis.grpc_metadata import REQUEST_ID_KEY, ROLE_KEY, USER_KEY
from chassis.grpc_requests import Handler, parse
from chassis.identity import Caller, Verifier, set_caller
from chassis.ids import new_id
from chassis.rpc_metrics import observe_rpc, observe_unknown_rpc

DEFAULT_DEADLINE_SECONDS = 10.0
MAX_HANDLER_SECONDS = 60.0
# A stream has no deadline of its own: who wants more of it calls again.
MAX_STREAM_SECONDS = 3_600.0
# Each asks the database again and again, beside the calls that matter more.
MAX_STREAMS = 32
LAST_WRITE_SECONDS = 1.0
STREAM_RETRY = timedelta(seconds=1)
MAX_REQUEST_ID_CHARACTERS = 64
# What answers without a token: probes, and reflection where it is switched on.
OPEN_SERVICES: Final = ("/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/")
# Whose word about the acting user is taken.
SPEAKS_FOR_USERS: Final = frozenset({"gateway"})

Translate = Callable[[Exception], Fault | None]
Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Allow:
    """Who may call an RPC: these services; with `roles`, only for a user who has one of them.

    Services in `userless` are services that may call for nobody, `roles` or not: an operator's command line.
    """

    callers: frozenset[str]
    roles: frozenset[str] | None = None
    userless: frozenset[str] = frozenset()

    def permits(self, caller: Caller) -> bool:
        """Whether the caller may call."""
        if caller.service not in self.callers:
            return False
        if caller.service in self.userless and caller.user_id is None:
            return True
        return self.roles is None or (caller.user_id is not None and caller.role in self.roles)


class Gate(grpc.aio.ServerInterceptor):
    """The server's only interceptor: each further one costs every call a layer of coroutines."""

    def __init__(
        self, domain: str, policies: Mapping[str, Allow], verifier: Verifier, translate: Translate
    ) -> None:
        self._domain = domain
        self._policies = policies
        self._verifier = verifier
        self._translate = translate
        self._wrapped: dict[str, Handler] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._stopping = False

    @override
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            observe_unknown_rpc()
            return None
        if method.startswith(OPEN_SERVICES):
            return handler
        if handler.request_streaming:
            log.error("streaming_rpc_not_served", method=method)
            return None
        self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def end_streams(self) -> None:
        """Tell the callers of streams to go to another replica; there are no new ones from now on."""
        self._stopping = True
        for stream in self._streams:
            stream.cancel()

    async def drain(self, seconds: float) -> None:
        """Wait for use cases whose callers have gone, within a bound."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=seconds)

    def _wrap(self, path: str, handler: Handler) -> Handler:
        service, _, name = path.removeprefix("/").partition("/")
        policy = self._policies.get(name)
        run = self._stream if handler.response_streaming else self._run

        # The one of a stream writes its messages itself, and returns nothing.
        async def serve(raw: bytes, context: Context) -> bytes | None:
            started = time.perf_counter()
            metadata = dict(context.invocation_metadata() or ())
            request_id = str(metadata.get(REQUEST_ID_KEY) or new_id())[:MAX_REQUEST_ID_CHARACTERS]
            structlog.contextvars.bind_contextvars(rpc=name, request_id=request_id)
            code = "OK"
            with tracing.rpc_server(path, metadata.get(tracing.TRACEPARENT)) as span:
                try:
                    set_caller(self._admit(policy, metadata))
                    return await run(handler, parse(handler, raw), context)
                except asyncio.CancelledError:
                    code = FaultKind.CANCELLED.name
                    raise
                except Exception as error:
                    fault = self._fault(error, request_id)
                    code = fault.kind.name
                    span.refused(fault)
                    await self._abort(context, fault)
                    raise  # never reached: abort raises
                finally:
                    observe_rpc(service, name, code, time.perf_counter() - started)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(serve)
        return grpc.unary_unary_rpc_method_handler(serve)

    def _admit(self, policy: Allow | None, metadata: Mapping[str, Any]) -> Caller:
        """Tell who calls, and refuse whom the policy does not name."""
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Fault(FaultKind.UNAUTHENTICATED, "NO_SERVICE_TOKEN", "a service token is needed")
        service = self._verifier.verify(token)
        caller = Caller(service)
        if service in SPEAKS_FOR_USERS and USER_KEY in metadata:
            try:
                caller = Caller(service, UUID(str(metadata[USER_KEY])), str(metadata.get(ROLE_KEY, "")))
            except ValueError:
                raise Fault(FaultKind.UNAUTHENTICATED, "BAD_USER", "the acting user is not a UUID") from None
        if policy is None or not policy.permits(caller):
            raise Fault(FaultKind.PERMISSION_DENIED, "NOT_ALLOWED", "this caller may not call this method")
        return caller

    async def _run(self, handler: Handler, request: Any, context: Context) -> bytes:
        """Run the use case in a task of its own: where the caller goes away, it still ends by itself.

        gRPC cancels a handler at the client's deadline, wherever it is; a use case cut between its two
        transactions would be half-done until the next call.
        """
        task = asyncio.create_task(_bounded(handler, request, context))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        limit = None if context.time_remaining() is not None else DEFAULT_DEADLINE_SECONDS
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(task)
        except (asyncio.CancelledError, TimeoutError):
            # Also where the task has ended in the same moment: nobody else will look at what became of it.
            task.add_done_callback(self._ended_alone)
            raise

    async def _stream(self, handler: Handler, request: Any, context: Context) -> None:
        """Write a stream's messages until it ends by itself, its caller leaves, or its time is over.

        Raises:
            Fault: RESOURCE_EXHAUSTED TOO_MANY_STREAMS; DEADLINE_EXCEEDED STREAM_TOO_LONG; UNAVAILABLE
                STOPPING.
        """
        if self._stopping:
            raise _leaving()
        if len(self._streams) >= MAX_STREAMS:
            message = "too many streams at once; try again shortly"
            kind = FaultKind.RESOURCE_EXHAUSTED
            raise Fault(kind, "TOO_MANY_STREAMS", message, retry_after=STREAM_RETRY)
        pump = asyncio.create_task(_pump(handler, request, context))
        self._streams.add(pump)
        pump.add_done_callback(self._streams.discard)
        timeout = asyncio.timeout(MAX_STREAM_SECONDS)
        try:
            async with timeout:
                await pump
        except TimeoutError:
            if not timeout.expired():
                raise
            message = "the stream has lasted long enough; call again for more"
            raise Fault(FaultKind.DEADLINE_EXCEEDED, "STREAM_TOO_LONG", message) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise  # the caller left
            raise _leaving() from None

    def _ended_alone(self, task: asyncio.Task[Any]) -> None:
        """Log what nobody waits for any more."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and self._known(error) is None:
            log.error("use_case_failed_after_its_caller_left", exc_info=error)

    def _known(self, error: Exception) -> Fault | None:
        if isinstance(error, Fault):
            return error
        translated = self._translate(error)
        if translated is None and isinstance(error, TimeoutError):
            return Fault(FaultKind.DEADLINE_EXCEEDED, "TOO_SLOW", "the call took too long")
        return translated

    def _fault(self, error: Exception, request_id: str) -> Fault:
        try:
            known = self._known(error)
        except Exception:
            log.exception("translation_failed")
            known = None
        if known is not None:
            return known
        # Its text may hold anything, so it stays in the log; the id leads there.
        log.error("rpc_failed", exc_info=error)
        return Fault(FaultKind.INTERNAL, "INTERNAL", f"internal error, request id {request_id}")

    async def _abort(self, context: Context, fault: Fault) -> None:
        status = grpc_errors.to_status(fault, self._domain)
        details = ((grpc_errors.STATUS_METADATA_KEY, status.SerializeToString()),)
        await context.abort(grpc_errors.status_code(fault.kind), fault.message, details)


async def _bounded(handler: Handler, request: Any, context: Context) -> bytes:
    async with asyncio.timeout(MAX_HANDLER_SECONDS):
        reply = await handler.unary_unary(request, context)  # type: ignore[misc, arg-type]
    # Here and not in gRPC: a reply of the wrong type is a bug like any other.
    return handler.response_serializer(reply)  # type: ignore[misc]


async def _pump(handler: Handler, request: Any, context: Context) -> None:
    messages: AsyncGenerator[Any, None] = handler.unary_stream(request, context)  # type: ignore[misc, arg-type, assignment]
    async with aclosing(messages):
        async for message in messages:
            await _written(context, handler.response_serializer(message))  # type: ignore[misc]


async def _written(context: Context, raw: bytes) -> None:
    """Write a message; who is cancelled meanwhile lets it end, within a bound.

    While one is on its way gRPC takes no status, and the caller would not hear why its stream ends.
    """
    writing = asyncio.ensure_future(context.write(raw))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing}, timeout=LAST_WRITE_SECONDS)
        if not writing.done():
            writing.cancel()
        elif not writing.cancelled():
            writing.exception()  # looked at: nobody else will
        raise


def _leaving() -> Fault:
    return Fault(FaultKind.UNAVAILABLE, "STOPPING", "this replica is stopping; call again")
