from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from chassis.barrier import SagaCall
from chassis.clock import SystemClock
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from chassis.postgres import Database, statement
from sagacity.inventory.v1 import events_pb2, inventory_pb2_grpc
from services.inventory import rpc
from services.inventory.app.catalogue import Catalogue
from services.inventory.app.reservations import Reservations
from services.inventory.domain import (
    Hold,
    Money,
    Product,
    ProductChange,
    Reservation,
    ReservationState,
    Stock,
    StockAdjustment,
    WantedLine,
    summed_lines,
)
from tests.integration.inventory.calls import Client

CURRENCIES = frozenset({"EUR", "USD"})
LONG = timedelta(minutes=15)


@dataclass
class Order:
    """One saga that wants stock, with its ids."""

    world: World
    lines: tuple[WantedLine, ...]
    saga_id: UUID = field(default_factory=new_id)
    reservation_id: UUID = field(default_factory=new_id)
    order_id: UUID = field(default_factory=new_id)
    currency_code: str = "EUR"
    ttl: timedelta = LONG

    def call(self, step: str, request: bytes = b"the request") -> SagaCall:
        return SagaCall(self.saga_id, step, request)

    async def reserve(self) -> Reservation:
        hold = Hold(self.reservation_id, self.order_id, self.lines, self.currency_code, self.ttl)
        return await self.world.reservations.reserve(self.call("reservation"), hold)

    async def commit(self) -> ReservationState:
        return await self.world.reservations.commit_reservation(self.call("stock"), self.reservation_id)

    async def release(self, step: str = "reservation") -> ReservationState | None:
        return await self.world.reservations.release_reservation(self.call(step), self.reservation_id)

    async def cancel(self, saga_id: UUID | None = None) -> ReservationState | None:
        """Give the stock back as a step of another saga."""
        call = SagaCall(saga_id or new_id(), "stock_release", b"the request")
        return await self.world.reservations.cancel_reservation(call, self.reservation_id)

    async def restock(self, *lines: tuple[str, int], saga_id: UUID | None = None) -> ReservationState | None:
        """Take units back as a step of another saga."""
        call = SagaCall(saga_id or new_id(), "restock", repr(lines).encode())
        back = summed_lines(WantedLine(*line) for line in lines)
        return await self.world.reservations.restock(call, self.reservation_id, back)


@dataclass
class World:
    """The use cases on a database of their own."""

    database: Database
    catalogue: Catalogue
    reservations: Reservations
    wakes: list[None]

    async def product(
        self, sku: str, *, stock: int = 0, price: int = 1000, currency_code: str = "EUR", threshold: int = 0
    ) -> Product:
        change = ProductChange(
            name=f"Name of {sku}",
            description="",
            category="things",
            unit_price=Money(currency_code, price),
            low_stock_threshold=threshold,
        )
        product = await self.catalogue.create_product(sku, change)
        if stock:
            await self.adjust(sku, stock)
        return product

    async def adjust(
        self, sku: str, delta: int, *, request_id: UUID | None = None, reason: str = "count"
    ) -> Stock:
        return await self.catalogue.adjust_stock(
            StockAdjustment("gateway:admin", request_id or new_id(), sku, delta, reason)
        )

    async def stock(self, sku: str) -> tuple[int, int]:
        stock = await self.catalogue.stock(sku)
        return stock.on_hand, stock.reserved

    def order(self, *lines: tuple[str, int], **values: Any) -> Order:
        return Order(self, summed_lines(WantedLine(*line) for line in lines), **values)

    async def rows(self, sql: str, **params: object) -> list[dict[str, Any]]:
        return await self.database.fetch(statement("of_a_test", sql), params)

    async def run_out(self, order: Order) -> None:
        """Let the time of a hold run out."""
        await self.rows(
            "UPDATE reservation SET expire_time = now() - interval '1 second' WHERE id = %(id)s",
            id=order.reservation_id,
        )

    async def levels(self, sku: str) -> list[tuple[str, int, int]]:
        """Return what was published of a product's stock: which event, available units, threshold."""
        rows = await self.rows(
            "SELECT type, payload, sequence FROM outbox"
            " WHERE aggregatetype = 'product' AND aggregateid = %(sku)s ORDER BY position",
            sku=sku,
        )
        assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
        [created, *found] = rows
        assert created["type"] == events_pb2.ProductCreated.DESCRIPTOR.full_name
        levels = []
        for row in found:
            name = row["type"].removeprefix("sagacity.inventory.v1.")
            kinds = {"StockLow": events_pb2.StockLow, "StockBack": events_pb2.StockBack}
            message: Any = kinds[name].FromString(row["payload"])
            assert message.sku == sku
            levels.append((name, message.available, message.threshold))
        return levels

    async def events(self) -> list[dict[str, Any]]:
        return await self.rows("SELECT * FROM outbox WHERE aggregatetype = 'reservation' ORDER BY position")


