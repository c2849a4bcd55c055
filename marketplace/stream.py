"""The WebSocket of the market, `/ws/v1`: public and private channels of every app.

A raw ASGI application. Each process reads the engine's one feed through `marketplace.hub` and hands
every connection what it subscribed to. A subscription begins with a message of type `snapshot`,
read from the database after the subscription stands, and goes on with updates that are newer: for a
book, exactly those whose `previous_sequence` is the sequence before. When the feed skipped or was
lost, a new snapshot follows by itself.

Nobody may make the market wait: what a connection has not read yet is bounded, and a reader that
falls behind is closed with 4008. Private channels need a key (`auth`) or the session of a browser
whose Origin is our own; another site's page gets the public ones and no more.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from marketplace import clock, errors, http, keys, topics
from marketplace.hub import Hub, Subscriber, Subscription

MESSAGE_BYTES_MAX: Final = 16_384
SUBSCRIPTIONS_MAX: Final = 200
CONNECTIONS_MAX: Final = 2_000
OUTBOX_MESSAGES_MAX: Final = 2_000
REQUESTS_PER_S: Final = 50
RECHECK_S: Final = 5.0
CLOSE_GRACE_S: Final = 2.0

CLOSE_TOO_BIG: Final = 1009
CLOSE_FULL: Final = 1013
CLOSE_ENDED: Final = 4001
CLOSE_RATE: Final = 4029
CLOSE_SLOW: Final = 4008

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


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """What a caller may send."""

    op: str
    id: str | int | None = None
    key: str | None = None
    channel: str | None = None
    instrument: str | None = None


_messages = msgspec.json.Decoder(Message)
_rates = http.RateLimiter(per_second=REQUESTS_PER_S)
_hub = Hub()
_open: set["Connection"] = set()


async def application(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
    """Serve one connection, or the lifespan."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await receive()
    if len(_open) >= CONNECTIONS_MAX:
        await send({"type": "websocket.close", "code": CLOSE_FULL})
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
                await _hub.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


class Connection(Subscriber):
    """One caller: who it is, what it subscribed to, and what it has not read yet."""

    def __init__(self, scope: http.Scope, send: http.Send) -> None:
        self._scope = scope
        self._send = send
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue(OUTBOX_MESSAGES_MAX)
        self._subscriptions: dict[tuple[str, str], Subscription] = {}
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
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for subscription in self._subscriptions.values():
                _hub.drop(subscription)
            self._subscriptions.clear()
        if self._close_code is not None:
            # A caller that does not read cannot be told: the server drops it after a moment.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await self._send({"type": "websocket.close", "code": self._close_code})

    def close(self, code: int) -> None:
        """End the connection with a code; the first one stands."""
        if self._close_code is None:
            self._close_code = code
        self._closing.set()

    def deliver(self, message: bytes) -> None:
        """Queue a message for the caller; one that has too many waiting is closed."""
        if self._is_revoked():
            self.close(CLOSE_ENDED)
            return
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.close(CLOSE_SLOW)

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
            try:
                _rates.take(self._name)
            except errors.TooManyRequests:
                self.close(CLOSE_RATE)
                return
            await self._handle(body)

    async def _write(self) -> None:
        while True:
            message = await self._outbox.get()
            await self._send({"type": "websocket.send", "text": message.decode()})

    async def _handle(self, body: bytes) -> None:
        request_id: str | int | None = None
        try:
            message = http.decode(body, _messages)
            request_id = message.id
            await self._perform(message)
        except errors.Refusal as refusal:
            self._refuse(refusal, request_id)
        except Exception:
            log.exception("a WebSocket request failed")
            self._refuse(errors.Unavailable(code="internal_error", status=500), request_id)

    def _refuse(self, refusal: errors.Refusal, request_id: str | int | None) -> None:
        problem = http.problem_of(refusal, uuid.uuid4().hex)
        self.deliver(http.encode({**msgspec.to_builtins(problem), "id": request_id}))

    def _answer(self, message: Message, kind: str, data: Any = None) -> None:
        self.deliver(
            http.encode(
                {
                    "type": kind,
                    "channel": message.channel,
                    "instrument": message.instrument,
                    "sequence": None,
                    "previous_sequence": None,
                    "data": data,
                    "id": message.id,
                }
            )
        )

    # Operations

    async def _perform(self, message: Message) -> None:
        """:raises Refusal: when it cannot be done; then nothing was."""
        operations: dict[str, Callable[[Message], Awaitable[None]]] = {
            "auth": self._authenticate,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "ping": self._ping,
        }
        operation = operations.get(message.op)
        if operation is None:
            raise UnsupportedOperation(
                f"op is one of {', '.join(operations)}",
                errors=[errors.FieldError(field="op", code="unsupported_operation")],
            )
        await operation(message)

    async def _ping(self, message: Message) -> None:
        now = clock.now_micros()
        self._answer(message, "pong", {"now_ms": now // 1000})

    async def _authenticate(self, message: Message) -> None:
        """Take a key for the rest of the connection; another organization's needs another one."""
        if not message.key:
            raise http.malformed("key", "missing_field", "auth needs a key")
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

    async def _subscribe(self, message: Message) -> None:
        channel, name = self._topic(message)
        if (channel.name, name) in self._subscriptions:
            return
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise TooManySubscriptions(f"a connection has at most {SUBSCRIPTIONS_MAX}")
        subscription = Subscription(subscriber=self, channel=channel, name=name)
        self._subscriptions[channel.name, name] = subscription
        try:
            await _hub.add(subscription)
        except errors.Refusal:
            self._subscriptions.pop((channel.name, name), None)
            raise
        if message.id is not None:
            self._answer(message, "subscribed")

    async def _unsubscribe(self, message: Message) -> None:
        channel, name = self._topic(message)
        subscription = self._subscriptions.pop((channel.name, name), None)
        if subscription is not None:
            _hub.drop(subscription)
        if message.id is not None:
            self._answer(message, "unsubscribed")

    def _topic(self, message: Message) -> tuple[topics.Channel, str]:
        """Return the channel and the name within it that a message means.

        :raises Refusal: an unknown channel, a private one without a key, a missing instrument.
        """
        channel = topics.CHANNELS.get(message.channel or "")
        if channel is None:
            raise UnknownChannel(
                f"channel is one of {', '.join(topics.CHANNELS)}",
                errors=[errors.FieldError(field="channel", code="unknown_channel")],
            )
        if channel.is_private:
            if self._key is None:
                raise errors.Unauthenticated(f"{channel.name} needs auth with a key, or a session")
            self._key.require("read")
            return channel, str(self._key.organization)
        if message.instrument is None and not channel.may_be_all:
            raise http.malformed("instrument", "missing_field", f"{channel.name} needs one")
        return channel, message.instrument or topics.ALL

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
        """End a connection on which nothing happens when its key or session has ended."""
        while True:
            await asyncio.sleep(RECHECK_S)
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
