"""The one server shape: the gate before every RPC, health, reflection by switch, a drain in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from chassis.grpc_gate import MAX_HANDLER_SECONDS, MAX_STREAM_SECONDS, Allow, Gate, Translate
from chassis.grpc_metadata import MAX_MESSAGE_BYTES
from chassis.identity import Verifier
from chassis.readiness import READINESS_SERVICE

DRAIN_GRACE_SECONDS = 5.0
# Together with the grace less than the lifecycle gives one action.
LEFT_BEHIND_SECONDS = 4.0
MAX_CONCURRENT_RPCS = 2_000
# A client looks its addresses up again when a connection ends, and finds replicas that are new since. gRPC
# spreads the ages by a tenth, so that they do not all end at once.
MAX_CONNECTION_AGE_SECONDS = 60.0
# What is under way on an old connection comes to its end: no call may take longer than this.
MAX_CONNECTION_AGE_GRACE_SECONDS = MAX_STREAM_SECONDS + MAX_HANDLER_SECONDS

__all__ = ["Allow", "Server", "Translate", "build_server"]


class Server:
    """A gRPC server with its health service."""

    def __init__(
        self, server: grpc.aio.Server, gate: Gate, health_servicer: health.aio.HealthServicer
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

    async def tell_readiness(self, ready: bool) -> None:
        """Say as the health service `readiness` whether calls find here what they need; not after a stop."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(READINESS_SERVICE, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self) -> None:
        """Report NOT_SERVING, end streams, refuse new calls, let those under way end, callers or not."""
        await self._health.enter_graceful_shutdown()
        self._gate.end_streams()
        await self.server.stop(DRAIN_GRACE_SECONDS)
        await self._gate.drain(LEFT_BEHIND_SECONDS)


def build_server(
    *,
    domain: str,
    policies: Mapping[str, Allow],
    verifier: Verifier,
    translate: Translate = lambda _error: None,
    reflected: Sequence[str] = (),
    max_connection_age_seconds: float = MAX_CONNECTION_AGE_SECONDS,
) -> Server:
    """Make a server; register the servicers on its `.server`, then `start` it.

    Args:
        domain: Who speaks in errors, for example "sagacity.orders".
        policies: Which RPC (bare name) whom to serve; an RPC that is not named is denied to everybody.
        verifier: Tells the calling service by its token.
        translate: Domain exceptions to faults; None makes an opaque INTERNAL of it.
        reflected: Full names of the services that reflection shows to anybody; none: no reflection.
        max_connection_age_seconds: When a connection ends and its client looks for replicas again; calls that
            are under way come to their end.
    """
    gate = Gate(domain, policies, verifier, translate)
    server = grpc.aio.server(
        interceptors=(gate,),
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        options=(
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Half of what chassis.grpc_client sends its keepalives at; gRPC's default would hang up on them.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.max_connection_age_ms", int(max_connection_age_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", int(MAX_CONNECTION_AGE_GRACE_SECONDS * 1000)),
        ),
    )
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if reflected:
        reflection.enable_server_reflection([*reflected, reflection.SERVICE_NAME], server)
    return Server(server, gate, servicer)
