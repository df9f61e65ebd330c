"""The one server shape: identity, default-deny policy, validation, deadlines, faults and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import UUID

import grpc
import grpc.aio
import protovalidate
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typing_extensions import override

from chassis import grpc_errors
from chassis.errors import Detail, Fault, FaultKind
from chassis.identity import Caller, Verifier, set_caller
from chassis.ids import new_id
from chassis.telemetry import observe_rpc

DEFAULT_DEADLINE_SECONDS = 10.0
MAX_HANDLER_SECONDS = 60.0
DRAIN_GRACE_SECONDS = 5.0
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_CONCURRENT_RPCS = 2_000
HEALTH_SERVICE: Final = "/grpc.health.v1.Health/"
USER_KEY: Final = "x-sagacity-user"
ROLE_KEY: Final = "x-sagacity-role"
REQUEST_ID_KEY: Final = "x-request-id"
# Whose word about the acting user is taken.
SPEAKS_FOR_USERS: Final = frozenset({"gateway"})

Translate = Callable[[Exception], Fault | None]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Allow:
    """Who may call an RPC: these services; with `roles`, only for a user who has one of them."""

    callers: frozenset[str]
    roles: frozenset[str] | None = None

    def permits(self, caller: Caller) -> bool:
        """Whether the caller may call."""
        return caller.service in self.callers and (self.roles is None or caller.role in self.roles)


class Server:
    """A gRPC server with its health service."""

    def __init__(
        self, server: grpc.aio.Server, gate: _Gate, health_servicer: health.aio.HealthServicer
    ) -> None:
        self.server = server
        self._gate = gate
        self._health = health_servicer

    async def start(self, listen: str) -> int:
        """Bind, serve, report SERVING; returns the port. OSError where the address is taken."""
        try:
            port = self.server.add_insecure_port(listen)
        except RuntimeError:
            raise OSError(f"cannot listen on {listen}: the address is taken or not of this host") from None
        await self.server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self) -> None:
        """Report NOT_SERVING, refuse new calls, let those under way end, also those whose caller left."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(DRAIN_GRACE_SECONDS)
        await self._gate.drain(DRAIN_GRACE_SECONDS)


def build_server(
    *,
    domain: str,
    policies: Mapping[str, Allow],
    verifier: Verifier,
    translate: Translate = lambda _error: None,
) -> Server:
    """Make a server; register the servicers on its `.server`, then `start` it.

    Args:
        domain: Who speaks in errors, for example "sagacity.orders".
        policies: Which RPC (bare name) whom to serve; an RPC that is not named is denied to everybody.
        verifier: Tells the calling service by its token.
        translate: Domain exceptions to faults; None for what it does not know, which becomes an opaque
        INTERNAL.
    """
    gate = _Gate(domain, policies, verifier, translate)
    server = grpc.aio.server(
        interceptors=(gate,),
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        options=(
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ),
    )
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return Server(server, gate, servicer)


class _Gate(grpc.aio.ServerInterceptor):
    def __init__(
        self, domain: str, policies: Mapping[str, Allow], verifier: Verifier, translate: Translate
    ) -> None:
        self._domain = domain
        self._policies = policies
        self._verifier = verifier
        self._translate = translate
        self._wrapped: dict[str, Handler] = {}
        self._running: set[asyncio.Task[Any]] = set()

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
        if handler is None or method.startswith(HEALTH_SERVICE):
            return handler
        self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    async def drain(self, seconds: float) -> None:
        """Wait for use cases whose callers have gone, within a bound."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=seconds)

    def _wrap(self, method: str, handler: Handler) -> Handler:
        name = method.rpartition("/")[2]
        policy = self._policies.get(name)

        async def serve(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = time.perf_counter()
            metadata = dict(context.invocation_metadata() or ())
            request_id = str(metadata.get(REQUEST_ID_KEY) or new_id())[:64]
            structlog.contextvars.bind_contextvars(rpc=name, request_id=request_id)
            code = "OK"
            try:
                set_caller(self._admit(policy, metadata))
                request = _parse(handler, raw)
                return await self._run(handler, request, context)
            except asyncio.CancelledError:
                code = FaultKind.CANCELLED.name
                raise
            except Exception as error:  # noqa: BLE001 - the one place where every error becomes a status
                fault = self._fault(error, request_id)
                code = fault.kind.name
                status = grpc_errors.to_status(fault, self._domain)
                await context.abort(
                    grpc_errors.status_code(fault.kind),
                    fault.message,
                    ((grpc_errors.STATUS_METADATA_KEY, status.SerializeToString()),),
                )
            finally:
                observe_rpc(name, code, time.perf_counter() - started)

        return grpc.unary_unary_rpc_method_handler(
            serve,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

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

    async def _run(self, handler: Handler, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Run the use case in a task of its own: where the caller goes away, it still ends by itself.

        gRPC cancels a handler at the client's deadline, wherever it is; a use case cut between its two
        transactions would be half-done until the next call.
        """
        handled: Awaitable[Any] = handler.unary_unary(request, context)  # type: ignore[misc, arg-type]
        task = asyncio.create_task(_bounded(handled))
        self._running.add(task)
        task.add_done_callback(self._done)
        limit = None if context.time_remaining() is not None else DEFAULT_DEADLINE_SECONDS
        async with asyncio.timeout(limit):
            return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: where the caller has gone, nobody else asks for it

    def _fault(self, error: Exception, request_id: str) -> Fault:
        if isinstance(error, Fault):
            return error
        translated = self._translate(error)
        if translated is not None:
            return translated
        if isinstance(error, TimeoutError):
            return Fault(FaultKind.DEADLINE_EXCEEDED, "TOO_SLOW", "the call took too long")
        log.error("rpc_failed", exc_info=error)
        return Fault(FaultKind.INTERNAL, "INTERNAL", f"internal error, request id {request_id}")


async def _bounded(handled: Awaitable[Any]) -> Any:
    async with asyncio.timeout(MAX_HANDLER_SECONDS):
        return await handled


def _parse(handler: Handler, raw: bytes) -> Any:
    """Decode and validate a request; garbage is the caller's error, never ours."""
    try:
        request = handler.request_deserializer(raw)  # type: ignore[misc]
    except (DecodeError, ValueError):
        raise Fault(FaultKind.INVALID_ARGUMENT, "NOT_A_REQUEST", "the request cannot be decoded") from None
    try:
        protovalidate.validate(request)
    except protovalidate.ValidationError as error:
        fields = tuple(Detail(_path(violation), violation.proto.message) for violation in error.violations)
        raise Fault(
            FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "the request is not valid", fields=fields
        ) from None
    return request


def _path(violation: protovalidate.Violation) -> str:
    """The field of a violation, as `items[0].quantity`."""
    path = ""
    for element in violation.proto.field.elements if violation.proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        index = _index(element)
        path += f"[{index}]" if index is not None else ""
    return path


def _index(element: Any) -> Any:
    subscript = getattr(element, "subscript", None)
    return getattr(subscript, "value", None) if subscript is not None else None
