"""The WebSocket of the market, `/ws/v1`: public and private channels of every app.

A raw ASGI application. Each process reads the engine's one feed through `marketplace.hub` and hands
every connection what it subscribed to. A subscription begins with a message of type `snapshot`,
read from the database after the subscription stands, and goes on with exactly those updates whose
`previous_sequence` is the sequence before. When the feed skipped or was lost, a new snapshot
follows by itself; a reader that lost something of a book on its own way asks for a `range`.

Nobody may make the market wait: what a connection has not read yet is bounded in messages, bytes
and time, and a reader that falls behind is closed with 4008. Private channels and orders
(`marketplace.dealing`) need a key (`auth`) or the session of a browser whose Origin is our own;
another site's page gets the public channels and no more.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from exchange import deltas, intake
from marketplace import candles, clock, dealing, errors, http, keys, topics
from marketplace.hub import Hub, Subscriber, Subscription

MESSAGE_BYTES_MAX: Final = 16_384
SUBSCRIPTIONS_MAX: Final = 200
CONNECTIONS_MAX: Final = 2_000
OUTBOX_MESSAGES_MAX: Final = 2_000
OUTBOX_BYTES_MAX: Final = 4_194_304
LAG_S_MAX: Final = 30.0
"""How long one message may take to leave."""
RANGES_AT_ONCE_MAX: Final = 4
DEALS_AT_ONCE_MAX: Final = 250
"""Orders, amendments and cancels of one connection that may wait for their outcome."""
REQUESTS_PER_S: Final = 50
RECHECK_S: Final = 5.0
CLOSE_GRACE_S: Final = 2.0

CLOSE_TOO_BIG: Final = 1009
CLOSE_FULL: Final = 1013
CLOSE_ENDED: Final = 4001
CLOSE_RATE: Final = 4029
CLOSE_SLOW: Final = 4008
REASONS: Final = {
    CLOSE_TOO_BIG: "a message is too long",
    CLOSE_FULL: "too many connections: try again later",
    CLOSE_ENDED: "the key or the session has ended",
    CLOSE_RATE: "too many requests",
    CLOSE_SLOW: "reset: too slow, connect and subscribe again",
}

log = logging.getLogger(__name__)


class UnknownChannel(errors.Malformed):
    """There is no such channel."""

    code, title = "unknown_channel", "Unknown channel"


class UnsupportedOperation(errors.Malformed):
    """There is no such operation."""

    code, title = "unsupported_operation", "Unsupported operation"


class TooManySubscriptions(errors.TooManyRequests):
    """One connection has a bounded number of subscriptions."""

    code, status, title = "too_many_subscriptions", 400, "Too many subscriptions"


Id = str | int | None
Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class Head(msgspec.Struct):
    """What is read of a message first, whatever else is in it."""

    op: object = None
    id: object = None


class Operation(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, kw_only=True):
    """What a caller may send; its answer has the same `id`."""

    id: Id = None


class Auth(Operation, tag="auth", kw_only=True):
    """Act with a key from here on."""

    key: str


class Subscribe(Operation, tag="subscribe", kw_only=True):
    """Begin with a snapshot of a channel and follow it."""

    channel: str
    instrument: str | None = None
    interval: Literal["1m", "5m", "15m", "1h", "1d"] | None = None


class Unsubscribe(Subscribe, tag="unsubscribe", kw_only=True):
    """Follow it no more."""


class Range(Operation, tag="range", kw_only=True):
    """Send again what changed a book from one sequence to another."""

    instrument: str
    first: Sequence = msgspec.field(name="from")
    last: Sequence = msgspec.field(name="to")


class Ping(Operation, tag="ping", kw_only=True):
    """Answer."""


class CancelOnDisconnect(Operation, tag="cancel_on_disconnect", kw_only=True):
    """Cancel the organization's open orders when this connection ends, or do not."""

    enabled: bool


