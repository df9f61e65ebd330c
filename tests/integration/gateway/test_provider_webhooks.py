"""The route for webhooks: raw bytes through, no token, 204 only where payments said that it is recorded."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from chassis.errors import Fault, FaultKind
from gateway.routes.provider_webhooks import MAX_SIGNATURE_CHARACTERS
from gateway.routing import MAX_BODY_BYTES

URL = "/api/v1/provider-webhooks/simulated"
SIGNED = {"Webhook-Signature": "t=1,v1=00"}


async def test_a_webhook_is_handed_on_byte_by_byte_for_nobody(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    for body in (b'{"id":  "evt_1"}\n', b"\x00\xff not even text", b"", b"x" * MAX_BODY_BYTES):
        # A token would change nothing: whoever sends it is nobody here.
        response = await client.post(URL, content=body, headers=SIGNED | backends.bearer("admin"))
        assert (response.status_code, response.content) == (204, b"")
        request, caller = backends.last("HandleProviderWebhook")
        assert (request.provider, request.body, request.signature) == ("simulated", body, "t=1,v1=00")
        assert (caller.service, caller.user_id) == ("gateway", None)
    assert {name for name, _, _ in backends.calls} == {"HandleProviderWebhook"}


async def test_a_body_above_the_bound_is_413_whether_its_length_is_told_or_not(
    client: httpx2.AsyncClient, backends: Any
) -> None:
    async def chunks() -> Any:
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b"x" * 1024

    for content in (b"x" * (MAX_BODY_BYTES + 1), chunks()):
        response = await client.post(URL, content=content, headers=SIGNED)
        assert (response.status_code, response.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert backends.calls == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Webhook-Signature", "a"), ("Webhook-Signature", "b")],
        [("Webhook-Signature", "x" * (MAX_SIGNATURE_CHARACTERS + 1))],
    ],
)
async def test_without_one_signature_it_is_400(
    client: httpx2.AsyncClient, backends: Any, headers: list[tuple[str, str]]
) -> None:
    response = await client.post(URL, content=b"{}", headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_ARGUMENT")
    assert response.json()["errors"][0]["field"] == "Webhook-Signature"
    assert response.headers["content-type"] == "application/problem+json"
    assert backends.calls == []


@pytest.mark.parametrize("provider", ["Simulated", "a%20b", "x" * 33, "1", "%00"])
async def test_a_name_that_no_provider_has_is_400(
    client: httpx2.AsyncClient, backends: Any, provider: str
) -> None:
    response = await client.post(f"/api/v1/provider-webhooks/{provider}", content=b"{}", headers=SIGNED)
    assert response.status_code == 400
    assert backends.calls == []


@pytest.mark.parametrize(
    ("kind", "reason", "status"),
    [
        (FaultKind.INVALID_ARGUMENT, "BAD_SIGNATURE", 400),
        (FaultKind.INVALID_ARGUMENT, "BAD_WEBHOOK", 400),
        (FaultKind.NOT_FOUND, "PROVIDER_UNKNOWN", 404),
        (FaultKind.FAILED_PRECONDITION, "PROVIDER_CONTRADICTION", 409),
        (FaultKind.UNAVAILABLE, "WEBHOOK_TOO_EARLY", 503),
        (FaultKind.UNAVAILABLE, "PROVIDER_OUTCOME_UNKNOWN", 503),
        (FaultKind.RESOURCE_EXHAUSTED, "TOO_MUCH", 503),
        (FaultKind.DEADLINE_EXCEEDED, "TOO_SLOW", 504),
    ],
)
async def test_whatever_is_not_recorded_is_a_problem_that_the_provider_sends_again(
    client: httpx2.AsyncClient, backends: Any, kind: FaultKind, reason: str, status: int
) -> None:
    backends.answers["HandleProviderWebhook"] = Fault(kind, reason, "said payments")
    response = await client.post(URL, content=b"{}", headers=SIGNED)
    assert (response.status_code, response.json()["code"]) == (status, reason)
    assert response.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in response.headers) == (status in {503, 504})
