"""A real server of the orders context on a real database, and clients of the services that call it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import pytest_asyncio

from chassis.clock import SystemClock
from chassis.errors import Fault
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import Caller, ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from chassis.postgres import Database, Transaction, statement
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
PATIENCE_SECONDS = 10.0
_LOCK_ORDER = statement("lock_of_a_test", "SELECT id FROM orders WHERE id = %(id)s FOR UPDATE")


class GiveWayError(Exception):
    """Ends a transaction of a test without a trace."""


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

    async def until_waiting(self, count: int) -> None:
        """Wait until so many statements of the service wait for a lock."""
        sql = """
            SELECT count(*) AS waiting FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.rows(sql))[0]["waiting"] < count:  # noqa: ASYNC110 - PostgreSQL tells nobody
                await asyncio.sleep(0)

    async def outcome(self, call: Any) -> pb.Order | Fault:
        """Return the order that a call answers with, or its refusal."""
        try:
            answer = await call
        except Fault as fault:
            return fault
        return answer.order if isinstance(answer, pb.RejectOrderResponse) else answer

    async def queued(
        self, hold: Callable[[Transaction], Awaitable[object]], *calls: Any
    ) -> list[pb.Order | Fault]:
        """Run calls that come one after the other and all wait for what `hold` locks."""
        tasks: list[asyncio.Task[pb.Order | Fault]] = []
        async with asyncio.TaskGroup() as group:
            with suppress(GiveWayError):
                async with self.database.transaction() as tx:
                    await hold(tx)
                    for call in calls:
                        tasks.append(group.create_task(self.outcome(call)))
                        await self.until_waiting(len(tasks))
                    raise GiveWayError
        return [task.result() for task in tasks]

    def saga(self, **values: Any) -> Saga:
        return Saga(self, **values)


@dataclass
class Saga:
    """One saga about an order, with its ids and its requests: the same bytes each time."""

    world: World
    saga_id: UUID = field(default_factory=new_id)
    order_id: UUID = field(default_factory=new_id)
    user_id: UUID = field(default_factory=new_id)
    payment_id: UUID = field(default_factory=new_id)
    reservation_id: UUID = field(default_factory=new_id)
    refund_id: UUID = field(default_factory=new_id)
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

    async def lock(self, tx: Transaction) -> None:
        """Lock the order, as whoever changes it does."""
        await tx.fetch(_LOCK_ORDER, {"id": self.order_id})

    async def sold(self) -> pb.Order:
        """Place the order and confirm it."""
        await self.create()
        return await self.confirm()

    def another(self) -> Saga:
        """Return another saga about the same order."""
        return self.world.saga(order_id=self.order_id, user_id=self.user_id)

    async def cancel(self, **changes: Any) -> pb.Order:
        request = pb.CancelOrderRequest(
            saga_step=self.step("cancellation"), order_id=str(self.order_id), reason="Too late for the party"
        )
        request = _changed(request, changes)
        return (await self.world.call("orchestrator", "CancelOrder", request)).order  # type: ignore[no-any-return]

    async def assert_can_fulfil(self) -> pb.Order:
        request = pb.AssertCanFulfilRequest(order_id=str(self.order_id))
        return (await self.world.call("orchestrator", "AssertCanFulfil", request)).order  # type: ignore[no-any-return]

    async def ship(self, **changes: Any) -> pb.Order:
        request = pb.MarkShippedRequest(
            saga_step=self.step("shipment"),
            order_id=str(self.order_id),
            shipment=pb.Shipment(carrier="DHL", tracking_number="JD014600003"),
        )
        request = _changed(request, changes)
        return (await self.world.call("orchestrator", "MarkShipped", request)).order  # type: ignore[no-any-return]

    async def quote_refund(self, **wanted: Any) -> pb.QuoteRefundResponse:
        request = pb.QuoteRefundRequest(order_id=str(self.order_id), **wanted)
        return await self.world.call("orchestrator", "QuoteRefund", request)  # type: ignore[no-any-return]

    async def refund(self, amount: int, /, *lines: pb.RefundLine, **changes: Any) -> pb.Order:
        request = pb.RecordRefundRequest(
            saga_step=self.step("record"),
            order_id=str(self.order_id),
            refund_id=str(self.refund_id),
            amount=euro(amount),
            lines=lines,
            reason="It is broken",
        )
        request = _changed(request, changes)
        return (await self.world.call("orchestrator", "RecordRefund", request)).order  # type: ignore[no-any-return]

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
    "history and refunds are complete, and end where the order stands": """
        SELECT o.id FROM orders o LEFT JOIN (
            SELECT order_id, sequence, state FROM order_history
            UNION ALL SELECT order_id, sequence, NULL FROM order_refund
        ) fact ON fact.order_id = o.id
        GROUP BY o.id HAVING count(DISTINCT fact.sequence) <> o.sequence OR max(fact.sequence) <> o.sequence
            OR count(fact.sequence) <> o.sequence
            OR (array_agg(fact.state ORDER BY fact.sequence DESC) FILTER (WHERE fact.state IS NOT NULL))[1]
                IS DISTINCT FROM o.state
    """,
    "each state follows from the one before": """
        SELECT * FROM (
            SELECT previous_state, lag(state) OVER (PARTITION BY order_id ORDER BY sequence) AS before
            FROM order_history
        ) AS step WHERE previous_state IS DISTINCT FROM before
    """,
    "what went back is the sum of the refunds": """
        SELECT o.id FROM orders o LEFT JOIN order_refund r ON r.order_id = o.id
        GROUP BY o.id HAVING COALESCE(sum(r.amount_minor), 0) <> o.refunded_minor
    """,
    "no unit goes back twice": """
        SELECT order_id, sku FROM (
            SELECT r.order_id, back.sku, -back.quantity AS units
            FROM order_refund r, jsonb_to_recordset(r.lines) AS back (sku text, quantity bigint)
            UNION ALL
            SELECT o.id, sold.sku, sold.quantity
            FROM orders o, jsonb_to_recordset(o.lines) AS sold (sku text, quantity bigint)
        ) AS movement GROUP BY order_id, sku HAVING sum(units) < 0
    """,
    "I20: a refund has its event": """
        SELECT r.id FROM order_refund r LEFT JOIN outbox e
            ON e.aggregateid = r.order_id::text AND e.sequence = r.sequence
        WHERE e.type IS DISTINCT FROM 'sagacity.orders.v1.OrderRefunded'
    """,
    "I20: one event per fact, in order": """
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
    "I28: what a deactivated customer has open is to be cancelled": """
        SELECT o.id FROM orders o JOIN customer c ON c.user_id = o.user_id AND c.deactivate_time IS NOT NULL
        WHERE o.state = 'CONFIRMED' AND NOT EXISTS (
            SELECT FROM cancellation_request r WHERE r.order_id = o.id
        )
    """,
    "a refund of the provider is on record once, and where it is not, says why": """
        SELECT refund_id FROM provider_refund p LEFT JOIN order_refund r ON r.id = p.refund_id
        WHERE (p.state = 'RECORDED') <> (r.id IS NOT NULL AND r.saga_id IS NULL)
            OR (r.order_id, r.amount_minor) <> (p.order_id, p.amount_minor)
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
