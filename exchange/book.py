"""Resting orders of one instrument on two price ladders.

Each ladder keeps its prices as signed keys, +price for bids and -price for asks, so that on both
sides the best is the greatest and stands at the end of a plain sorted list. That list is touched
only when a level appears or empties. A level is a linked first-in-first-out list with a running
total, so resting, filling and canceling cost the same however deep the book is. The two kinds of
key never collide, so one number names a level of the whole book.

`check()` states the invariants. The index from order id to order may be shared by several books.
Stop orders wait apart (`Stops`): they are in no book until they are triggered.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any

import msgspec

from exchange.reasons import OrderStatus


class Resting(msgspec.Struct, eq=False):
    """What a book needs of an order, and all that an order is to a book on its own.

    A struct is made in half the time of a class; two orders are one only if they are the same.
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
    level: "Level | None" = None
    before: "Order | None" = None
    after: "Order | None" = None

    @property
    def left(self) -> int:
        """Lots that are not filled, on show or not."""
        return self.remaining + self.hidden


class Order(Resting):
    """An order and its place in the book; what is not the book's is the machine's."""

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
    """One price of one side: a queue of orders and the sum of their lots."""

    __slots__ = ("head", "key", "lots", "tail")

    def __init__(self, key: int, order: Order) -> None:
        self.key = key
        self.lots = order.remaining
        self.head: Order | None = order
        self.tail: Order | None = order

    def send_back(self, head: Order) -> Order:
        """Put the first order behind all others; return who is first then."""
        after = head.after
        if after is None:
            return head
        tail = self.tail
        assert tail is not None, "no level is empty"
        head.before = tail
        head.after = None
        tail.after = self.tail = head
        return after

    def __iter__(self) -> Iterator[Order]:
        """Yield the orders, first come first."""
        order = self.head
        while order is not None:
            after = order.after
            yield order
            order = after


class Ladder:
    """One side of a book: levels by signed key, best last in `keys`."""

    __slots__ = ("keys", "levels")

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.levels: dict[int, Level] = {}

    def __iter__(self) -> Iterator[Order]:
        """Yield every order, best price first, then first come first."""
        for key in reversed(self.keys):
            yield from self.levels[key]

    def best(self) -> int:
        """Return the best price, 0 when the side is empty."""
        return abs(self.keys[-1]) if self.keys else 0

    def depth(self, count: int) -> list[tuple[int, int]]:
        """Return (price, lots) of the best `count` levels, best first."""
        best_first = self.keys[: -count - 1 : -1] if count > 0 else []
        return [(abs(key), self.levels[key].lots) for key in best_first]

    def lots_at(self, key: int) -> int:
        """Return the lots of a level, 0 where there is none."""
        level = self.levels.get(key)
        return level.lots if level is not None else 0

    def drop(self, key: int) -> None:
        """Forget an empty level."""
        del self.levels[key]
        keys = self.keys
        if keys[-1] == key:
            keys.pop()
        else:
            del keys[bisect_left(keys, key)]


class Book:
    """Both ladders of an instrument and the index of their orders."""

    __slots__ = ("asks", "bids", "orders")

    def __init__(self, orders: dict[int, Order] | None = None) -> None:
        self.bids = Ladder()
        self.asks = Ladder()
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
        """Put an order behind all others of its price.

        What is in no book has no neighbors, so there are none to be taken from it.
        """
        side = order.side
        ladder = self.bids if side > 0 else self.asks
        key = side * order.price
        level = ladder.levels.get(key)
        if level is None:
            order.level = ladder.levels[key] = Level(key, order)
            keys = ladder.keys
            if not keys or keys[-1] < key:
                keys.append(key)
            else:
                insort(keys, key)
        else:
            tail = level.tail
            order.before = tail
            tail.after = level.tail = order  # type: ignore[union-attr]
            level.lots += order.remaining
            order.level = level
        self.orders[order.id] = order

    def remove(self, order: Order) -> None:
        """Take a resting order out of the book, whatever it has left."""
        level = order.level
        assert level is not None, "only a resting order can be removed"
        before = order.before
        after = order.after
        if before is None:
            if after is None:
                (self.bids if order.side > 0 else self.asks).drop(level.key)
            else:
                level.head = after
                after.before = None
                level.lots -= order.remaining
        else:
            before.after = after
            if after is None:
                level.tail = before
            else:
                after.before = before
            level.lots -= order.remaining
        order.level = order.before = order.after = None
        del self.orders[order.id]

    def shrink(self, order: Order, lots: int) -> None:
        """Take lots off a resting order, hidden ones first; it keeps its place."""
        level = order.level
        assert level is not None, "only a resting order has a place to keep"
        level.lots -= order.shrink(lots)
        assert order.remaining > 0, "something is left on show"

    def fill(self, order: Order, lots: int) -> None:
        """Take lots that an auction traded off a resting order, those on show first.

        An iceberg whose tip is gone shows the next one behind all others of its price.
        """
        level = order.level
        assert level is not None, "only a resting order takes part in an auction"
        if lots < order.remaining:
            order.remaining -= lots
            level.lots -= lots
            return
        left = order.left - lots
        self.remove(order)
        order.remaining = order.hidden = 0
        if left:
            order.show(left)
            self.rest(order)

    def cancel(self, order_id: int) -> Order | None:
        """Remove the order with this id and return it; None when it does not rest."""
        order = self.orders.get(order_id)
        if order is not None:
            self.remove(order)
        return order

    def __iter__(self) -> Iterator[Order]:
        """Yield bids, then asks, each best price first, then first come first."""
        yield from self.bids
        yield from self.asks

    def check(self, *, may_cross: bool = False) -> None:
        """Assert that ladders, levels, queues and index agree; only in a call prices may cross."""
        for ladder, side in ((self.bids, 1), (self.asks, -1)):
            assert ladder.keys == sorted(ladder.levels), "one sorted key for each level"
            for key, level in ladder.levels.items():
                assert level.key == key, "a level knows its key"
                orders = list(level)
                assert orders, "no level is empty"
                assert level.head is orders[0], "the head is first"
                assert level.tail is orders[-1], "the tail is last"
                assert level.lots == sum(order.remaining for order in orders), "totals add up"
                before = None
                for order in orders:
                    assert order.before is before, "the queue is linked both ways"
                    assert order.level is level, "an order knows its level"
                    assert order.side * order.price == key, "an order rests at its price"
                    assert order.side == side, "an order rests on its side"
                    assert order.remaining > 0, "nothing filled rests"
                    assert order.left <= order.lots, "nothing is left beyond what was ordered"
                    if order.hidden:
                        shows = order.request.terms.display_lots
                        assert 0 < order.remaining <= shows, "an iceberg shows its tip"
                    assert self.orders.get(order.id) is order, "every resting order is indexed"
                    before = order
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
                assert order.level is None, "nothing waits that rests"
