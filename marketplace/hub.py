"""One reader of the engine's feed per process, and everybody here who subscribed to a part of it.

A subscription stands before its snapshot is read, and keeps what arrives meanwhile: the snapshot
names the sequence of the journal (or of the book) it was read at, and of what was kept only the
newer is sent on. So nothing is missed and nothing comes twice. The feed is a Valkey channel and may
lose messages; a book's next delta shows it, and a feed that was connected anew gives every
subscription a new snapshot, since nobody knows what was said in between.

Entitlements and pools are not the engine's news. They are read again every `POLL_S`, once for all
who subscribed to the same one, and sent when they changed.
"""

import asyncio
import contextlib
import logging
from typing import Final, Protocol

import msgspec
import valkey.asyncio
from django.conf import settings
from valkey.exceptions import ValkeyError

from exchange import envelope
from marketplace import errors, http, topics
from settlement import channels

POLL_S: Final = 1.0
KEPT_MAX: Final = 1_000
SNAPSHOTS_AT_ONCE_MAX: Final = 4
CONNECT_TIMEOUT_S: Final = 2.0
RECONNECT_S_MIN: Final = 0.1
RECONNECT_S_MAX: Final = 5.0
HEALTH_CHECK_S: Final = 10

log = logging.getLogger(__name__)


class Subscriber(Protocol):
    """Who gets the messages of a subscription; never blocks."""

    def deliver(self, message: bytes) -> None:
        """Take a message."""


class Subscription:
    """One channel of one subscriber, and how far it has been served."""

    __slots__ = ("channel", "is_reading", "is_standing", "kept", "name", "sequence", "subscriber")

    def __init__(self, *, subscriber: Subscriber, channel: topics.Channel, name: str) -> None:
        self.subscriber = subscriber
        self.channel = channel
        self.name = name
        self.sequence = -1
        self.kept: list[bytes] = []
        self.is_reading = False
        self.is_standing = True


class _Place(msgspec.Struct):
    """Where in its topic a message stands; the rest of it is passed on unread."""

    sequence: int
    previous_sequence: int | None = None


_place = msgspec.json.Decoder(_Place)


