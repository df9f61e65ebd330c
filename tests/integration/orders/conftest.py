"""A real server of the orders context on a real database, and clients of the services that call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import pytest_asyncio

from chassis.clock import SystemClock
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from chassis.postgres import Database, statement
from sagacity.common.v1.money_pb2 import Money
from sagacity.common.v1.postal_address_pb2 import PostalAddress
from sagacity.common.v1.saga_step_pb2 import OPERATION_DO, OPERATION_UNDO, SagaStep
from sagacity.orders.v1 import orders_pb2 as pb
from sagacity.orders.v1 import orders_pb2_grpc
from services.orders import rpc
from services.orders.app import Orders

TIMEOUT_SECONDS = 20.0
ADDRESS = PostalAddress(
    recipient="Ada", line1="Unter den Linden 1", city="Berlin", postal_code="10117", country_code="DE"
)
REJECTION = pb.Rejection(reason="INSUFFICIENT_STOCK", message="LAMP: 2 wanted, 1 there")
Response = TypeVar("Response")


def euro(minor_units: int) -> Money:
    return Money(currency_code="EUR", minor_units=minor_units)


def item(sku: str, quantity: int) -> pb.OrderItem:
    return pb.OrderItem(sku=sku, quantity=quantity)


def line(sku: str, quantity: int, price: int) -> pb.OrderLine:
    return pb.OrderLine(sku=sku, name=f"Name of {sku}", quantity=quantity, unit_price=euro(price))


ITEMS = (item("LAMP", 2), item("BULB", 3))
LINES = (line("LAMP", 2, 1_000), line("BULB", 3, 100))


def quote(total: int = 3_320) -> pb.Quote:
    """What LINES cost."""
    return pb.Quote(
        subtotal=euro(2_300), discount=euro(0), shipping=euro(490), tax=euro(530), total=euro(total)
    )


@dataclass
class World:
    """The service as its callers see it, and its database as a test sees it."""

    database: Database
    app: Orders
    connections: dict[str, Connection]
    wakes: list[None] = field(default_factory=list)

    async def call(self, service: str, method: str, request: Any, user: Caller | None = None) -> Any:
        connection = self.connections[service]
        stub = orders_pb2_grpc.OrdersStub(connection.channel)
        return await connection.call(
            getattr(stub, method), request, timeout_seconds=TIMEOUT_SECONDS, user=user
        )

    async def rows(self, sql: str, **params: object) -> list[dict[str, Any]]:
        return await self.database.fetch(statement("of_a_test", sql), params)

    def saga(self, **values: Any) -> Saga:
        return Saga(self, **values)


@dataclass
class Saga:
    """One saga that places an order, with its ids and its requests: the same bytes each time."""

    world: World
    saga_id: UUID = field(default_factory=new_id)
    order_id: UUID = field(default_factory=new_id)
    user_id: UUID = field(default_factory=new_id)
    payment_id: UUID = field(default_factory=new_id)
    reservation_id: UUID = field(default_factory=new_id)
    items: Sequence[pb.OrderItem] = ITEMS

    def step(self, name: str, operation: Any = OPERATION_DO) -> SagaStep:
        return SagaStep(saga_id=str(self.saga_id), step=name, operation=operation)

    @property
    def customer(self) -> Caller:
        return Caller("gateway", self.user_id, "customer")

    async def create(self, **changes: Any) -> pb.Order:
        request = pb.CreateOrderRequest(
            saga_step=self.step("order"),
            order_id=str(self.order_id),
            user_id=str(self.user_id),
            items=self.items,
            currency_code="EUR",
        )
        request = _changed(request, changes)
        return (await self.world.call("orchestrator", "CreateOrder", request)).order  # type: ignore[no-any-return]

    async def confirm(self, **changes: Any) -> pb.Order:
        request = pb.ConfirmOrderRequest(
            saga_step=self.step("confirmation"),
            order_id=str(self.order_id),
            user_id=str(self.user_id),
            lines=LINES,
            quote=quote(),
            shipping_address=ADDRESS,
            payment_id=str(self.payment_id),
            reservation_id=str(self.reservation_id),
        )
        request = _changed(request, changes)
        return (await self.world.call("orchestrator", "ConfirmOrder", request)).order  # type: ignore[no-any-return]

    async def reject(self, **changes: Any) -> pb.RejectOrderResponse:
        request = pb.RejectOrderRequest(
            saga_step=self.step("order", OPERATION_UNDO),
            order_id=str(self.order_id),
            user_id=str(self.user_id),
            items=self.items,
            currency_code="EUR",
            rejection=REJECTION,
        )
        request = _changed(request, changes)
        return await self.world.call("orchestrator", "RejectOrder", request)  # type: ignore[no-any-return]

    async def read(self) -> pb.Order:
        request = pb.GetOrderRequest(order_id=str(self.order_id))
        return (await self.world.call("orchestrator", "GetOrder", request)).order  # type: ignore[no-any-return]

    async def history(self) -> list[tuple[int, str]]:
        sql = "SELECT sequence, state FROM order_history WHERE order_id = %(id)s ORDER BY sequence"
        return [(row["sequence"], row["state"]) for row in await self.world.rows(sql, id=self.order_id)]

    async def events(self) -> list[tuple[int, str]]:
        sql = "SELECT sequence, type FROM outbox WHERE aggregateid = %(id)s ORDER BY position"
        rows = await self.world.rows(sql, id=str(self.order_id))
        return [(row["sequence"], row["type"].rpartition(".")[2]) for row in rows]

    async def barrier(self) -> dict[str, str]:
        sql = "SELECT step, outcome FROM barrier WHERE saga_id = %(id)s"
        return {row["step"]: row["outcome"] for row in await self.world.rows(sql, id=self.saga_id)}


def _changed(request: Any, changes: dict[str, Any]) -> Any:
    for name, value in changes.items():
        request.ClearField(name)
        request.MergeFrom(type(request)(**{name: value}))
    return request


# Over everything that a module's tests left behind; each returns nothing.
INVARIANTS = {
    "the history is complete, and ends where the order stands": """
        SELECT o.id FROM orders o LEFT JOIN order_history h ON h.order_id = o.id
        GROUP BY o.id HAVING count(h.*) <> o.sequence
            OR (array_agg(h.state ORDER BY h.sequence DESC))[1] IS DISTINCT FROM o.state
    """,
    "each state follows from the one before": """
        SELECT * FROM order_history h JOIN order_history before
            ON before.order_id = h.order_id AND before.sequence = h.sequence - 1
        WHERE h.previous_state <> before.state
    """,
    "I20: one event per state of the history, in order": """
        SELECT o.id FROM orders o LEFT JOIN outbox e ON e.aggregateid = o.id::text
        GROUP BY o.id HAVING count(e.id) <> o.sequence
            OR array_agg(e.sequence ORDER BY e.position) <> array_agg(e.sequence ORDER BY e.sequence)
    """,
    "I20: no event without an order": """
        SELECT * FROM outbox WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id::text = aggregateid)
    """,
    "I16: no order that is PENDING or CONFIRMED behind a tombstone": """
        SELECT * FROM orders o JOIN barrier b ON b.saga_id = o.saga_id AND b.step = 'order'
        WHERE b.outcome = 'TOMBSTONE' AND o.state <> 'REJECTED'
    """,
    "nothing is left in progress": "SELECT * FROM barrier WHERE outcome = 'IN_PROGRESS'",
}


@pytest_asyncio.fixture(scope="module")
async def world(new_database: Any) -> AsyncIterator[World]:
    database = await Database.open(new_database("services.orders"), application_name="orders", max_size=16)
    pairs = {name: new_key_pair(name) for name in ("orchestrator", "gateway", "payments")}
    wakes: list[None] = []
    app = Orders(
        database=database,
        clock=SystemClock(),
        new_id=new_id,
        as_refusal=rpc.translate,
        published=lambda: wakes.append(None),
    )
    verifier = Verifier({"keys": [public for _, public in pairs.values()]})
    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    orders_pb2_grpc.add_OrdersServicer_to_server(rpc.OrdersServicer(app), server.server)
    port = await server.start("127.0.0.1:0")
    connections = {
        name: Connection(f"127.0.0.1:{port}", ServiceIdentity(name, pem)) for name, (pem, _) in pairs.items()
    }
    world = World(database, app, connections, wakes)
    yield world
    for name, sql in INVARIANTS.items():
        assert await world.rows(sql) == [], name
    for connection in connections.values():
        await connection.close()
    await server.stop()
    await database.close()