class Place(intake.OrderIn, tag="place", tag_field="op", kw_only=True):
    """Enter an order."""

    id: Id = None


class Amend(intake.AmendIn, tag="amend", tag_field="op", kw_only=True):
    """Amend an order."""

    order: str | None = None
    id: Id = None


class Cancel(Operation, tag="cancel", kw_only=True):
    """Cancel an order."""

    order: str | None = None


_head = msgspec.json.Decoder(Head)
_rates = http.RateLimiter(per_second=REQUESTS_PER_S)
_hub = Hub()
_desk = dealing.Desk()
_ranges = asyncio.Semaphore(RANGES_AT_ONCE_MAX)
_open: set["Connection"] = set()


async def application(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
    """Serve one connection, or the lifespan."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await receive()
    if len(_open) >= CONNECTIONS_MAX:
        await send(_closing(CLOSE_FULL))
        return
    await send({"type": "websocket.accept"})
    connection = Connection(scope, send)
    _open.add(connection)
    try:
        await connection.run(receive)
    finally:
        _open.discard(connection)


async def _lifespan(receive: http.Receive, send: http.Send) -> None:
    """Start reading the feed with the server, and stop with it."""
    while True:
        match (await receive())["type"]:
            case "lifespan.startup":
                _hub.start()
                await send({"type": "lifespan.startup.complete"})
            case "lifespan.shutdown":
                await _desk.stop()
                await _hub.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _closing(code: int) -> dict[str, Any]:
    return {"type": "websocket.close", "code": code, "reason": REASONS[code]}


class Connection(Subscriber):
    """One caller: who it is, what it subscribed to, and what it has not read yet."""

    def __init__(self, scope: http.Scope, send: http.Send) -> None:
        self._scope = scope
        self._send = send
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue(OUTBOX_MESSAGES_MAX)
        self._outbox_bytes = 0
        self._sending_since_ns = 0
        self._subscriptions: dict[tuple[str, str, str], Subscription] = {}
        self._deals: set[asyncio.Task[None]] = set()
        self._stays_for: int | None = None
        self._key: keys.Key | None = None
        self._session: str | None = None
        self._name = uuid.uuid4().hex
        self._close_code: int | None = None
        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self, receive: http.Receive) -> None:
        """Serve until the caller leaves or is closed."""
        _hub.start()
        await self._greet()
        tasks = [
            asyncio.create_task(part)
            for part in (self._read(receive), self._write(), self._recheck(), self._closing.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._stays_for is not None:
                _desk.leave(self._stays_for, self)
            for task in (*tasks, *self._deals):
                task.cancel()
            await asyncio.gather(*tasks, *self._deals, return_exceptions=True)
            for subscription in self._subscriptions.values():
                _hub.drop(subscription)
            self._subscriptions.clear()
        if self._close_code is not None:
            # A caller that does not read cannot be told: the server drops it after a moment.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await self._send(_closing(self._close_code))

    def close(self, code: int) -> None:
        """End the connection with a code; the first one stands."""
        if self._close_code is None:
            self._close_code = code
        self._closing.set()

    def deliver(self, message: bytes) -> None:
        """Queue a message for the caller; one that has too much waiting is closed."""
        if self._is_revoked():
            self.close(CLOSE_ENDED)
            return
        self._outbox_bytes += len(message)
        if self._outbox.full() or self._outbox_bytes > OUTBOX_BYTES_MAX:
            self.close(CLOSE_SLOW)
        elif self._close_code is None:
            self._outbox.put_nowait(message)

    def _is_revoked(self) -> bool:
        """Whether the connection's key was revoked since; a look into memory."""
        if self._key is None or self._session is not None:
            return False
        try:
            found = keys.shared_ring().find(self._key.id)
        except errors.Unavailable:
            return False
        return found is None or found.organization != self._key.organization

    # The two directions

    async def _read(self, receive: http.Receive) -> None:
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            body = event.get("bytes") or (event.get("text") or "").encode(errors="replace")
            if len(body) > MESSAGE_BYTES_MAX:
                self.close(CLOSE_TOO_BIG)
                return
            await self._handle(body)

    async def _write(self) -> None:
        while True:
            message = await self._outbox.get()
            self._sending_since_ns = clock.monotonic_ns()
            await self._send({"type": "websocket.send", "text": message.decode()})
            self._sending_since_ns = 0
            self._outbox_bytes -= len(message)

    async def _handle(self, body: bytes) -> None:
        """Do what a message asks; orders have limits of their own while they are none too many."""
        head = Head()
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            head = _head.decode(body)
        op = head.op if isinstance(head.op, str) else ""
        is_id = isinstance(head.id, str | int) and not isinstance(head.id, bool)
        request_id: Any = head.id if is_id else None
        try:
            if op not in _DEALS:
                self._count()
            await self._guarded(self._perform(op, body), request_id, is_order=op in _DEALS)
        except _Closed:
            return

    async def _guarded(
        self, work: Coroutine[Any, Any, None], request_id: Id, *, is_order: bool
    ) -> None:
        """Do a part of a request, and answer what goes wrong with a problem."""
        try:
            await work
        except errors.Refusal as refusal:
            if is_order:
                self._count()
            self._refuse(refusal, request_id)
        except Exception:
            log.exception("a WebSocket request failed")
            self._refuse(errors.Unavailable(code="internal_error", status=500), request_id)

    def _count(self) -> None:
        """Count a request against the connection's limit.

        :raises _Closed: when there were too many.
        """
        try:
            _rates.take(self._name)
        except errors.TooManyRequests:
            self.close(CLOSE_RATE)
            raise _Closed from None

    def _refuse(self, refusal: errors.Refusal, request_id: Id) -> None:
        problem = http.problem_of(refusal, uuid.uuid4().hex)
        self.deliver(http.encode({**msgspec.to_builtins(problem), "id": request_id}))

    def _answer(self, message: Any, kind: str, data: Any = None, **more: Any) -> None:
        self.deliver(
            http.encode(
                {
                    "type": kind,
                    "channel": getattr(message, "channel", None),
                    "instrument": getattr(message, "instrument", None),
                    "sequence": None,
                    "previous_sequence": None,
                    "data": data,
                    "id": message.id,
                    **more,
                }
            )
        )

    # Operations

    async def _perform(self, op: str, body: bytes) -> None:
        """:raises Refusal: when it cannot be done; then nothing was."""
        found = _OPERATIONS.get(op)
        if found is None:
            http.decode(body, _anything)
            raise UnsupportedOperation(
                f"op is one of {', '.join(_OPERATIONS)}",
                errors=[errors.FieldError(field="op", code="unsupported_operation")],
            )
        decoder, operation = found
        await operation(self, http.decode(body, decoder))

    async def _ping(self, message: Ping) -> None:
        now = clock.now_micros()
        self._answer(message, "pong", {"now_ms": now // 1000})

    async def _authenticate(self, message: Auth) -> None:
        """Take a key for the rest of the connection; another organization's needs another one."""
        key = await keys.shared_ring().authenticate_async(
            f"Bearer {message.key}",
            address=http.peer(self._scope),
            target=http.target(self._scope),
            headers=self._scope["headers"],
        )
        if self._key is not None and self._key.organization != key.organization:
            raise errors.Forbidden("the connection already acts for another organization")
        key.require("read")
        self._key, self._session = key, None
        self._answer(message, "authenticated", {"organization": str(key.organization)})

    async def _subscribe(self, message: Subscribe) -> None:
        channel, name, interval = self._topic(message)
        key = channel.name, name, interval
        if key in self._subscriptions:
            if message.id is not None:
                self._answer(message, "subscribed")
            return
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise TooManySubscriptions(f"a connection has at most {SUBSCRIPTIONS_MAX}")
        subscription = Subscription(subscriber=self, channel=channel, name=name, interval=interval)
        self._subscriptions[key] = subscription
        try:
            await _hub.add(subscription)
        except errors.Refusal:
            self._subscriptions.pop(key, None)
            raise
        if message.id is not None:
            self._answer(message, "subscribed")

    async def _unsubscribe(self, message: Unsubscribe) -> None:
        subscription = self._subscriptions.pop(_key_of(self._topic(message)), None)
        if subscription is not None:
            _hub.drop(subscription)
        if message.id is not None:
            self._answer(message, "unsubscribed")

    async def _range(self, message: Range) -> None:
        """Send the deltas that hold the changes `from` to `to`, as they were published."""
        if not message.first <= message.last < message.first + deltas.RANGE_MAX:
            raise http.malformed(
                "to", "invalid_number", f"a range has 1 to {deltas.RANGE_MAX} sequences"
            )
        async with _ranges:
            found = await topics.read(
                topics.changes, message.instrument, message.first, message.last
            )
        tail = b"}" if message.id is None else b',"id":' + http.encode(message.id) + b"}"
        for body in found:
            self.deliver(body[:-1] + tail)

    # Orders

    async def _place(self, message: Place) -> None:
        key = self._writer()
        way = await _desk.open()

        async def work() -> None:
            order, is_replay = await dealing.place(way, key.organization, message)
            self._answer(message, "placed", order, **({"replayed": True} if is_replay else {}))

        self._deal(work(), message.id)

    async def _amend(self, message: Amend) -> None:
        key = self._writer()
        way = await _desk.open()

        async def work() -> None:
            order = await dealing.amend(way, key.organization, _order_of(message), message)
            self._answer(message, "amended", order)

        self._deal(work(), message.id)

    async def _cancel(self, message: Cancel) -> None:
        key = self._writer()
        way = await _desk.open()

        async def work() -> None:
            order = await dealing.cancel(way, key.organization, _order_of(message))
            self._answer(message, "canceled", order)

        self._deal(work(), message.id)

    async def _cancel_on_disconnect(self, message: CancelOnDisconnect) -> None:
        key = self._writer()
        if message.enabled and self._stays_for is None:
            await _desk.stay(key.organization, self)
            self._stays_for = key.organization
        elif not message.enabled and self._stays_for is not None:
            organization, self._stays_for = self._stays_for, None
            await _desk.release(organization, self)
        self._answer(message, "cancel_on_disconnect", {"enabled": message.enabled})

    def _writer(self) -> keys.Key:
        """Return who trades, having counted the request as one of its writes.

        :raises Refusal: when the caller may not trade here, or not that often.
        """
        key = dealing.trader(self._key)
        if self._is_revoked():
            self.close(CLOSE_ENDED)
            raise errors.Unauthenticated("the key was revoked")
        http.WRITES.take(f"key:{key.id}")
        if len(self._deals) >= DEALS_AT_ONCE_MAX:
            raise errors.TooManyRequests(
                f"at most {DEALS_AT_ONCE_MAX} orders wait for their outcome", retry_after_s=1
            )
        return key

    def _deal(self, work: Coroutine[Any, Any, None], request_id: Id) -> None:
        """Carry an order out while the connection reads on; tasks start in the order given."""
        task = self._loop.create_task(self._guarded(work, request_id, is_order=False))
        self._deals.add(task)
        task.add_done_callback(self._deals.discard)

    def _topic(self, message: Subscribe) -> tuple[topics.Channel, str, str]:
        """Return the channel, the name within it and the interval that a message means.

        :raises Refusal: an unknown channel, a private one without a key, a missing instrument.
        """
        channel = topics.CHANNELS.get(message.channel)
        if channel is None:
            raise UnknownChannel(
                f"channel is one of {', '.join(topics.CHANNELS)}",
                errors=[errors.FieldError(field="channel", code="unknown_channel")],
            )
        if message.interval is not None and not channel.has_interval:
            raise http.malformed("interval", "unknown_field", f"{channel.name} has no intervals")
        if channel.is_private:
            if self._key is None:
                raise errors.Unauthenticated(f"{channel.name} needs auth with a key, or a session")
            self._key.require("read")
            return channel, str(self._key.organization), ""
        if message.instrument is None and not channel.may_be_all:
            raise http.malformed("instrument", "missing_field", f"{channel.name} needs one")
        interval = (message.interval or candles.INTERVAL_DEFAULT) if channel.has_interval else ""
        return channel, message.instrument or topics.ALL, interval

    # Who the caller is

    async def _greet(self) -> None:
        """Take the session of a browser, if it came from a page of our own."""
        if not is_own_origin(self._scope):
            return
        session = topics.session_of(http.header(self._scope, b"cookie"))
        if session:
            self._key = await topics.read(topics.session_key, session)
            self._session = session if self._key is not None else None

    async def _recheck(self) -> None:
        """End a connection that does not read, or whose key or session has ended."""
        while True:
            await asyncio.sleep(RECHECK_S)
            since_ns = self._sending_since_ns
            if since_ns and clock.monotonic_ns() - since_ns > LAG_S_MAX * 1e9:
                self.close(CLOSE_SLOW)
                return
            if self._key is None:
                continue
            if self._session is None:
                is_ended = self._is_revoked()
            else:
                try:
                    found = await topics.read(topics.session_key, self._session)
                except errors.Unavailable:
                    continue
                is_ended = found is None or found.organization != self._key.organization
            if is_ended:
                self.close(CLOSE_ENDED)
                return


class _Closed(Exception):
    """The connection has ended by a limit of its own."""


def _key_of(topic: tuple[topics.Channel, str, str]) -> tuple[str, str, str]:
    channel, name, interval = topic
    return channel.name, name, interval


_Handler = Callable[[Connection, Any], Awaitable[None]]
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_OPERATIONS: Final[dict[str, tuple[msgspec.json.Decoder[Any], _Handler]]] = {
    "auth": (msgspec.json.Decoder(Auth), Connection._authenticate),
    "subscribe": (msgspec.json.Decoder(Subscribe), Connection._subscribe),
    "unsubscribe": (msgspec.json.Decoder(Unsubscribe), Connection._unsubscribe),
    "range": (msgspec.json.Decoder(Range), Connection._range),
    "place": (msgspec.json.Decoder(Place), Connection._place),
    "amend": (msgspec.json.Decoder(Amend), Connection._amend),
    "cancel": (msgspec.json.Decoder(Cancel), Connection._cancel),
    "cancel_on_disconnect": (
        msgspec.json.Decoder(CancelOnDisconnect),
        Connection._cancel_on_disconnect,
    ),
    "ping": (msgspec.json.Decoder(Ping), Connection._ping),
}
_DEALS: Final = frozenset({"place", "amend", "cancel"})


def _order_of(message: Amend | Cancel) -> str:
    """Return the order that a message is about: `order`, or without it the message's own id.

    A number only counts requests: an order's id is text.

    :raises Malformed: when it has neither.
    """
    found = message.id if message.order is None else message.order
    if not isinstance(found, str):
        raise http.malformed("order", "missing_field", "which order is meant?")
    return found


def is_own_origin(scope: http.Scope) -> bool:
    """Whether a handshake comes from a page that this server itself has served."""
    try:
        origin = http.header(scope, b"origin")
        host = http.header(scope, b"host")
    except errors.Malformed:
        return False
    parts = urlsplit(origin)
    if origin == settings.PUBLIC_ORIGIN:
        return True
    scheme = urlsplit(settings.PUBLIC_ORIGIN).scheme
    domain, _ = split_domain_port(host)
    return (
        parts.scheme == scheme
        and parts.netloc.lower() == host.lower()
        and bool(domain)
        and validate_host(domain, settings.ALLOWED_HOSTS)
    )
