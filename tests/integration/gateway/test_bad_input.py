"""Bad input on every route: never a 500, always problem+json, and the field is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

UUID = "018f7e9c-5d1a-7c3e-9b1f-000000000001"
MONEY = {"currency": "EUR", "amount_minor": 100}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/users"): {"email": "a@example.com", "password": "long enough", "display_name": "A"},
    ("POST", "/sessions"): {"email": "a@example.com", "password": "long enough"},
    ("POST", "/users/me/addresses"): {
        "recipient": "A",
        "line1": "B 1",
        "line2": "",
        "city": "C",
        "region": "",
        "postal_code": "1",
        "country_code": "DE",
    },
    ("POST", "/users/me/payment-methods"): {"provider_token": "tok_success"},
    ("POST", "/products"): {
        "sku": "A-1",
        "name": "A",
        "description": "",
        "category": "",
        "unit_price": MONEY,
    },
    ("PATCH", "/products/A-1"): {
        "name": "A",
        "description": "",
        "category": "",
        "unit_price": MONEY,
        "active": True,
    },
    ("POST", "/products/A-1/stock-adjustments"): {"delta": 5, "reason": "delivery"},
    ("POST", "/orders"): {
        "items": [{"sku": "A-1", "quantity": 1}],
        "currency": "EUR",
        "address_id": UUID,
        "payment_method_id": UUID,
        "expected_total": MONEY,
    },
    ("POST", f"/orders/{UUID}/cancellation"): {"reason": "ordered twice"},
    ("POST", f"/orders/{UUID}/refunds"): {
        "reason": "broken",
        "lines": [{"sku": "A-1", "quantity": 1}],
        "restock": True,
    },
    ("POST", f"/orders/{UUID}/shipment"): {"carrier": "DHL", "tracking_number": "1"},
    **{
        ("POST", f"/admin/sagas/{UUID}/{verb}"): {"reason": "the provider is back"}
        for verb in ("retry", "compensate", "pause", "resume", "cancel")
    },
    ("POST", f"/admin/sagas/{UUID}/skip"): {
        "reason": "it was done by hand",
        "step": "restock",
        "output_json": "{}",
    },
}
READS = [
    "/users/me",
    "/users/me/statistics",
    "/users/me/addresses",
    "/users/me/payment-methods",
    f"/users/me/payment-methods/{UUID}",
    "/products",
    "/products/A-1",
    "/products/A-1/stock",
    "/orders",
    f"/orders/{UUID}",
    f"/orders/{UUID}/refunds",
    "/admin/sagas",
    f"/admin/sagas/{UUID}",
    f"/admin/sagas/{UUID}/timeline",
    f"/admin/sagas/{UUID}/preview",
]
ROUTES = list(BODIES)
IDS = [f"{method} {path}" for method, path in ROUTES]
WRONG_TYPES: list[Any] = [None, True, 1.0, -(10**18), "", "x" * 10_000, [], [["x"]] * 101, {"a": {"b": [1]}}]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value of a body with its path, containers too."""
    if path:
        yield path, value
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, member in members:
            yield from leaves(member, (*path, name))


def replaced(body: Any, path: tuple[str | int, ...], value: Any) -> Any:
    body = copy.deepcopy(body)
    target = body
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return body


