"""A saga with three participants that answer by script, and replicas of the real engine that drive it."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from typing_extensions import override

from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from chassis.postgres import Database, statement
from orchestrator.calling import Participants
from orchestrator.definitions import Definitions
from orchestrator.entries import State, Verb
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.leases import Leases
from orchestrator.operations import Operations, Request
from orchestrator.saga import Action, Ending, Parallel, Saga, Step, View, calls
from orchestrator.saga_log import Acceptance, Standing
from sagacity.common.v1.saga_step_pb2 import OPERATION_UNDO
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2

INVENTORY = inventory_pb2.DESCRIPTOR.services_by_name["Inventory"].full_name
ORDERS = orders_pb2.DESCRIPTOR.services_by_name["Orders"].full_name
PAYMENTS = payments_pb2.DESCRIPTOR.services_by_name["Payments"].full_name

AWAY = Fault(FaultKind.UNAVAILABLE, "AWAY", "away")
LATER = Fault(
    FaultKind.RESOURCE_EXHAUSTED,
    "LATER",
    "not now",
    retry_after=timedelta(seconds=20),
    domain="sagacity.test",
)
NO = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", recorded=True, domain="sagacity.test")
UNRECORDED = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", domain="sagacity.test")

CALL_TIMEOUT = timedelta(seconds=7)
DEADLINE = timedelta(minutes=5)
UNWIND_DEADLINE = timedelta(minutes=30)
WAIT_SECONDS = 20.0
PATIENCE_SECONDS = 20.0
LONG_LEASE_SECONDS = 3_600.0
SEED = 11


@dataclass(frozen=True)
class Params:
    note: str = ""


def build(saga: View[Params]) -> inventory_pb2.ReleaseReservationRequest:
    """The request of every call: who calls, and the note of the saga."""
    return inventory_pb2.ReleaseReservationRequest(saga_step=saga.call, reservation_id=saga.params.note)


def action(service: str, method: str) -> Action:
    return calls(service, method, timeout=CALL_TIMEOUT)(build)


def answer(ending: Ending) -> inventory_pb2.ReleaseReservationRequest:
    return inventory_pb2.ReleaseReservationRequest(reservation_id=ending.state)


A = Step("a", action(INVENTORY, "Reserve"), undo=action(INVENTORY, "ReleaseReservation"))
B = Step("b", action(ORDERS, "CreateOrder"), undo=action(ORDERS, "RejectOrder"))
C = Step("c", action(PAYMENTS, "Charge"), undo=action(PAYMENTS, "Reverse"))
PIVOT = Step("pivot", action(INVENTORY, "CommitReservation"), pivot=True)
LAST = Step("last", action(ORDERS, "MarkShipped"))


def saga(kind: str, *steps: Step | Parallel, **changes: Any) -> Saga[Any]:
    values: dict[str, Any] = {"deadline": DEADLINE, "unwind_deadline": UNWIND_DEADLINE, "params": Params}
    return Saga(kind=kind, version=1, answer=answer, steps=steps, **(values | changes))


FULL = saga("full", Parallel(A, B), C, PIVOT, LAST)
# Needs no payments.
FREE = saga("free", A, PIVOT)


def of(*definitions: Saga[Any]) -> Definitions:
    return Definitions({(each.kind, each.version): each for each in definitions})


class Seen(NamedTuple):
    """A call that arrived."""

    name: str  # of the step; with a minus in front for its undo
    saga_id: UUID
    request: bytes
    timeout_seconds: float


@dataclass
class Script(Participants):
    """What participants say: for each call its faults, one after the other, and then DONE.

    Attributes:
        faults: By the name of the call: "c" is the do of step c, "-c" its undo.
        down: Participants that do not answer at all.
        holds: Calls that are held until the event is set.
    """

    faults: dict[str, list[Fault]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    holds: dict[str, asyncio.Event] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)

    @override
    async def probe(self, participant: str) -> bool:
        self.probes.append(participant)
        return participant not in self.down

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        step = inventory_pb2.ReleaseReservationRequest.FromString(request).saga_step
        name = f"-{step.step}" if step.operation == OPERATION_UNDO else step.step
        self.seen.append(Seen(name, UUID(step.saga_id), request, timeout_seconds))
        if name in self.holds:
            await self.holds[name].wait()
        if action.participant in self.down:
            raise AWAY
        if self.faults.get(name):
            raise self.faults[name].pop(0)
        return b""

    @property
    def names(self) -> list[str]:
        return [seen.name for seen in self.seen]

    async def asked_for(self, name: str) -> None:
        """Wait until a call arrives."""
        await until(lambda: name in self.names)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that nobody tells of."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.002)


@dataclass
class Replica:
    """One replica of the engine, and its database as a test sees it."""

    name: str
    journal: Journal
    executor: Executor
    leases: Leases
    operations: Operations
    database: Database

    async def begin(self, definition: Saga[Any] = FULL, note: str = "") -> UUID:
        """Accept a saga."""
        params = Params(note)
        acceptance = Acceptance(
            saga_id=new_id(),
            kind=definition.kind,
            version=definition.version,
            definition_hash=definition.hash,
            key=new_id(),
            context=dataclasses.asdict(params),
            deadline=definition.deadline,
            events=(),
            owner=self.name,
            caller="user",
            rpc="Test",
            idempotency_key=str(new_id()),
            request_hash=b"hash",
        )
        return (await self.executor.accept(definition, params, acceptance)).saga_id

    async def end_of(self, saga_id: UUID) -> Standing:
        """Wait until a saga has ended, or is parked."""
        return await self.executor.wait(saga_id, WAIT_SECONDS)

    async def run(self, definition: Saga[Any] = FULL, note: str = "") -> State:
        """Drive a saga to its end."""
        return (await self.end_of(await self.begin(definition, note))).state

    async def ask(self, saga_id: UUID, verb: Verb) -> None:
        """Do what an operator does."""
        await self.operations.perform(Request(saga_id, verb, actor="tester", reason="a test"))

    async def rows(self, query: str, **params: Any) -> list[dict[str, Any]]:
        return await self.database.fetch(statement("test", query), params)

    async def row(self, saga_id: UUID) -> dict[str, Any]:
        query = """
            SELECT *, extract(epoch FROM next_run - clock_timestamp())::float8 AS due_seconds,
                   extract(epoch FROM deadline - update_time)::float8 AS deadline_after_write
              FROM saga WHERE id = %(id)s
        """
        return (await self.rows(query, id=saga_id))[0]

    async def events(self, saga_id: UUID) -> list[str]:
        """What the journal says, one word each: "c done", "-c intended", "unwind intended"."""
        query = "SELECT step, op, outcome FROM saga_event WHERE saga_id = %(id)s ORDER BY seq"
        rows = await self.rows(query, id=saga_id)
        names = {"do": "{step}", "undo": "-{step}"}
        return [f"{names.get(row['op'], row['op']).format(**row)} {row['outcome']}" for row in rows]

    async def left_memory(self, saga_id: UUID) -> None:
        await until(lambda: saga_id not in self.executor.in_memory)

    async def make_due(self, saga_id: UUID | None = None) -> None:
        """Let the time pass until sagas are due."""
        query = "UPDATE saga SET next_run = clock_timestamp() WHERE id = coalesce(%(id)s::uuid, id)"
        await self.rows(query, id=saga_id)

    async def past(self, column: str, interval: str, saga_id: UUID) -> None:
        """Move a time of a saga; the interval is from now."""
        query = f"UPDATE saga SET {column} = clock_timestamp() + %(by)s::interval WHERE id = %(id)s"  # noqa: S608
        await self.rows(query, by=interval, id=saga_id)


@asynccontextmanager
async def replica(
    dsn: str,
    script: Participants,
    name: str = "one",
    *,
    definitions: Definitions | None = None,
    sweeps: bool = False,
    lease_seconds: float = LONG_LEASE_SECONDS,
    options: Mapping[str, Any] | None = None,
) -> AsyncIterator[Replica]:
    """Run a replica; it renews, sweeps and prunes by itself only where it `sweeps`.

    At the end it dies: nothing is handed over.
    """
    database = await Database.open(dsn, application_name=name)
    known = definitions or of(FULL, FREE)
    journal = Journal(database, name, **(options or {}))
    executor = Executor(journal, script, known, rng=random.Random(SEED))  # noqa: S311
    leases = Leases(journal, executor, lease_seconds=lease_seconds)
    await leases.renew()
    parts: list[Journal | Executor | Leases] = [journal, executor, *([leases] if sweeps else [])]
    tasks = [asyncio.create_task(part.run()) for part in parts]
    await asyncio.sleep(0)
    try:
        yield Replica(name, journal, executor, leases, Operations(journal, executor, known), database)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()


async def is_gone(dsn: str, name: str) -> None:
    """Let the lease of a dead replica run out."""
    database = await Database.open(dsn, application_name="undertaker")
    await database.fetch(statement("test", "DELETE FROM replica WHERE id = %(name)s"), {"name": name})
    await database.close()
