"""Who is called by this command, where, and with which key: the operator's identity, for no user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import grpc.aio

from chassis.config import ProcessSettings, SettingsError, environment, variables
from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.identity import ServiceIdentity
from cli.failures import failure, usage

IDENTITY = "operator"
KEY_VARIABLE = "SAGACITY_OPERATOR_IDENTITY_KEY_FILE"
DATA_DIR_VARIABLE = "SAGACITY_DATA_DIR"
# Where `make run` leaves the key.
DEFAULT_DATA_DIR = ".sagacity"
DEFAULT_KEY = Path("secrets") / "identity-operator.pem"
CALL_SECONDS = 10.0

Request = TypeVar("Request")
Reply = TypeVar("Reply")


@dataclass(frozen=True)
class Peer:
    """A process that is called: the orchestrator, or a context."""

    name: str

    @property
    def variable(self) -> str:
        """The environment variable that has its address, for us as for every process."""
        return variables("", f"{self.name}_address")[-1]

    @property
    def default_address(self) -> str:
        """Where `make run` serves it."""
        return str(ProcessSettings.model_fields[f"{self.name}_address"].default)


ORCHESTRATOR: Final = Peer("orchestrator")
CONTEXTS: Final = {name: Peer(name) for name in ("users", "inventory", "payments", "orders")}


def data_dir() -> Path:
    """Where `make run` keeps what it leaves for us."""
    return Path(environment().get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR)


@dataclass(frozen=True)
class Where:
    """Whom to call, where, and by which key; what is None comes from the environment, or is the default's."""

    address: str | None = None
    key_file: Path | None = None
    peer: Peer = ORCHESTRATOR

    @property
    def target(self) -> str:
        """The gRPC target."""
        return self.address or environment().get(self.peer.variable) or self.peer.default_address

    @property
    def whom(self) -> str:
        """Who is called, for people."""
        return f"{'the ' if self.peer == ORCHESTRATOR else ''}{self.peer.name} at {self.target}"

    def identity(self) -> ServiceIdentity:
        """The operator's identity.

        Raises:
            CommandError: USAGE where there is no key.
        """
        named = self.key_file or environment().get(KEY_VARIABLE)
        file = Path(named) if named else data_dir() / DEFAULT_KEY
        try:
            return ServiceIdentity.read(IDENTITY, file)
        except SettingsError as error:
            raise usage(str(error)) from None
        except OSError as error:
            hint = "" if named else f"; name one by --identity-key-file or {KEY_VARIABLE}"
            raise usage(f"the identity key {file} cannot be read: {error.strerror}{hint}") from None


class Client:
    """Calls of one peer, each made once; whatever goes wrong is a CommandError."""

    def __init__(self, connection: Connection, identity: ServiceIdentity, whom: str) -> None:
        self.channel = connection.channel
        self._connection = connection
        self._identity = identity
        self.whom = whom

    async def call(
        self,
        rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Reply],
        request: Request,
        *,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Reply:
        """Make a call of a stub on `channel`.

        Raises:
            CommandError: whatever the peer answered, or that it did not.
        """
        try:
            return await self._connection.call(rpc, request, timeout_seconds=timeout_seconds)
        except Fault as fault:
            raise failure(fault, self.whom) from None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a stream is opened with."""
        return (("authorization", f"Bearer {self._identity.token()}"),)


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Client]:
    """Open the connection for one command."""
    identity = where.identity()
    connection = Connection(where.target, identity)
    try:
        yield Client(connection, identity, where.whom)
    finally:
        await connection.close()