def name_of(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def assert_is_problem(response: httpx2.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem: dict[str, Any] = response.json()
    members = {"type", "title", "status", "detail", "code", "request_id", "timestamp", "errors"}
    assert members <= set(problem)
    assert problem["status"] == response.status_code
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


def assert_no_500(response: httpx2.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert_is_problem(response)


async def send(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str], body: Any, **headers: str
) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.request(
        route[0],
        "/api/v1" + route[1],
        content=content,
        headers={
            **backends.bearer("admin"),
            "Idempotency-Key": "k",
            "Content-Type": "application/json",
            **headers,
        },
    )


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_the_valid_body_passes(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str]
) -> None:
    response = await send(client, backends, route, BODIES[route])
    assert response.status_code in {200, 201, 202}, response.text


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_a_wrong_value_anywhere_is_400_or_422_with_its_field(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str]
) -> None:
    for path, good in leaves(BODIES[route]):
        for wrong in WRONG_TYPES:
            response = await send(client, backends, route, replaced(BODIES[route], path, wrong))
            assert_no_500(response)
            if type(wrong) is not type(good) and not (path == ("expected_total",) and wrong is None):
                assert response.status_code in {400, 422}, (path, wrong, response.text)
                fields = [error["field"] for error in response.json()["errors"]]
                assert any(field.startswith(name_of(path)) for field in fields), (path, wrong, fields)


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_no_integer_is_taken_from_a_float_a_string_or_a_boolean(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str]
) -> None:
    integers = [path for path, good in leaves(BODIES[route]) if type(good) is int]
    for path in integers:
        for wrong in (1.0, "1", True, None):
            response = await send(client, backends, route, replaced(BODIES[route], path, wrong))
            assert response.status_code == 400, (path, wrong)
            assert assert_is_problem(response)["errors"][0]["field"] == name_of(path)


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_an_unknown_field_at_any_depth_is_400_with_its_name(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str]
) -> None:
    objects = [((), BODIES[route]), *leaves(BODIES[route])]
    for path, value in objects:
        if isinstance(value, dict):
            body = replaced(BODIES[route], (*path, "surprise"), 1)
            response = await send(client, backends, route, body)
            assert response.status_code == 400
            assert assert_is_problem(response)["errors"][0]["field"] == name_of((*path, "surprise"))


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_text_that_is_not_strict_json_is_400(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str]
) -> None:
    good = json.dumps(BODIES[route]).encode()
    field = next(iter(BODIES[route]))
    named = [
        b'{"%b":NaN}',
        b'{"%b":-Infinity}',
        b'{"%b":1e999}',
        b'{"%b":' + b"9" * 5000 + b"}",
        b'{"%b":"\\u0000"}',
        b'{"%b":"\\udfff"}',
        b'{"%b":1,"%b":1}',
    ]
    for template in named:
        response = await send(client, backends, route, template.replace(b"%b", field.encode()))
        assert response.status_code == 400
        assert assert_is_problem(response)["errors"][0]["field"] == field
    for body in (
        b"",
        b"[]",
        b"null",
        b'"x"',
        good[:-1],
        good + b"{}",
        b"\xff" + good,
        b"[" * 30_000,
        b"{" * 50,
    ):
        response = await send(client, backends, route, body)
        assert response.status_code == 400, body[:50]
        assert_is_problem(response)


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_a_body_over_64_kib_is_413_and_another_content_type_415(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str]
) -> None:
    async def chunks() -> Any:
        for _ in range(70):
            yield b" " * 1024

    assert assert_is_problem(await send(client, backends, route, b" " * 65_537))["status"] == 413
    headers = {**backends.bearer("admin"), "Content-Type": "application/json"}
    chunked = await client.request(route[0], "/api/v1" + route[1], content=chunks(), headers=headers)
    assert assert_is_problem(chunked)["status"] == 413
    for media_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin-1",
        "*",
    ):
        response = await send(client, backends, route, BODIES[route], **{"Content-Type": media_type})
        assert assert_is_problem(response)["status"] == 415
    zipped = await send(client, backends, route, BODIES[route], **{"Content-Encoding": "gzip"})
    assert assert_is_problem(zipped)["status"] == 415


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
async def test_any_json_in_place_of_any_field_is_no_500(
    client: httpx2.AsyncClient, backends: Any, data: st.DataObject
) -> None:
    route = data.draw(st.sampled_from(ROUTES))
    path = data.draw(st.sampled_from([path for path, _ in leaves(BODIES[route])]))
    assert_no_500(await send(client, backends, route, replaced(BODIES[route], path, data.draw(JSON))))


@FUZZ
@given(route=st.sampled_from(ROUTES), body=st.binary(max_size=200))
async def test_any_bytes_as_a_body_are_no_500(
    client: httpx2.AsyncClient, backends: Any, route: tuple[str, str], body: bytes
) -> None:
    response = await send(client, backends, route, body)
    assert 400 <= response.status_code < 500
    assert_is_problem(response)


@FUZZ
@given(
    path=st.sampled_from(READS),
    name=st.sampled_from(
        ["page_size", "page_token", "state", "kind", "order_id", "category", "step", "verb", "surprise"]
    ),
    value=st.text(max_size=30)
    | st.integers().map(str)
    | st.sampled_from(["1.0", " 1", "1_0", "+1", "\x00", "0"]),
)
async def test_any_query_is_no_500(
    client: httpx2.AsyncClient, backends: Any, path: str, name: str, value: str
) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    response = await client.get("/api/v1" + path, params={name: value}, headers=backends.bearer("admin"))
    assert_no_500(response)


@FUZZ
@given(
    prefix=st.sampled_from(["/products/", "/orders/", "/admin/sagas/", "/users/me/payment-methods/", "/"]),
    raw=st.binary(min_size=1, max_size=20),
)
async def test_any_path_is_no_500(client: httpx2.AsyncClient, backends: Any, prefix: str, raw: bytes) -> None:
    path = "".join(f"%{byte:02x}" for byte in raw)
    assert_no_500(await client.get(f"/api/v1{prefix}{path}", headers=backends.bearer("admin")))


@FUZZ
@given(
    name=st.sampled_from(
        ["Authorization", "Idempotency-Key", "Prefer", "If-Match", "X-Request-ID", "Content-Type", "Accept"]
    ),
    value=st.binary(max_size=60).map(lambda raw: bytes(b for b in raw if b > 32 and b != 127)),
)
async def test_any_header_is_no_500(
    client: httpx2.AsyncClient, backends: Any, name: str, value: bytes
) -> None:
    headers = {**backends.bearer("admin"), "Idempotency-Key": "k", "Content-Type": "application/json"}
    pairs = [(key.encode(), text.encode()) for key, text in headers.items() if key != name]
    for method, path in (("POST", "/orders"), ("PATCH", "/products/A-1")):
        response = await client.request(
            method,
            "/api/v1" + path,
            content=json.dumps(BODIES[(method, path)]).encode(),
            headers=[*pairs, (name.encode(), value)],
        )
        assert_no_500(response)


@pytest.mark.parametrize("path", READS)
async def test_an_unknown_or_malformed_query_is_400(
    client: httpx2.AsyncClient, backends: Any, path: str
) -> None:
    if path in {"/products", "/orders", "/admin/sagas"}:
        for query in (
            "surprise=1",
            "page_size=1.0",
            "page_size=0",
            "page_size=201",
            "page_size=%20",
            "page_token=%00",
        ):
            response = await client.get(f"/api/v1{path}?{query}", headers=backends.bearer("admin"))
            assert response.status_code == 400, query
            assert assert_is_problem(response)["errors"][0]["field"] == query.partition("=")[0]
