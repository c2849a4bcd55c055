"""The WebSocket: `Stream` for programs on an event loop, `watch` for scripts that just iterate.

A `Stream` says again on every new connection what it was told: the key, the subscriptions, and
whether orders leave with the connection. Messages come out of `async for`; a message of the channel
`book` has been applied to `stream.books[symbol]` by then, and gaps have been filled by `range` or a
new snapshot. A reader that is slow is not dropped by this side: the exchange closes it with 4008,
and the stream connects again and begins with snapshots.

Orders may be placed, amended and canceled over the stream. An answer that is lost with its
connection is asked for again on the next one: orders carry their `client_order_id`, and amendments
and cancels say the same however often they are said.
"""

import asyncio
import contextlib
import itertools
import queue
import random
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from baseload import errors, models, terms
from baseload.book import Book, Need
from baseload.signing import Signer

STREAM_PATH: Final = "/ws/v1"
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
CONNECT_TIMEOUT_S: Final = 10.0
OPERATION_TIMEOUT_S: Final = 30.0
RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 10.0
OPEN_ATTEMPTS_MAX: Final = 5
"""How often the first connection is tried; later ones for as long as it takes."""
RANGE_SEQUENCES_MAX: Final = 500
"""Over more than this a snapshot is cheaper than a range."""
FATAL_CODES: Final = frozenset({1008, 4001, 4404})
"""Closed on purpose: a revoked key, a wrong path. To connect again would end the same way."""
FATAL_STATUSES: Final = frozenset({401, 403, 404})
BUSY_STATUSES: Final = frozenset({429, 503})
MESSAGES_MAX: Final = 10_000
WATCH_POLL_S: Final = 0.05

