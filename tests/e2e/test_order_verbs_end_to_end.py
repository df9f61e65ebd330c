"""Cancelling, refunding and shipping over REST, against real processes with two orchestrators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from chassis.ids import new_id
from deploy.local.suite import EMBEDDED, Suite
from tests.e2e.books import rows
from tests.e2e.eventually import eventually
from tests.e2e.invariants import prove_everything
from tests.e2e.shoppers import PRICE_MINOR, Answer, Client, Market, Shopper

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

STOCK = 9
MANUAL = {"SAGACITY_ORCHESTRATOR_CAPTURE_MODE": "manual"}
# Long enough for a cancel to come while the provider is asked.
SLOW = {"SAGACITY_PAYMENTS_SIMULATED_SLOW_SECONDS": "3"}


@pytest.fixture(scope="module")
async def careful(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    """A market whose orders are paid when they are shipped, and where tok_slow is slow."""
    suite = Suite(
        tmp_path_factory.mktemp("careful-suite"),
        kafka=EMBEDDED,
        orchestrators=2,
        overrides={"orchestrator": MANUAL, "orchestrator-2": MANUAL, "payments": SLOW},
        fsync=False,
        sample_data=False,
    )
    await suite.start()
    try:
        async with Market(suite) as opened:
            yield opened
    finally:
        await suite.abort()


async def taken(market: Market, order_id: str) -> tuple[int, int]:
    """What the provider took of the customer and did not give back, and what it holds."""
    found = await rows(
        market.suite.dsn("payments"),
        "SELECT kind, sum(ledger.amount_minor)::bigint AS minor FROM provider_simulation.ledger"
        " JOIN payment ON payment.id = payment_id WHERE order_id = %(order_id)s GROUP BY kind",
        order_id=order_id,
    )
    minor = {"AUTHORIZATION": 0, "CAPTURE": 0, "REFUND": 0, "VOID": 0}
    minor |= {row["kind"]: row["minor"] for row in found}
    kept = minor["CAPTURE"] - minor["REFUND"]
    return kept, minor["AUTHORIZATION"] - minor["VOID"] - minor["CAPTURE"]


async def bought(market: Market, quantity: int = 2) -> tuple[Shopper, str, str, int]:
    """A customer with a confirmed order, its id, its product, and its total."""
    shopper, sku = await market.shopper(), await market.product(STOCK)
    answer = await shopper.insist({sku: quantity}, key=str(new_id()))
    assert answer.status == 201, answer
    return shopper, str(answer.order_id), sku, answer.json["total"]["amount_minor"]


async def settled(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask with the same key until it is known how it ended."""
    return await eventually(ask, until=lambda answer: answer.status not in {0, 202, 503, 504})


async def test_a_cancelled_order_gives_back_money_and_stock(market: Market) -> None:
    """P1, P3, I7."""
    shopper, order_id, sku, total = await bought(market)
    assert await taken(market, order_id) == (total, 0)
    key = str(new_id())
    answer = await settled(lambda: shopper.cancel(order_id, key=key))
    assert (answer.status, answer.json["state"]) == (200, "cancelled")
    assert answer.json["cancellation_reason"] == "ordered twice"
    assert await taken(market, order_id) == (0, 0)
    assert await market.stock(sku) == (STOCK, 0)
    assert (await shopper.cancel(order_id, key=key)).content == answer.content
    again = await settled(lambda: shopper.cancel(order_id, key=f"{key} again".replace(" ", "-")))
    assert (again.status, again.json["code"]) == (409, "ORDER_NOT_CONFIRMED")


