"""A book that is kept by the client, against the market's own while messages get lost."""

import random
import zlib
from decimal import Decimal
from typing import Any

import pytest

from baseload import Book
from baseload.book import KEPT_MAX

HOUR = "LLAMA70B.H.20261201T14Z"
Message = dict[str, Any]


class SlowBook:
    """A market's book without any care for speed, and everything it ever said."""

    def __init__(self) -> None:
        self.levels: dict[str, dict[str, int]] = {"bids": {}, "asks": {}}
        self.sequence = 0
        self.said: list[Message] = []

    def checksum(self) -> int:
        bids = sorted(self.levels["bids"].items(), key=lambda one: -Decimal(one[0]))[:10]
        asks = sorted(self.levels["asks"].items(), key=lambda one: Decimal(one[0]))[:10]
        return zlib.crc32("|".join(f"{price}:{lots}" for price, lots in bids + asks).encode())

    def change(self, *levels: tuple[str, str, int], changes: int = 1) -> Message:
        for side, price, lots in levels:
            self.levels[side][price] = lots
            if not lots:
                del self.levels[side][price]
        data: dict[str, Any] = {"bids": [], "asks": []}
        for side, price, lots in levels:
            data[side].append([price, lots])
        message = {
            "type": "delta",
            "instrument": HOUR,
            "previous_sequence": self.sequence,
            "sequence": self.sequence + changes,
            "data": data | {"checksum": self.checksum()},
        }
        self.sequence += changes
        self.said.append(message)
        return message

    def snapshot(self) -> Message:
        data = {side: [[p, n] for p, n in levels.items()] for side, levels in self.levels.items()}
        return {
            "type": "snapshot",
            "sequence": self.sequence,
            "previous_sequence": None,
            "data": data | {"checksum": self.checksum()},
        }

    def range(self, first: int, last: int) -> list[Message]:
        return [
            one for one in self.said if one["sequence"] >= first and one["previous_sequence"] < last
        ]


def agrees(book: Book, market: SlowBook) -> bool:
    bids = {f"{price:f}": lots for price, lots in book.bids()}
    asks = {f"{price:f}": lots for price, lots in book.asks()}
    return (bids, asks) == (market.levels["bids"], market.levels["asks"])


def test_a_book_begins_with_a_snapshot_and_follows_deltas() -> None:
    market, book = SlowBook(), Book(HOUR)
    assert not book.is_live
    market.change(("bids", "1.240", 5), ("bids", "1.230", 7))
    assert book.take(market.snapshot()) is None
    assert book.is_live
    assert book.take(market.change(("asks", "1.260", 4), ("bids", "1.240", 0))) is None
    assert book.best_bid == (Decimal("1.230"), 7)
    assert book.best_ask == (Decimal("1.260"), 4)
    assert book.mid == Decimal("1.245")
    assert book.bids(1) == [(Decimal("1.230"), 7)]
    assert book.take(market.said[0]) is None  # an old one changes nothing
    assert agrees(book, market)


def test_what_came_before_the_snapshot_is_taken_after_it() -> None:
    market, book = SlowBook(), Book(HOUR)
    first = market.change(("bids", "1.240", 5))
    snapshot = market.snapshot()
    second = market.change(("bids", "1.250", 5))
    assert [book.take(one) for one in (first, second, snapshot)] == [None] * 3
    assert agrees(book, market)
    assert book.is_live


def test_a_gap_asks_for_what_is_missing_once_and_goes_on_behind_it() -> None:
    market, book = SlowBook(), Book(HOUR)
    book.take(market.snapshot())
    market.change(("bids", "1.240", 5))
    market.change(("bids", "1.230", 5), changes=3)
    need = book.take(market.change(("bids", "1.220", 5)))
    assert need is not None
    assert (need.first, need.last, need.is_snapshot) == (1, 4, False)
    assert not book.is_live
    assert book.take(market.change(("bids", "1.210", 5))) is None
    assert [book.take(one) for one in market.range(1, 4)] == [None, None]
    assert book.is_live
    assert agrees(book, market)
    assert book.gaps == 1


def test_a_second_gap_behind_the_first_is_asked_for_when_the_first_is_filled() -> None:
    market, book = SlowBook(), Book(HOUR)
    book.take(market.snapshot())
    said = [market.change(("bids", "1.240", n + 1)) for n in range(7)]
    needs = [book.take(said[n]) for n in (2, 3, 6)]
    assert [need and (need.first, need.last) for need in needs] == [(1, 2), None, None]
    needs = [book.take(one) for one in market.range(1, 2)]
    assert [need and (need.first, need.last) for need in needs] == [None, (5, 6)]
    assert [book.take(one) for one in market.range(5, 6)] == [None, None]
    assert book.is_live
    assert agrees(book, market)


def test_a_wrong_checksum_asks_for_a_snapshot_and_nothing_is_believed_before_it() -> None:
    market, book = SlowBook(), Book(HOUR)
    book.take(market.snapshot())
    broken = market.change(("bids", "1.240", 5))
    need = book.take(broken | {"data": broken["data"] | {"checksum": 1}})
    assert need is not None
    assert need.is_snapshot
    assert book.take(market.change(("bids", "1.250", 5))) is None
    assert not book.is_live
    snapshot = market.snapshot()
    following = market.change(("bids", "1.260", 5))
    assert [book.take(following), book.take(snapshot)] == [None, None]
    assert book.is_live
    assert agrees(book, market)


def test_a_gap_that_is_never_filled_ends_in_a_snapshot() -> None:
    market, book = SlowBook(), Book(HOUR)
    book.take(market.snapshot())
    market.change(("bids", "1.240", 1))
    needs = [book.take(market.change(("bids", "1.240", n + 2))) for n in range(KEPT_MAX + 1)]
    assert [need is not None for need in needs] == [True, *[False] * (KEPT_MAX - 1), True]
    assert needs[-1] is not None
    assert needs[-1].is_snapshot
    assert book.take(market.snapshot()) is None
    assert agrees(book, market)


@pytest.mark.parametrize("seed", range(20))
def test_any_loss_is_recovered_from(seed: int) -> None:
    """Frames are lost, come twice and late; ranges are lost too; the book is right or says not."""
    chance = random.Random(seed)
    market, book = SlowBook(), Book(HOUR)
    book.take(market.snapshot())
    recovered = 0
    waiting: list[Message] = []
    for _ in range(400):
        side = chance.choice(["bids", "asks"])
        price = f"{1 + chance.randrange(40) / 1000:.3f}"
        lots = 0 if price in market.levels[side] and chance.random() < 0.4 else 1
        message = market.change(
            (side, price, lots * chance.randrange(1, 9)), changes=chance.randrange(1, 4)
        )
        if chance.random() < 0.2:
            continue
        waiting += [message] * chance.choice([1, 1, 2])
        while waiting and chance.random() < 0.95:
            need = book.take(waiting.pop(0))
            if need is None:
                continue
            recovered += 1
            if need.first is None or need.last is None:
                waiting.append(market.snapshot())
            elif chance.random() < 0.3:
                book.give_up("the range was lost")
                waiting.append(market.snapshot())
            else:
                waiting += market.range(need.first, need.last)
        if book.is_live and book.sequence == market.sequence:
            assert agrees(book, market)
            assert book.checksum() == market.checksum()
    assert recovered > 20
    book.take(market.snapshot())
    assert agrees(book, market)