MODELS: Final[dict[str, Any]] = {
    "trades": models.Trade,
    "ticker": models.Ticker,
    "candles": models.Candle,
    "auction": models.Auction,
    "orders": models.Order,
    "fills": models.OwnFill,
    "account": models.Account,
    "entitlements": models.Entitlement,
}


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a channel. `data` is as it was sent; `value()` is it as models."""

    type: str = ""
    channel: str | None = None
    instrument: str | None = None
    sequence: int | None = None
    previous_sequence: int | None = None
    data: Any = None
    id: str | int | None = None
    status: int | None = None
    """Of a problem that no operation waits for: a subscription was refused."""
    code: str | None = None
    detail: str = ""

    def value(self) -> Any:
        """Return `data` as models: a tuple of trades, orders or fills, a ticker, an account.

        What has no model stays as it was sent.
        """
        model = MODELS.get(self.channel or "")
        if model is None:
            return self.data
        if isinstance(self.data, list):
            return tuple(msgspec.convert(one, model) for one in self.data)
        return msgspec.convert(self.data, model)


_decoder = msgspec.json.Decoder(Message)
_problem = msgspec.json.Decoder(errors.Problem)
Subscription = tuple[str, str | None]
"""A channel, and the instrument, grade or pool in it."""


class Stream:
    """A connection that stands: used in an `async with`, iterated over with `async for`."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        signer: Signer | None = None,
        cancel_on_disconnect: bool = False,
    ) -> None:
        self.url = stream_url(url)
        self.books: dict[str, Book] = {}
        self.connections = 0
        """How often a connection was opened."""
        self._key = key
        self._signer = signer
        self._cancels_on_disconnect = cancel_on_disconnect
        self._topics: list[dict[str, str]] = []
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(MESSAGES_MAX)
        self._ranges: dict[int, str] = {}
        """Ranges that were asked for, and of which book."""
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._end: errors.BaseloadError | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and stay connected.

        :raises StreamClosed: when the exchange cannot be reached, or refuses the connection.
        :raises ApiError: when it refuses the key.
        """
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(self._ended)
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        """Disconnect for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._finish(errors.StreamClosed("the stream was closed by its owner"))

    # Subscriptions

    async def subscribe(
        self,
        channel: str,
        instrument: str | None = None,
        *,
        interval: terms.Interval | None = None,
    ) -> None:
        """Subscribe now and after every reconnect; `interval` is for candles."""
        if channel == "book" and instrument is not None:
            self.books[instrument] = Book(instrument)
        topic = _topic(channel, instrument, interval)
        if topic not in self._topics:
            self._topics.append(topic)
        await self._tell({"op": "subscribe"} | topic)

    async def unsubscribe(
        self,
        channel: str,
        instrument: str | None = None,
        *,
        interval: terms.Interval | None = None,
    ) -> None:
        """End a subscription."""
        topic = _topic(channel, instrument, interval)
        if topic in self._topics:
            self._topics.remove(topic)
        if channel == "book" and instrument is not None:
            self.books.pop(instrument, None)
        await self._tell({"op": "unsubscribe"} | topic)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Message]:
        while True:
            message = await self._messages.get()
            if message is None:
                assert self._end is not None, "the end has a reason"
                raise self._end
            yield message

    # Orders

    async def place_order(self, order: terms.NewOrder) -> models.Order:
        """Place an order over the stream.

        :raises ApiError: when a rule refuses it.
        :raises OutcomeUnknown: when no answer came; place the same object again.
        """
        answer = await self._ask({"op": "place"} | order.body(), key=order.client_order_id)
        return msgspec.convert(answer, models.Order)

    async def amend_order(
        self,
        order_id: str,
        *,
        price: terms.Number | None = None,
        quantity: int | None = None,
        stop_price: terms.Number | None = None,
    ) -> models.Order:
        """Amend an order over the stream."""
        amend = terms.Amend(id=order_id, price=price, quantity=quantity, stop_price=stop_price)
        answer = await self._ask({"op": "amend", "order": order_id} | amend.body())
        return msgspec.convert(answer, models.Order)

    async def cancel_order(self, order_id: str) -> models.Order:
        """Cancel an order over the stream."""
        answer = await self._ask({"op": "cancel", "order": order_id})
        return msgspec.convert(answer, models.Order)

    async def cancel_on_disconnect(self, *, enabled: bool = True) -> None:
        """Have all the organization's orders canceled when the connection ends."""
        self._cancels_on_disconnect = enabled
        await self._ask({"op": "cancel_on_disconnect", "enabled": enabled})

    async def ping(self) -> None:
        """Ask for an answer, and wait for it."""
        await self._ask({"op": "ping"})

    async def _ask(self, message: dict[str, Any], *, key: str = "") -> dict[str, Any]:
        """Send an operation and return the data of its answer."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        request = message | {"id": number}
        self._pending[number] = request, future
        try:
            await self._tell(request)
            async with asyncio.timeout(OPERATION_TIMEOUT_S):
                return await future
        except (TimeoutError, errors.StreamClosed) as error:
            raise errors.OutcomeUnknown(f"{message['op']}: {error or 'timeout'}", id=key) from error
        finally:
            self._pending.pop(number, None)

    # The connection

    async def _tell(self, message: dict[str, Any]) -> None:
        """Send a message now; without a connection, the next one begins with it."""
        if self._end is not None:
            raise self._end
        if self._socket is not None and self._ready.is_set():
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(msgspec.json.encode(message).decode(), text=True)

    async def _live(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        wait_s = RECONNECT_S_MIN
        for attempt in itertools.count(1):
            try:
                async with connect(
                    self.url,
                    max_size=MESSAGE_BYTES_MAX,
                    open_timeout=CONNECT_TIMEOUT_S,
                    additional_headers=self._handshake_headers(),
                ) as socket:
                    await self._begin(socket)
                    wait_s = RECONNECT_S_MIN
                    await self._read(socket)
            except InvalidStatus as error:
                if error.response.status_code in FATAL_STATUSES:
                    self._finish(errors.StreamClosed(f"{self.url}: {error}"))
                    return
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else None
                if code in FATAL_CODES:
                    self._finish(errors.StreamClosed(f"closed with {code}", code=code))
                    return
            except errors.ApiError as error:
                if error.status not in BUSY_STATUSES:
                    self._finish(error)
                    return
            except (OSError, TimeoutError, InvalidHandshake):
                pass
            finally:
                self._ready.clear()
                self._socket = None
            if self.connections == 0 and attempt >= OPEN_ATTEMPTS_MAX:
                self._finish(errors.StreamClosed(f"{self.url} cannot be reached"))
                return
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, RECONNECT_S_MAX)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Tell whoever waits that a defect of this side, or of what came, has ended the stream."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._finish(errors.StreamClosed(f"the stream broke: {error!r}"))

    def _handshake_headers(self) -> dict[str, str]:
        if self._signer is None:
            return {}
        return self._signer.headers("GET", urlsplit(self.url).path, b"")

    async def _begin(self, socket: ClientConnection) -> None:
        """Say again who this is and what was asked for.

        :raises ApiError: when the key is refused.
        """
        self.connections += 1
        self._socket = socket
        self._ranges.clear()
        if self._key:
            await _send(socket, {"op": "auth", "key": self._key, "id": 0})
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                while (answer := msgspec.json.decode(await socket.recv())).get("id") != 0:
                    pass
            if answer.get("type") != "authenticated":
                raise errors.api_error(msgspec.convert(answer, errors.Problem))
        if self._cancels_on_disconnect:
            await _send(socket, {"op": "cancel_on_disconnect", "enabled": True})
        for book in self.books.values():
            book.give_up("connected again")
        for topic in self._topics:
            await _send(socket, {"op": "subscribe"} | topic)
        for request, _ in list(self._pending.values()):
            await _send(socket, request)
        self._ready.set()

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            body = await socket.recv()
            message = _decoder.decode(body)
            if message.status is not None:
                await self._refuse(message, errors.api_error(_problem.decode(body)))
            elif isinstance(message.id, int) and message.id in self._pending:
                _, future = self._pending[message.id]
                if not future.done():
                    future.set_result(message.data)
            elif message.channel is not None:
                await self._pass_on(message)

    async def _refuse(self, message: Message, error: errors.ApiError) -> None:
        """Tell whoever asked for it of a problem; what nobody waits for is a message."""
        number = message.id if isinstance(message.id, int) else -1
        symbol = self._ranges.pop(number, None)
        found = self._pending.get(number)
        if symbol in self.books:
            book = self.books[symbol]
            await self._fill(book, book.give_up(str(error)))
        elif found is not None:
            if not found[1].done():
                found[1].set_exception(error)
        else:
            await self._messages.put(message)

    async def _pass_on(self, message: Message) -> None:
        """Bring the book up to date, then hand the message to whoever iterates."""
        if message.channel == "book" and message.instrument in self.books:
            book = self.books[message.instrument]
            need = book.take(msgspec.structs.asdict(message))
            if need is not None:
                await self._fill(book, need)
        await self._messages.put(message)

    async def _fill(self, book: Book, need: Need) -> None:
        """Ask for what a book needs."""
        topic = _topic("book", book.instrument)
        first, last = need.first, need.last
        if first is not None and last is not None and last - first < RANGE_SEQUENCES_MAX:
            number = next(self._numbers)
            self._ranges = {
                one: symbol for one, symbol in self._ranges.items() if symbol != book.instrument
            } | {number: book.instrument}
            wanted = {"op": "range", "instrument": book.instrument, "from": first, "to": last}
            await self._tell(wanted | {"id": number})
            return
        book.give_up(need.reason)
        await self._tell({"op": "unsubscribe"} | topic)
        await self._tell({"op": "subscribe"} | topic)

    def _finish(self, end: errors.BaseloadError) -> None:
        """End for good: whoever iterates or waits for an answer learns why."""
        if self._end is not None:
            return
        self._end = end
        for _, future in self._pending.values():
            if not future.done():
                future.set_exception(end)
        if self._messages.full():
            self._messages.get_nowait()
        self._messages.put_nowait(None)


async def _send(socket: ClientConnection, message: dict[str, Any]) -> None:
    await socket.send(msgspec.json.encode(message).decode(), text=True)


def _topic(channel: str, instrument: str | None, interval: str | None = None) -> dict[str, str]:
    named = {"channel": channel, "instrument": instrument, "interval": interval}
    return {name: value for name, value in named.items() if value is not None}


def stream_url(url: str) -> str:
    """Return the WebSocket's address of an exchange's origin; one that has a path stays."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") or STREAM_PATH, "", ""))


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """A message, and the stream's books as they stand after it."""

    message: Message
    book: Book | None


