"""A small HTTP/1.1 client for figures: one connection a client, no work that is not needed to send and to
read."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

READ_SECONDS = 40.0


class LoadClient:
    """One keep-alive connection; calls on it are made one after the other."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()

    async def post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes]:
        """Send JSON; returns the status and the body. OSError or TimeoutError where there is no answer."""
        payload = json.dumps(body).encode()
        more = {"Content-Type": "application/json", "Content-Length": str(len(payload))}
        return await self._exchange("POST", path, {**headers, **more}, payload)

    async def get(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """Read; returns the status and the body. OSError or TimeoutError where there is no answer."""
        return await self._exchange("GET", path, headers, b"")

    async def _exchange(
        self, method: str, path: str, headers: dict[str, str], payload: bytes
    ) -> tuple[int, bytes]:
        assert self._reader is not None
        assert self._writer is not None
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + payload)
        async with asyncio.timeout(READ_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            lower = head.lower()
            start = lower.index(b"content-length:") + len(b"content-length:")
            length = int(lower[start : lower.index(b"\r\n", start)])
            return status, await self._reader.readexactly(length)
