"""Two orchestrators on one journal in front of the real contexts, whose calls may be held back or refused."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from typing_extensions import override

from chassis.errors import Fault
from chassis.identity import Caller, set_caller
from chassis.ids import new_id
from chassis.postgres import Database, statement
from orchestrator.calling import Participants
from orchestrator.entries import Verb
from orchestrator.executor import Executor
from orchestrator.journal import Journal
from orchestrator.leases import Leases
from orchestrator.operations import Operations, Request
from orchestrator.rpc import OrderSagas
from orchestrator.saga import Action
from orchestrator.sagas import DEFINITIONS
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2
from tests.sagas.contexts import Contexts, serving

CONTEXT = cast("Any", None)  # the servicers do not use it
LEASE_SECONDS = 60.0
WAIT_SECONDS = 20


class Gate(Participants):
    """The real participants. A method may be held until it is let go, or refuse its next calls."""

    def __init__(self, real: Participants) -> None:
        self._real = real
        self._closed: dict[str, asyncio.Event] = {}
        self.arrived: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)

    def hold(self, method: str) -> None:
        """Hold the calls of a method back."""
        self._closed[method] = asyncio.Event()
        self.arrived[method] = asyncio.Event()

    def let_go(self, method: str) -> None:
        """Let the calls go on that are held back, and all later ones."""
        self._closed.pop(method).set()

    def reset(self) -> None:
        """Hold and refuse nothing any more."""
        for method in list(self._closed):
            self.let_go(method)
        self.arrived.clear()
        self.faults.clear()

    @override
    async def probe(self, participant: str) -> bool:
        return True

    @override
    async def call(self, action: Action, request: bytes, *, timeout_seconds: float) -> bytes:
        self.arrived[action.method].set()
        if action.method in self._closed:
            await self._closed[action.method].wait()
        if self.faults[action.method]:
            raise self.faults[action.method].pop(0)
        return await self._real.call(action, request, timeout_seconds=timeout_seconds)


class Replica(NamedTuple):
    """One orchestrator."""

    sagas: OrderSagas
    executor: Executor
    operations: Operations


class Taken(NamedTuple):
    """What the provider took and did not give back, and what it holds, in minor units."""

    kept: int
    held: int


@dataclass
class World:
    """What a test asks, and where it looks. `one` and `two` are replicas; `manual` captures by hand."""

    contexts: Contexts
    gate: Gate
    database: Database
    one: Replica
    two: Replica
    manual: Replica
    _keys: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def customer(self) -> Caller:
        """Who places the orders."""
        return Caller("gateway", self.contexts.user_id, "customer")

    async def place(
        self,
        sku: str,
        *,
        key: str = "",
        quantity: int = 2,
        wait: int = WAIT_SECONDS,
        on: Replica | None = None,
        card: UUID | None = None,
    ) -> sagas_pb2.PlaceOrderResponse:
        set_caller(self.customer)
        request = sagas_pb2.PlaceOrderRequest(
            user_id=str(self.contexts.user_id),
            idempotency_key=key or self.key(),
            items=[orders_pb2.OrderItem(sku=sku, quantity=quantity)],
            currency_code="EUR",
            address_id=str(self.contexts.address_id),
            payment_method_id=str(card or self.contexts.payment_method_id),
            wait=Duration(seconds=wait),
        )
        return await (on or self.one).sagas.PlaceOrder(request, CONTEXT)

    async def cancel(
        self,
        order_id: str,
        *,
        key: str = "",
        reason: str = "ordered twice",
        wait: int = WAIT_SECONDS,
        caller: Caller | None = None,
    ) -> sagas_pb2.CancelOrderResponse:
        set_caller(caller or self.customer)
        request = sagas_pb2.CancelOrderRequest(
            order_id=order_id, idempotency_key=key or self.key(), reason=reason, wait=Duration(seconds=wait)
        )
        return await self.two.sagas.CancelOrder(request, CONTEXT)

    async def refund(
        self, order_id: str, *, key: str = "", wait: int = WAIT_SECONDS, **what: Any
    ) -> sagas_pb2.RefundOrderResponse:
        set_caller(staff())
        request = sagas_pb2.RefundOrderRequest(
            order_id=order_id,
            idempotency_key=key or self.key(),
            reason="broken",
            wait=Duration(seconds=wait),
            **what,
        )
        return await self.two.sagas.RefundOrder(request, CONTEXT)

    async def ship(
        self, order_id: str, *, key: str = "", wait: int = WAIT_SECONDS
    ) -> sagas_pb2.FulfilOrderResponse:
        set_caller(staff())
        request = sagas_pb2.FulfilOrderRequest(
            order_id=order_id,
            idempotency_key=key or self.key(),
            shipment=orders_pb2.Shipment(carrier="DHL", tracking_number="42"),
            wait=Duration(seconds=wait),
        )
        return await self.two.sagas.FulfilOrder(request, CONTEXT)

    async def retry(self, saga_id: str) -> None:
        """Be the operator that a parked saga needs."""
        await self.one.operations.perform(Request(UUID(saga_id), Verb.RETRY, actor="ada", reason="mended"))

    def key(self) -> str:
        """A key that nobody had."""
        return f"key-{next(self._keys)}"

    async def money(self, order_id: str) -> Taken:
        """What the provider says of an order."""
        payments = await self.contexts.rows(
            "payments", "SELECT id FROM payment WHERE order_id = %(id)s::uuid", id=order_id
        )
        ledger = await self.contexts.rows(
            "provider",
            "SELECT kind, sum(amount_minor)::bigint AS minor FROM provider_simulation.ledger"
            " WHERE payment_id = ANY (%(ids)s::uuid[]) GROUP BY kind",
            ids=[row["id"] for row in payments],
        )
        moved = Counter({row["kind"]: row["minor"] for row in ledger})
        return Taken(
            moved["CAPTURE"] - moved["REFUND"], moved["AUTHORIZATION"] - moved["VOID"] - moved["CAPTURE"]
        )

    async def stock(self, sku: str) -> tuple[int, int]:
        """Units on hand and reserved."""
        query = "SELECT on_hand, reserved FROM stock WHERE sku = %(sku)s"
        row = (await self.contexts.rows("inventory", query, sku=sku))[0]
        return row["on_hand"], row["reserved"]

    async def order(self, order_id: str) -> tuple[str, str]:
        """An order's state, and why it was rejected, if so."""
        query = "SELECT state, rejection_reason FROM orders WHERE id = %(id)s::uuid"
        row = (await self.contexts.rows("orders", query, id=order_id))[0]
        return row["state"], row["rejection_reason"] or ""

    async def sagas(self, order_id: str) -> list[dict[str, Any]]:
        """The sagas of an order in the order of their acceptance, with when their first call was intended."""
        query = """
            SELECT id::text, kind, state, context, (
                SELECT min(at) FROM saga_event WHERE saga_id = saga.id AND outcome = 'intended'
            ) AS began, update_time AS ended FROM saga WHERE key = %(id)s::uuid ORDER BY create_time
        """
        return await self.database.fetch(statement("sagas_of_order", query), {"id": order_id})


