"""Live updates of an order: exact, resumable, bounded, for its customer and staff only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest

from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from gateway import live as live_module
from gateway import order_events
from gateway.live import LiveUpdates
from gateway.metrics import LIVE_STREAMS
from sagacity.orders.v1 import orders_pb2 as pb
from tests.integration.gateway.event_streams import opened

ORDER = "018f7e9c-5d1a-7c3e-9b1f-2a6d4c8e0f22"
PATH = f"/api/v1/orders/{ORDER}/events"
OTHERS = [UUID(f"018f7e9c-5d1a-7c3e-9b1f-00000000000{n}") for n in range(5)]
FACTS = [
    (pb.ORDER_FACT_PLACED, pb.ORDER_STATE_PENDING),
    (pb.ORDER_FACT_CONFIRMED, pb.ORDER_STATE_CONFIRMED),
    (pb.ORDER_FACT_SHIPPED, pb.ORDER_STATE_SHIPPED),
]
PATIENCE_SECONDS = 20.0


class Order:
    """An order as the orders service would tell of it, fact by fact."""

    def __init__(self, backends: Any, live: LiveUpdates, facts: int = 1) -> None:
        self.facts = facts
        self.asked: list[int] = []
        self._live = live
        backends.answers["GetTimeline"] = self._answer

    def _answer(self, request: pb.GetTimelineRequest) -> pb.GetTimelineResponse:
        self.asked.append(request.after_sequence)
        return pb.GetTimelineResponse(
            entries=[
                pb.TimelineEntry(sequence=number, fact=fact, state=state)
                for number, (fact, state) in enumerate(FACTS[: self.facts], start=1)
                if number > request.after_sequence
            ],
            order=pb.Order(id=ORDER, state=FACTS[self.facts - 1][1]),
            order_sequence=self.facts,
        )

    def go_on(self) -> None:
        """Something becomes of the order, and Kafka tells of it."""
        self.facts += 1
        self._live.wake(ORDER)


@pytest.fixture
async def live(client: httpx2.AsyncClient, backends: Any) -> AsyncIterator[LiveUpdates]:
    yield backends.live
    await until_streams(0)


async def until_streams(count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while LIVE_STREAMS._value.get() != count:  # noqa: ASYNC110 - a gauge tells nobody
            await asyncio.sleep(0.01)


async def test_facts_are_told_in_order_and_new_ones_when_they_happen(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates
) -> None:
    order = Order(backends, live)
    async with opened(client, PATH, backends.bearer()) as stream:
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        first = await stream.next_fact()
        assert first is not None
        assert (first.id, first.event) == ("1", "placed")
        assert {name: first.data[name] for name in ("sequence", "fact", "state")} == {
            "sequence": 1,
            "fact": "placed",
            "state": "pending",
        }
        assert (first.data["order"]["id"], first.data["order"]["state"]) == (ORDER, "pending")
        order.go_on()
        assert await stream.facts(1) == [("2", "confirmed")]
        order.go_on()
        third = await stream.next_fact()
        assert third is not None
        assert (third.id, third.event, third.data["order"]["state"]) == ("3", "shipped", "shipped")


async def test_a_stream_goes_on_after_the_last_event_that_was_read(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates
) -> None:
    order = Order(backends, live, facts=3)
    async with opened(client, PATH, backends.bearer(), after="1") as stream:
        assert await stream.facts(2) == [("2", "confirmed"), ("3", "shipped")]
    assert order.asked[0] == 1


@pytest.mark.parametrize("value", ["", "x", "-1", "1.0", "1" * 19, "٣", "1 2"])
async def test_what_is_no_id_of_an_event_is_refused_by_its_name(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates, value: str
) -> None:
    Order(backends, live)
    headers = {**backends.bearer(), "Last-Event-ID": value.encode()}
    response = await client.get(PATH, headers=headers)
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == ["Last-Event-ID"]


async def test_somebody_elses_order_has_no_stream(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates
) -> None:
    backends.answers["GetTimeline"] = Fault(FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", "there is no such order")
    response = await client.get(PATH, headers=backends.bearer())
    assert (response.status_code, response.json()["code"]) == (404, "ORDER_NOT_FOUND")
    assert response.headers["content-type"] == "application/problem+json"


async def test_one_user_has_few_streams_and_a_place_is_free_again_when_its_reader_leaves(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates
) -> None:
    Order(backends, live)
    async with opened(client, PATH, backends.bearer()) as one, opened(client, PATH, backends.bearer()) as two:
        assert await one.facts(1) == await two.facts(1) == [("1", "placed")]
        refused = await client.get(PATH, headers=backends.bearer())
        assert (refused.status_code, refused.json()["code"]) == (429, "TOO_MANY_STREAMS")
        assert int(refused.headers["retry-after"]) > 0
        async with opened(client, PATH, backends.bearer(user_id=OTHERS[0])) as other:
            assert await other.facts(1) == [("1", "placed")]
    await until_streams(0)
    async with opened(client, PATH, backends.bearer()) as stream:
        assert await stream.facts(1) == [("1", "placed")]


async def test_a_process_has_so_many_streams_and_no_more(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates
) -> None:
    Order(backends, live)
    async with (
        opened(client, PATH, backends.bearer(user_id=OTHERS[0])) as one,
        opened(client, PATH, backends.bearer(user_id=OTHERS[1])) as two,
        opened(client, PATH, backends.bearer(user_id=OTHERS[2])) as three,
        opened(client, PATH, backends.bearer(user_id=OTHERS[3])) as four,
    ):
        for stream in (one, two, three, four):
            assert await stream.facts(1) == [("1", "placed")]
        refused = await client.get(PATH, headers=backends.bearer(user_id=OTHERS[4]))
        assert (refused.status_code, refused.json()["code"]) == (503, "OVERLOADED")
        assert int(refused.headers["retry-after"]) > 0


async def test_a_stream_that_nothing_happens_to_shows_that_it_lives(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_events, "HEARTBEAT_SECONDS", 0.05)
    Order(backends, live)
    async with opened(client, PATH, backends.bearer()) as stream:
        assert await stream.facts(1) == [("1", "placed")]
        for _ in range(3):
            beat = await stream.next()
            assert beat is not None
            assert beat.data is None


async def test_without_kafka_a_stream_looks_by_itself(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "POLL_WITHOUT_KAFKA_SECONDS", 0.05)
    order = Order(backends, live)
    async with opened(client, PATH, backends.bearer()) as stream:
        assert await stream.facts(1) == [("1", "placed")]
        order.facts = 3
        assert await stream.facts(2) == [("2", "confirmed"), ("3", "shipped")]


async def test_a_stream_outlives_an_orders_service_that_is_away(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "POLL_WITHOUT_KAFKA_SECONDS", 0.05)
    order = Order(backends, live)
    async with opened(client, PATH, backends.bearer()) as stream:
        assert await stream.facts(1) == [("1", "placed")]
        answer = backends.answers["GetTimeline"]
        backends.answers["GetTimeline"] = Fault(FaultKind.UNAVAILABLE, "AWAY", "away")
        calls = len(backends.calls)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(backends.calls) < calls + 2:  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.01)
        order.facts = 2
        backends.answers["GetTimeline"] = answer
        assert await stream.facts(1) == [("2", "confirmed")]


async def test_a_stream_ends_by_itself_after_its_time(
    client: httpx2.AsyncClient, backends: Any, live: LiveUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.routes.orders.MAX_LIFE_SECONDS", 0.1)
    Order(backends, live)
    async with opened(client, PATH, backends.bearer()) as stream:
        assert await stream.facts(1) == [("1", "placed")]
        assert await stream.next() is None


async def test_who_does_not_read_is_cut_off_and_holds_no_place(
    gateway_url: str, backends: Any, live: LiveUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_events, "SEND_SECONDS", 0.2)

    def much(request: pb.GetTimelineRequest) -> pb.GetTimelineResponse:
        number = request.after_sequence + 1
        order = pb.Order(id=ORDER, cancellation_reason="x" * 500_000)
        entry = pb.TimelineEntry(sequence=number, fact=pb.ORDER_FACT_REFUNDED)
        return pb.GetTimelineResponse(entries=[entry], order=order, order_sequence=number + 1)

    backends.answers["GetTimeline"] = much
    at = urlsplit(gateway_url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port, limit=1_024)
    try:
        token = backends.bearer()["Authorization"]
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until_streams(1)
        await until_streams(0)
    finally:
        writer.transport.abort()


async def test_a_timeline_is_read_to_its_end(client: httpx2.AsyncClient, backends: Any) -> None:
    def one(request: pb.GetTimelineRequest) -> pb.GetTimelineResponse:
        number = request.after_sequence + 1
        fact, state = FACTS[number - 1]
        entry = pb.TimelineEntry(sequence=number, fact=fact, state=state)
        return pb.GetTimelineResponse(entries=[entry], order_sequence=3)

    backends.answers["GetTimeline"] = one
    response = await client.get(f"/api/v1/orders/{ORDER}/timeline", headers=backends.bearer())
    assert response.status_code == 200
    found = [(entry["sequence"], entry["fact"]) for entry in response.json()["items"]]
    assert found == [(1, "placed"), (2, "confirmed"), (3, "shipped")]


USER_ID = str(new_id())


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"state": "lost"}, "state[0]"),
        ({"state": ["pending"] * 7}, "state"),
        ({"sort": "cheapest"}, "sort"),
        ({"sort": "total"}, "currency"),
        ({"sort": "total", "currency": "eur"}, "currency"),
        ({"currency": "EUR"}, "currency"),
        ({"min_total_minor": "1"}, "min_total_minor"),
        ({"sort": "total", "currency": "EUR", "max_total_minor": "-1"}, "max_total_minor"),
        ({"sort": "total", "currency": "EUR", "max_total_minor": "1e3"}, "max_total_minor"),
        (
            {"sort": "total", "currency": "EUR", "min_total_minor": "2", "max_total_minor": "1"},
            "max_total_minor",
        ),
        ({"created_from": "1767225600"}, "created_from"),
        ({"created_from": "2026-01-01"}, "created_from"),
        ({"created_from": "2026-01-01T00:00:00"}, "created_from"),
        ({"created_before": "2026-02-30T00:00:00Z"}, "created_before"),
        ({"sort": "total", "currency": "EUR", "created_before": "2026-02-03T00:00:00Z"}, "created_before"),
        ({"user_id": "me"}, "user_id"),
        ({"user_id": USER_ID, "everybody": "true"}, "user_id"),
        ({"everybody": "yes"}, "everybody"),
    ],
)
async def test_a_list_that_cannot_be_is_refused_by_the_name_of_the_parameter(
    client: httpx2.AsyncClient, backends: Any, query: dict[str, Any], field: str
) -> None:
    response = await client.get("/api/v1/orders", params=query, headers=backends.bearer("support"))
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == [field]


async def test_a_list_is_asked_for_as_the_client_says(client: httpx2.AsyncClient, backends: Any) -> None:
    async def asked(**query: Any) -> pb.ListOrdersRequest:
        response = await client.get("/api/v1/orders", params=query, headers=backends.bearer("support"))
        assert response.status_code == 200
        request: pb.ListOrdersRequest = backends.last("ListOrders")[0]
        return request

    times = {"created_from": "2026-01-01T01:00:00.5+01:00", "created_before": "2026-02-01T00:00:00Z"}
    request = await asked(state=["pending", "shipped"], sort="oldest", user_id=USER_ID, **times)
    assert list(request.states) == [pb.ORDER_STATE_PENDING, pb.ORDER_STATE_SHIPPED]
    assert (request.user_id, request.order_by) == (USER_ID, pb.ORDER_SORT_CREATE_TIME_ASC)
    assert request.created_from.ToJsonString() == "2026-01-01T00:00:00.500Z"
    assert request.created_before.ToJsonString() == "2026-02-01T00:00:00Z"
    assert not request.HasField("total")
    request = await asked(sort="total", currency="EUR", min_total_minor="5", everybody="true")
    assert (request.user_id, request.order_by) == ("", pb.ORDER_SORT_TOTAL_DESC)
    assert request.total == pb.TotalRange(currency_code="EUR", min_minor_units=5)