class Hub:
    """The feed of this process and its subscriptions."""

    def __init__(self) -> None:
        self._by_topic: dict[str, set[Subscription]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._snapshots = asyncio.Semaphore(SNAPSHOTS_AT_ONCE_MAX)
        self._polled: dict[str, bytes] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()

    def start(self) -> None:
        """Begin to read the feed on the running loop, unless this was done."""
        loop = asyncio.get_running_loop()
        if self._loop is loop and self._tasks:
            return
        self._loop = loop
        self._by_topic.clear()
        self._polled.clear()
        self._connected = asyncio.Event()
        self._snapshots = asyncio.Semaphore(SNAPSHOTS_AT_ONCE_MAX)
        self._tasks = [loop.create_task(self._follow()), loop.create_task(self._poll())]

    async def stop(self) -> None:
        """Stop reading."""
        tasks, self._tasks = [*self._tasks, *self._background], []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def add(self, subscription: Subscription) -> None:
        """Let a subscription begin: with its snapshot, then with what is newer.

        :raises NotFound: when there is no such instrument.
        :raises Unavailable: when the snapshot cannot be read.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected.wait()
        except TimeoutError:
            raise errors.Unavailable("the market's feed is away", retry_after_s=1) from None
        self._by_topic.setdefault(_topic(subscription), set()).add(subscription)
        try:
            await self._begin(subscription)
        except errors.Refusal:
            self.drop(subscription)
            raise

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        subscription.is_standing = False
        standing = self._by_topic.get(_topic(subscription))
        if standing is not None:
            standing.discard(subscription)
            if not standing:
                del self._by_topic[_topic(subscription)]
                self._polled.pop(_topic(subscription), None)

    async def _begin(self, subscription: Subscription) -> None:
        """Send a snapshot and what came after it."""
        subscription.is_reading = True
        subscription.kept.clear()
        try:
            async with self._snapshots:
                snapshot = await topics.read(subscription.channel.snapshot, subscription.name)
        except BaseException:
            subscription.is_reading = False
            raise
        if not subscription.is_standing:
            return
        for message in snapshot.messages:
            subscription.subscriber.deliver(http.encode(message))
        subscription.sequence = snapshot.sequence
        subscription.is_reading = False
        kept, subscription.kept = subscription.kept, []
        for message_bytes in kept:
            self._pass_on(subscription, message_bytes)

    def _pass_on(self, subscription: Subscription, message: bytes) -> None:
        """Deliver a message if it is the next; keep it while a snapshot is being read."""
        if subscription.is_reading:
            # Beyond the bound a book's gap shows itself; other channels say only what is latest.
            if len(subscription.kept) < KEPT_MAX:
                subscription.kept.append(message)
            return
        place = _place.decode(message)
        if place.sequence <= subscription.sequence:
            return
        if subscription.channel.is_gapless and place.previous_sequence != subscription.sequence:
            self._begin_again(subscription)
            return
        if subscription.channel.is_gapless:
            subscription.sequence = place.sequence
        subscription.subscriber.deliver(message)

    def _begin_again(self, subscription: Subscription) -> None:
        """Read a new snapshot in the background, unless one is being read."""
        if subscription.is_reading:
            return
        subscription.is_reading = True

        async def again() -> None:
            while subscription.is_standing:
                try:
                    await self._begin(subscription)
                except errors.Refusal:
                    await asyncio.sleep(RECONNECT_S_MAX)
                else:
                    return

        task = asyncio.get_running_loop().create_task(again())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # The feed

    async def _follow(self) -> None:
        """Read the feed for ever; every connection but the first means new snapshots."""
        wait_s = RECONNECT_S_MIN
        while True:
            client = valkey.asyncio.Valkey.from_url(
                settings.VALKEY_URL, socket_timeout=None, health_check_interval=HEALTH_CHECK_S
            )
            try:
                async with client.pubsub() as feed:
                    await feed.subscribe(channels.feed_channel())
                    async for message in feed.listen():
                        if message["type"] == "subscribe":
                            wait_s = RECONNECT_S_MIN
                            self._connected.set()
                            for subscription in self._all():
                                self._begin_again(subscription)
                        elif message["type"] == "message":
                            self._spread(message["data"])
            except (ValkeyError, OSError) as failure:
                log.warning("the market's feed is lost, connecting again: %s", failure)
            except msgspec.MsgspecError:
                log.exception("the market's feed holds something that is no release")
            finally:
                self._connected.clear()
                with contextlib.suppress(ValkeyError, OSError):
                    await client.aclose()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RECONNECT_S_MAX)

    def _spread(self, data: bytes) -> None:
        """Hand the items of one batch to whoever subscribed to them."""
        for topic, message in envelope.decode_release(data).items:
            for name in (topic, topic.partition(":")[0] + ":" + topics.ALL):
                for subscription in tuple(self._by_topic.get(name, ())):
                    self._pass_on(subscription, message)

    def _all(self) -> list[Subscription]:
        return [one for standing in self._by_topic.values() for one in standing]

    async def _poll(self) -> None:
        """Read again what no feed announces, and send it when it changed."""
        while True:
            await asyncio.sleep(POLL_S)
            for topic, standing in list(self._by_topic.items()):
                first = next(iter(standing), None)
                if first is None or not first.channel.is_polled:
                    continue
                try:
                    snapshot = await topics.read(first.channel.snapshot, first.name)
                except errors.Refusal:
                    continue
                for message in snapshot.messages:
                    message.type = "update"
                body = http.encode([message.data for message in snapshot.messages])
                if self._polled.get(topic) in (None, body):
                    self._polled[topic] = body
                    continue
                self._polled[topic] = body
                for message in snapshot.messages:
                    encoded = http.encode(message)
                    for subscription in tuple(standing):
                        subscription.subscriber.deliver(encoded)


def _topic(subscription: Subscription) -> str:
    return f"{subscription.channel.name}:{subscription.name}"
