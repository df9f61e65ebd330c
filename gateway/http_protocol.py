"""The HTTP/1.1 parser's protocol.

What is not HTTP at all is answered as every other error, and its header is bounded in size and time.
"""

import asyncio
from http import HTTPStatus
from typing import Final

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chassis.clock import SystemClock
from chassis.ids import new_id
from gateway.problems import MEDIA_TYPE, Problem, render_body

MAX_HEADER_BYTES: Final = 64 * 1024
HEADER_SECONDS: Final = 10  # from the connection, or the first byte after an answer, to the header's end


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's protocol with our errors.

    It is made by uvicorn, so the clock and the ids cannot be passed in.
    """

    _in_header = False
    _header_bytes = 0
    _header_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._await_header()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._cancel_header_timer()
        super().connection_lost(exc)

    @override
    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        # For who writes to somebody that does not read: closing would wait until all is read.
        self.scope["state"]["abort"] = self.transport.abort
        self._in_header = True
        self._await_header()
        self._header_bytes = 0

    @override
    def on_headers_complete(self) -> None:
        """Its header is there."""
        self._in_header = False
        self._cancel_header_timer()
        super().on_headers_complete()

    @override
    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which would keep a header of any length."""
        if self.timeout_keep_alive_task is not None:
            self._await_header()  # which takes over: uvicorn ends its own timer at the first byte of anything
        super().data_received(data)
        if self._in_header and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                detail = f"The header is larger than {MAX_HEADER_BYTES} bytes."
                self._refuse(Problem(431, "HEADER_TOO_LARGE", detail))

    @override
    def send_400_response(self, msg: str) -> None:
        """Answers what the parser could not read."""
        self._refuse(Problem(400, "INVALID_HTTP", "This is not a valid HTTP/1.1 request."))

    def _await_header(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._on_no_header)

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_no_header(self) -> None:
        self._header_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_header()  # a pipelined header: the answer to the request before it goes first
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        request_id = str(new_id())
        body = render_body(problem, request_id=request_id, now=SystemClock().now())
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
            "x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
