"""What brings sagas to a chosen place: orders, orders that are undone late, requests about orders.

All of it is written into the clients' journal, and insists until it is known how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from chassis.errors import Fault, FaultKind
from chassis.grpc_client import Connection
from chassis.identity import Caller, ServiceIdentity
from chassis.ids import new_id
from deploy.local.suite import Suite
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2, sagas_pb2_grpc
from tests.chaos.effects import check_effect
from tests.chaos.replicas import HEALTHY, give_to
from tests.e2e.books import rows
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Answer, Market, Shopper

MAX_ORDERS = 200
WAIT_SECONDS = 5
REQUEST_SECONDS = 15.0
INSIST_SECONDS = 75.0
PAUSE_SECONDS = 0.1
STOCK = 100_000
UNKNOWN = {FaultKind.UNAVAILABLE, FaultKind.DEADLINE_EXCEEDED, FaultKind.CANCELLED, FaultKind.UNKNOWN}

Stop = Callable[[], bool]


async def order_until(stop: Stop, shopper: Shopper, sku: str) -> int:
    """Place one order after the other, each to its end; return how many. All of them are confirmed."""
    for number in range(MAX_ORDERS):
        if stop():
            return number
        answer = await shopper.insist({sku: 1}, key=str(new_id()), wait_seconds=WAIT_SECONDS)
        assert answer.status == 201, answer
    raise AssertionError(f"{MAX_ORDERS} orders, and it did not stop")


async def order_that_is_undone_late(
    market: Market, shopper: Shopper, sku: str, replica: str | None
) -> Answer:
    """Place an order whose time runs out while its stock is being sold: every undo is called, last to first.

    Args:
        market: where.
        shopper: one who pays slowly.
        sku: what is ordered.
        replica: the id of the orchestrator that shall unwind it; None: whichever comes first.
    """
    key = str(new_id())
    async with asyncio.TaskGroup() as group:
        placing = group.create_task(shopper.insist({sku: 1}, key=key, wait_seconds=WAIT_SECONDS))
        saga_id, order_id = await eventually(lambda: saga_with(market.suite, key, "payment", "do"))
        async with _reservation_locked(market.suite, order_id):
            await eventually(lambda: saga_with(market.suite, key, "stock", "do"))
            await give_to(market.suite, saga_id, replica)
            await eventually(lambda: saga_with(market.suite, key, "stock", "undo"))
    answer = placing.result()
    assert (answer.status, answer.json["code"]) == (409, "ORDER_TIMED_OUT"), answer
    return answer


async def order_that_is_cancelled_at_once(
    market: Market, shopper: Shopper, sku: str, first_to: str
) -> Answer:
    """Place an order, and ask the process `first_to` to cancel it while it is being paid.

    It is undone for that; where it was confirmed meanwhile, it is cancelled by a saga of its own.
    """
    key = str(new_id())
    async with asyncio.TaskGroup() as group:
        placing = group.create_task(shopper.insist({sku: 1}, key=key, wait_seconds=WAIT_SECONDS))
        _, order_id = await eventually(lambda: saga_with(market.suite, key, "payment", "do"))
        await request(market.suite, "cancel_order", order_id, shopper.user_id, first_to)
    answer = placing.result()
    assert answer.status == 201 or answer.json["code"] == "CANCELLED", answer
    return answer


async def saga_with(suite: Suite, key: str, step: str, operation: str) -> tuple[str, ...]:
    """The saga of an idempotency key and its order, once a call of it is intended; empty before."""
    found = await rows(
        suite.dsn("sagas"),
        """SELECT saga.id::text, saga.key::text FROM saga
           JOIN idempotency ON idempotency.saga_id = saga.id JOIN saga_event e ON e.saga_id = saga.id
           WHERE idempotency.key = %(key)s
             AND (e.step, e.op, e.outcome) = (%(step)s, %(operation)s, 'intended')""",
        key=key,
        step=step,
        operation=operation,
    )
    return (found[0]["id"], found[0]["key"]) if found else ()


@asynccontextmanager
async def _reservation_locked(suite: Suite, order_id: str) -> AsyncIterator[None]:
    """Keep a reservation's row locked: whoever wants to sell or release it waits."""
    query = "SELECT id FROM reservation WHERE order_id = %s FOR UPDATE"
    connection = await psycopg.AsyncConnection.connect(suite.dsn("inventory"))
    async with connection, connection.transaction():
        assert (await connection.execute(query, [order_id])).rowcount == 1
        yield


# --- requests about orders that are confirmed ---


def _cancel(order_id: str, key: str) -> Message:
    return sagas_pb2.CancelOrderRequest(
        order_id=order_id, idempotency_key=key, reason="changed my mind", wait=Duration(seconds=WAIT_SECONDS)
    )


def _refund(order_id: str, key: str) -> Message:
    return sagas_pb2.RefundOrderRequest(
        order_id=order_id,
        idempotency_key=key,
        reason="it came broken",
        restock=True,
        wait=Duration(seconds=WAIT_SECONDS),
    )


def _fulfil(order_id: str, key: str) -> Message:
    return sagas_pb2.FulfilOrderRequest(
        order_id=order_id,
        idempotency_key=key,
        shipment=orders_pb2.Shipment(carrier="Post", tracking_number="42"),
        wait=Duration(seconds=WAIT_SECONDS),
    )


REQUESTS: Mapping[str, tuple[str, Callable[[str, str], Message]]] = {
    "cancel_order": ("CancelOrder", _cancel),
    "refund_order": ("RefundOrder", _refund),
    "fulfil_order": ("FulfilOrder", _fulfil),
}


async def confirmed_orders(shopper: Shopper, sku: str, number: int) -> list[str]:
    """Place so many orders, one after the other, and return their ids."""
    answers = [await shopper.insist({sku: 1}, key=str(new_id())) for _ in range(number)]
    assert {answer.status for answer in answers} == {201}
    return [str(answer.order_id) for answer in answers]


async def request(suite: Suite, kind: str, order_id: str, user_id: str, first_to: str) -> None:
    """Send a request about an order, first to the process `first_to`, and insist until it is done: once."""
    key = str(new_id())
    ask_next = [first_to]
    async with asyncio.timeout(INSIST_SECONDS):
        while not await _is_done(suite, kind, _message(kind, order_id, key), user_id, ask_next[-1]):
            ask_next.append(HEALTHY[len(ask_next) % len(HEALTHY)])
            await asyncio.sleep(PAUSE_SECONDS)
    await check_effect(suite, kind, order_id)


def _message(kind: str, order_id: str, key: str) -> Message:
    _, build = REQUESTS[kind]
    return build(order_id, key)


async def _is_done(suite: Suite, kind: str, message: Message, user_id: str, name: str) -> bool:
    identity = ServiceIdentity.read("gateway", suite.secrets.path("identity-gateway.pem"))
    connection = Connection(suite.address(name), identity)
    method, _ = REQUESTS[kind]
    rpc: Any = getattr(sagas_pb2_grpc.OrderSagasStub(connection.channel), method)
    caller = Caller("gateway", UUID(user_id), "admin")
    try:
        answer = await connection.call(rpc, message, timeout_seconds=REQUEST_SECONDS, user=caller)
    except Fault as fault:
        if fault.kind not in UNKNOWN:
            raise
        return False
    finally:
        await connection.close()
    assert answer.progress != sagas_pb2.REQUEST_PROGRESS_REFUSED, answer
    return bool(answer.progress == sagas_pb2.REQUEST_PROGRESS_DONE)
