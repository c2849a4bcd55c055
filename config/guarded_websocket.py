"""uvicorn's WebSocket, for readers that do not read.

What a connection may have waiting is bounded by whoever serves it; what the server itself and the
system hold for it is bounded here. A connection that is closed while its reader is behind gets its
close frame all the same, behind what is under way already. A reader that has not taken that after
`LINGER_S` loses the rest: otherwise one byte a second would keep the connection for days.
"""

import socket
from asyncio import BaseTransport
from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

LINGER_S = 10.0
SEND_BUFFER_BYTES = 131_072
"""What the system holds for a connection that does not read; it doubles the number."""


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that ends when it is ended."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Bound what the system holds."""
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    async def send(self, message: "ASGISendEvent") -> None:
        """Send when there is room, but a close at once."""
        if message["type"] == "websocket.close":
            self.writable.set()
        await super().send(message)

    async def run_asgi(self) -> None:
        """Serve the connection, and see to it that it ends."""
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(LINGER_S, self.transport.abort)
