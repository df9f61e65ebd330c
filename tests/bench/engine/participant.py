"""A participant in a process of its own, behind the server that every service has: identity, validation.

It does nothing, or, where it is given a database, one effect a call behind the real barrier: a line in a
ledger that nothing keeps from having the same line twice. Asked over its input, it says how often it was
called.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import psutil
from typing_extensions import override

from chassis import barrier
from chassis.errors import Fault
from chassis.grpc_server import Allow, build_server
from chassis.identity import Verifier
from chassis.lifecycle import Lifecycle, main
from chassis.postgres import Database, Transaction, statement
from chassis.telemetry import configure_logging
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from tests.bench.engine.definition import DO, UNDO
from tests.bench.engine.questions import Questions

LEDGER_DDL = "CREATE TABLE ledger (saga_id uuid NOT NULL, step text NOT NULL, operation text NOT NULL)"
POLICIES = {name: Allow(frozenset({"orchestrator"})) for name in (DO, UNDO)}

_WRITE_DOWN = statement(
    "write_down",
    "INSERT INTO ledger (saga_id, step, operation) VALUES (%(saga_id)s, %(step)s, %(operation)s)",
)


@dataclass(frozen=True)
class Serving:
    """What the process is told: the public keys of those who may call, and its database, if any."""

    keys: dict[str, Any]
    dsn: str = ""


@dataclass
class NoOp(inventory_pb2_grpc.InventoryServicer):
    """Every call is done at once."""

    calls: int = 0

    @override
    async def CommitReservation(
        self,
        request: inventory_pb2.CommitReservationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> inventory_pb2.CommitReservationResponse:
        self.calls += 1
        return inventory_pb2.CommitReservationResponse()

    @override
    async def ReleaseReservation(
        self,
        request: inventory_pb2.ReleaseReservationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> inventory_pb2.ReleaseReservationResponse:
        self.calls += 1
        return inventory_pb2.ReleaseReservationResponse()


@dataclass
class Ledger(NoOp):
    """Every call that passes the barrier leaves a line."""

    database: Database = field(kw_only=True)

    @override
    async def CommitReservation(
        self,
        request: inventory_pb2.CommitReservationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> inventory_pb2.CommitReservationResponse:
        self.calls += 1
        call = barrier.saga_call(request)
        await barrier.do_once(self.database, call, _Line(call, "do"), as_refusal=_no_refusal)
        return inventory_pb2.CommitReservationResponse()

    @override
    async def ReleaseReservation(
        self,
        request: inventory_pb2.ReleaseReservationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> inventory_pb2.ReleaseReservationResponse:
        self.calls += 1
        call = barrier.saga_call(request)
        await barrier.undo_once(self.database, call, _Line(call, "undo"))
        return inventory_pb2.ReleaseReservationResponse()


@dataclass(frozen=True)
class _Line:
    """The effect of a call."""

    call: barrier.SagaCall
    operation: str

    async def __call__(self, tx: Transaction) -> dict[str, Any]:
        line = {"saga_id": self.call.saga_id, "step": self.call.step, "operation": self.operation}
        await tx.fetch(_WRITE_DOWN, line)
        return {}


def _no_refusal(_error: Exception) -> Fault | None:
    return None


async def program(life: Lifecycle) -> None:
    """Serve until the input ends; say at which port."""
    questions = Questions()
    configure_logging("participant", "console")
    serving = Serving(**json.loads(sys.argv[1]))
    servicer = await _servicer(life, serving)
    server = build_server(domain="sagacity.inventory", policies=POLICIES, verifier=Verifier(serving.keys))
    inventory_pb2_grpc.add_InventoryServicer_to_server(servicer, server.server)
    port = await server.start("127.0.0.1:0")
    life.on_stop(server.stop)

    async def answer(_question: dict[str, Any]) -> dict[str, Any]:
        times = psutil.Process().cpu_times()
        return {"calls": servicer.calls, "cpu_seconds": times.user + times.system}

    await questions.serve(life, answer, {"port": port})


async def _servicer(life: Lifecycle, serving: Serving) -> NoOp:
    if not serving.dsn:
        return NoOp()
    database = await Database.open(serving.dsn, application_name="participant")
    life.on_stop(database.close)
    await database.ping()
    return Ledger(database=database)


if __name__ == "__main__":
    main(program)
