"""One reader of the engine's feed per process, and everybody here who subscribed to a part of it.

A subscription stands before its snapshot is read, and keeps what arrives meanwhile: the snapshot
names the last message of each topic that it holds, and of what was kept only the newer is sent on.
So nothing is missed and nothing comes twice. The feed is a Valkey channel and may lose messages;
the next one of the topic shows it, and brings a new snapshot. So does a feed that was connected
anew, since nobody knows what was said in between.

Entitlements and pools are not the engine's news. They are read again every `POLL_S`, once for all
who subscribed to the same one, and sent when they changed; their messages are counted here.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import valkey.asyncio
from django.conf import settings
from valkey.exceptions import ValkeyError

from exchange import envelope, feed
from marketplace import candles, contract, errors, http, topics
from settlement import channels

POLL_S: Final = 1.0
KEPT_MAX: Final = 1_000
FOLDED_MAX: Final = 1_000
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

    __slots__ = (
        "candle", "channel", "interval", "is_reading", "is_standing", "kept", "name", "sequences",
        "subscriber",
    )  # fmt: skip

    def __init__(
        self, *, subscriber: Subscriber, channel: topics.Channel, name: str, interval: str = ""
    ) -> None:
        self.subscriber = subscriber
        self.channel = channel
        self.name = name
        self.interval = interval
        self.candle: candles.Candle | None = None
        self.sequences: dict[str, int] = {}
        """The last message of each topic; one without had none before the snapshot."""
        self.kept: list[tuple[str, bytes]] = []
        self.is_reading = False
        self.is_standing = True

    @property
    def source(self) -> str:
        """The topic that it is made of; `ALL` of a channel stands for each."""
        return f"{self.channel.source}:{self.name}"


class _Place(msgspec.Struct):
    """Where in its topic a message stands; the rest of it is passed on unread."""

    sequence: int
    previous_sequence: int


@dataclass(slots=True)
class _Polled:
    """What was last read of a topic that no feed announces, and its number."""

    body: bytes = b""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class _Folded:
    """The last message of candles of an interval, and the running candle after it."""

    sequence: int
    message: bytes
    candle: candles.Candle | None


_PRIVATE: Final = ("orders:", "fills:", "account:")
_UNREAD: Final = _Polled()
_place = msgspec.json.Decoder(_Place)


class Hub:
    """The feed of this process and its subscriptions."""

    def __init__(self) -> None:
        self._by_topic: dict[str, set[Subscription]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._snapshots = asyncio.Semaphore(SNAPSHOTS_AT_ONCE_MAX)
        self._polled: dict[str, _Polled] = {}
        self._folded: dict[tuple[str, str], _Folded] = {}
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
        self._folded.clear()
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
        self._by_topic.setdefault(subscription.source, set()).add(subscription)
        try:
            await self._begin(subscription)
        except errors.Refusal:
            self.drop(subscription)
            raise

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        subscription.is_standing = False
        standing = self._by_topic.get(subscription.source)
        if standing is not None:
            standing.discard(subscription)
            if not standing:
                del self._by_topic[subscription.source]
                self._polled.pop(subscription.source, None)

    async def _begin(self, subscription: Subscription) -> None:
        """Send a snapshot and what came after it."""
        subscription.is_reading = True
        subscription.kept.clear()
        try:
            async with self._snapshots:
                snapshot = await self._read(subscription)
        except BaseException:
            subscription.is_reading = False
            raise
        if not subscription.is_standing:
            return
        if subscription.channel.is_polled:
            self._count(subscription.source, snapshot, is_news=False)
        for message in snapshot.messages:
            subscription.subscriber.deliver(http.encode(message))
        subscription.sequences = snapshot.sequences
        subscription.candle = snapshot.candle
        subscription.is_reading = False
        kept, subscription.kept = subscription.kept, []
        for topic, message_bytes in kept:
            self._pass_on(subscription, topic, message_bytes)

    def _pass_on(
        self,
        subscription: Subscription,
        topic: str,
        message: bytes,
        place: _Place | None = None,
    ) -> None:
        """Deliver a message if it is the next; keep it while a snapshot is being read."""
        if subscription.is_reading:
            # Beyond the bound the gap shows itself.
            if len(subscription.kept) < KEPT_MAX:
                subscription.kept.append((topic, message))
            return
        place = place or _place.decode(message)
        last = subscription.sequences.get(topic, 0)
        if place.sequence <= last:
            return
        if place.previous_sequence != last:
            self._begin_again(subscription)
            return
        subscription.sequences[topic] = place.sequence
        if subscription.interval:
            message = self._fold(subscription, message, place.sequence)
        subscription.subscriber.deliver(message)

    def _fold(self, subscription: Subscription, message: bytes, sequence: int) -> bytes:
        """Return what a message of the tape makes of the candles; once for all subscriptions."""
        interval, key = subscription.interval, (subscription.name, subscription.interval)
        folded = self._folded.get(key)
        if folded is None or folded.sequence != sequence:
            tape = candles.read_tape(message)
            decimals = contract.decimals_of(tape.instrument)
            running, changed = candles.fold(subscription.candle, tape.data, interval, decimals)
            news = topics.Message(
                type="update",
                channel=subscription.channel.name,
                instrument=tape.instrument,
                sequence=tape.sequence,
                previous_sequence=tape.previous_sequence,
                data=[candles.candle_out(candle, interval, decimals) for candle in changed],
            )
            folded = self._folded[key] = _Folded(sequence, http.encode(news), running)
            if len(self._folded) > FOLDED_MAX:
                del self._folded[next(iter(self._folded))]
        subscription.candle = folded.candle
        return folded.message

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
        if not self._by_topic:
            return
        release = envelope.decode_release(data)
        items = release.items
        if any(topic.startswith(_PRIVATE) for topic in self._by_topic):
            items += feed.private_items(release.private)
        for topic, message in items:
            place = None
            for name in (topic, topic.partition(":")[0] + ":" + topics.ALL):
                standing = self._by_topic.get(name)
                if standing:
                    place = place or _place.decode(message)
                    for subscription in tuple(standing):
                        self._pass_on(subscription, topic, message, place)

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
                    snapshot = await _read(first)
                except errors.Refusal:
                    continue
                if not self._count(topic, snapshot, is_news=True):
                    continue
                for message in snapshot.messages:
                    message.type = "update"
                    message.previous_sequence = message.sequence - 1
                    encoded = http.encode(message)
                    for subscription in tuple(standing):
                        if not subscription.is_reading:
                            subscription.subscriber.deliver(encoded)

    async def _read(self, subscription: Subscription) -> topics.Snapshot:
        """Read a subscription's snapshot; once more where its topic had news meanwhile.

        :raises Refusal: when there is none.
        """
        while True:
            before = self._polled.get(subscription.source, _UNREAD).sequence
            snapshot = await _read(subscription)
            after = self._polled.get(subscription.source, _UNREAD).sequence
            if not subscription.channel.is_polled or before in (0, after):
                return snapshot

    def _count(self, topic: str, snapshot: topics.Snapshot, *, is_news: bool) -> bool:
        """Number what was read of a polled topic; return whether it is another than before.

        Only what is told to all subscribers counts as news.
        """
        body = http.encode([message.data for message in snapshot.messages])
        known = self._polled.get(topic)
        if known is None:
            known = self._polled[topic] = _Polled(body, 1)
        is_other = known.body != body
        if is_other and is_news:
            known.body = body
            known.sequence += 1
        for message in snapshot.messages:
            message.sequence = known.sequence
        return is_other


async def _read(subscription: Subscription) -> topics.Snapshot:
    """Read the snapshot of a subscription.

    :raises Refusal: when there is none.
    """
    arguments = [subscription.name]
    if subscription.channel.has_interval:
        arguments.append(subscription.interval)
    return await topics.read(subscription.channel.snapshot, *arguments)
