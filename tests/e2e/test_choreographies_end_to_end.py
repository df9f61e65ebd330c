"""What other contexts, and the payment provider, do reaches the orders: real processes, facts by Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx2
import pytest

from chassis.clock import SystemClock
from chassis.grpc_client import Connection
from chassis.identity import Caller, ServiceIdentity
from chassis.ids import new_id
from chassis.postgres import Database
from deploy.local.programs import WEBHOOK_SECRET
from deploy.local.suite import EMBEDDED, Suite
from sagacity.users.v1 import users_pb2, users_pb2_grpc
from services.payments.simulated_dashboard import AUTHORIZATION_EXPIRED, DISPUTE, Made, SimulatedDashboard
from services.payments.webhooks import sign
from tests.e2e.books import rows
from tests.e2e.eventually import eventually
from tests.e2e.invariants import prove_everything
from tests.e2e.shoppers import Market, Shopper

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

STOCK = 9
CALL_SECONDS = 20.0
REPLICAS = ("orchestrator", "orchestrator-2")
# Orders are paid when they are shipped; one with tok_slow is PENDING for long enough to be looked at.
SLOW = {"SAGACITY_PAYMENTS_SIMULATED_SLOW_SECONDS": "2"}
MANUAL = {"SAGACITY_ORCHESTRATOR_CAPTURE_MODE": "manual"}


@pytest.fixture(scope="module")
async def careful(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    """A market of its own, where money is only held until an order is shipped."""
    suite = Suite(
        tmp_path_factory.mktemp("choreographies"),
        kafka=EMBEDDED,
        orchestrators=len(REPLICAS),
        overrides=dict.fromkeys(REPLICAS, MANUAL) | {"payments": SLOW},
        fsync=False,
        sample_data=False,
    )
    await suite.start()
    try:
        async with Market(suite) as opened:
            yield opened
    finally:
        await suite.abort()


@asynccontextmanager
async def dashboard(market: Market) -> AsyncIterator[SimulatedDashboard]:
    """The provider's own page."""
    database = await Database.open(market.suite.dsn("payments"), application_name="dashboard", max_size=2)
    try:
        yield SimulatedDashboard(database, new_id)
    finally:
        await database.close()


async def tell(market: Market, made: Made) -> None:
    """Send the webhook as the provider does: again, until it is taken."""
    body = made.webhook(f"evt_{new_id().hex}")
    secret = market.suite.secrets.text(WEBHOOK_SECRET).encode()
    async with httpx2.AsyncClient(base_url=market.suite.gateway_url, trust_env=False) as provider:

        async def status() -> int:
            signature = sign(secret, body, seconds=int(SystemClock().now().timestamp()))
            headers = {"Webhook-Signature": signature, "Content-Type": "application/json"}
            path = "/api/v1/provider-webhooks/simulated"
            return (await provider.post(path, content=body, headers=headers)).status_code

        await eventually(status, until=lambda code: code == 204)


async def deactivate(market: Market, user_id: str) -> None:
    """Close an account, in the name of its user."""
    suite = market.suite
    identity = ServiceIdentity.read("gateway", suite.secrets.path("identity-gateway.pem"))
    connection = Connection(suite.address("users"), identity)
    try:
        await connection.call(
            users_pb2_grpc.UsersStub(connection.channel).DeactivateUser,
            users_pb2.DeactivateUserRequest(user_id=user_id),
            timeout_seconds=CALL_SECONDS,
            user=Caller("gateway", UUID(user_id), "customer"),
        )
    finally:
        await connection.close()


async def bought(market: Market, shopper: Shopper, sku: str, quantity: int = 2) -> dict[str, Any]:
    """A confirmed order."""
    answer = await shopper.insist({sku: quantity}, key=str(new_id()))
    assert answer.status == 201, answer
    return answer.json


