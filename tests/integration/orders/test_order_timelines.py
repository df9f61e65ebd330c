"""GetTimeline and WatchOrder: the same facts as the events tell, in order, and only to whom they belong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from chassis.errors import Fault
from chassis.grpc_metadata import ROLE_KEY, USER_KEY
from chassis.identity import Caller
from chassis.ids import new_id
from sagacity.orders.v1 import orders_pb2 as pb
from sagacity.orders.v1 import orders_pb2_grpc

pytestmark = pytest.mark.integration

SUPPORT = Caller("gateway", new_id(), "support")
PATIENCE_SECONDS = 20.0


async def timeline(world: Any, saga: Any, user: Caller, after: int = 0) -> pb.GetTimelineResponse:
    request = pb.GetTimelineRequest(order_id=str(saga.order_id), after_sequence=after)
    return await world.call("gateway", "GetTimeline", request, user)  # type: ignore[no-any-return]


def facts(entries: Any) -> list[tuple[int, str, str]]:
    return [
        (
            entry.sequence,
            pb.OrderFact.Name(entry.fact).removeprefix("ORDER_FACT_"),
            pb.OrderState.Name(entry.state).removeprefix("ORDER_STATE_"),
        )
        for entry in entries
    ]


async def test_a_timeline_has_every_fact_with_the_state_of_then(world: Any) -> None:
    saga = world.saga()
    await saga.sold()
    refund = saga.another()
    await refund.refund(100)
    await saga.another().ship()
    await saga.another().refund(200)
    response = await timeline(world, saga, saga.customer)
    assert facts(response.entries) == [
        (1, "PLACED", "PENDING"),
        (2, "CONFIRMED", "CONFIRMED"),
        (3, "REFUNDED", "CONFIRMED"),
        (4, "SHIPPED", "SHIPPED"),
        (5, "REFUNDED", "SHIPPED"),
    ]
    assert response.order_sequence == 5
    assert response.order == await saga.read()
    assert (response.entries[2].refund_id, response.entries[2].amount.minor_units) == (
        str(refund.refund_id),
        100,
    )
    assert response.entries[0].time == response.order.create_time
    assert response.entries[-1].time == response.order.update_time
    assert [(sequence, f"Order{name.title()}") for sequence, name, _ in facts(response.entries)] == (
        await saga.events()
    )


async def test_a_timeline_goes_on_after_a_sequence(world: Any) -> None:
    saga = world.saga()
    await saga.sold()
    assert facts((await timeline(world, saga, SUPPORT, after=1)).entries) == [(2, "CONFIRMED", "CONFIRMED")]
    end = await timeline(world, saga, SUPPORT, after=2)
    assert (list(end.entries), end.order_sequence) == ([], 2)


async def test_a_rejected_order_says_so_even_where_its_create_never_landed(world: Any) -> None:
    saga = world.saga()
    await saga.reject()
    found = await timeline(world, saga, saga.customer)
    assert facts(found.entries) == [(1, "PLACED", "PENDING"), (2, "REJECTED", "REJECTED")]


async def test_somebody_elses_timeline_does_not_exist(world: Any) -> None:
    saga, stranger = world.saga(), world.saga()
    await saga.create()
    for order in (saga, stranger):
        with pytest.raises(Fault) as caught:
            await timeline(world, order, stranger.customer)
        assert (caught.value.kind, caught.value.reason) == ("NOT_FOUND", "ORDER_NOT_FOUND")


@asynccontextmanager
async def watching(
    world: Any, service: str, order_id: Any, user: Caller | None, after: int = 0
) -> AsyncIterator[Any]:
    connection = world.connections[service]
    stub = orders_pb2_grpc.OrdersStub(connection.channel)
    request = pb.WatchOrderRequest(order_id=str(order_id), after_sequence=after)
    metadata = [("authorization", f"Bearer {connection._identity.token()}")]
    if user is not None:
        metadata += [(USER_KEY, str(user.user_id)), (ROLE_KEY, str(user.role))]
    call = stub.WatchOrder(request, metadata=metadata, timeout=PATIENCE_SECONDS)
    try:
        yield call
    finally:
        call.cancel()


async def test_a_watched_order_tells_every_fact_once_and_goes_on_where_it_was_left(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    async with watching(world, "gateway", saga.order_id, saga.customer) as call:
        first = await call.read()
        async with asyncio.TaskGroup() as group:
            second = group.create_task(call.read())
            await saga.confirm()
    assert facts([first.entry, second.result().entry]) == [
        (1, "PLACED", "PENDING"),
        (2, "CONFIRMED", "CONFIRMED"),
    ]
    assert second.result().order == await saga.read()
    await saga.another().refund(100)
    async with watching(world, "gateway", saga.order_id, SUPPORT, after=2) as call:
        assert facts([(await call.read()).entry]) == [(3, "REFUNDED", "CONFIRMED")]


@pytest.mark.parametrize(
    ("service", "role", "code"),
    [
        ("gateway", None, "PERMISSION_DENIED"),
        ("gateway", "nonsense", "PERMISSION_DENIED"),
        ("gateway", "customer", "NOT_FOUND"),
        ("orchestrator", None, "PERMISSION_DENIED"),
        ("payments", None, "PERMISSION_DENIED"),
    ],
)
async def test_only_its_customer_and_staff_watch_an_order(
    world: Any, service: str, role: str | None, code: str
) -> None:
    saga = world.saga()
    await saga.create()
    user = Caller(service, new_id(), role) if role else None
    async with watching(world, service, saga.order_id, user) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code().name == code
