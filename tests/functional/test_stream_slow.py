"""Readers that hardly read, on real sockets: they are let go, and nobody else notices."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
import websockets.sync.client

from config import guarded_websocket
from exchange import envelope
from marketplace import stream
from marketplace.models import Instrument
from settlement import channels
from tests.market import HOUR
from tests.rest import World

SLOW_READERS = 100
MESSAGES = 3_000
PATIENCE_S = 30


class Served:
    """The stream behind a real server, in a thread."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(
            stream.application,
            ws=guarded_websocket.GuardedWebSocket,
            lifespan="on",
            log_config=None,
            loop="uvloop",
            ws_ping_interval=None,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)


@pytest.fixture
def served(world: World) -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def slow_reader(port: int) -> socket.socket:
    """A socket that has subscribed and has room for next to nothing."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    made.connect(("127.0.0.1", port))
    made.sendall(
        b"GET /ws/v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    made.settimeout(PATIENCE_S)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += made.recv(1)
    body = json.dumps({"op": "subscribe", "channel": "ticker", "instrument": HOUR}).encode()
    made.sendall(bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body)
    return made


def publish(world: World, sequence: int) -> None:
    """Release one ticker, as an engine would."""
    message = {
        "type": "update",
        "channel": "ticker",
        "instrument": HOUR,
        "sequence": sequence,
        "previous_sequence": sequence - 1,
        "data": {"filling": "x" * 1_500},
    }
    items = [(f"ticker:{HOUR}", json.dumps(message).encode())]
    release = envelope.encode_release(envelope.Release(sequence, items))
    world.market.client.publish(channels.feed_channel(), release)


def test_a_hundred_readers_of_a_byte_a_second_are_let_go_and_nobody_else_notices(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_websocket, "LINGER_S", 0.5)
    monkeypatch.setattr(stream, "CLOSE_GRACE_S", 0.2)
    first = Instrument.objects.get(symbol=HOUR).ticker_sequence
    others = set(stream._open)
    slow = [slow_reader(served.port) for _ in range(SLOW_READERS)]
    url = f"ws://127.0.0.1:{served.port}/ws/v1"
    with websockets.sync.client.connect(url, max_queue=None) as reader:
        reader.send(json.dumps({"op": "subscribe", "channel": "ticker", "instrument": HOUR}))
        assert json.loads(reader.recv(PATIENCE_S))["type"] == "snapshot"
        deadline = time.monotonic() + PATIENCE_S
        while sum(len(one._subscriptions) for one in stream._open - others) <= SLOW_READERS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        behind = list(stream._open - others)
        waiting_max = 0
        for number in range(1, MESSAGES + 1):
            publish(world, first + number)
            assert json.loads(reader.recv(PATIENCE_S))["sequence"] == first + number
            waiting_max = max(waiting_max, *(one._outbox_bytes for one in behind))
            if number % 500 == 0:
                for one in slow:
                    with contextlib.suppress(OSError):
                        one.recv(1)
        assert waiting_max <= stream.OUTBOX_BYTES_MAX + 1_000
        deadline = time.monotonic() + PATIENCE_S
        while len(stream._open - others) > 1 or len(served.server.server_state.connections) > 1:
            assert time.monotonic() < deadline, len(stream._open - others)
            time.sleep(0.01)
        assert sorted(one._close_code or 0 for one in behind) == [0] + [4008] * SLOW_READERS
        reader.send(json.dumps({"op": "ping", "id": 1}))
        assert json.loads(reader.recv(PATIENCE_S))["type"] == "pong"
    for one in slow:
        one.close()


def test_a_reader_that_fell_behind_and_reads_again_is_told_why_it_ends(
    world: World, served: Served
) -> None:
    first = Instrument.objects.get(symbol=HOUR).ticker_sequence
    others = set(stream._open)

    async def stall() -> tuple[int, str]:
        url = f"ws://127.0.0.1:{served.port}/ws/v1"
        async with websockets.connect(url, max_queue=1) as reader:
            await reader.send(
                json.dumps({"op": "subscribe", "channel": "ticker", "instrument": HOUR})
            )
            await reader.recv()
            (connection,) = stream._open - others
            number = 0
            while connection._close_code is None:
                number += 1
                publish(world, first + number)
                await asyncio.sleep(0)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    await asyncio.wait_for(reader.recv(), PATIENCE_S)
            assert closed.value.rcvd is not None
            return closed.value.rcvd.code, closed.value.rcvd.reason

    assert asyncio.run(stall()) == (4008, stream.REASONS[4008])
