"""Clients that send half a request and hold it: they are cut off, and they keep nobody else out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from gateway import edge, http_protocol, routing
from gateway.auth import Authenticator

BODY = b'{"email":"a@example.com","password":"long enough"}'
# The server's "100 Continue" tells that it awaits the body.
HEADER = (
    b"POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def begin_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEADER)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY[:1])


async def test_half_a_body_is_408_and_the_connection_is_closed(
    gateway_url: str, backends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "BODY_SECONDS", 0.05)
    async with connected(gateway_url) as (reader, writer):
        await begin_body(reader, writer)
        answer = await reader.read()  # to the end: the server closes
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"REQUEST_TIMEOUT"' in answer
    assert b"connection: close" in answer.lower()
    assert b"content-type: application/problem+json" in answer.lower()
    assert backends.calls == []


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_header_that_does_not_end_ends_the_connection(
    gateway_url: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.05)
    async with connected(gateway_url) as (reader, writer):
        writer.write(sent)
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [b"\r\n", b"GET /healthz HT"])
async def test_a_second_header_that_does_not_end_ends_the_connection(
    gateway_url: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    async with connected(gateway_url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
        monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.05)
        writer.write(sent)
        assert await reader.read() == b""


async def test_half_a_header_behind_a_request_does_not_take_its_answer(
    gateway_url: str, backends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = asyncio.Event()
    handle = http_protocol.ProblemProtocol._on_no_header

    def on_no_header(protocol: http_protocol.ProblemProtocol) -> None:
        handle(protocol)
        fired.set()

    async def authenticate(*_: Any) -> None:
        await fired.wait()

    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.05)
    monkeypatch.setattr(http_protocol.ProblemProtocol, "_on_no_header", on_no_header)
    monkeypatch.setattr(Authenticator, "authenticate", authenticate)
    async with connected(gateway_url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HT")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


async def test_healthz_answers_where_the_gateway_is_full(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "MAX_REQUESTS_IN_FLIGHT", 0)
    assert (await client.get("/healthz")).status_code == 200
    full = await client.get("/api/v1/products")
    assert (full.status_code, full.json()["code"]) == (503, "OVERLOADED")
    assert full.headers["retry-after"] == "1"


async def test_half_a_body_keeps_nobody_out(
    client: httpx2.AsyncClient, gateway_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "MAX_REQUESTS_IN_FLIGHT", 1)
    async with connected(gateway_url) as (reader, writer):
        await begin_body(reader, writer)
        assert (await client.get("/api/v1/products")).status_code == 200


async def test_a_body_that_ends_where_the_gateway_is_full_is_refused(
    gateway_url: str, backends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(gateway_url) as (reader, writer):
        await begin_body(reader, writer)
        monkeypatch.setattr(edge, "MAX_REQUESTS_IN_FLIGHT", 0)
        writer.write(BODY[1:])
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 503 ")
    assert backends.calls == []