async def test_an_order_is_cancelled_while_the_provider_is_asked(careful: Market) -> None:
    """P2, P8: the placing request and the cancelling one both learn it, by their keys."""
    shopper, sku = await careful.shopper("tok_slow"), await careful.product(STOCK)
    keys = [str(new_id()) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        placing = group.create_task(shopper.insist({sku: 2}, key=keys[0]))
        order_id = await eventually(lambda: charging(careful, keys[0]))
        cancelled = await settled(lambda: shopper.cancel(order_id, key=keys[1]))
    assert (cancelled.status, cancelled.json["state"]) == (200, "rejected")
    assert cancelled.json["rejection"]["reason"] == "CANCELLED"
    assert (placing.result().status, placing.result().json["code"]) == (409, "CANCELLED")
    assert await taken(careful, order_id) == (0, 0)
    assert await careful.stock(sku) == (STOCK, 0)
    replays = [await shopper.cancel(order_id, key=keys[1]) for _ in range(2)]
    assert {replay.content for replay in replays} == {cancelled.content}
    other = await settled(lambda: shopper.cancel(order_id, key=keys[2]))
    assert (other.status, other.json["id"]) == (200, order_id)
    changed = await shopper.cancel(order_id, key=keys[1], reason="something else")
    assert (changed.status, changed.json["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def charging(market: Market, key: str) -> str:
    """The order of a key once its charge is intended; empty before."""
    found = await rows(
        market.suite.dsn("sagas"),
        "SELECT saga.key::text AS id FROM saga JOIN idempotency i ON i.saga_id = saga.id"
        " JOIN saga_event e ON e.saga_id = saga.id"
        " WHERE i.key = %(key)s AND (e.step, e.op, e.outcome) = ('payment', 'do', 'intended')",
        key=key,
    )
    return found[0]["id"] if found else ""


async def test_a_refund_by_line_an_amount_and_the_rest_come_to_the_total_and_no_more(market: Market) -> None:
    """P1, I6, I8, I13."""
    (shopper, order_id, sku, total), clerk = await bought(market, quantity=3), await market.clerk()
    one = [{"sku": sku, "quantity": 1}]
    by_line = await refunded(clerk, order_id, lines=one, restock=True)
    assert (by_line["refund_state"], by_line["refunds"][0]["lines"]) == ("partial", one)
    assert by_line["refunded"]["amount_minor"] >= PRICE_MINOR
    assert await market.stock(sku) == (STOCK - 2, 0)
    by_amount = await refunded(clerk, order_id, amount={"currency": "EUR", "amount_minor": 250})
    left = total - by_amount["refunded"]["amount_minor"]
    assert left == total - by_line["refunded"]["amount_minor"] - 250
    assert await taken(market, order_id) == (left, 0)
    for too_much in (
        {"amount": {"currency": "EUR", "amount_minor": left + 1}},
        {"lines": [{"sku": sku, "quantity": 3}], "restock": True},
    ):
        answer = await clerk.refund(order_id, **too_much)
        assert (answer.status, answer.json["code"]) == (409, "REFUND_TOO_LARGE")
    assert await taken(market, order_id) == (left, 0)
    rest = await refunded(clerk, order_id, restock=True)
    assert (rest["refund_state"], rest["refunded"]["amount_minor"]) == ("full", total)
    assert await taken(market, order_id) == (0, 0)
    assert await market.stock(sku) == (STOCK, 0)
    listed = await shopper.get(f"/orders/{order_id}/refunds")
    assert [refund["id"] for refund in listed["items"]] == [refund["id"] for refund in rest["refunds"]]
    nothing = await clerk.refund(order_id)
    assert (nothing.status, nothing.json["code"]) == (409, "REFUND_TOO_LARGE")


async def refunded(clerk: Client, order_id: str, **what: Any) -> Any:
    key = str(new_id())
    answer = await settled(lambda: clerk.refund(order_id, key=key, **what))
    assert answer.status == 200, answer
    assert (await clerk.refund(order_id, key=key, **what)).content == answer.content
    return answer.json


async def test_a_shipped_order_is_not_cancelled_any_more_but_may_be_refunded(market: Market) -> None:
    """I5, I6."""
    (shopper, order_id, sku, total), clerk = await bought(market), await market.clerk()
    key = str(new_id())
    shipped = await settled(lambda: clerk.ship(order_id, key=key))
    assert (shipped.status, shipped.json["state"]) == (200, "shipped")
    assert shipped.json["shipment"] == {"carrier": "DHL", "tracking_number": "42"}
    refused = await settled(lambda: shopper.cancel(order_id, key=key))
    assert (refused.status, refused.json["code"]) == (409, "ORDER_NOT_CONFIRMED")
    assert await taken(market, order_id) == (total, 0)
    assert await market.stock(sku) == (STOCK - 2, 0)
    back = await refunded(clerk, order_id, lines=[{"sku": sku, "quantity": 1}], restock=True)
    assert (back["state"], back["refund_state"]) == ("shipped", "partial")


async def test_with_manual_capture_the_money_is_taken_when_the_order_is_shipped(careful: Market) -> None:
    """I6: authorised until then, captured after."""
    (_, order_id, _, total), clerk = await bought(careful), await careful.clerk()
    assert await taken(careful, order_id) == (0, total)
    early = await clerk.refund(order_id)
    assert (early.status, early.json["code"]) == (409, "PAYMENT_NOT_REFUNDABLE")
    key = str(new_id())
    shipped = await settled(lambda: clerk.ship(order_id, key=key))
    assert (shipped.status, shipped.json["state"]) == (200, "shipped")
    assert await taken(careful, order_id) == (total, 0)


async def test_with_manual_capture_a_cancelled_order_was_never_charged(careful: Market) -> None:
    shopper, order_id, sku, _ = await bought(careful)
    key = str(new_id())
    assert (await settled(lambda: shopper.cancel(order_id, key=key))).status == 200
    assert await taken(careful, order_id) == (0, 0)
    assert await careful.stock(sku) == (STOCK, 0)


async def test_nobody_reaches_the_order_of_somebody_else(market: Market) -> None:
    """P12."""
    (owner, order_id, _, _), stranger = await bought(market), await market.shopper()
    for answer in (await stranger.cancel(order_id), await stranger.cancel(str(new_id()))):
        assert (answer.status, answer.json["code"]) == (404, "ORDER_NOT_FOUND")
    statuses = [(await ask).status for ask in (owner.refund(order_id), owner.ship(order_id))]
    assert statuses == [403, 403]
    assert (await owner.get(f"/orders/{order_id}"))["state"] == "confirmed"


async def test_a_changed_price_is_refused_and_nothing_is_taken(market: Market) -> None:
    """P1: expected_total."""
    shopper, sku = await market.shopper(), await market.product(STOCK)
    answer = await shopper.place({sku: 1}, expected_total_minor=1)
    assert (answer.status, answer.json["code"]) == (409, "PRICE_CHANGED")
    assert {detail["subject"] for detail in answer.json["details"]} == {"total", "expected_total"}
    order_id = str(answer.order_id)
    assert (await shopper.get(f"/orders/{order_id}"))["state"] == "rejected"
    assert await taken(market, order_id) == (0, 0)
    assert await market.stock(sku) == (STOCK, 0)
    _, _, _, total = await bought(market, quantity=1)
    expected = await shopper.place({sku: 1}, expected_total_minor=total)
    assert (expected.status, expected.json["total"]["amount_minor"]) == (201, total)


async def test_customers_who_cancel_while_they_order_end_with_everything_or_nothing(careful: Market) -> None:
    """P1, P3, P8: a sample of the race between cancel and pivot, over two orchestrators."""
    shopper, sku = await careful.shopper(), await careful.product(stock=100)

    async def change_of_mind() -> str:
        placed = await shopper.place({sku: 1}, wait_seconds=0)
        key = str(new_id())
        answer = await settled(lambda: shopper.cancel(str(placed.order_id), key=key))
        assert answer.status == 200, answer
        return str(answer.json["state"])

    states = await asyncio.gather(*(change_of_mind() for _ in range(30)))
    assert set(states) <= {"rejected", "cancelled"}
    assert await careful.stock(sku) == (100, 0)


async def test_after_all_of_it_every_invariant_holds(market: Market, careful: Market) -> None:
    """I1 to I20, I22 to I24, with cancelled, shipped and refunded orders."""
    for place in (market, careful):
        assert len(place.journal.requests) >= 5
        await prove_everything(place.suite, place.journal)
