"""A book, kept from the stream: a snapshot, then deltas, none missing and none twice.

Every delta names the sequence that it goes on from and carries the CRC32 of the ten best levels of
either side. A delta that is old is dropped; one that does not go on from what is here shows a gap:
it is kept, and `take` returns the `Need` that fills it. A checksum that does not agree means that
the book cannot be believed, and needs a snapshot. What is asked for is whoever carries the messages
(`baseload.stream`, or a loop of one's own around `Client.deltas` and `Client.book`).
"""

import bisect
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from baseload import models

CHECKSUM_LEVELS: Final = 10
KEPT_MAX: Final = 1_000
"""Deltas that may wait for a gap to be filled; beyond them a snapshot is cheaper."""

SNAPSHOT: Final = "snapshot"
RANGE: Final = "range"

Level = tuple[Decimal, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a book needs to go on: the deltas `[first, last]`, or a snapshot when both are None."""

    reason: str
    first: int | None = None
    last: int | None = None

    @property
    def is_snapshot(self) -> bool:
        """Whether nothing less than a snapshot helps."""
        return self.first is None


class Side:
    """The levels of one side, by price."""

    def __init__(self) -> None:
        self._lots: dict[Decimal, int] = {}
        self._prices: list[Decimal] = []

    def __len__(self) -> int:
        return len(self._prices)

    def set(self, price: Decimal, lots: int) -> None:
        """Set what is on a level; zero removes it."""
        if lots > 0:
            if price not in self._lots:
                bisect.insort(self._prices, price)
            self._lots[price] = lots
        elif self._lots.pop(price, None) is not None:
            del self._prices[bisect.bisect_left(self._prices, price)]

    def replace(self, levels: Iterable[tuple[Any, int]]) -> None:
        """Forget everything and take these levels."""
        self._lots = {Decimal(price): lots for price, lots in levels}
        self._prices = sorted(self._lots)

    def rising(self) -> Iterator[Level]:
        """Yield levels from the lowest price up."""
        return ((price, self._lots[price]) for price in self._prices)

    def falling(self) -> Iterator[Level]:
        """Yield levels from the highest price down."""
        return ((price, self._lots[price]) for price in reversed(self._prices))


class Book:
    """One instrument's book. It is not live before the first snapshot and while a gap is open."""

    def __init__(self, instrument: str) -> None:
        self.instrument = instrument
        self.sequence = 0
        self.gaps = 0
        """Gaps and wrong checksums so far."""
        self._waits_for = SNAPSHOT
        self._asked_to = 0
        self._bids = Side()
        self._asks = Side()
        self._kept: dict[int, Mapping[str, Any]] = {}

    # Reading

    @property
    def is_live(self) -> bool:
        """Whether this is the whole book as of `sequence`."""
        return not self._waits_for

    def bids(self, depth: int | None = None) -> list[Level]:
        """Return the bids, the best first."""
        return _first(self._bids.falling(), depth)

    def asks(self, depth: int | None = None) -> list[Level]:
        """Return the asks, the best first."""
        return _first(self._asks.rising(), depth)

    @property
    def best_bid(self) -> Level | None:
        """The highest bid."""
        return next(self._bids.falling(), None)

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask."""
        return next(self._asks.rising(), None)

    @property
    def mid(self) -> Decimal | None:
        """The price half way between the best; None unless there are both."""
        if self.best_bid is None or self.best_ask is None:
            return None
        return (self.best_bid[0] + self.best_ask[0]) / 2

    def checksum(self) -> int:
        """Return the CRC32 that the exchange's must agree with."""
        return checksum(self.bids(CHECKSUM_LEVELS), self.asks(CHECKSUM_LEVELS))

    # Keeping

    def restart(self, sequence: int, data: Mapping[str, Any]) -> Need | None:
        """Take a snapshot; return what is needed when it does not agree with its checksum."""
        self._bids.replace(data["bids"])
        self._asks.replace(data["asks"])
        self.sequence = sequence
        self._waits_for = ""
        return self._verify(data) or self._go_on()

    def load(self, snapshot: models.BookSnapshot) -> Need | None:
        """Take a book that was read over REST."""
        data = {"bids": snapshot.bids, "asks": snapshot.asks, "checksum": snapshot.checksum}
        return self.restart(snapshot.sequence, data)

    def take_all(self, deltas: Iterable[models.Delta]) -> Need | None:
        """Take deltas that were read over REST; return what is still needed, if anything is."""
        need = None
        for delta in deltas:
            data = msgspec.structs.asdict(delta.data)
            need = self.take(msgspec.structs.asdict(delta) | {"type": "delta", "data": data})
        return need

    def take(self, message: Mapping[str, Any]) -> Need | None:
        """Take a message of the channel `book`; return what is needed to go on, if anything is."""
        if message["type"] == "snapshot":
            return self.restart(message["sequence"], message["data"])
        if self._waits_for == SNAPSHOT:
            self._keep(message)
            return None
        if message["sequence"] <= self.sequence:
            return None
        if message["previous_sequence"] == self.sequence:
            return self._apply(message) or self._go_on()
        if not self._keep(message):
            return self.give_up("too much came while a gap was open")
        return None if self._waits_for == RANGE else self._gap()

    def give_up(self, reason: str) -> Need:
        """Return the need of a snapshot; what is here is no longer believed."""
        self._kept.clear()
        self._waits_for = SNAPSHOT
        return Need(reason=reason)

    def _keep(self, message: Mapping[str, Any]) -> bool:
        """Keep a delta for later; return False when there are too many."""
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
            return False
        self._kept[message["previous_sequence"]] = message
        return True

    def _gap(self) -> Need:
        self._waits_for = RANGE
        self._asked_to = min(self._kept)
        self.gaps += 1
        return Need(reason="a delta is missing", first=self.sequence + 1, last=self._asked_to)

    def _apply(self, message: Mapping[str, Any]) -> Need | None:
        data = message["data"]
        for side, levels in ((self._bids, data["bids"]), (self._asks, data["asks"])):
            for price, lots in levels:
                side.set(Decimal(price), lots)
        self.sequence = message["sequence"]
        return self._verify(data)

    def _verify(self, data: Mapping[str, Any]) -> Need | None:
        if data.get("checksum") in (None, self.checksum()):
            return None
        self.gaps += 1
        return self.give_up("the checksum does not agree")

    def _go_on(self) -> Need | None:
        """Apply what was kept and goes on from here; return what is needed for the rest."""
        while (following := self._kept.pop(self.sequence, None)) is not None:
            need = self._apply(following)
            if need is not None:
                return need
        for previous, message in list(self._kept.items()):
            if message["sequence"] <= self.sequence:
                del self._kept[previous]
        if not self._kept:
            self._waits_for = ""
            return None
        is_coming = self._waits_for == RANGE and self.sequence < self._asked_to
        return None if is_coming else self._gap()


def checksum(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """Return the CRC32 of the top ten bids, then the top ten asks: `price:quantity|...`."""
    top = [*bids[:CHECKSUM_LEVELS], *asks[:CHECKSUM_LEVELS]]
    return zlib.crc32("|".join(f"{price:f}:{lots}" for price, lots in top).encode())


def _first(levels: Iterator[Level], count: int | None) -> list[Level]:
    return list(itertools.islice(levels, count))