def staff() -> Caller:
    """Somebody who works here."""
    return Caller("gateway", STAFF, "support")


STAFF = new_id()


def euro(minor: int) -> Money:
    return Money(currency_code="EUR", minor_units=minor)


@asynccontextmanager
async def opened_world(new_database: Callable[..., str]) -> AsyncIterator[World]:
    """Start everything on fresh databases."""
    async with AsyncExitStack() as stack:
        contexts = await stack.enter_async_context(serving(new_database))
        dsn = new_database("orchestrator")
        gate = Gate(contexts.participants)
        replicas = {
            name: await _replica(stack, dsn, gate, name, capture)
            for name, capture in (("one", "AUTOMATIC"), ("two", "AUTOMATIC"), ("manual", "MANUAL"))
        }
        database = await Database.open(dsn, application_name="test")
        stack.push_async_callback(database.close)
        yield World(contexts, gate, database, **replicas)


async def _replica(stack: AsyncExitStack, dsn: str, gate: Gate, name: str, capture: str) -> Replica:
    database = await Database.open(dsn, application_name=name)
    stack.push_async_callback(database.close)
    journal = Journal(database, name)
    executor = Executor(journal, gate, DEFINITIONS)
    leases = Leases(journal, executor, lease_seconds=LEASE_SECONDS)
    await leases.renew()
    tasks = [asyncio.create_task(part.run()) for part in (journal, executor, leases)]

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stack.push_async_callback(stop)
    return Replica(
        OrderSagas(executor, journal, gate, new_id, capture=capture),
        executor,
        Operations(journal, executor, DEFINITIONS),
    )
