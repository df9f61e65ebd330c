"""The stream of one order: what becomes of it, as server-sent events (WHATWG HTML, 9.2).

An event's id is the order's own number of the fact, so that `Last-Event-ID` is where the stream goes on.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from chassis.errors import Fault, FaultKind
from gateway import render
from gateway.live import LiveUpdates, Watcher
from gateway.problems import FieldError, malformed
from gateway.views import OrderEventView
from sagacity.orders.v1.orders_pb2 import GetTimelineResponse

# Proxies cut connections on which nothing comes for a minute, often sooner.
HEARTBEAT_SECONDS: Final = 15.0
# Then the client connects again, with a token that is valid still, and maybe to another process.
MAX_LIFE_SECONDS: Final = 900.0
# Who takes nothing for so long is cut off.
SEND_SECONDS: Final = 20.0
CUT_SECONDS: Final = 1.0
RECONNECT_MS: Final = 2_000
MAX_ID_DIGITS: Final = 18
HEARTBEAT: Final = b": still here\n\n"

# Reads the facts after a sequence.
Read = Callable[[int], Awaitable[GetTimelineResponse]]

_LOG: Final = structlog.get_logger(__name__)


def last_event_id(values: list[str]) -> int:
    """Reads `Last-Event-ID`: the sequence that was seen last; 0 without it.

    Raises:
        ProblemError: 400 where it is none of our ids.
    """
    if not values:
        return 0
    value = values[0]
    if len(values) > 1 or not (value.isascii() and value.isdigit() and len(value) <= MAX_ID_DIGITS):
        problem = FieldError("Last-Event-ID", "must be the id of an event of this stream")
        raise malformed("Malformed: Last-Event-ID.", problem)
    return int(value)


@dataclass(frozen=True, slots=True)
class Stream:
    """What one stream is about, and for how long."""

    live: LiveUpdates
    order_id: str
    after: int
    read: Read
    seconds: float

    async def chunks(self, first: GetTimelineResponse) -> AsyncGenerator[bytes]:
        """Yields what is written, from what was read already on, until the stream's time is over."""
        yield format_sse_event(retry=RECONNECT_MS)
        ends_at = time.monotonic() + self.seconds
        wrote_at = time.monotonic()
        after, told = self.after, first
        with self.live.watch(self.order_id) as watcher:
            # What was told between the first look and now was told to nobody.
            watcher.news.set()
            while True:
                for chunk in _events(told):
                    yield chunk
                    wrote_at = time.monotonic()
                after = max([after, *(entry.sequence for entry in told.entries)])
                if not told.entries or after >= told.order_sequence:
                    await self._until_news(watcher, ends_at)
                if self.live.stopping.is_set() or time.monotonic() >= ends_at:
                    return
                if time.monotonic() - wrote_at >= HEARTBEAT_SECONDS:
                    yield HEARTBEAT
                    wrote_at = time.monotonic()
                # Whatever is told from here on, the look after this one sees it.
                watcher.news.clear()
                try:
                    told = await self.read(after)
                except Fault as fault:
                    if fault.kind in {FaultKind.NOT_FOUND, FaultKind.PERMISSION_DENIED}:
                        return
                    told = GetTimelineResponse()  # the orders service is away: the next look may find it

    async def _until_news(self, watcher: Watcher, ends_at: float) -> None:
        seconds = min(self.live.poll_seconds, HEARTBEAT_SECONDS, max(0.0, ends_at - time.monotonic()))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await watcher.news.wait()


def _events(told: GetTimelineResponse) -> list[bytes]:
    if not told.entries:
        return []
    order = render.order(told.order)
    facts = [render.order_fact(entry) for entry in told.entries]
    return [
        format_sse_event(
            id=str(fact.sequence),
            event=fact.fact,
            data_str=OrderEventView(**fact.model_dump(), order=order).model_dump_json(),
        )
        for fact in facts
    ]


class OrderEvents(EventSourceResponse):
    """A stream that is being read: it holds a place until it ends, and cuts off who does not read."""

    def __init__(self, stream: Stream, first: GetTimelineResponse, user_id: UUID) -> None:
        self._chunks = stream.chunks(first)
        super().__init__(self._chunks, headers={"X-Accel-Buffering": "no"})
        self._live = stream.live
        self._user_id = user_id
        self._abort: Callable[[], None] | None = None

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream.

        Raises:
            ProblemError: There is no place for it; nothing is sent.
        """
        self._abort = scope["state"].get("abort")
        with self._live.place(self._user_id):
            await super().__call__(scope, receive, send)

    @override
    async def stream_response(self, send: Send) -> None:
        """Sends chunk by chunk, each within SEND_SECONDS."""
        try:
            async with aclosing(self._chunks):
                head = {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
                await _within(send, head)
                async for chunk in self._chunks:
                    await _within(send, {"type": "http.response.body", "body": chunk, "more_body": True})
                await _within(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            _LOG.info("a slow reader of updates is cut off")
            if self._abort is not None:
                self._abort()
            # The disconnection ends this task.
            await asyncio.sleep(CUT_SECONDS)


async def _within(send: Send, message: Message) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send(message)
