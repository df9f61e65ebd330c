"""What each event does to the rows of a generation, also one of a release that said less."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message

from chassis.cloud_events import ReceivedEvent
from chassis.ids import new_id
from sagacity.orders.v1 import events_pb2
from services.orders.events import TOPIC
from services.orders.history.following import OrderNotListedError, handlers

pytestmark = pytest.mark.integration

GENERATION = 1_000
AT = datetime(2026, 3, 1, tzinfo=UTC)


def event(order_id: Any, sequence: int, fact: Message) -> ReceivedEvent:
    return ReceivedEvent(
        id=str(new_id()),
        type=fact.DESCRIPTOR.full_name,
        aggregate_type="order",
        aggregate_id=str(order_id),
        sequence=sequence,
        payload=fact.SerializeToString(),
        occurred_at=AT,
        traceparent=None,
        topic=TOPIC,
        partition=0,
        offset=0,
    )


async def apply(world: Any, order_id: Any, sequence: int, fact: Message) -> None:
    received = event(order_id, sequence, fact)
    async with world.database.transaction() as tx:
        await handlers(GENERATION)[received.type](tx, received)


async def listed(world: Any, order_id: Any) -> list[dict[str, Any]]:
    sql = """
        SELECT order_number, currency_code, state, total_minor, sequence FROM order_listing
        WHERE generation = %(generation)s AND order_id = %(id)s
    """
    return await world.rows(sql, generation=GENERATION, id=order_id)  # type: ignore[no-any-return]


async def test_what_an_event_of_the_release_before_does_not_say_the_order_does(world: Any) -> None:
    saga = world.saga()
    order = await saga.create()
    fact = events_pb2.OrderPlaced(order_id=str(saga.order_id), user_id=str(saga.user_id))
    await apply(world, saga.order_id, 1, fact)
    (row,) = await listed(world, saga.order_id)
    assert (row["order_number"], row["currency_code"], row["state"]) == (order.order_number, "EUR", "PENDING")


async def test_the_event_of_a_placed_order_says_what_was_ordered_and_nothing_of_who(world: Any) -> None:
    saga = world.saga()
    order = await saga.create()
    sql = "SELECT payload FROM outbox WHERE aggregateid = %(id)s"
    (row,) = await world.rows(sql, id=str(saga.order_id))
    fact = events_pb2.OrderPlaced.FromString(row["payload"])
    assert (fact.order_number, fact.currency_code) == (order.order_number, order.currency_code)
    assert fact.create_time == order.create_time
    assert [(item.sku, item.quantity) for item in fact.items] == [
        (item.sku, item.quantity) for item in order.items
    ]
    assert {field.name for field, _ in fact.ListFields()} == {
        "order_id",
        "user_id",
        "order_number",
        "currency_code",
        "create_time",
        "items",
    }


async def test_an_event_of_an_order_that_is_not_there_becomes_a_row_that_no_list_shows(world: Any) -> None:
    stranger = new_id()
    await apply(world, stranger, 1, events_pb2.OrderPlaced(user_id=str(new_id())))
    (row,) = await listed(world, stranger)
    assert row["order_number"] == ""


async def test_a_fact_without_its_order_is_an_error_and_not_forgotten(world: Any) -> None:
    with pytest.raises(OrderNotListedError):
        await apply(world, new_id(), 2, events_pb2.OrderShipped())


async def test_a_fact_that_is_in_the_row_already_does_not_take_it_back(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    await apply(world, saga.order_id, 1, events_pb2.OrderPlaced(user_id=str(saga.user_id)))
    await apply(world, saga.order_id, 3, events_pb2.OrderShipped())
    with pytest.raises(OrderNotListedError):
        await apply(world, saga.order_id, 2, events_pb2.OrderConfirmed())
    (row,) = await listed(world, saga.order_id)
    assert (row["state"], row["sequence"]) == ("SHIPPED", 3)
