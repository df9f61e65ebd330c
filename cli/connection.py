"""The orchestrator's SagaOperator as this command calls it: with the operator's identity, for no user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from chassis import grpc_errors
from chassis.config import SettingsError, environment
from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.identity import ServiceIdentity
from cli.failures import CommandError, ExitCode, failure, usage
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc

if TYPE_CHECKING:  # the generated module has this name for type checkers only
    from sagacity.sagas.v1.sagas_pb2_grpc import SagaOperatorAsyncStub

IDENTITY = "operator"
ADDRESS_VARIABLE = "SAGACITY_ORCHESTRATOR_ADDRESS"
KEY_VARIABLE = "SAGACITY_OPERATOR_IDENTITY_KEY_FILE"
DATA_DIR_VARIABLE = "SAGACITY_DATA_DIR"
# Where `make run` serves, and where it leaves the key.
DEFAULT_ADDRESS = "127.0.0.1:50055"
DEFAULT_DATA_DIR = ".sagacity"
DEFAULT_KEY = Path("secrets") / "identity-operator.pem"
CALL_SECONDS = 10.0
# A watcher whose replica stops or dies looks for another one, so often in a row and so long apart.
MAX_RECONNECTS = 20
RECONNECT_SECONDS = 0.5
# The last comes from the server when a stream has lasted long enough.
_GOES_ON = frozenset({FaultKind.UNAVAILABLE, FaultKind.DEADLINE_EXCEEDED})

Request = TypeVar("Request")
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Where:
    """Which orchestrator, and by which key; what is None comes from the environment, or is the default's."""

    address: str | None = None
    key_file: Path | None = None

    @property
    def target(self) -> str:
        """The gRPC target."""
        return self.address or environment().get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS

    def identity(self) -> ServiceIdentity:
        """The operator's identity.

        Raises:
            CommandError: USAGE where there is no key.
        """
        named = self.key_file or environment().get(KEY_VARIABLE)
        folder = Path(environment().get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR)
        file = Path(named) if named else folder / DEFAULT_KEY
        try:
            return ServiceIdentity.read(IDENTITY, file)
        except SettingsError as error:
            raise usage(str(error)) from None
        except OSError as error:
            hint = "" if named else f"; name one by --identity-key-file or {KEY_VARIABLE}"
            raise usage(f"the identity key {file} cannot be read: {error.strerror}{hint}") from None


class Operator:
    """Calls, each made once; whatever goes wrong is a CommandError."""

    def __init__(self, connection: Connection, identity: ServiceIdentity, target: str) -> None:
        self.stub: SagaOperatorAsyncStub = sagas_pb2_grpc.SagaOperatorStub(connection.channel)
        self._connection = connection
        self._identity = identity
        self._target = target

    async def call(self, rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Reply], request: Request) -> Reply:
        """Make a call of the stub.

        Raises:
            CommandError: whatever the orchestrator answered, or that it did not.
        """
        try:
            return await self._connection.call(rpc, request, timeout_seconds=CALL_SECONDS)
        except Fault as fault:
            raise failure(fault, self._target) from None

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
                    raise failure(fault, self._target) from None
                # Who was never there is not waited for.
                if not connected_once and not fault.domain:
                    raise failure(fault, self._target) from None
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                return

    def _stream(self, saga_id: str) -> AsyncIterator[sagas_pb2.WatchSagasResponse]:
        metadata = (("authorization", f"Bearer {self._identity.token()}"),)
        return aiter(self.stub.WatchSagas(sagas_pb2.WatchSagasRequest(saga_id=saga_id), metadata=metadata))

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
    identity = where.identity()
    connection = Connection(where.target, identity)
    try:
        yield Operator(connection, identity, where.target)
    finally:
        await connection.close()