def watch(
    url: str,
    subscriptions: Sequence[Subscription],
    *,
    key: str = "",
    signer: Signer | None = None,
) -> Iterator[Watched]:
    """Yield messages for ever, for a script without an event loop of its own.

    The stream runs in a thread, which ends when the iterator is closed. The book of a message may
    be ahead of it, never behind.

    :raises BaseloadError: when the stream ends, or a subscription is refused.
    """
    arrived: queue.Queue[Watched | BaseException] = queue.Queue(MESSAGES_MAX)
    stopping = threading.Event()

    async def follow() -> None:
        async with Stream(url, key=key, signer=signer) as stream:
            for channel, instrument in subscriptions:
                await stream.subscribe(channel, instrument)
            async for message in stream:
                if message.status is not None:
                    problem = msgspec.structs.asdict(message)
                    raise errors.api_error(msgspec.convert(problem, errors.Problem))
                book = stream.books.get(message.instrument or "")
                shown = book if message.channel == "book" else None
                await hand_over(Watched(message=message, book=shown))

    async def hand_over(found: Watched | BaseException) -> None:
        # Never in a thread that waits: the interpreter would not end before it does.
        while not stopping.is_set():
            try:
                arrived.put_nowait(found)
            except queue.Full:
                await asyncio.sleep(WATCH_POLL_S)
            else:
                return

    async def until_stopped() -> None:
        following = asyncio.create_task(follow())
        while not stopping.is_set() and not following.done():
            await asyncio.wait([following], timeout=WATCH_POLL_S)
        following.cancel()
        error = (await asyncio.gather(following, return_exceptions=True))[0]
        if isinstance(error, BaseException):
            await hand_over(error)

    thread = threading.Thread(target=lambda: asyncio.run(until_stopped()), daemon=True)
    thread.start()
    try:
        while True:
            found = arrived.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stopping.set()
