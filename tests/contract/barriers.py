"""The two barriers behind one face: that of the services, and that of the simulated participants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol
from uuid import UUID

from typing_extensions import override

from chassis import barrier
from chassis.barrier import BARRIER_DDL, SagaCall
from chassis.errors import Fault, FaultKind
from chassis.postgres import Database, Transaction, statement
from tests.simulation.participants import Identity, World

# What may happen to a step. "start" is the first of two transactions, "changed" a do with another request.
OPERATIONS = ("do", "changed", "refused do", "start", "undo", "refused undo")
SEQUENCES = 3
NO = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no")

_START = statement(
    "start",
    "INSERT INTO barrier (saga_id, step, outcome, request_hash)"
    " VALUES (%(saga_id)s, %(step)s, 'IN_PROGRESS', %(hash)s) ON CONFLICT DO NOTHING",
)
_STORED = statement("stored", "SELECT outcome FROM barrier WHERE saga_id = %(saga_id)s AND step = %(step)s")


def sequences() -> Iterator[tuple[str, ...]]:
    """Every order in which three operations may come."""
    return itertools.product(OPERATIONS, repeat=SEQUENCES)


class Barrier(Protocol):
    """A participant with a barrier."""

    async def operate(self, saga_id: UUID, step: str, operation: str) -> str:
        """Let an operation come; what was answered, as a word."""

    async def effects(self, saga_id: UUID) -> list[str]:
        """The effects that stayed."""

    async def outcome(self, saga_id: UUID, step: str) -> str:
        """What is stored of the step."""


class PostgresBarrier(Barrier):
    """The barrier of the services. `unrecorded` steps are those after a pivot."""

    def __init__(self, database: Database, unrecorded: frozenset[str]) -> None:
        self._database = database
        self._unrecorded = unrecorded

    async def prepare(self) -> None:
        """Make its tables."""
        for ddl in (BARRIER_DDL, "CREATE TABLE effect (saga_id uuid, name text)"):
            await self._database.fetch(statement("ddl", ddl), {})

    @override
    async def operate(self, saga_id: UUID, step: str, operation: str) -> str:
        request_hash = b"other" if operation == "changed" else b"hash"
        call = SagaCall(saga_id, step, request_hash)

        async def effect(tx: Transaction) -> dict[str, Any]:
            name = "undone" if "undo" in operation else "done"
            insert = "INSERT INTO effect VALUES (%(saga_id)s, %(name)s)"
            await tx.fetch(statement("effect", insert), {"saga_id": saga_id, "name": name})
            if operation.startswith("refused"):
                raise Fault(NO.kind, NO.reason, NO.message)
            return {"said": name}

        try:
            if operation == "start":
                params = {"saga_id": saga_id, "step": step, "hash": request_hash}
                await self._database.fetch(_START, params)
                return "started"
            if operation.endswith("undo"):
                reply = await barrier.undo_once(self._database, call, effect)
            else:
                reply = await barrier.do_once(
                    self._database,
                    call,
                    effect,
                    as_refusal=lambda error: error if isinstance(error, Fault) else None,
                    store_refusals=step not in self._unrecorded,
                )
        except Fault as fault:
            return f"{fault.kind} {fault.reason} {fault.recorded}"
        return str(reply.get("said", ""))

    @override
    async def effects(self, saga_id: UUID) -> list[str]:
        query = "SELECT name FROM effect WHERE saga_id = %(saga_id)s ORDER BY name"
        return [
            row["name"]
            for row in await self._database.fetch(statement("effects", query), {"saga_id": saga_id})
        ]

    @override
    async def outcome(self, saga_id: UUID, step: str) -> str:
        rows = await self._database.fetch(_STORED, {"saga_id": saga_id, "step": step})
        return str(rows[0]["outcome"]) if rows else ""


class SimulatedBarrier(Barrier):
    """The barrier of the simulated participants."""

    def __init__(self, unrecorded: frozenset[str]) -> None:
        self._unrecorded = unrecorded
        self._world = World(lambda _branch: None)
        self._effects: dict[UUID, list[str]] = {}

    @override
    async def operate(self, saga_id: UUID, step: str, operation: str) -> str:
        undo = operation.endswith("undo")
        identity = Identity(saga_id, step, undo)
        request = b"other" if operation == "changed" else b"hash"
        refusal = Fault(NO.kind, NO.reason, NO.message) if operation.startswith("refused") else None

        def effect(_world: World) -> bytes:
            name = "undone" if undo else "done"
            self._effects.setdefault(saga_id, []).append(name)
            return name.encode()

        try:
            if operation == "start":
                self._world.start(identity, request)
                return "started"
            if undo:
                return self._world.undo(identity, refusal=refusal, effect=effect).decode()
            records = step not in self._unrecorded
            return self._world.do(identity, request, refusal=refusal, effect=effect, records=records).decode()
        except Fault as fault:
            return f"{fault.kind} {fault.reason} {fault.recorded}"

    @override
    async def effects(self, saga_id: UUID) -> list[str]:
        return sorted(self._effects.get(saga_id, []))

    @override
    async def outcome(self, saga_id: UUID, step: str) -> str:
        stored = self._world.barrier.get((saga_id, step))
        return stored.outcome if stored else ""
