"""The four contexts as the orchestrator meets them: real servers on real databases, over gRPC."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from joserfc.jwk import OKPKey

from chassis.clock import SystemClock
from chassis.grpc_client import Connection
from chassis.grpc_server import build_server
from chassis.identity import ServiceIdentity, Verifier, new_key_pair
from chassis.ids import new_id
from chassis.postgres import Database, statement
from orchestrator.clients import GrpcParticipants
from sagacity.inventory.v1 import inventory_pb2_grpc
from sagacity.orders.v1 import orders_pb2_grpc
from sagacity.payments.v1 import payments_pb2_grpc
from sagacity.users.v1 import users_pb2_grpc
from services.inventory import rpc as inventory_rpc
from services.inventory.app.catalogue import Catalogue
from services.inventory.app.reservations import Reservations
from services.inventory.domain import Money, ProductChange, StockAdjustment
from services.orders import rpc as orders_rpc
from services.orders.app import Orders
from services.payments import rpc as payments_rpc
from services.payments.app import Payments
from services.payments.app.payment_methods import add_payment_method
from services.payments.simulated_provider import SimulatedProvider
from services.users import rpc as users_rpc
from services.users.app import Users
from services.users.credentials import AccessTokens, Passwords
from services.users.domain import PostalAddress

NAMES = ("users", "inventory", "payments", "orders")
CONNECTIONS = 8
STOCK = 10
PRICE_MINOR = 1_000

NewDatabase = Callable[[str], str]


@dataclass
class Contexts:
    """What is on the other side of the calls, and the databases where a test looks for what they did.

    Attributes:
        databases: By the context's name, also "provider", whose ledger is reached by connections of its own.
    """

    databases: dict[str, Database]
    participants: GrpcParticipants
    catalogue: Catalogue
    users: Users
    payments: Payments
    user_id: UUID = field(default_factory=new_id)
    address_id: UUID = field(default_factory=new_id)
    payment_method_id: UUID = field(default_factory=new_id)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def settle_in(self) -> None:
        """Register the one customer, with an address and a card."""
        user = await self.users.register(email="ada@example.org", password="correct horse", display_name="A")
        address = PostalAddress(
            recipient="Ada",
            line1="Unter den Linden 1",
            line2="",
            city="Berlin",
            region="",
            postal_code="10117",
            country_code="DE",
        )
        self.user_id = user.id
        self.address_id = (await self.users.add_address(user.id, new_id(), address)).id
        self.payment_method_id = await self.card("tok_success")

    async def card(self, token: str) -> UUID:
        """Give the customer another payment method."""
        return (await add_payment_method(self.payments, self.user_id, new_id(), token)).id

    async def product(self) -> str:
        """Put a product of its own on the shelf, STOCK units of it; its SKU."""
        sku = f"SKU-{next(self._numbers):06d}"
        change = ProductChange(
            name=f"Name of {sku}", description="", category="things", unit_price=Money("EUR", PRICE_MINOR)
        )
        await self.catalogue.create_product(sku, change)
        await self.catalogue.adjust_stock(StockAdjustment("gateway:admin", new_id(), sku, STOCK, "count"))
        return sku

    async def rows(self, database: str, sql: str, **params: object) -> list[dict[str, Any]]:
        """The rows of a query in the database of a context."""
        return await self.databases[database].fetch(statement("of_a_test", sql), params)


@asynccontextmanager
async def serving(new_database: NewDatabase) -> AsyncIterator[Contexts]:
    """Start the four servers on fresh databases."""
    async with AsyncExitStack() as stack:
        dsns = {name: new_database(f"services.{name}") for name in NAMES}
        dsns["provider"] = dsns["payments"]
        databases = {name: await _opened(stack, dsn, name) for name, dsn in dsns.items()}
        pair = new_key_pair("orchestrator")
        verifier = Verifier({"keys": [pair[1]]})
        clock = SystemClock()
        users = _users(stack, databases["users"], clock)
        catalogue = Catalogue(
            databases["inventory"], clock, new_id, inventory_rpc.KNOWN_CURRENCIES, lambda: None
        )
        reservations = Reservations(databases["inventory"], clock, new_id, lambda: None)
        payments = _payments(databases, clock)
        orders = Orders(
            database=databases["orders"],
            clock=clock,
            new_id=new_id,
            as_refusal=orders_rpc.translate,
            published=lambda: None,
        )
        services: dict[str, tuple[Any, Callable[..., None], Any]] = {
            "users": (users_rpc, users_pb2_grpc.add_UsersServicer_to_server, users_rpc.UsersServicer(users)),
            "inventory": (
                inventory_rpc,
                inventory_pb2_grpc.add_InventoryServicer_to_server,
                inventory_rpc.InventoryService(catalogue, reservations),
            ),
            "payments": (
                payments_rpc,
                payments_pb2_grpc.add_PaymentsServicer_to_server,
                payments_rpc.PaymentsServicer(payments),
            ),
            "orders": (
                orders_rpc,
                orders_pb2_grpc.add_OrdersServicer_to_server,
                orders_rpc.OrdersServicer(orders),
            ),
        }
        identity = ServiceIdentity("orchestrator", pair[0])
        connections = {
            name: await _served(stack, verifier, identity, service) for name, service in services.items()
        }
        contexts = Contexts(databases, GrpcParticipants(connections), catalogue, users, payments)
        await contexts.settle_in()
        yield contexts


async def _opened(stack: AsyncExitStack, dsn: str, name: str) -> Database:
    database = await Database.open(dsn, application_name=name, max_size=CONNECTIONS)
    stack.push_async_callback(database.close)
    return database


async def _served(
    stack: AsyncExitStack,
    verifier: Verifier,
    identity: ServiceIdentity,
    service: tuple[Any, Callable[..., None], Any],
) -> Connection:
    rpc, add, servicer = service
    server = build_server(
        domain=rpc.DOMAIN, policies=rpc.POLICIES, verifier=verifier, translate=rpc.translate
    )
    add(servicer, server.server)
    port = await server.start("127.0.0.1:0")
    stack.push_async_callback(server.stop)
    connection = Connection(f"127.0.0.1:{port}", identity)
    stack.push_async_callback(connection.close)
    return connection


def _users(stack: AsyncExitStack, database: Database, clock: SystemClock) -> Users:
    passwords = Passwords()
    stack.callback(passwords.close)
    signing_key = OKPKey.generate_key("Ed25519").as_pem(private=True).decode()
    return Users(
        database=database,
        passwords=passwords,
        tokens=AccessTokens(signing_key, clock=clock, new_id=new_id),
        clock=clock,
        new_id=new_id,
        published=lambda: None,
    )


def _payments(databases: dict[str, Database], clock: SystemClock) -> Payments:
    return Payments(
        database=databases["payments"],
        provider=SimulatedProvider(databases["provider"], slow_seconds=0.0, late_seconds=3600.0),
        clock=clock,
        new_id=new_id,
        provider_timeout_seconds=5.0,
        published=lambda: None,
    )
