"""Typed clients of the five backends, called with the gateway's identity and for the acting user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.identity import Caller
from sagacity.events.v1.event_operator_pb2_grpc import EventOperatorStub
from sagacity.inventory.v1.inventory_pb2_grpc import InventoryStub
from sagacity.orders.v1.orders_pb2_grpc import OrdersStub
from sagacity.payments.v1.payments_pb2_grpc import PaymentsStub
from sagacity.sagas.v1.sagas_pb2_grpc import OrderSagasStub, SagaOperatorStub
from sagacity.users.v1.users_pb2_grpc import UsersStub

if TYPE_CHECKING:  # the generated modules have these names for type checkers only
    from sagacity.events.v1.event_operator_pb2_grpc import EventOperatorAsyncStub
    from sagacity.inventory.v1.inventory_pb2_grpc import InventoryAsyncStub
    from sagacity.orders.v1.orders_pb2_grpc import OrdersAsyncStub
    from sagacity.payments.v1.payments_pb2_grpc import PaymentsAsyncStub
    from sagacity.sagas.v1.sagas_pb2_grpc import OrderSagasAsyncStub, SagaOperatorAsyncStub
    from sagacity.users.v1.users_pb2_grpc import UsersAsyncStub

CALL_TIMEOUT_SECONDS: Final = 5.0
HEALTH_TIMEOUT_SECONDS: Final = 1.0
CONTEXTS: Final = ("users", "inventory", "payments", "orders")
HEALTH_MEMORY_SECONDS: Final = 0.5

Stub = TypeVar("Stub")
Request = TypeVar("Request")
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Acting:
    """For whom and in which request a call is made."""

    user: Caller | None
    request_id: str


class Backend(Generic[Stub]):
    """One backend's connection with the stub of one of its services."""

    def __init__(self, connection: Connection, stub: Stub) -> None:
        self.connection = connection
        self.stub = stub

    async def call(
        self,
        rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Reply],
        request: Request,
        acting: Acting,
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> Reply:
        """Calls an RPC of the stub.

        Raises:
            Fault: Whatever the backend answered, or why it did not.
        """
        return await self.connection.call(
            rpc, request, timeout_seconds=timeout_seconds, user=acting.user, request_id=acting.request_id
        )


@dataclass(frozen=True, slots=True)
class Backends:
    """The five backends; the orchestrator has two services, and every context a second one (`events`)."""

    users: Backend[UsersAsyncStub]
    inventory: Backend[InventoryAsyncStub]
    payments: Backend[PaymentsAsyncStub]
    orders: Backend[OrdersAsyncStub]
    sagas: Backend[OrderSagasAsyncStub]
    operator: Backend[SagaOperatorAsyncStub]
    events: Mapping[str, Backend[EventOperatorAsyncStub]]

    @classmethod
    def over(cls, connections: Mapping[str, Connection]) -> Backends:
        """Makes the clients.

        Args:
            connections: One per service name: users, inventory, payments, orders, orchestrator.
        """
        orchestrator = connections["orchestrator"]
        return cls(
            users=Backend(connections["users"], UsersStub(connections["users"].channel)),
            inventory=Backend(connections["inventory"], InventoryStub(connections["inventory"].channel)),
            payments=Backend(connections["payments"], PaymentsStub(connections["payments"].channel)),
            orders=Backend(connections["orders"], OrdersStub(connections["orders"].channel)),
            sagas=Backend(orchestrator, OrderSagasStub(orchestrator.channel)),
            operator=Backend(orchestrator, SagaOperatorStub(orchestrator.channel)),
            events={
                name: Backend(connections[name], EventOperatorStub(connections[name].channel))
                for name in CONTEXTS
            },
        )

    async def health(self) -> dict[str, str]:
        """Asks every backend at once whether it is `ok` or `unavailable`, at most HEALTH_TIMEOUT_SECONDS."""
        connections = {
            "users": self.users.connection,
            "inventory": self.inventory.connection,
            "payments": self.payments.connection,
            "orders": self.orders.connection,
            "orchestrator": self.sagas.connection,
        }
        found = await asyncio.gather(*(_is_serving(connection) for connection in connections.values()))
        return {
            name: "ok" if serving else "unavailable" for name, serving in zip(connections, found, strict=True)
        }


class Readiness:
    """Remembers the backends' health for a moment, so that a crowd of probes is not passed on to them."""

    def __init__(self, backends: Backends, *, seconds: Callable[[], float]) -> None:
        """Makes it.

        Args:
            backends: Whom to ask.
            seconds: A monotonic clock.
        """
        self._backends = backends
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._found: dict[str, str] = {}
        self._asked_at = -HEALTH_MEMORY_SECONDS

    async def check(self) -> dict[str, str]:
        """Tells each backend's health, at most HEALTH_MEMORY_SECONDS old."""
        async with self._lock:
            if not self._found or self._seconds() - self._asked_at >= HEALTH_MEMORY_SECONDS:
                self._found = await self._backends.health()
                self._asked_at = self._seconds()
            return self._found


async def _is_serving(connection: Connection) -> bool:
    try:
        check = health_pb2_grpc.HealthStub(connection.channel).Check
        reply = await connection.call(
            check, health_pb2.HealthCheckRequest(), timeout_seconds=HEALTH_TIMEOUT_SECONDS
        )
    except Fault:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
