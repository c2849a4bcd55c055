"""The WebSocket in a box for tests: the server's side in a loop of its own, and callers of it."""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from marketplace import stream

PATIENCE_S = 10


class Loop:
    """An event loop in a thread: the server's side of every connection."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(PATIENCE_S)

    def close(self) -> None:
        self.call(stream._desk.stop())
        self.call(stream._hub.stop())
        self.call(self.loop.shutdown_default_executor())  # a read that goes on would hold a lock
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE_S)
        self.loop.close()


class Caller:
    """The caller's side of one connection; it hears everything until it is paused."""

    def __init__(self, loop: Loop, headers: list[tuple[bytes, bytes]]) -> None:
        self.loop = loop
        self.got: list[dict[str, Any]] = []
        self.closed_with: int | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self.news = threading.Condition()
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": "/ws/v1",
            "raw_path": b"/ws/v1",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 50_000),
        }

        async def serve() -> None:
            await stream.application(scope, self.inbox.get, self._take)
            with self.news:
                self.closed_with = self.closed_with or 0
                self.news.notify_all()

        asyncio.run_coroutine_threadsafe(serve(), loop.loop)

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await self.reads.wait()
        with self.news:
            if message["type"] == "websocket.send":
                self.got.append(json.loads(message["text"]))
            elif message["type"] == "websocket.close":
                self.closed_with = message["code"]
            self.news.notify_all()

    def send(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        event = {"type": "websocket.receive", "text": text}
        self.loop.loop.call_soon_threadsafe(self.inbox.put_nowait, event)

    def leave(self) -> None:
        """Hang up."""
        event = {"type": "websocket.disconnect", "code": 1001}
        self.loop.loop.call_soon_threadsafe(self.inbox.put_nowait, event)

    def auth(self, key: str) -> None:
        self.send({"op": "auth", "key": key})
        self.await_message(lambda one: one.get("type") == "authenticated")

    def subscribe(self, channel: str, instrument: str | None = None, **more: Any) -> None:
        self.send({"op": "subscribe", "channel": channel, "instrument": instrument, **more})

    def pause(self) -> None:
        self.loop.loop.call_soon_threadsafe(self.reads.clear)

    def await_message(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message that is wanted, and forget those before it."""
        with self.news:
            found = self.news.wait_for(
                lambda: next((one for one in self.got if wanted(one)), None), PATIENCE_S
            )
            assert found is not None, self.got
            del self.got[: self.got.index(found) + 1]
            return found

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer or its problem, whatever came before it."""
        number = message.setdefault("id", id(message))
        self.send(message)
        with self.news:
            found = self.news.wait_for(
                lambda: next((one for one in self.got if one.get("id") == number), None),
                PATIENCE_S,
            )
            assert found is not None, self.got
            self.got.remove(found)
            return found

    def first(self, channel: str) -> dict[str, Any]:
        return self.await_message(lambda one: one.get("channel") == channel)

    def problem(self) -> dict[str, Any]:
        return self.await_message(lambda one: "status" in one)

    def await_close(self) -> int:
        with self.news:
            assert self.news.wait_for(lambda: self.closed_with is not None, PATIENCE_S)
            assert self.closed_with is not None
            return self.closed_with