async def charging(market: Market, shopper: Shopper, sku: str) -> str:
    """The id of a new order that is PENDING: its charge has begun, and is slow."""
    key = str(new_id())
    await shopper.place({sku: 1}, key=key, wait_seconds=0)

    async def begun() -> list[dict[str, Any]]:
        return await rows(
            market.suite.dsn("sagas"),
            "SELECT saga.key::text AS id FROM saga JOIN idempotency i ON i.saga_id = saga.id"
            " JOIN saga_event e ON e.saga_id = saga.id"
            " WHERE i.key = %(key)s AND (e.step, e.op, e.outcome) = ('payment', 'do', 'intended')",
            key=key,
        )

    return str((await eventually(begun))[0]["id"])


async def order_row(market: Market, order_id: str) -> dict[str, Any]:
    """An order as the orders context has it: who owns it may not log in any more."""
    query = """
        SELECT o.state, o.rejection_reason, o.cancellation_reason, o.refunded_minor,
            r.cause, r.state AS request, r.outcome
        FROM orders o LEFT JOIN cancellation_request r ON r.order_id = o.id WHERE o.id = %(id)s
    """
    return (await rows(market.suite.dsn("orders"), query, id=order_id))[0]


async def undone(market: Market, order_id: str) -> dict[str, Any]:
    """An order whose cancellation was asked for, once that is done."""
    return await eventually(
        lambda: order_row(market, order_id),
        until=lambda row: row["request"] in {None, "DONE"} and row["cause"],
    )


async def net(market: Market, order_id: str) -> tuple[int, int]:
    """What the provider took of an order's customer and did not give back, and what it holds."""
    query = """
        SELECT coalesce(sum(captured_minor - refunded_minor), 0)::bigint AS kept,
            coalesce(sum(authorized_minor - voided_minor - captured_minor), 0)::bigint AS held
        FROM provider_simulation.payment WHERE payment_id IN (
            SELECT id FROM payment WHERE order_id = %(id)s)
    """
    row = (await rows(market.suite.dsn("payments"), query, id=order_id))[0]
    return row["kept"], row["held"]


async def test_a_refund_at_the_providers_dashboard_shows_at_the_order_once(market: Market) -> None:
    """P7, I6, I8."""
    shopper, sku, clerk = await market.shopper(), await market.product(STOCK), await market.clerk()
    order = await bought(market, shopper, sku)
    path, total = f"/orders/{order['id']}", order["total"]["amount_minor"]
    async with dashboard(market) as page:
        first = await page.refund(UUID(order["payment_id"]), 500)
        second = await page.refund(UUID(order["payment_id"]), 250, reason=DISPUTE)
    for made in (first, second, first):
        await tell(market, made)
    shown = await eventually(lambda: shopper.get(path), until=lambda seen: len(seen["refunds"]) == 2)
    assert (shown["state"], shown["refund_state"]) == ("confirmed", "partial")
    assert shown["refunded"]["amount_minor"] == 750
    assert {(refund["id"], refund["amount"]["amount_minor"]) for refund in shown["refunds"]} == {
        (str(made.operation.id), made.operation.amount_minor) for made in (first, second)
    }
    assert {refund["reason"] for refund in shown["refunds"]} == {
        "by the payment provider: DASHBOARD_REFUND",
        "by the payment provider: DISPUTE",
    }
    rest = await clerk.refund(order["id"])
    assert (rest.status, rest.json["refund_state"]) == (200, "full")
    assert rest.json["refunded"]["amount_minor"] == total
    assert await net(market, order["id"]) == (0, 0)


async def test_a_refund_of_the_provider_beside_a_cancellation_is_given_back_once(market: Market) -> None:
    """I7: the cancellation gives back what the provider did not."""
    shopper, sku = await market.shopper(), await market.product(STOCK)
    order = await bought(market, shopper, sku)
    async with dashboard(market) as page:
        made = await page.refund(UUID(order["payment_id"]), 500)
    answer, _ = await asyncio.gather(shopper.cancel(order["id"]), tell(market, made))
    assert answer.status == 200, answer
    assert await net(market, order["id"]) == (0, 0)
    assert await market.stock(sku) == (STOCK, 0)


