"""Orders through the gateway: what comes back, with which status, and what the orchestrator was asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx2
import pytest

from chassis.errors import Detail, Fault, FaultKind
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2

ORDER = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
BODY = {
    "items": [{"sku": "KEYBOARD-US", "quantity": 2}],
    "currency": "EUR",
    "address_id": "018f7e9c-5d1a-7c3e-9b1f-00000000000a",
    "payment_method_id": "018f7e9c-5d1a-7c3e-9b1f-00000000000b",
}
KEY = {"Idempotency-Key": "key-1"}


def euro(minor: int) -> Money:
    return Money(currency_code="EUR", minor_units=minor)


def confirmed() -> sagas_pb2.PlaceOrderResponse:
    order = orders_pb2.Order(
        id=ORDER,
        order_number="SG-1",
        user_id="018f7e9c-5d1a-7c3e-9b1f-2a6d4c8e0f11",
        state=orders_pb2.ORDER_STATE_CONFIRMED,
        refund_state=orders_pb2.REFUND_STATE_NONE,
        currency_code="EUR",
        items=[orders_pb2.OrderItem(sku="KEYBOARD-US", quantity=2)],
        lines=[
            orders_pb2.OrderLine(
                sku="KEYBOARD-US", name="Keyboard", quantity=2, unit_price=euro(4500), line_total=euro(9000)
            )
        ],
        quote=orders_pb2.Quote(
            subtotal=euro(9000), discount=euro(0), shipping=euro(490), tax=euro(1803), total=euro(11293)
        ),
        payment_id="018f7e9c-5d1a-7c3e-9b1f-000000000002",
    )
    order.create_time.FromJsonString("2026-11-21T02:03:04.567890Z")
    return sagas_pb2.PlaceOrderResponse(
        saga_id=ORDER, order_id=ORDER, progress=sagas_pb2.ORDER_PROGRESS_CONFIRMED, order=order
    )


def rejected(reason: str) -> sagas_pb2.PlaceOrderResponse:
    return sagas_pb2.PlaceOrderResponse(
        order_id=ORDER,
        progress=sagas_pb2.ORDER_PROGRESS_REJECTED,
        order=orders_pb2.Order(id=ORDER, state=orders_pb2.ORDER_STATE_REJECTED),
        refusal=sagas_pb2.Refusal(
            step="reservation",
            reason=reason,
            message="Refused.",
            details=[sagas_pb2.RefusalDetail(subject="KEYBOARD-US", description="requested 2, available 1")],
        ),
    )


async def place(client: httpx2.AsyncClient, backends: Any, **headers: str) -> httpx2.Response:
    return await client.post("/api/v1/orders", json=BODY, headers={**backends.bearer(), **KEY, **headers})


async def test_a_confirmed_order_is_201_with_its_location_and_the_whole_order(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    backends.answers["PlaceOrder"] = confirmed()
    response = await place(client, backends)
    assert response.status_code == 201
    assert response.headers["location"] == f"/api/v1/orders/{ORDER}"
    assert response.headers["cache-control"] == "no-store"
    assert "preference-applied" not in response.headers
    order = response.json()
    assert (order["id"], order["state"], order["refund_state"]) == (ORDER, "confirmed", "none")
    assert order["total"] == {"currency": "EUR", "amount_minor": 11293}
    assert order["lines"][0]["line_total"] == {"currency": "EUR", "amount_minor": 9000}
    assert order["create_time"] == "2026-11-21T02:03:04.567890Z"
    assert order["rejection"] is None


async def test_the_orchestrator_is_asked_for_the_user_with_the_key_and_the_wait(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    backends.answers["PlaceOrder"] = confirmed()
    await place(client, backends)
    request, caller = backends.last("PlaceOrder")
    assert (caller.service, str(caller.user_id), caller.role) == ("gateway", request.user_id, "customer")
    assert request.idempotency_key == "key-1"
    assert request.wait.seconds == 5
    assert not request.HasField("expected_total")


@pytest.mark.parametrize(
    ("prefer", "seconds"), [("wait=0", 0), ("wait=30", 30), ("respond-async", 0), ("foo=1, wait=2", 2)]
)
async def test_the_wait_that_is_preferred_is_passed_on_and_acknowledged(
    client: httpx2.AsyncClient, backends: Any, prefer: str, seconds: int
) -> None:
    backends.answers["PlaceOrder"] = confirmed()
    response = await place(client, backends, Prefer=prefer)
    assert response.headers["preference-applied"] == prefer.rpartition(", ")[2]
    assert backends.last("PlaceOrder")[0].wait.seconds == seconds


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("CARD_DECLINED", 402),
        ("INSUFFICIENT_FUNDS", 402),
        ("INSUFFICIENT_STOCK", 409),
        ("PRICE_CHANGED", 409),
        ("ADDRESS_NOT_FOUND", 409),
    ],
)
async def test_a_refused_order_is_a_problem_with_the_reason_the_order_and_the_details(
    client: httpx2.AsyncClient, backends: Any, reason: str, status: int
) -> None:
    backends.answers["PlaceOrder"] = rejected(reason)
    response = await place(client, backends)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["status"], problem["order_id"]) == (reason, status, ORDER)
    assert problem["details"] == [{"subject": "KEYBOARD-US", "description": "requested 2, available 1"}]


@pytest.mark.parametrize(
    ("progress", "state"),
    [(sagas_pb2.ORDER_PROGRESS_PENDING, "pending"), (sagas_pb2.ORDER_PROGRESS_UNDOING, "undoing")],
)
async def test_an_order_on_its_way_is_202_with_a_location(
    client: httpx2.AsyncClient, backends: Any, progress: Any, state: str
) -> None:
    backends.answers["PlaceOrder"] = sagas_pb2.PlaceOrderResponse(order_id=ORDER, progress=progress)
    response = await place(client, backends, Prefer="respond-async")
    assert response.status_code == 202
    assert response.json() == {"order_id": ORDER, "state": state}
    assert response.headers["location"] == f"/api/v1/orders/{ORDER}"


async def test_an_order_without_an_idempotency_key_is_400_naming_it(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    response = await client.post("/api/v1/orders", json=BODY, headers=backends.bearer())
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"
    assert all(name != "PlaceOrder" for name, _, _ in backends.calls)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(FaultKind.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", "m"), 422),
        (Fault(FaultKind.RESOURCE_EXHAUSTED, "OVERLOADED", "m", retry_after=timedelta(seconds=3)), 503),
        (Fault(FaultKind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "m"), 503),
        (Fault(FaultKind.DEADLINE_EXCEEDED, "TOO_SLOW", "m"), 504),
        (ValueError("SELECT secret"), 500),
    ],
)
async def test_a_backends_fault_is_a_problem(
    client: httpx2.AsyncClient, backends: Any, fault: Exception, status: int
) -> None:
    backends.answers["PlaceOrder"] = fault
    response = await place(client, backends)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status in {503, 504})


async def test_a_value_that_only_the_backend_refuses_is_422_with_its_field(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    fields = (Detail("expected_total.minor_units", "too much"),)
    backends.answers["PlaceOrder"] = Fault(FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", "m", fields=fields)
    response = await place(client, backends)
    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": "expected_total.amount_minor", "message": "too much"}]


async def test_an_order_that_does_not_exist_yet_is_404(client: httpx2.AsyncClient, backends: Any) -> None:
    backends.answers["GetOrder"] = Fault(FaultKind.NOT_FOUND, "ORDER_NOT_FOUND", "There is no such order.")
    response = await client.get(f"/api/v1/orders/{ORDER}", headers=backends.bearer())
    assert (response.status_code, response.json()["code"]) == (404, "ORDER_NOT_FOUND")


async def test_an_order_id_is_found_whatever_its_case(client: httpx2.AsyncClient, backends: Any) -> None:
    response = await client.get(f"/api/v1/orders/{ORDER.upper()}", headers=backends.bearer())
    assert response.status_code == 200
    assert backends.last("GetOrder")[0].order_id == ORDER


async def test_a_user_lists_their_own_orders_page_by_page(client: httpx2.AsyncClient, backends: Any) -> None:
    backends.answers["ListOrders"] = orders_pb2.ListOrdersResponse(
        orders=[confirmed().order], next_page_token="next"
    )
    response = await client.get(
        "/api/v1/orders",
        params={"page_size": "7", "page_token": "abc", "state": "confirmed"},
        headers=backends.bearer("support"),
    )
    assert response.status_code == 200
    assert response.json()["next_page_token"] == "next"
    assert [order["id"] for order in response.json()["items"]] == [ORDER]
    request, caller = backends.last("ListOrders")
    assert request.user_id == str(caller.user_id)
    assert (request.page_size, request.page_token, request.state) == (
        7,
        "abc",
        orders_pb2.ORDER_STATE_CONFIRMED,
    )


async def test_the_last_page_has_a_null_token(client: httpx2.AsyncClient, backends: Any) -> None:
    response = await client.get("/api/v1/orders", headers=backends.bearer())
    assert response.json() == {"items": [], "next_page_token": None}
    assert backends.last("ListOrders")[0].page_size == 50
