"""Lists, timelines and live updates of orders, by REST, against real processes: exact whatever is away."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from deploy.local.kafka import ApacheKafka
from tests.e2e.books import rows
from tests.e2e.eventually import eventually
from tests.e2e.shoppers import Client, Market, Shopper
from tests.integration.gateway.event_streams import EventStream, opened

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

STREAM_SECONDS = 60.0


def stream(
    of: Client, order_id: str, *, after: str | None = None
) -> AbstractAsyncContextManager[EventStream]:
    """Open the updates of an order."""
    return opened(of._client, f"/orders/{order_id}/events", {}, after=after)


async def facts_of(events: EventStream, count: int) -> list[tuple[str | None, str | None]]:
    async with asyncio.timeout(STREAM_SECONDS):
        return await events.facts(count)


async def accepted(shopper: Shopper, sku: str) -> str:
    """Place an order without waiting for its end; return its id once it can be read."""
    answer = await shopper.place({sku: 1}, wait_seconds=0)
    order_id = answer.order_id
    assert order_id is not None

    async def status() -> int:
        return (await shopper._client.get(f"/orders/{order_id}")).status_code

    await eventually(status, until=lambda code: code == 200)
    return order_id


async def test_an_order_is_watched_from_its_first_fact_to_its_refund(market: Market) -> None:
    """Nothing is lost and nothing comes twice, also where the client connects again."""
    shopper, clerk = await market.shopper(), await market.clerk()
    order_id = await accepted(shopper, await market.product(stock=5))
    async with stream(shopper, order_id) as events:
        assert events.response.status_code == 200
        assert await facts_of(events, 2) == [("1", "placed"), ("2", "confirmed")]
        assert (await clerk.ship(order_id)).status == 200
        assert await facts_of(events, 1) == [("3", "shipped")]
    assert (await clerk.refund(order_id, amount={"currency": "EUR", "amount_minor": 100})).status == 200
    async with stream(shopper, order_id, after="3") as events:
        async with asyncio.timeout(STREAM_SECONDS):
            told = await events.next_fact()
        assert told is not None
        assert (told.id, told.event) == ("4", "refunded")
        assert told.data["amount"] == {"currency": "EUR", "amount_minor": 100}
        assert told.data["order"] == await shopper.get(f"/orders/{order_id}")
    async with stream(clerk, order_id, after="2") as events:
        assert await facts_of(events, 2) == [("3", "shipped"), ("4", "refunded")]
    timeline = (await shopper.get(f"/orders/{order_id}/timeline"))["items"]
    assert [(entry["sequence"], entry["fact"], entry["state"]) for entry in timeline] == [
        (1, "placed", "pending"),
        (2, "confirmed", "confirmed"),
        (3, "shipped", "shipped"),
        (4, "refunded", "shipped"),
    ]


async def test_somebody_elses_order_is_neither_watched_nor_looked_at(market: Market) -> None:
    """P12."""
    shopper, stranger = await market.shopper(), await market.shopper()
    order_id = await accepted(shopper, await market.product(stock=5))
    for what in ("events", "timeline"):
        response = await stranger._client.get(f"/orders/{order_id}/{what}")
        assert (response.status_code, response.json()["code"]) == (404, "ORDER_NOT_FOUND")
    listed = await stranger._client.get("/orders", params={"user_id": shopper.user_id})
    assert listed.status_code == 403
    assert (await stranger._client.get("/orders", params={"everybody": "true"})).status_code == 403


async def test_what_was_just_done_is_in_the_list_of_who_did_it(market: Market) -> None:
    shopper, clerk = await market.shopper(), await market.clerk()
    sku = await market.product(stock=9)
    ids = [(await shopper.place({sku: count})).json["id"] for count in (1, 3, 2)]

    async def listed(by: Client, **query: Any) -> list[str]:
        response = await by._client.get("/orders", params=query)
        assert response.status_code == 200, response.text
        return [order["id"] for order in response.json()["items"]]

    assert await listed(shopper) == ids[::-1]
    assert await listed(shopper, sort="oldest") == ids
    assert await listed(shopper, sort="total", currency="EUR") == [ids[1], ids[2], ids[0]]
    assert (await shopper.cancel(ids[0])).status == 200
    assert await listed(shopper, state="cancelled") == [ids[0]]
    assert await listed(clerk, user_id=shopper.user_id, state=["confirmed", "shipped"]) == [ids[2], ids[1]]
    assert ids[2] in await listed(clerk, everybody="true")


async def test_the_projection_of_every_replica_comes_to_what_the_orders_say(market: Market) -> None:
    """P7, I23."""
    shopper = await market.shopper()
    sku = await market.product(stock=9)
    for _ in range(3):
        await shopper.place({sku: 1})

    async def behind() -> list[dict[str, Any]]:
        return await rows(
            market.suite.dsn("orders"),
            """SELECT o.id FROM orders o LEFT JOIN order_listing p ON p.order_id = o.id
                   AND p.generation = (SELECT active_generation FROM order_listing_head)
               WHERE (p.user_id, p.state, p.refund_state, p.total_minor, p.refunded_minor, p.sequence)
                   IS DISTINCT FROM
                   (o.user_id, o.state, o.refund_state, o.total_minor, o.refunded_minor, o.sequence)""",
        )

    assert await eventually(behind, until=lambda late: not late) == []


async def test_streams_end_in_order_when_their_gateway_stops_and_go_on_at_the_next(storm: Market) -> None:
    """P9, F22."""
    shopper, clerk = await storm.shopper(), await storm.clerk()
    order_id = await accepted(shopper, await storm.product(stock=5))
    async with stream(shopper, order_id) as events:
        assert await facts_of(events, 2) == [("1", "placed"), ("2", "confirmed")]
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(events.next_fact())
            await storm.suite.stop_process("gateway")
        assert ended.result() is None
    storm.suite.start_process("gateway")
    await storm.suite.wait_ready("gateway")
    assert (await clerk.ship(order_id)).status == 200
    async with stream(shopper, order_id, after="2") as events:
        assert await facts_of(events, 1) == [("3", "shipped")]


async def test_with_kafka_away_orders_are_watched_and_listed_all_the_same(storm: Market) -> None:
    """F18."""
    shopper, clerk = await storm.shopper(), await storm.clerk()
    sku = await storm.product(stock=5)
    if isinstance(storm.suite.broker, ApacheKafka):
        storm.suite.broker.kill()
    order_id = await accepted(shopper, sku)
    async with stream(shopper, order_id) as events:
        assert await facts_of(events, 2) == [("1", "placed"), ("2", "confirmed")]
        assert (await clerk.ship(order_id)).status == 200
        assert await facts_of(events, 1) == [("3", "shipped")]
    listed = (await shopper.get("/orders?state=shipped"))["items"]
    assert [order["id"] for order in listed] == [order_id]
