"""Resting orders of one instrument on two price ladders.

Each ladder keeps its prices as signed keys, +price for bids and -price for asks, so that on both
sides the best is the greatest and stands at the end of a plain sorted list. That list is touched
only when a level appears or empties. The two kinds of key never collide, so one number names a
level of the whole book.

A level is a plain list of orders, first come first, with a running total. What leaves it from the
front is passed over, what leaves it from the middle is noted by its id; the list is put in order
when as much has left as there is, so resting, filling and canceling cost the same on average
however deep the book is. An order at rest knows nothing of its place: nothing has to be written
into it or its neighbors, and it is no part of a cycle that a collector would have to follow.

`check()` states the invariants. The index from order id to order may be shared by several books.
Stop orders wait apart (`Stops`): they are in no book until they are triggered.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any

import msgspec

from exchange.reasons import OrderStatus

TIDY_MIN = 32
"""A level with fewer orders that have left it is not worth putting in order."""
NO_ASK = 1 << 62
"""The best price of asks where there are none: no order reaches it."""


class Resting(msgspec.Struct, eq=False, gc=False):
    """What a book needs of an order, and all that an order is to a book on its own.

    A struct is made in half the time of a class; two orders are one only if they are the same. It
    holds numbers alone, so a collector has nothing to find in it.
    """

    id: int
    side: int
    price: int
    lots: int
    group: int
    remaining: int
    """What is on show in the book, or all that is left of an order that does not rest."""
    hidden: int = 0
    """What is left of an iceberg and not on show."""

    @property
    def left(self) -> int:
        """Lots that are not filled, on show or not."""
        return self.remaining + self.hidden


class Order(Resting, gc=True):
    """An order with all that the machine, not the book, has to know of it."""

    account: Any = None
    position: Any = None
    request: Any = None
    stop_price: int = 0
    sequence: int = 0
    created_at: int = 0
    updated_at: int = 0
    status: str = OrderStatus.OPEN
    reason: str = ""
    value_ticks: int = 0
    fee_points: int = 0
    fee: int = 0
    fee_reserve: int = 0

    @property
    def rests(self) -> bool:
        """Whether a live order rests in its book; if not, it waits for its stop price."""
        return self.status is not OrderStatus.UNTRIGGERED

    @property
    def is_of_clearing(self) -> bool:
        """Whether the clearing house placed it: what a participant sends has a fingerprint."""
        return not self.request.fingerprint

    def show(self, lots: int) -> int:
        """Show of `lots` what an iceberg may show, hide the rest; return what is on show."""
        tip: int = min(self.request.terms.display_lots, lots)
        self.remaining = tip
        self.hidden = lots - tip
        return tip

    def shrink(self, lots: int) -> int:
        """Take lots off the order, hidden ones first; return how many were on show."""
        hidden = min(self.hidden, lots)
        self.hidden -= hidden
        self.remaining -= lots - hidden
        self.lots -= lots
        return lots - hidden


class Level:
    """One price of one side: a queue of orders and the sum of their lots.

    The queue begins at `start`, where there always is an order at rest. Before it stand orders that
    have left, and behind it may stand those of `gone`.
    """

    __slots__ = ("gone", "gone_max", "lots", "orders", "start")

    def __init__(self, order: Order) -> None:
        self.lots = order.remaining
        self.orders: list[Order] = [order]
        self.start = 0
        self.gone: dict[int, int] = {}
        """How often, by order id, the queue has still to pass an order that has left it."""
        self.gone_max = TIDY_MIN

    def leave(self, order: Order) -> None:
        """Take an order out of the queue; it is not the last one."""
        orders = self.orders
        gone = self.gone
        start = self.start
        if orders[start] is order:
            self.start_at(start + 1)
            return
        number = order.id
        gone[number] = gone[number] + 1 if number in gone else 1
        if len(gone) > self.gone_max:
            self._tidy()

    def keep(self, start: int, lots: int) -> None:
        """Let the queue go on with `lots` in all, from the first order at rest from `start` on."""
        self.lots = lots
        if self.gone or start > TIDY_MIN:
            self.start_at(start)
        else:
            self.start = start

    def start_at(self, start: int) -> None:
        """Let the queue begin with the first order at rest from here on."""
        orders = self.orders
        if self.gone:
            while self.passes(orders[start]):
                start += 1
        if start > TIDY_MIN and start * 2 > len(orders):
            self.orders = orders[start:]
            start = 0
        self.start = start

    def passes(self, order: Order) -> bool:
        """Whether the next order of the queue has left it; it is forgotten then."""
        gone = self.gone
        left = gone.pop(order.id, 0)
        if left > 1:
            gone[order.id] = left - 1
        return left > 0

    def _tidy(self) -> None:
        """Keep only what rests."""
        orders = self.orders
        self.orders = kept = [
            orders[at] for at in range(self.start, len(orders)) if not self.passes(orders[at])
        ]
        self.start = 0
        self.gone_max = max(TIDY_MIN, len(kept))

    def __iter__(self) -> Iterator[Order]:
        """Yield the orders, first come first; forget on the way those that have left."""
        orders = self.orders
        at = self.start
        while at < len(orders):
            order = orders[at]
            if self.gone and self.passes(order):
                del orders[at]
                continue
            at += 1
            yield order


class Ladder:
    """One side of a book: levels by signed key, best last in `keys`."""

    __slots__ = ("empty", "front", "keys", "levels")

    def __init__(self, empty: int) -> None:
        self.keys: list[int] = []
        self.levels: dict[int, Level] = {}
        self.front = self.empty = empty
        """The best price, that an arriving order has to reach; without one, `empty`."""

    def __iter__(self) -> Iterator[Order]:
        """Yield every order, best price first, then first come first."""
        for key in reversed(self.keys):
            yield from self.levels[key]

    def best(self) -> int:
        """Return the best price, 0 when the side is empty."""
        return self.front if self.keys else 0

    def depth(self, count: int) -> list[tuple[int, int]]:
        """Return (price, lots) of the best `count` levels, best first."""
        best_first = self.keys[: -count - 1 : -1] if count > 0 else []
        return [(abs(key), self.levels[key].lots) for key in best_first]

    def lots_at(self, key: int) -> int:
        """Return the lots of a level, 0 where there is none."""
        level = self.levels.get(key)
        return level.lots if level is not None else 0

    def add(self, key: int, order: Order) -> None:
        """Open a level with its first order."""
        self.levels[key] = Level(order)
        keys = self.keys
        if not keys or keys[-1] < key:
            keys.append(key)
            self.front = order.price
        else:
            insort(keys, key)

    def drop(self, key: int) -> None:
        """Forget an empty level."""
        del self.levels[key]
        keys = self.keys
        if keys[-1] == key:
            keys.pop()
            self.front = abs(keys[-1]) if keys else self.empty
        else:
            del keys[bisect_left(keys, key)]


class Book:
    """Both ladders of an instrument and the index of their orders."""

    __slots__ = ("asks", "bids", "orders")

    def __init__(self, orders: dict[int, Order] | None = None) -> None:
        self.bids = Ladder(0)
        self.asks = Ladder(NO_ASK)
        self.orders: dict[int, Order] = {} if orders is None else orders

    def ladder(self, side: int) -> Ladder:
        """Return the side an order of `side` rests on."""
        return self.bids if side > 0 else self.asks

    def best(self) -> tuple[int, int]:
        """Return the best bid and the best ask, 0 where a side is empty."""
        return self.bids.best(), self.asks.best()

    def lots_at(self, key: int) -> int:
        """Return the lots of the level with this signed key."""
        return (self.bids if key > 0 else self.asks).lots_at(key)

    def rest(self, order: Order) -> None:
        """Put an order behind all others of its price."""
        if order.side > 0:
            ladder = self.bids
            key = order.price
        else:
            ladder = self.asks
            key = -order.price
        level = ladder.levels.get(key)
        if level is None:
            ladder.add(key, order)
        else:
            level.orders.append(order)
            level.lots += order.remaining
        self.orders[order.id] = order

    def remove(self, order: Order) -> None:
        """Take a resting order out of the book, whatever it has left."""
        del self.orders[order.id]
        self._leave(order)

    def _leave(self, order: Order) -> None:
        if order.side > 0:
            ladder = self.bids
            key = order.price
        else:
            ladder = self.asks
            key = -order.price
        level = ladder.levels[key]
        lots = level.lots - order.remaining
        if lots:
            level.lots = lots
            level.leave(order)
        else:
            ladder.drop(key)

    def shrink(self, order: Order, lots: int) -> None:
        """Take lots off a resting order, hidden ones first; it keeps its place."""
        level = self._level(order)
        level.lots -= order.shrink(lots)
        assert order.remaining > 0, "something is left on show"

    def fill(self, order: Order, lots: int) -> None:
        """Take lots that an auction traded off a resting order, those on show first.

        An iceberg whose tip is gone shows the next one behind all others of its price.
        """
        if lots < order.remaining:
            self._level(order).lots -= lots
            order.remaining -= lots
            return
        left = order.left - lots
        self.remove(order)
        order.remaining = order.hidden = 0
        if left:
            order.show(left)
            self.rest(order)

    def cancel(self, order_id: int) -> Order | None:
        """Remove the order with this id and return it; None when it does not rest."""
        order = self.orders.pop(order_id, None)
        if order is not None:
            self._leave(order)
        return order

    def _level(self, order: Order) -> Level:
        return self.ladder(order.side).levels[order.side * order.price]

    def __iter__(self) -> Iterator[Order]:
        """Yield bids, then asks, each best price first, then first come first."""
        yield from self.bids
        yield from self.asks

    def check(self, *, may_cross: bool = False) -> None:
        """Assert that ladders, levels, queues and index agree; only in a call prices may cross."""
        for ladder, side in ((self.bids, 1), (self.asks, -1)):
            assert ladder.keys == sorted(ladder.levels), "one sorted key for each level"
            best = abs(ladder.keys[-1]) if ladder.keys else ladder.empty
            assert ladder.front == best, "the front is the best price"
            for key, level in ladder.levels.items():
                assert level.orders[level.start].id not in level.gone, "a queue begins with one"
                orders = list(level)
                assert not level.gone, "what has left has stood in the queue"
                assert level.orders[level.start :] == orders, "nothing else stands in the queue"
                assert orders, "no level is empty"
                assert len({order.id for order in orders}) == len(orders), "nobody stands twice"
                assert level.lots == sum(order.remaining for order in orders), "totals add up"
                for order in orders:
                    assert order.side * order.price == key, "an order rests at its price"
                    assert order.side == side, "an order rests on its side"
                    assert order.remaining > 0, "nothing filled rests"
                    assert order.left <= order.lots, "nothing is left beyond what was ordered"
                    if order.hidden:
                        shows = order.request.terms.display_lots
                        assert 0 < order.remaining <= shows, "an iceberg shows its tip"
                    assert self.orders.get(order.id) is order, "every resting order is indexed"
        bid, ask = self.best()
        assert may_cross or not bid or not ask or bid < ask, "the book is not crossed"


class Stops:
    """Orders that wait, unseen, for the last price to reach their stop price.

    Each side is a sorted list of (key, -id, order), what triggers next at its end: of buys the
    lowest stop price, of sells the highest, then the earliest order.
    """

    __slots__ = ("buys", "sells")

    def __init__(self) -> None:
        self.buys: list[tuple[int, int, Order]] = []
        self.sells: list[tuple[int, int, Order]] = []

    def __bool__(self) -> bool:
        return bool(self.buys or self.sells)

    def __iter__(self) -> Iterator[Order]:
        """Yield buys, then sells, each from the one that triggers next."""
        for side in (self.buys, self.sells):
            for _, _, order in reversed(side):
                yield order

    def _side(self, side: int) -> list[tuple[int, int, Order]]:
        return self.buys if side > 0 else self.sells

    def add(self, order: Order) -> None:
        """Let an order wait."""
        insort(self._side(order.side), (-order.side * order.stop_price, -order.id, order))

    def discard(self, order: Order) -> None:
        """Forget an order, if it waits."""
        waiting = self._side(order.side)
        place = bisect_left(waiting, (-order.side * order.stop_price, -order.id))
        if place < len(waiting) and waiting[place][2] is order:
            del waiting[place]

    def take(self, price: int) -> list[Order]:
        """Forget and return what a trade at this price triggers, in the order it triggers."""
        taken = []
        for side in (1, -1):
            waiting = self._side(side)
            while waiting and waiting[-1][0] >= -side * price:
                taken.append(waiting.pop()[2])
        return taken

    def check(self) -> None:
        """Assert that both sides are sorted and hold what belongs to them."""
        for waiting, side in ((self.buys, 1), (self.sells, -1)):
            keys = [(key, number) for key, number, _ in waiting]
            assert keys == sorted(keys), "what triggers next stands last"
            for key, number, order in waiting:
                assert order.side == side, "a stop waits on its side"
                assert (key, number) == (-side * order.stop_price, -order.id), "by its stop price"
