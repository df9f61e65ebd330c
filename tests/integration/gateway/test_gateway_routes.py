"""The other routes, who may call them, and what surrounds every answer."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi.routing import APIRoute

from chassis.clock import SystemClock
from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from gateway.app import create_app
from gateway.auth import Access
from gateway.routing import access_of, router
from sagacity.inventory.v1 import inventory_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2
from sagacity.users.v1 import users_pb2

ID = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
ADDRESS = {"recipient": "A", "line1": "B 1", "city": "C", "country_code": "DE"}

EXPECTED = {
    ("POST", "/api/v1/users"): "anyone",
    ("GET", "/api/v1/users/me"): "user",
    ("DELETE", "/api/v1/users/me"): "user",
    ("POST", "/api/v1/users/{user_id}/deactivation"): "admin",
    ("GET", "/api/v1/users/me/statistics"): "user",
    ("GET", "/api/v1/users/me/addresses"): "user",
    ("POST", "/api/v1/users/me/addresses"): "user",
    ("GET", "/api/v1/users/me/payment-methods"): "user",
    ("POST", "/api/v1/users/me/payment-methods"): "user",
    ("GET", "/api/v1/users/me/payment-methods/{payment_method_id}"): "user",
    ("DELETE", "/api/v1/users/me/payment-methods/{payment_method_id}"): "user",
    ("POST", "/api/v1/sessions"): "anyone",
    ("POST", "/api/v1/provider-webhooks/{provider}"): "anyone",
    ("GET", "/api/v1/products"): "anyone",
    ("POST", "/api/v1/products"): "admin",
    ("GET", "/api/v1/products/{sku}"): "anyone",
    ("PATCH", "/api/v1/products/{sku}"): "admin",
    ("DELETE", "/api/v1/products/{sku}"): "admin",
    ("GET", "/api/v1/products/{sku}/stock"): "staff",
    ("POST", "/api/v1/products/{sku}/stock-adjustments"): "admin",
    ("GET", "/api/v1/orders"): "user",
    ("POST", "/api/v1/orders"): "user",
    ("GET", "/api/v1/orders/{order_id}/timeline"): "user",
    ("GET", "/api/v1/orders/{order_id}/events"): "user",
    ("GET", "/api/v1/orders/{order_id}"): "user",
    ("POST", "/api/v1/orders/{order_id}/cancellation"): "user",
    ("POST", "/api/v1/orders/{order_id}/refunds"): "staff",
    ("GET", "/api/v1/orders/{order_id}/refunds"): "user",
    ("POST", "/api/v1/orders/{order_id}/shipment"): "staff",
    ("GET", "/api/v1/admin/sagas"): "admin",
    ("GET", "/api/v1/admin/sagas/{saga_id}"): "admin",
    ("GET", "/api/v1/admin/sagas/{saga_id}/timeline"): "admin",
    ("GET", "/api/v1/admin/sagas/{saga_id}/preview"): "admin",
    ("POST", "/api/v1/admin/sagas/{saga_id}/retry"): "admin",
    ("POST", "/api/v1/admin/sagas/{saga_id}/skip"): "admin",
    ("POST", "/api/v1/admin/sagas/{saga_id}/compensate"): "admin",
    ("POST", "/api/v1/admin/sagas/{saga_id}/pause"): "admin",
    ("POST", "/api/v1/admin/sagas/{saga_id}/resume"): "admin",
    ("POST", "/api/v1/admin/sagas/{saga_id}/cancel"): "admin",
    ("GET", "/api/v1/admin/contexts/{context}/lag"): "admin",
    ("GET", "/api/v1/admin/contexts/{context}/dead-letters"): "admin",
    ("GET", "/api/v1/admin/contexts/{context}/dead-letters/detail"): "admin",
    ("POST", "/api/v1/admin/contexts/{context}/dead-letters/replay"): "admin",
    ("POST", "/api/v1/admin/contexts/{context}/dead-letters/discard"): "admin",
    ("POST", "/api/v1/admin/contexts/{context}/consumers/{consumer}/pause"): "admin",
    ("POST", "/api/v1/admin/contexts/{context}/consumers/{consumer}/resume"): "admin",
    ("GET", "/api/v1/admin/contexts/{context}/projections"): "admin",
    ("POST", "/api/v1/admin/contexts/{context}/projections/{projection}/rebuild"): "admin",
    ("GET", "/api/v1/admin/contexts/{context}/audit"): "admin",
    ("GET", "/healthz"): "anyone",
    ("GET", "/readyz"): "anyone",
    ("GET", "/.well-known/jwks.json"): "anyone",
    ("GET", "/openapi.json"): "anyone",
    ("GET", "/docs"): "anyone",
    ("GET", "/docs/start.js"): "anyone",
    ("GET", "/docs/assets/{name}"): "anyone",
}


def routes_of(app: Any) -> dict[tuple[str, str], Access | None]:
    found: dict[tuple[str, str], Access | None] = {}
    for route in app.routes:
        assert isinstance(route, APIRoute), f"not a route of ours: {route}"
        for method in route.methods or ():
            found[method, route.path] = access_of(route.endpoint)
    return found


def app_with(*, docs: bool) -> Any:
    return create_app(None, clock=SystemClock(), new_id=new_id, with_docs=docs)  # type: ignore[arg-type]


def test_every_route_declares_who_may_call_it() -> None:
    assert {route: str(access) for route, access in routes_of(app_with(docs=True)).items()} == EXPECTED


def test_a_route_without_a_declaration_cannot_be_built() -> None:
    async def anything() -> None: ...

    with pytest.raises(TypeError, match="declare"):
        router().get("/anything")(anything)


def test_the_documentation_can_be_switched_off() -> None:
    assert not [path for _, path in routes_of(app_with(docs=False)) if path.startswith(("/docs", "/openapi"))]


@pytest.mark.parametrize(("method", "path"), [pair for pair, who in EXPECTED.items() if who != "anyone"])
async def test_without_a_token_it_is_401_and_without_the_role_403(
    client: httpx2.AsyncClient, backends: Any, method: str, path: str
) -> None:
    address = path.format(
        context="users",
        consumer="c",
        projection="p",
        sku="A-1",
        user_id=ID,
        payment_method_id=ID,
        order_id=ID,
        saga_id=ID,
    )
    for headers in ({}, {"Authorization": "Basic x"}, {"Authorization": "Bearer a.b.c"}):
        response = await client.request(method, address, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert response.headers["content-type"] == "application/problem+json"
    lesser = {"admin": "support", "staff": "customer"}.get(EXPECTED[method, path])
    if lesser:
        response = await client.request(method, address, headers=backends.bearer(lesser))
        assert (response.status_code, response.json()["code"]) == (403, "ROLE_REQUIRED")
    assert all(name == "GetJsonWebKeys" for name, _, _ in backends.calls)


async def test_what_does_not_exist_is_a_problem_too(client: httpx2.AsyncClient) -> None:
    missing = await client.get("/api/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "ROUTE_NOT_FOUND")
    wrong = await client.put("/api/v1/orders")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert "allow" in wrong.headers


async def test_a_sane_request_id_is_kept_and_another_is_replaced(client: httpx2.AsyncClient) -> None:
    kept = await client.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"})
    assert kept.headers["x-request-id"] == "abc-1.2_3"
    for insane in ("", "a b", "x" * 65, "<script>"):
        replaced = await client.get("/healthz", headers={"X-Request-ID": insane})
        assert replaced.headers["x-request-id"] not in {"", insane}


async def test_every_answer_has_the_security_headers(client: httpx2.AsyncClient) -> None:
    for path in ("/healthz", "/api/v1/products", "/api/v1/nothing", "/docs"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


async def test_readiness_names_the_backends(client: httpx2.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["backends"]["orchestrator"] == "ok"


async def test_the_keys_are_published(client: httpx2.AsyncClient, backends: Any) -> None:
    response = await client.get("/.well-known/jwks.json")
    assert response.json()["keys"][0]["kid"] == "u1"
    assert "d" not in response.json()["keys"][0]
    assert "public" in response.headers["cache-control"]


async def test_the_documentation_loads_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    page = await client.get("/docs")
    assert "http" not in page.text
    for asset in ("start.js", "assets/swagger-ui-bundle.js", "assets/swagger-ui.css", "assets/favicon.png"):
        assert (await client.get(f"/docs/{asset}")).status_code == 200
    assert (await client.get("/docs/assets/..%2f..%2fcore.py")).status_code == 404
    assert (await client.get("/docs/assets/redoc.standalone.js")).status_code == 404


async def test_the_openapi_document_tells_security_problems_and_examples(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    place = document["paths"]["/api/v1/orders"]["post"]
    assert place["security"] == [{"accessToken": []}]
    assert document["components"]["securitySchemes"]["accessToken"]["scheme"] == "bearer"
    assert {"201", "202", "400", "401", "402", "403", "409", "422", "503"} <= set(place["responses"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)
    assert "security" not in document["paths"]["/api/v1/products"]["get"]
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    headers = {parameter["name"]: parameter for parameter in place["parameters"]}
    assert headers["Idempotency-Key"]["required"]
    assert "Prefer" in headers


async def test_registration_and_login(client: httpx2.AsyncClient, backends: Any) -> None:
    user = users_pb2.User(
        id=ID,
        email="a@example.com",
        display_name="A",
        role=users_pb2.ROLE_CUSTOMER,
        state=users_pb2.USER_STATE_ACTIVE,
    )
    backends.answers["Register"] = users_pb2.RegisterResponse(user=user)
    backends.answers["Login"] = users_pb2.LoginResponse(access_token="t", user=user)
    body = {"email": "a@example.com", "password": "long enough", "display_name": "A"}
    made = await client.post("/api/v1/users", json=body, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201
    assert (made.json()["role"], made.json()["state"]) == ("customer", "active")
    assert backends.last("Register")[1].user_id is None
    session = await client.post(
        "/api/v1/sessions", json={"email": "a@example.com", "password": "long enough"}
    )
    assert session.status_code == 201
    assert (session.json()["access_token"], session.json()["token_type"]) == ("t", "Bearer")


async def test_a_taken_address_is_409_and_a_wrong_password_401(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    backends.answers["Register"] = Fault(FaultKind.ALREADY_EXISTS, "EMAIL_TAKEN", "m")
    backends.answers["Login"] = Fault(FaultKind.UNAUTHENTICATED, "BAD_CREDENTIALS", "m")
    body = {"email": "a@example.com", "password": "long enough", "display_name": "A"}
    taken = await client.post("/api/v1/users", json=body, headers={"Idempotency-Key": "k"})
    assert (taken.status_code, taken.json()["code"]) == (409, "EMAIL_TAKEN")
    del body["display_name"]
    wrong = await client.post("/api/v1/sessions", json=body)
    assert wrong.status_code == 401
    assert "www-authenticate" in wrong.headers
    assert "long enough" not in wrong.text


@pytest.mark.parametrize(
    ("path", "body", "rpc"),
    [
        ("/users/me/addresses", ADDRESS, "AddAddress"),
        ("/users/me/payment-methods", {"provider_token": "tok_success"}, "AddPaymentMethod"),
        ("/products/A-1/stock-adjustments", {"delta": -5, "reason": "r"}, "AdjustStock"),
    ],
)
async def test_one_idempotency_key_is_one_request_id(
    client: httpx2.AsyncClient, backends: Any, path: str, body: Any, rpc: str
) -> None:
    async def request_id(key: str, user: str = ID) -> str:
        from uuid import UUID

        headers = {**backends.bearer("admin", UUID(user)), "Idempotency-Key": key}
        response = await client.post("/api/v1" + path, json=body, headers=headers)
        assert response.status_code == 201
        return str(backends.last(rpc)[0].request_id)

    first = await request_id("a")
    assert await request_id("a") == first
    assert await request_id("b") != first
    assert await request_id("a", ID.replace("1", "2")) != first
    bare = await client.post("/api/v1" + path, json=body, headers=backends.bearer("admin"))
    assert bare.status_code == 400
    assert bare.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_the_address_book_and_the_payment_methods(client: httpx2.AsyncClient, backends: Any) -> None:
    method = payments_pb2.PaymentMethod(id=ID, provider="simulated", brand="visa", last4="4242")
    backends.answers["ListPaymentMethods"] = payments_pb2.ListPaymentMethodsResponse(payment_methods=[method])
    headers = backends.bearer()
    listed = await client.get("/api/v1/users/me/payment-methods", headers=headers)
    assert [entry["last4"] for entry in listed.json()["items"]] == ["4242"]
    one = await client.get(f"/api/v1/users/me/payment-methods/{ID}", headers=headers)
    assert one.json()["id"] == ID
    other = await client.get(f"/api/v1/users/me/payment-methods/{ID[:-1]}2", headers=headers)
    assert (other.status_code, other.json()["code"]) == (404, "PAYMENT_METHOD_NOT_FOUND")
    gone = await client.delete(f"/api/v1/users/me/payment-methods/{ID}", headers=headers)
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await client.get("/api/v1/users/me/addresses", headers=headers)).json()["items"] == []


async def test_a_product_is_changed_only_where_it_is_what_was_read(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    product = inventory_pb2.Product(sku="A-1", etag="e1", name="A")
    backends.answers["GetProduct"] = inventory_pb2.GetProductResponse(product=product)
    backends.answers["UpdateProduct"] = Fault(FaultKind.ABORTED, "ETAG_MISMATCH", "m")
    read = await client.get("/api/v1/products/A-1")
    assert read.headers["etag"] == '"e1"'
    headers = {**backends.bearer("admin"), "If-Match": read.headers["etag"]}
    body = {"active": False, "unit_price": {"currency": "EUR", "amount_minor": 5}}
    changed = await client.patch("/api/v1/products/A-1", json=body, headers=headers)
    assert (changed.status_code, changed.json()["code"]) == (412, "ETAG_MISMATCH")
    request = backends.last("UpdateProduct")[0]
    assert request.product.etag == "e1"
    assert list(request.update_mask.paths) == ["active", "unit_price"]
    empty = await client.patch("/api/v1/products/A-1", json={}, headers=headers)
    assert empty.status_code == 400
    weak = await client.patch("/api/v1/products/A-1", json=body, headers={**headers, "If-Match": "e1"})
    assert weak.json()["errors"][0]["field"] == "If-Match"


async def test_an_admin_looks_into_a_saga(client: httpx2.AsyncClient, backends: Any) -> None:
    saga = sagas_pb2.Saga(id=ID, kind="place_order", version=1, state=sagas_pb2.SAGA_STATE_COMPENSATED)
    saga.refusal.reason = "CARD_DECLINED"
    backends.answers["GetSaga"] = sagas_pb2.GetSagaResponse(saga=saga)
    backends.answers["GetTimeline"] = sagas_pb2.GetTimelineResponse(
        entries=[sagas_pb2.TimelineEntry(sequence=1, step="order", operation="do", outcome="intended")]
    )
    headers = backends.bearer("admin")
    shown = await client.get(f"/api/v1/admin/sagas/{ID}", headers=headers)
    assert (shown.json()["state"], shown.json()["refusal"]["reason"]) == ("compensated", "CARD_DECLINED")
    timeline = await client.get(f"/api/v1/admin/sagas/{ID}/timeline", headers=headers)
    assert timeline.json()["items"][0]["outcome"] == "intended"
    query = {"state": "parked", "kind": "place_order", "order_id": ID}
    await client.get("/api/v1/admin/sagas", params=query, headers=headers)
    request = backends.last("ListSagas")[0]
    assert (request.state, request.kind, request.order_id) == (sagas_pb2.SAGA_STATE_PARKED, "place_order", ID)


async def raw(url: str, request: bytes) -> bytes:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.readuntil(b"}")
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x00\x01\x02\x03\r\n\r\n", b"400"),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 150 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 300_000, b"431"),
    ],
)
async def test_what_is_hardly_http_is_answered_with_a_problem(
    client: httpx2.AsyncClient, gateway_url: str, request_bytes: bytes, status: bytes
) -> None:
    answer = await raw(gateway_url, request_bytes)
    assert answer.split(b" ", 2)[1] == status
    assert b"application/problem+json" in answer.lower()
