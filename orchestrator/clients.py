"""The participants, over gRPC: journaled bytes out, reply bytes back, nothing decoded on the way."""

from __future__ import annotations

from collections.abc import Mapping

import grpc.aio
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from orchestrator.executor import Participants
from orchestrator.saga import Action


class GrpcParticipants(Participants):
    """One connection a participant, by the name of its context."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections
        self._rpcs: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    @override
    async def call(self, action: Action, request: bytes) -> bytes:
        connection = self._connections.get(action.participant)
        if connection is None:
            raise Fault(FaultKind.UNIMPLEMENTED, "NO_PARTICIPANT", f"no address for {action.participant}")
        rpc = self._rpcs.get(action.path)
        if rpc is None:
            rpc = self._rpcs[action.path] = connection.channel.unary_unary(action.path)
        return await connection.call(rpc, request, timeout_seconds=action.timeout.total_seconds())