@pytest_asyncio.fixture
async def world(new_database: Any) -> AsyncIterator[World]:
    dsn = new_database("services.inventory")
    database = await Database.open(dsn, application_name="inventory-test", max_size=16)
    wakes: list[None] = []

    def wake() -> None:
        wakes.append(None)

    yield World(
        database,
        Catalogue(database, SystemClock(), new_id, CURRENCIES, wake),
        Reservations(database, SystemClock(), new_id, wake),
        wakes,
    )
    await database.close()


@pytest_asyncio.fixture
async def client(world: Any) -> AsyncIterator[Client]:
    pairs = {name: new_key_pair(name) for name in ("gateway", "orchestrator", "orders")}
    verifier = Verifier({"keys": [public for _, public in pairs.values()]})
    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    service = rpc.InventoryService(world.catalogue, world.reservations)
    inventory_pb2_grpc.add_InventoryServicer_to_server(service, server.server)
    port = await server.start("127.0.0.1:0")
    connections = {
        name: Connection(f"127.0.0.1:{port}", ServiceIdentity(name, pem)) for name, (pem, _) in pairs.items()
    }
    yield Client(connections)
    for connection in connections.values():
        await connection.close()
    await server.stop()


INVARIANTS = {
    "I11": "SELECT * FROM stock WHERE on_hand < 0 OR reserved < 0 OR reserved > on_hand",
    "I12": """
        SELECT s.sku, s.reserved, coalesce(h.quantity, 0) AS held FROM stock s LEFT JOIN (
            SELECT l.sku, sum(l.quantity) AS quantity FROM reservation_line l
            JOIN reservation r ON r.id = l.reservation_id WHERE r.state = 'HELD' GROUP BY l.sku
        ) h ON h.sku = s.sku WHERE s.reserved <> coalesce(h.quantity, 0)
    """,
    "I13": """
        SELECT s.sku, s.on_hand, m.delta, c.quantity FROM stock s
        LEFT JOIN (SELECT sku, sum(delta) AS delta FROM stock_movement GROUP BY sku) m ON m.sku = s.sku
        LEFT JOIN (
            SELECT l.sku, sum(
                CASE r.state WHEN 'COMMITTED' THEN l.quantity WHEN 'RETURNED' THEN l.quantity
                    WHEN 'RELEASED' THEN l.returned ELSE 0 END) AS quantity
            FROM reservation_line l JOIN reservation r ON r.id = l.reservation_id GROUP BY l.sku
        ) c ON c.sku = s.sku
        WHERE coalesce(m.delta, 0) <> s.on_hand + coalesce(c.quantity, 0)
    """,
    "I13, what came back was moved": """
        SELECT s.sku FROM stock s
        WHERE (SELECT coalesce(sum(delta), 0) FROM stock_movement m
                WHERE m.sku = s.sku AND m.caller = 'orchestrator')
            <> (SELECT coalesce(sum(returned), 0) FROM reservation_line l WHERE l.sku = s.sku)
    """,
    "I14": """
        SELECT r.order_id, l.sku FROM reservation r JOIN reservation_line l ON l.reservation_id = r.id
        GROUP BY r.order_id, l.sku HAVING count(*) > 1
    """,
    "I19": """
        SELECT r.id FROM reservation r JOIN reservation_line l ON l.reservation_id = r.id
        GROUP BY r.id HAVING (r.state = 'RETURNED') <> (sum(l.returned) = sum(l.quantity))
            OR (r.state IN ('HELD', 'EXPIRED') AND sum(l.returned) > 0)
    """,
    "I20": """
        SELECT r.id FROM reservation r LEFT JOIN outbox o ON o.aggregateid = r.id::text
        GROUP BY r.id HAVING count(o.id) <> r.sequence OR max(o.sequence) <> r.sequence
            OR array_agg(o.sequence ORDER BY o.position) <> array_agg(o.sequence ORDER BY o.sequence)
    """,
    "I20, products": """
        SELECT s.sku FROM stock s LEFT JOIN outbox o ON o.aggregatetype = 'product' AND o.aggregateid = s.sku
        GROUP BY s.sku HAVING count(o.id) <> s.event_sequence OR max(o.sequence) <> s.event_sequence
            OR array_agg(o.sequence ORDER BY o.position) <> array_agg(o.sequence ORDER BY o.sequence)
    """,
    "I20, stock that is low is known to be": """
        SELECT s.sku FROM stock s LEFT JOIN LATERAL (
            SELECT o.type FROM outbox o WHERE o.aggregatetype = 'product' AND o.aggregateid = s.sku
            ORDER BY o.sequence DESC LIMIT 1
        ) newest ON true
        WHERE (s.on_hand - s.reserved < s.low_stock_threshold)
            <> (newest.type = 'sagacity.inventory.v1.StockLow')
    """,
}


@pytest.fixture
def invariants_hold(world: World) -> Any:
    async def check() -> None:
        for name, sql in INVARIANTS.items():
            assert await world.rows(sql) == [], name

    return check