async def test_an_order_whose_hold_the_provider_let_go_is_cancelled(careful: Market) -> None:
    """I6: what cannot be captured any more is not sold."""
    shopper, sku = await careful.shopper(), await careful.product(STOCK)
    order = await bought(careful, shopper, sku)
    assert await net(careful, order["id"]) == (0, order["total"]["amount_minor"])
    async with dashboard(careful) as page:
        made = await page.void(UUID(order["payment_id"]), reason=AUTHORIZATION_EXPIRED)
    await tell(careful, made)
    shown = await eventually(
        lambda: shopper.get(f"/orders/{order['id']}"), until=lambda seen: seen["state"] == "cancelled"
    )
    assert shown["cancellation_reason"] == "the payment provider let the payment go"
    row = await undone(careful, order["id"])
    assert (row["cause"], row["outcome"]) == ("PAYMENT_VOIDED", "CANCELLED")

    async def stock() -> tuple[int, int]:
        return await careful.stock(sku)

    assert await eventually(stock, until=lambda units: units == (STOCK, 0))
    assert await net(careful, order["id"]) == (0, 0)


async def test_of_a_deactivated_user_every_open_order_is_undone(careful: Market) -> None:
    """I7, I28: one is sold, one is shipped, and one is being placed."""
    (shopper, clerk), sku = (
        (await careful.shopper("tok_slow"), await careful.clerk()),
        await careful.product(STOCK),
    )
    sold, sent = [await bought(careful, shopper, sku) for _ in range(2)]
    assert (await clerk.ship(sent["id"])).status == 200
    pending = await charging(careful, shopper, sku)
    assert (await order_row(careful, pending))["state"] == "PENDING"
    await deactivate(careful, shopper.user_id)
    row = await undone(careful, sold["id"])
    assert (row["state"], row["cause"], row["outcome"]) == ("CANCELLED", "CUSTOMER_DEACTIVATED", "CANCELLED")
    assert row["cancellation_reason"] == "the customer's account was deactivated"
    row = await undone(careful, pending)
    # Undone before its pivot, refused by it, or cancelled after it: whoever was first.
    assert row["state"] in {"REJECTED", "CANCELLED"}
    assert row["rejection_reason"] in {None, "CANCELLED", "CUSTOMER_DEACTIVATED", "USER_NOT_ACTIVE"}
    assert (await order_row(careful, sent["id"]))["state"] == "SHIPPED"

    async def money_and_stock() -> tuple[Any, ...]:
        return *[await net(careful, order_id) for order_id in (sold["id"], pending)], await careful.stock(sku)

    assert await eventually(money_and_stock, until=lambda found: found == ((0, 0), (0, 0), (STOCK - 2, 0)))
    assert await net(careful, sent["id"]) == (sent["total"]["amount_minor"], 0)
    late = await shopper.place({sku: 1})
    assert late.status in {401, 403, 409}


async def test_orders_of_deactivated_users_are_undone_though_processes_die(careful: Market) -> None:
    """P8, F2, F5: the orders process and an orchestrator are killed while they are at it."""
    sku = await careful.product(STOCK)
    shoppers = [await careful.shopper() for _ in range(3)]
    orders = [await bought(careful, shopper, sku, quantity=1) for shopper in shoppers]
    await asyncio.gather(*(deactivate(careful, shopper.user_id) for shopper in shoppers))
    for name in ("orders", "orchestrator"):
        careful.suite.kill(name)
        await careful.suite.restart(name)
    for order in orders:
        row = await undone(careful, order["id"])
        assert (row["state"], row["outcome"]) == ("CANCELLED", "CANCELLED")


async def test_after_all_of_it_every_invariant_holds(market: Market, careful: Market) -> None:
    """I1 to I20, I22 to I24, I28."""
    for place in (market, careful):
        assert place.journal.intents
        await prove_everything(place.suite, place.journal)
