"""Calls of the inventory's gRPC surface that the tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration

from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.identity import Caller
from chassis.ids import new_id
from sagacity.common.v1 import money_pb2, saga_step_pb2
from sagacity.inventory.v1 import inventory_pb2, inventory_pb2_grpc

TIMEOUT_SECONDS = 10.0
ADMIN = Caller("gateway", UUID("01890000-0000-7000-8000-000000000001"), "admin")
SUPPORT = Caller("gateway", UUID("01890000-0000-7000-8000-000000000002"), "support")
CUSTOMER = Caller("gateway", UUID("01890000-0000-7000-8000-000000000003"), "customer")
EUR = money_pb2.Money(currency_code="EUR", minor_units=1250)


@dataclass
class Client:
    connections: dict[str, Connection]

    async def call(self, method: str, user: Caller | str = "gateway", **fields: Any) -> Any:
        """Call as a user of the gateway, or as the service itself."""
        service = user if isinstance(user, str) else user.service
        connection = self.connections[service]
        return await connection.call(
            getattr(inventory_pb2_grpc.InventoryStub(connection.channel), method),
            getattr(inventory_pb2, f"{method}Request")(**fields),
            timeout_seconds=TIMEOUT_SECONDS,
            user=None if isinstance(user, str) else user,
        )

    async def refused(self, method: str, user: Caller | str = "gateway", **fields: Any) -> Fault:
        with pytest.raises(Fault) as caught:
            await self.call(method, user, **fields)
        return caught.value

    async def product(self, sku: str, *, stock: int = 0, category: str = "") -> Any:
        await self.call("CreateProduct", ADMIN, sku=sku, name=sku, unit_price=EUR, category=category)
        if stock:
            await self.call("AdjustStock", ADMIN, sku=sku, delta=stock, reason="x", request_id=str(new_id()))


def step(name: str, operation: str = "DO", saga_id: UUID | None = None) -> saga_step_pb2.SagaStep:
    return saga_step_pb2.SagaStep(
        saga_id=str(saga_id or new_id()),
        step=name,
        operation=saga_step_pb2.Operation.Value(f"OPERATION_{operation}"),
    )


def reserve_fields(*lines: tuple[str, int], saga_id: UUID | None = None) -> dict[str, Any]:
    return {
        "saga_step": step("reservation", saga_id=saga_id),
        "reservation_id": str(new_id()),
        "order_id": str(new_id()),
        "lines": [inventory_pb2.ReserveLine(sku=sku, quantity=quantity) for sku, quantity in lines],
        "currency_code": "EUR",
        "ttl": Duration(seconds=60),
    }


async def sell(client: Client, *lines: tuple[str, int]) -> str:
    saga_id = new_id()
    fields = reserve_fields(*lines, saga_id=saga_id)
    await client.call("Reserve", "orchestrator", **fields)
    reservation_id: str = fields["reservation_id"]
    await client.call(
        "CommitReservation",
        "orchestrator",
        saga_step=step("stock", saga_id=saga_id),
        reservation_id=reservation_id,
    )
    return reservation_id


def restock_fields(
    reservation_id: str, *lines: tuple[str, int], saga_id: UUID | None = None
) -> dict[str, Any]:
    return {
        "saga_step": step("restock", saga_id=saga_id),
        "reservation_id": reservation_id,
        "lines": [inventory_pb2.RestockLine(sku=sku, quantity=quantity) for sku, quantity in lines],
    }
