"""HTTP as uvicorn speaks it, for callers that do not mean well.

Uvicorn waits for a request's headers for ever and keeps as many as are sent. Here a request whose
headers are too large, or whose headers or body do not come within their time, is refused and its
connection closed, before any application is asked; and one beyond the limit of connections is told
when to come again. This holds for each of our servers.

A request that comes in one piece, as most do, is never timed; and the head of an answer leaves with
what follows it, so that a small answer costs one write.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES_MAX = 32_768
HEADERS_MAX = 100
HEADERS_WITHIN_S = 10.0
BODY_WITHIN_S = 30.0
"""From the end of the headers; the largest body that anybody takes is eight megabytes."""
RETRY_AFTER_S = 1


class _Corked:
    """A connection's transport, on which the head of an answer waits for the next write.

    It waits no longer than the running turn of the loop: a stream's head does not wait for its
    first chunk.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send what waits and this, unless this is a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what waits, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class GuardedHttp(HttpToolsProtocol):
    """One connection, with a bound on the size and on the time of what it asks."""

    _waiting: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _began_here = False
    _headers_are_complete = False
    _is_complete = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(_Corked(transport, self.loop))  # type: ignore[arg-type]
        self._wait(HEADERS_WITHIN_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to count and to time a request's headers."""
        super().on_message_begin()
        self._stop_waiting()
        self._header_bytes = 0
        self._began_here = True
        self._headers_are_complete = False
        self._is_complete = False

    def data_received(self, data: bytes) -> None:
        """Take what arrived, and refuse headers that do not end."""
        self._began_here = False
        were_complete = self._headers_are_complete
        super().data_received(data)
        if not self._is_complete and (
            self._waiting is None or were_complete != self._headers_are_complete
        ):
            self._wait(BODY_WITHIN_S if self._headers_are_complete else HEADERS_WITHIN_S)
        if self._headers_are_complete:
            return
        # What arrived may begin with the end of an earlier request: that part is not counted.
        self._header_bytes += 0 if self._began_here else len(data)
        if self._header_bytes > HEADER_BYTES_MAX and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large", "headers_too_large")

    def on_headers_complete(self) -> None:
        """Hand the request on unless its headers are too large; then time its body."""
        self._headers_are_complete = True
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEADER_BYTES_MAX or len(self.headers) > HEADERS_MAX:
            self._refuse(b"431 Request Header Fields Too Large", "headers_too_large")
        elif self._is_full():
            self._refuse(b"503 Service Unavailable", "too_many_connections")
        if self.transport.is_closing():
            # A refused request reaches no application; its body falls on this finished answer.
            self.app = _nothing
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop timing: all of the request is here."""
        self._is_complete = True
        self._stop_waiting()
        super().on_message_complete()

    def _is_full(self) -> bool:
        """Whether this process has as many connections or running requests as it may."""
        limit = self.limit_concurrency
        return limit is not None and max(len(self.connections), len(self.tasks)) >= limit

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        """Close a connection that has not sent its request in time."""
        if self.transport.is_closing():
            return
        if self._headers_are_complete:
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout", "request_timeout")

    def _refuse(self, status: bytes, code: str) -> None:
        """Answer with a problem document and close the connection."""
        number, title = status.split(b" ", 1)
        body = (
            b'{"type":"urn:baseload:problem:%b","title":"%b","status":%b,"detail":"%b",'
            b'"code":"%b","errors":[],"request_id":""}'
            % (code.encode(), title, number, title, code.encode())
        )
        later = b"retry-after: %d\r\n" % RETRY_AFTER_S if number == b"503" else b""
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"%bconnection: close\r\n\r\n%b" % (status, len(body), later, body)
        )
        self.transport.close()


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request that was refused already; what is sent goes nowhere."""
    await send({"type": "http.response.start", "status": 400, "headers": []})
    await send({"type": "http.response.body", "body": b""})
