"""A reader of server-sent events, as a client has one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True)
class Told:
    """An event, or a comment: then `data` is None."""

    id: str | None
    event: str | None
    data: Any


class EventStream:
    """What comes on one connection, piece by piece."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Told | None:
        """Return what comes next; None: the stream has ended in an orderly way."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line:
                name, _, value = line.partition(":")
                fields[name or "comment"] = value.strip()
            elif fields:
                data = json.loads(fields["data"]) if "data" in fields else None
                return Told(fields.get("id"), fields.get("event"), data)
        return None

    async def next_fact(self) -> Told | None:
        """Return the next event, whatever comments come before."""
        while (told := await self.next()) is not None:
            if told.data is not None:
                return told
        return None

    async def facts(self, count: int) -> list[tuple[str | None, str | None]]:
        """Return the ids and names of the next events."""
        told = [await self.next_fact() for _ in range(count)]
        return [(each.id, each.event) for each in told if each is not None]


@asynccontextmanager
async def opened(
    client: httpx2.AsyncClient, path: str, headers: dict[str, str], *, after: str | None = None
) -> AsyncIterator[EventStream]:
    """Open a stream, after the event of an id where one is given."""
    wanted = {**headers, "Accept": "text/event-stream"}
    if after is not None:
        wanted["Last-Event-ID"] = after
    async with client.stream("GET", path, headers=wanted) as response:
        yield EventStream(response)
