"""The engine as the orchestrator's process has it: the one place that knows how it is put together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.identity import ServiceIdentity
from chassis.ids import new_id
from chassis.lifecycle import Lifecycle
from chassis.postgres import Database
from orchestrator.__main__ import MAX_CONNECTIONS
from orchestrator.calling import Participants
from orchestrator.census import watch_census
from orchestrator.clients import GrpcParticipants
from orchestrator.config import OrchestratorSettings
from orchestrator.definitions import Definitions
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.leases import Leases
from orchestrator.saga import Action
from orchestrator.saga_log import Acceptance
from sagacity.inventory.v1 import inventory_pb2
from tests.bench.engine.definition import DO, FOUR_STEPS, LAST_STEP, FourSteps

WAIT_SECONDS = 60.0
LEASE_SECONDS = float(OrchestratorSettings.model_fields["lease_seconds"].default)

ARCHIVE_AFTER = timedelta(days=float(OrchestratorSettings.model_fields["archive_after_days"].default))

Behaviour = Literal["done", "refused", "grpc"]


class AtOnce(Participants):
    """Everything is done, in no time."""

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        return b""

    @override
    async def probe(self, participant: str) -> bool:
        return True


class LastRefuses(AtOnce):
    """The last step is refused, on record; everything else is done, in no time."""

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        if action.method == DO:
            message = inventory_pb2.CommitReservationRequest.FromString(request)
            if message.saga_step.step == LAST_STEP:
                raise Fault(
                    FaultKind.FAILED_PRECONDITION,
                    "RESERVATION_EXPIRED",
                    "the hold has expired",
                    recorded=True,
                    domain="sagacity.inventory",
                )
        return b""


@dataclass(frozen=True)
class Wiring:
    """What a process with an engine is told: its journal, its name there, and how the participants are.

    Attributes:
        dsn: The journal's database.
        name: What PostgreSQL shows of the connections.
        behaviour: In process and done, in process and refused at the end, or over gRPC.
        address: Of the participant, with "grpc".
        private_pem: The orchestrator's key, with "grpc".
    """

    dsn: str
    name: str
    behaviour: Behaviour
    address: str = ""
    private_pem: str = ""


class Engine:
    """The engine of one replica."""

    def __init__(self, executor: Executor, replica: str) -> None:
        self._executor = executor
        self.replica = replica

    @classmethod
    async def start(cls, life: Lifecycle, wiring: Wiring) -> Engine:
        """Wire as `orchestrator.__main__` does, without its server."""
        database = await Database.open(wiring.dsn, application_name=wiring.name, max_size=MAX_CONNECTIONS)
        life.on_stop(database.close)
        await database.ping()
        replica = str(new_id())
        journal = Journal(database, replica, archive_after=ARCHIVE_AFTER)
        definitions = Definitions({(FOUR_STEPS.kind, FOUR_STEPS.version): FOUR_STEPS})
        executor = Executor(journal, _participants(life, wiring), definitions)
        leases = Leases(journal, executor, lease_seconds=LEASE_SECONDS)
        await leases.renew()
        life.start(journal.run(), name="journal")
        life.start(executor.run(), name="executor")
        life.start(leases.run(), name="leases")
        life.start(watch_census(database, executor), name="census")
        life.on_stop(leases.hand_over)
        life.on_stop(executor.stop)
        return cls(executor, replica)

    async def accept(self) -> UUID:
        """Journal a saga; its id once it is acknowledged."""
        saga_id = new_id()
        params = FourSteps(reservation_id=str(saga_id))
        acceptance = Acceptance(
            saga_id=saga_id,
            kind=FOUR_STEPS.kind,
            version=FOUR_STEPS.version,
            definition_hash=FOUR_STEPS.hash,
            key=saga_id,
            context=dataclasses.asdict(params),
            deadline=FOUR_STEPS.deadline,
            events=(),
            owner=self.replica,
            caller="bench",
            rpc="Bench",
            idempotency_key=str(saga_id),
            request_hash=b"",
        )
        return (await self._executor.accept(FOUR_STEPS, params, acceptance)).saga_id

    async def end(self, saga_id: UUID) -> str:
        """Wait for the saga's end; the state that it ended in, or is in after WAIT_SECONDS."""
        return str((await self._executor.wait(saga_id, WAIT_SECONDS)).state)


def _participants(life: Lifecycle, wiring: Wiring) -> Participants:
    if wiring.behaviour == "done":
        return AtOnce()
    if wiring.behaviour == "refused":
        return LastRefuses()
    connection = Connection(wiring.address, ServiceIdentity("orchestrator", wiring.private_pem))
    life.on_stop(connection.close)
    return GrpcParticipants({"inventory": connection})
