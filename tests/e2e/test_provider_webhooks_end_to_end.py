"""Refunds and voids that the payment provider makes by itself, told by signed webhooks: the whole suite."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import httpx2
import pytest

from chassis.ids import new_id
from chassis.postgres import Database
from deploy.local.programs import WEBHOOK_SECRET
from deploy.local.suite import EMBEDDED, Suite
from services.payments.simulated_dashboard import AUTHORIZATION_EXPIRED, DISPUTE, Made, SimulatedDashboard
from services.payments.webhooks import sign
from tests.e2e.books import rows
from tests.e2e.eventually import eventually
from tests.e2e.invariants import prove_everything
from tests.e2e.shoppers import Json, Market, Shopper

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

STOCK = 9
AT_ONCE = 16
# Until it is shipped an order is only authorised, so that the provider can let go of it.
MANUAL = {"SAGACITY_ORCHESTRATOR_CAPTURE_MODE": "manual"}


@dataclass
class Provider:
    """The payment provider: its dashboard, and its webhooks, which it sends until they are taken."""

    market: Market
    dashboard: SimulatedDashboard
    client: httpx2.AsyncClient

    async def payment_of(self, order_id: str) -> UUID:
        query = "SELECT id FROM payment WHERE order_id = %(order_id)s"
        return UUID(str((await rows(self.market.suite.dsn("payments"), query, order_id=order_id))[0]["id"]))

    async def send(self, body: bytes, *, secret: str = "") -> httpx2.Response:
        key = secret or self.market.suite.secrets.text(WEBHOOK_SECRET)
        headers = {"Webhook-Signature": sign(key.encode(), body, seconds=int(time.time()))}
        return await self.client.post("/api/v1/provider-webhooks/simulated", content=body, headers=headers)

    async def tell(self, made: Made) -> None:
        body = made.webhook(f"evt_{new_id().hex}")
        await eventually(lambda: self.send(body), until=lambda answer: answer.status_code == 204)


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    suite = Suite(
        tmp_path_factory.mktemp("provider-suite"),
        # Not the session's broker: its consumers would share their groups, and the events, with the market's.
        kafka=EMBEDDED,
        orchestrators=1,
        overrides={"orchestrator": MANUAL},
        fsync=False,
        sample_data=False,
    )
    await suite.start()
    books = await Database.open(suite.dsn("payments"), application_name="the provider's dashboard")
    try:
        async with Market(suite) as market, httpx2.AsyncClient(base_url=suite.gateway_url) as client:
            yield Provider(market, SimulatedDashboard(books, new_id), client)
    finally:
        await books.close()
        await suite.abort()


async def confirmed(market: Market) -> tuple[Shopper, str, str, int]:
    """A customer with a confirmed order, its id, its product, and its total."""
    shopper, sku = await market.shopper(), await market.product(STOCK)
    answer = await shopper.insist({sku: 2}, key=str(new_id()))
    assert answer.status == 201, answer
    return shopper, str(answer.order_id), sku, answer.json["total"]["amount_minor"]


async def shipped(market: Market) -> tuple[Shopper, str, int]:
    shopper, order_id, _, total = await confirmed(market)
    clerk, key = await market.clerk(), str(new_id())
    await eventually(lambda: clerk.ship(order_id, key=key), until=lambda answer: answer.status == 200)
    return shopper, order_id, total


async def order_with(shopper: Shopper, order_id: str, **members: str) -> Json:
    return await eventually(
        lambda: shopper.get(f"/orders/{order_id}"), until=lambda order: members.items() <= order.items()
    )


async def test_a_refund_and_a_lost_dispute_reach_the_order_once(provider: Provider) -> None:
    """I6, I9, F14: told many times, at once, by several events and in the wrong order."""
    shopper, order_id, total = await shipped(provider.market)
    payment_id = await provider.payment_of(order_id)
    made = [
        await provider.dashboard.refund(payment_id, 250),
        await provider.dashboard.refund(payment_id, total - 250, reason=DISPUTE),
    ]
    bodies = [one.webhook(f"evt_{new_id().hex}") for one in reversed(made) for _ in range(2)]
    sent = await asyncio.gather(*(provider.send(bodies[number % len(bodies)]) for number in range(AT_ONCE)))
    assert Counter(answer.status_code for answer in sent) == {204: AT_ONCE}
    order = await order_with(shopper, order_id, refund_state="full", state="shipped")
    assert sorted(refund["id"] for refund in order["refunds"]) == sorted(
        str(one.operation.id) for one in made
    )
    refused = await (await provider.market.clerk()).refund(order_id)
    assert refused.status == 409
    await prove_everything(provider.market.suite, provider.market.journal)


async def test_an_order_whose_hold_ran_out_is_cancelled(provider: Provider) -> None:
    """I7: the provider let the money go, so the stock goes back, too."""
    shopper, order_id, sku, _ = await confirmed(provider.market)
    payment_id = await provider.payment_of(order_id)
    await provider.tell(await provider.dashboard.void(payment_id, reason=AUTHORIZATION_EXPIRED))
    await order_with(shopper, order_id, state="cancelled")
    await eventually(lambda: provider.market.stock(sku), until=lambda stock: stock == (STOCK, 0))
    await prove_everything(provider.market.suite, provider.market.journal)


async def test_a_webhook_that_payments_cannot_take_is_taken_when_it_is_back(provider: Provider) -> None:
    """204 only after the commit: while payments is away it is 503, and the provider sends it again."""
    suite = provider.market.suite
    shopper, order_id, _ = await shipped(provider.market)
    made = await provider.dashboard.refund(await provider.payment_of(order_id), 100)
    suite.kill("payments")
    body = made.webhook("evt_while_away")
    answer = await provider.send(body)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert int(answer.headers["retry-after"]) >= 1
    await suite.restart("payments")
    await eventually(lambda: provider.send(body), until=lambda answer: answer.status_code == 204)
    await order_with(shopper, order_id, refund_state="partial")
    await prove_everything(suite, provider.market.journal)


async def test_nobody_but_the_provider_is_believed(provider: Provider) -> None:
    shopper, order_id, _ = await shipped(provider.market)
    payment_id = await provider.payment_of(order_id)
    made = await provider.dashboard.refund(payment_id, 100)
    forged = await provider.send(made.webhook("evt_forged"), secret="guessed by somebody")
    assert (forged.status_code, forged.json()["code"]) == (400, "BAD_SIGNATURE")
    assert (await shopper.get(f"/orders/{order_id}"))["refund_state"] == "none"
    await provider.tell(made)
    await order_with(shopper, order_id, refund_state="partial")
    await prove_everything(provider.market.suite, provider.market.journal)
    logs = provider.market.suite.data_dir / "logs"
    secret = provider.market.suite.secrets.text(WEBHOOK_SECRET)
    assert [path.name for path in logs.iterdir() if secret in path.read_text("utf-8")] == []
