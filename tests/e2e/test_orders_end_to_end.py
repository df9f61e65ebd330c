"""Orders over REST against real processes: each either completes or is undone completely."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chassis.ids import new_id
from deploy.local.welcome import curl_lines
from tests.e2e.books import events_in_kafka, rows, select
from tests.e2e.eventually import eventually
from tests.e2e.invariants import prove_everything
from tests.e2e.shoppers import PRICE_MINOR, Market

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PARALLEL = 50


async def provider_movements(market: Market, order_id: str) -> dict[str, int]:
    """What the provider did for an order: minor units by kind."""
    found = await rows(
        market.suite.dsn("payments"),
        "SELECT kind, sum(ledger.amount_minor)::bigint AS minor FROM provider_simulation.ledger"
        " JOIN payment ON payment.id = payment_id WHERE order_id = %(order_id)s GROUP BY kind",
        order_id=order_id,
    )
    return {row["kind"]: row["minor"] for row in found}


async def reservation_states(market: Market, order_id: str) -> list[str]:
    query = "SELECT state FROM reservation WHERE order_id = %(order_id)s"
    return await select(market.suite.dsn("inventory"), query, order_id=order_id)


async def test_an_order_is_confirmed_sold_paid_and_told_of(market: Market) -> None:
    """P1, P7, I6, I20, I23."""
    shopper, sku = await market.shopper(), await market.product(stock=5, low_below=4)
    answer = await shopper.place({sku: 2})
    assert (answer.status, answer.json["state"]) == (201, "confirmed")
    order_id, total = answer.json["id"], answer.json["total"]
    assert total["amount_minor"] >= 2 * PRICE_MINOR
    assert (await shopper.get(f"/orders/{order_id}"))["state"] == "confirmed"
    assert await market.stock(sku) == (3, 0)
    assert await provider_movements(market, order_id) == {
        "AUTHORIZATION": total["amount_minor"],
        "CAPTURE": total["amount_minor"],
    }
    statistics = await eventually(
        lambda: shopper.get("/users/me/statistics"), until=lambda counted: counted["orders_confirmed"]
    )
    assert (statistics["orders_placed"], statistics["orders_rejected"]) == (1, 0)
    assert statistics["amount_spent"] == [total]
    ids = {order_id, answer.json["payment_id"], answer.json["reservation_id"], sku}

    async def told() -> set[str]:
        return {event.type for event in await events_in_kafka(market.suite) if event.aggregate in ids}

    assert await eventually(told, until=lambda types: len(types) == 8) == {
        "sagacity.orders.v1.OrderPlaced",
        "sagacity.orders.v1.OrderConfirmed",
        "sagacity.payments.v1.PaymentCharged",
        "sagacity.inventory.v1.StockReserved",
        "sagacity.inventory.v1.StockCommitted",
        "sagacity.inventory.v1.ProductCreated",
        "sagacity.inventory.v1.StockLow",
        "sagacity.inventory.v1.StockBack",
    }


async def test_a_shortage_names_every_sku_and_nothing_is_held(market: Market) -> None:
    """P3, I7, I12."""
    shopper = await market.shopper()
    enough, short, empty = await market.product(5), await market.product(1), await market.product(2)
    answer = await shopper.place({enough: 1, short: 2, empty: 9})
    assert (answer.status, answer.json["code"]) == (409, "INSUFFICIENT_STOCK")
    assert {detail["subject"] for detail in answer.json["details"]} == {short, empty}
    order = await shopper.get(f"/orders/{answer.order_id}")
    assert (order["state"], order["rejection"]["reason"]) == ("rejected", "INSUFFICIENT_STOCK")
    assert [await market.stock(sku) for sku in (enough, short, empty)] == [(5, 0), (1, 0), (2, 0)]
    assert await provider_movements(market, order["id"]) == {}


async def test_a_declined_payment_undoes_all_of_the_order(market: Market) -> None:
    """P1, P8, I7."""
    shopper, sku = await market.shopper("tok_declined"), await market.product(stock=5)
    answer = await shopper.place({sku: 2})
    assert (answer.status, answer.json["code"]) == (402, "CARD_DECLINED")
    order_id = str(answer.order_id)
    order = await shopper.get(f"/orders/{order_id}")
    assert (order["state"], order["rejection"]["reason"]) == ("rejected", "CARD_DECLINED")
    assert await reservation_states(market, order_id) == ["RELEASED"]
    assert await market.stock(sku) == (5, 0)
    assert await provider_movements(market, order_id) == {}


async def test_fifty_requests_with_one_key_are_one_order_and_one_charge(market: Market) -> None:
    """P2, I2, I10; what is asked again after the end gets the same bytes."""
    shopper, sku, key = await market.shopper(), await market.product(stock=100), str(new_id())
    answers = await asyncio.gather(*(shopper.place({sku: 1}, key=key) for _ in range(PARALLEL)))
    answers += [
        await shopper.place({sku: 1}, key=key),
        await shopper.place({sku: 1}, key=key, wait_seconds=0),
    ]
    assert {answer.status for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    orders = await shopper.get("/orders")
    assert [order["id"] for order in orders["items"]] == [answers[0].order_id]
    assert await market.stock(sku) == (99, 0)
    total = answers[0].json["total"]["amount_minor"]
    assert (await provider_movements(market, str(answers[0].order_id)))["CAPTURE"] == total


async def test_a_client_that_does_not_wait_learns_the_end_by_its_key(market: Market) -> None:
    """P2: before the end the replay is the current state, after it the terminal answer."""
    shopper, sku, key = await market.shopper("tok_slow"), await market.product(stock=3), str(new_id())
    first = await shopper.place({sku: 1}, key=key, wait_seconds=0)
    assert (first.status, first.json["state"]) == (202, "pending")
    end = await shopper.insist({sku: 1}, key=key)
    assert (end.status, end.order_id) == (201, first.order_id)


async def test_a_key_that_comes_with_another_body_is_refused(market: Market) -> None:
    """P2, I2."""
    shopper, sku, key = await market.shopper(), await market.product(stock=5), str(new_id())
    first = await shopper.place({sku: 1}, key=key)
    other = await shopper.place({sku: 2}, key=key)
    assert (first.status, other.status) == (201, 422)
    assert other.json["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert await market.stock(sku) == (4, 0)
    assert (await shopper.place({sku: 1}, key=key)).content == first.content


async def test_a_key_is_its_users_own(market: Market) -> None:
    """P12, I2: the same key of two users is two orders."""
    sku, key = await market.product(stock=5), str(new_id())
    answers = [await (await market.shopper()).place({sku: 1}, key=key) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert len({answer.order_id for answer in answers}) == 2


async def test_a_provider_that_charges_and_does_not_answer_charges_once(market: Market) -> None:
    """P1, F13, F14: a time-out is unknown, the provider is asked, and the order is confirmed."""
    shopper, sku = await market.shopper("tok_timeout_after_charge"), await market.product(stock=5)
    answer = await shopper.insist({sku: 1}, key=str(new_id()))
    assert answer.status == 201
    total = answer.json["total"]["amount_minor"]
    movements = await provider_movements(market, str(answer.order_id))
    assert movements == {"AUTHORIZATION": total, "CAPTURE": total}
    fired = await select(
        market.suite.dsn("sagas"),
        "SELECT count(*) FROM saga_event JOIN saga ON saga.id = saga_id"
        " WHERE key = %(order_id)s AND saga_event.step = 'payment' AND op = 'do' AND outcome = 'unknown'",
        order_id=answer.order_id,
    )
    assert fired == ["1"]


async def test_buyers_never_get_more_than_there_is(market: Market) -> None:
    """P3, I11, I13 (a sample of the full figure): as many orders as units, the rest refused."""
    shopper, sku = await market.shopper(), await market.product(stock=10)
    answers = await asyncio.gather(*(shopper.insist({sku: 1}, key=str(new_id())) for _ in range(30)))
    assert sorted(answer.status for answer in answers) == [201] * 10 + [409] * 20
    assert await market.stock(sku) == (0, 0)


async def test_every_line_that_the_start_prints_works_when_pasted(market: Market, repository: Path) -> None:
    lines = curl_lines(market.suite.gateway_url)
    assert any(line.startswith("curl ") for line in lines)
    names = [line.partition("=")[0] for line in lines if line.split("=", 1)[0].isupper()]
    checks = [f': "${{{name}:?is empty}}"' for name in names]
    script = "\n".join(f"{line}\nprintf '\\n--- %s\\n' $?" for line in lines) + "\n" + "\n".join(checks)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script,
        cwd=repository,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert (process.returncode, complained.decode()) == (0, ""), said.decode()
    answers = said.decode().split("\n--- 0\n")
    assert len(answers) == len(lines) + 1
    assert {"TOKEN", "ADDRESS", "METHOD", "ORDER"} <= set(names)
    assert '"email":"grace@example.com"' in answers[1]
    assert '"sku"' in answers[3]
    assert '"state":"confirmed"' in answers[-2]


async def test_after_all_of_it_every_invariant_holds(market: Market) -> None:
    """I1 to I20, I22 to I24, over databases, provider's ledger, Kafka and the clients' journal."""
    assert len(market.journal.intents) >= 5
    await prove_everything(market.suite, market.journal)
