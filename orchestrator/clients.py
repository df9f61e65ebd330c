"""The participants, over gRPC: journaled bytes out, reply bytes back, nothing decoded on the way."""

from __future__ import annotations

from collections.abc import Mapping

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from orchestrator.calling import Participants
from orchestrator.saga import Action

PROBE_SECONDS = 1.0


class GrpcParticipants(Participants):
    """One connection a participant, by the name of its context."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections
        self._rpcs: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        connection = self._connections.get(action.participant)
        if connection is None:
            raise Fault(FaultKind.UNIMPLEMENTED, "NO_PARTICIPANT", f"no address for {action.participant}")
        rpc = self._rpcs.get(action.path)
        if rpc is None:
            rpc = self._rpcs[action.path] = connection.channel.unary_unary(action.path)
        # That of the client's request, which the saga was begun by, whoever drives it.
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        return await connection.call(rpc, request, timeout_seconds=timeout_seconds, request_id=request_id)

    @override
    async def probe(self, participant: str) -> bool:
        connection = self._connections[participant]
        health = health_pb2_grpc.HealthStub(connection.channel)
        answer = await connection.call(
            health.Check, health_pb2.HealthCheckRequest(), timeout_seconds=PROBE_SECONDS
        )
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
