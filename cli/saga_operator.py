"""The orchestrator's SagaOperator as this command calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio

from chassis import grpc_errors
from chassis.errors import FaultKind
from cli.connection import Client, Reply, Request, Where
from cli.connection import connected as connected_client
from cli.failures import CommandError, ExitCode, failure
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

if TYPE_CHECKING:  # the generated module has this name for type checkers only
    from sagacity.sagas.v1.sagas_pb2_grpc import SagaOperatorAsyncStub

# A watcher whose replica stops or dies looks for another one, so often in a row and so long apart.
MAX_RECONNECTS = 20
RECONNECT_SECONDS = 0.5
# The last comes from the server when a stream has lasted long enough.
_GOES_ON = frozenset({FaultKind.UNAVAILABLE, FaultKind.DEADLINE_EXCEEDED})


class Operator:
    """Calls, each made once; whatever goes wrong is a CommandError."""

    def __init__(self, client: Client) -> None:
        self.stub: SagaOperatorAsyncStub = sagas_pb2_grpc.SagaOperatorStub(client.channel)
        self._client = client

    async def call(self, rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Reply], request: Request) -> Reply:
        """Make a call of the stub; CommandError as `Client.call`."""
        return await self._client.call(rpc, request)

    async def watch(self, saga_id: str) -> AsyncIterator[sagas_pb2.WatchSagasResponse]:
        """Messages of WatchSagas, over changes of the replica; entries that were seen are left out.

        Raises:
            CommandError: as `call`; UNAVAILABLE after MAX_RECONNECTS.
        """
        lost, sequence, connected_once = 0, 0, False
        while True:
            try:
                async for message in self._stream(saga_id):
                    new = [entry for entry in message.entries if entry.sequence > sequence]
                    sequence = max([sequence, *(entry.sequence for entry in new)])
                    yield sagas_pb2.WatchSagasResponse(sagas=message.sagas, entries=new)
                    lost, connected_once = 0, True
            except grpc.aio.AioRpcError as error:
                fault = grpc_errors.from_error(error)
                lost += 1
                if fault.kind not in _GOES_ON or lost > MAX_RECONNECTS:
                    raise failure(fault, self._client.whom) from None
                # Who was never there is not waited for.
                if not connected_once and not fault.domain:
                    raise failure(fault, self._client.whom) from None
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                return

    def _stream(self, saga_id: str) -> AsyncIterator[sagas_pb2.WatchSagasResponse]:
        request = sagas_pb2.WatchSagasRequest(saga_id=saga_id)
        return aiter(self.stub.WatchSagas(request, metadata=self._client.metadata()))

    async def saga_of_order(self, order_id: str, *, open_only: bool) -> sagas_pb2.Saga:
        """The saga that has an order: the one under way, else, unless `open_only`, the newest.

        Raises:
            CommandError: NOT_FOUND where there is none; as `call`.
        """
        request = sagas_pb2.ListSagasRequest(order_id=order_id, open=True)
        found = (await self.call(self.stub.ListSagas, request)).sagas
        under_way = [saga for saga in found if saga.state != sagas_pb2.SAGA_STATE_WAITING]
        # Nobody has it: the one that waits longest is the next.
        if under_way or found:
            return (under_way or found)[-1]
        if open_only:
            raise _not_found("no saga of this order is open")
        for archived in (False, True):
            request = sagas_pb2.ListSagasRequest(order_id=order_id, page_size=1, archived=archived)
            found = (await self.call(self.stub.ListSagas, request)).sagas
            if found:
                return found[0]
        raise _not_found("there is no saga of this order")


def _not_found(message: str) -> CommandError:
    return CommandError(ExitCode.NOT_FOUND, "SAGA_NOT_FOUND", message)


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Operator]:
    """Open the connection for one command."""
    async with connected_client(where) as client:
        yield Operator(client)
