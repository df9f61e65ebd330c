"""GetOrder and ListOrders: who sees what, and pages that stay put; and who may call what at all."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from chassis.errors import Fault
from chassis.identity import Caller
from chassis.ids import new_id
from sagacity.orders.v1 import orders_pb2 as pb
from services.orders.rpc import POLICIES

pytestmark = pytest.mark.integration

SUPPORT = Caller("gateway", new_id(), "support")


async def refused(call: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await call
    return caught.value


async def get(world: Any, saga: Any, user: Caller | None, *, service: str = "gateway") -> pb.Order:
    request = pb.GetOrderRequest(order_id=str(saga.order_id))
    return (await world.call(service, "GetOrder", request, user)).order  # type: ignore[no-any-return]


async def page(world: Any, user: Caller, **wanted: Any) -> pb.ListOrdersResponse:
    return await world.call("gateway", "ListOrders", pb.ListOrdersRequest(**wanted), user)  # type: ignore[no-any-return]


async def placed(world: Any, count: int, user_id: Any = None) -> list[Any]:
    user_id = user_id or new_id()
    sagas = [world.saga(user_id=user_id) for _ in range(count)]
    for saga in sagas:
        await saga.create()
    return sagas


def ids(orders: Any) -> list[str]:
    return [order.id for order in orders]


async def test_an_order_is_read_by_its_user_by_staff_and_by_the_orchestrator(world: Any) -> None:
    saga = world.saga()
    order = await saga.create()
    assert await get(world, saga, saga.customer) == order
    assert await get(world, saga, SUPPORT) == order
    assert await get(world, saga, None, service="orchestrator") == order


async def test_somebody_elses_order_does_not_exist(world: Any) -> None:
    saga, stranger = world.saga(), world.saga()
    await saga.create()
    other = await refused(get(world, saga, stranger.customer))
    missing = await refused(get(world, stranger, stranger.customer))
    assert (other.kind, other.reason) == ("NOT_FOUND", "ORDER_NOT_FOUND")
    assert (missing.kind, missing.reason, missing.message) == (other.kind, other.reason, other.message)


async def test_the_gateway_reads_no_order_for_nobody(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    assert (await refused(get(world, saga, None))).kind == "PERMISSION_DENIED"


async def test_a_list_is_newest_first_and_a_customers_own(world: Any) -> None:
    sagas = await placed(world, 3)
    await placed(world, 1)
    customer = sagas[0].customer
    response = await page(world, customer, user_id=str(customer.user_id))
    assert ids(response.orders) == [str(saga.order_id) for saga in reversed(sagas)]
    assert response.next_page_token == ""
    assert ids((await page(world, SUPPORT)).orders)[1:4] == ids(response.orders)


async def test_a_customer_must_list_their_own_orders(world: Any) -> None:
    customer = Caller("gateway", new_id(), "customer")
    for user_id in ("", str(new_id())):
        assert (await refused(page(world, customer, user_id=user_id))).kind == "PERMISSION_DENIED"


@pytest.mark.parametrize("as_staff", [True, False])
async def test_pages_hold_every_order_once_while_others_are_placed_and_changed(
    world: Any, as_staff: bool
) -> None:
    sagas = await placed(world, 7)
    customer = sagas[0].customer
    caller = SUPPORT if as_staff else customer
    seen, token = [], ""
    while True:
        response = await page(world, caller, user_id=str(customer.user_id), page_size=2, page_token=token)
        seen += ids(response.orders)
        token = response.next_page_token
        if not token:
            break
        await placed(world, 1, customer.user_id)
        await sagas[0].confirm()
    assert seen == [str(saga.order_id) for saga in reversed(sagas)]


async def test_orders_of_one_instant_are_neither_lost_nor_repeated(world: Any) -> None:
    sagas = await placed(world, 5)
    customer = sagas[0].customer
    await world.rows(
        "UPDATE orders SET create_time = '2026-01-01T00:00:00.123456Z' WHERE user_id = %(id)s",
        id=customer.user_id,
    )
    seen, token = [], ""
    for _ in sagas:
        response = await page(world, customer, user_id=str(customer.user_id), page_size=1, page_token=token)
        seen += ids(response.orders)
        token = response.next_page_token
    assert token == ""
    assert seen == sorted((str(saga.order_id) for saga in sagas), reverse=True)


async def test_a_list_can_be_of_one_state(world: Any) -> None:
    sagas = await placed(world, 3)
    customer = sagas[0].customer
    await sagas[1].confirm()
    mine = {"user_id": str(customer.user_id)}
    confirmed = await page(world, customer, state=pb.ORDER_STATE_CONFIRMED, **mine)
    assert ids(confirmed.orders) == [str(sagas[1].order_id)]
    pending = await page(world, SUPPORT, state=pb.ORDER_STATE_PENDING, page_size=200)
    assert str(sagas[1].order_id) not in ids(pending.orders)
    assert {order.state for order in pending.orders} == {pb.ORDER_STATE_PENDING}


async def test_a_page_has_fifty_orders_unless_another_size_is_asked_for(world: Any) -> None:
    sagas = await placed(world, 51)
    customer = sagas[0].customer
    assert len((await page(world, customer, user_id=str(customer.user_id))).orders) == 50
    assert len((await page(world, customer, user_id=str(customer.user_id), page_size=51)).orders) == 51
    assert (await refused(page(world, SUPPORT, page_size=201))).kind == "INVALID_ARGUMENT"


async def test_a_token_serves_the_filter_and_the_user_that_it_was_made_for(world: Any) -> None:
    sagas = await placed(world, 2)
    customer = sagas[0].customer
    mine = {"user_id": str(customer.user_id), "page_size": 1}
    token = (await page(world, customer, **mine)).next_page_token
    assert ids((await page(world, customer, **mine, page_token=token)).orders) == [str(sagas[0].order_id)]
    for call in (
        page(world, customer, **mine, state=pb.ORDER_STATE_PENDING, page_token=token),
        page(world, SUPPORT, **mine, page_token=token),
        page(world, SUPPORT, page_size=1, page_token=token),
    ):
        fault = await refused(call)
        assert fault.kind == "INVALID_ARGUMENT"
        assert [field.subject for field in fault.fields] == ["page_token"]


def _like(token: str, *position: str) -> str:
    digest = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))[0]
    return base64.urlsafe_b64encode(json.dumps([digest, *position]).encode()).decode().rstrip("=")


async def test_garbage_is_no_token(world: Any) -> None:
    sagas = await placed(world, 2)
    customer = sagas[0].customer
    mine = {"user_id": str(customer.user_id), "page_size": 1}
    token = (await page(world, customer, **mine)).next_page_token
    order_id = str(sagas[0].order_id)
    for garbage in (
        "x",
        "%%%%",
        "é",
        "W10",
        token[:-3],
        token + "AAAA",
        "A" * 500,
        _like(token),
        _like(token, "1", "not a uuid"),
        _like(token, "-1", order_id),
        _like(token, "9" * 18, order_id, "more"),
        _like(token, "9" * 40, order_id),
        _like(token, "NaN", order_id),
    ):
        fault = await refused(page(world, customer, **mine, page_token=garbage))
        assert fault.kind == "INVALID_ARGUMENT", garbage


def every_request(world: Any) -> dict[str, Any]:
    return {
        "CreateOrder": pb.CreateOrderRequest(),
        "QuoteOrder": pb.QuoteOrderRequest(),
        "ConfirmOrder": pb.ConfirmOrderRequest(),
        "RejectOrder": pb.RejectOrderRequest(),
        "CancelOrder": pb.CancelOrderRequest(),
        "AssertCanFulfil": pb.AssertCanFulfilRequest(order_id=str(new_id())),
        "MarkShipped": pb.MarkShippedRequest(),
        "QuoteRefund": pb.QuoteRefundRequest(order_id=str(new_id())),
        "RecordRefund": pb.RecordRefundRequest(),
        "GetOrder": pb.GetOrderRequest(order_id=str(new_id())),
        "ListOrders": pb.ListOrdersRequest(),
        "GetTimeline": pb.GetTimelineRequest(order_id=str(new_id())),
    }


async def test_every_method_serves_whom_the_contract_names_and_nobody_else(world: Any) -> None:
    requests = every_request(world)
    methods = pb.DESCRIPTOR.services_by_name["Orders"].methods_by_name
    # What a stream answers is in test_order_timelines.
    assert {*requests, "WatchOrder"} == set(POLICIES) == set(methods)
    for method, request in requests.items():
        for service in ("orchestrator", "gateway", "payments"):
            for role in (None, "customer", "support", "admin", "nonsense"):
                user = Caller(service, new_id(), role) if role else None
                mutation = method not in {"GetOrder", "ListOrders", "GetTimeline"}
                allowed = service == "orchestrator" and method not in {"ListOrders", "GetTimeline"}
                if service == "gateway" and not mutation:
                    one = method == "GetOrder" or (method == "GetTimeline" and role != "nonsense")
                    allowed = role in {"support", "admin"} or (one and role is not None)
                try:
                    await world.call(service, method, request, user)
                    kind = "OK"
                except Fault as fault:
                    kind = fault.kind
                assert (kind != "PERMISSION_DENIED") == allowed, (method, service, role, kind)
