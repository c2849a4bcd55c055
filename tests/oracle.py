"""Slow and obvious: a book, and the ledger and positions of a history, to compare against.

Nothing here is shared with the code it checks but the vocabulary of events. The book looks through
a plain list for every fill; the accounts are added up from the first event each time.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from exchange import events


@dataclass
class SlowOrder:
    """An order in a list."""

    id: int
    group: int
    side: int
    price: int
    lots: int


@dataclass
class SlowBook:
    """A list of orders in the order they came, and the trades so far."""

    orders: list[SlowOrder] = field(default_factory=list)
    trades: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(taker, maker, lots, price)"""

    def place(
        self, number: int, group: int, side: int, price: int, lots: int, *, rests: bool
    ) -> None:
        """Trade an order against the best and earliest, one at a time, and rest what is left."""
        while lots:
            others = [o for o in self.orders if o.side == -side and (o.price - price) * side <= 0]
            if not others:
                break
            best_price = min(o.price * side for o in others) * side
            best = next(o for o in self.orders if o in others and o.price == best_price)
            if best.group == group:
                return
            traded = min(lots, best.lots)
            self.trades.append((number, best.id, traded, best.price))
            lots -= traded
            best.lots -= traded
            if not best.lots:
                self.orders.remove(best)
        if lots and rests:
            self.orders.append(SlowOrder(number, group, side, price, lots))

    def cancel(self, number: int) -> None:
        """Take an order out."""
        self.orders = [o for o in self.orders if o.id != number]

    def levels(self, side: int) -> list[tuple[int, int]]:
        """Return (price, lots), best first."""
        total: dict[int, int] = defaultdict(int)
        for order in self.orders:
            if order.side == side:
                total[order.price] += order.lots
        return sorted(total.items(), reverse=side > 0)


def balances(history: list[events.Event]) -> dict[tuple[int, int], int]:
    """Return the balance of every (owner, kind) by adding up all transfers."""
    total: dict[tuple[int, int], int] = defaultdict(int)
    for event in history:
        if isinstance(event, events.Transferred):
            assert event.amount > 0
            total[event.debit_owner, event.debit_kind] -= event.amount
            total[event.credit_owner, event.credit_kind] += event.amount
    return total


def positions(history: list[events.Event]) -> dict[tuple[int, str], tuple[int, int]]:
    """Return (net lots, cost) by account and symbol from the trades; closed gates are flat."""
    total: dict[tuple[int, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for event in history:
        if isinstance(event, events.Traded):
            for account, side in (
                (event.taker, event.taker_side),
                (event.maker, -event.taker_side),
            ):
                net, cost = total[account, event.instrument]
                total[account, event.instrument] = (
                    net + side * event.lots,
                    cost + side * event.lots * event.price,
                )
        elif isinstance(event, events.GateClosed):
            for key in [key for key in total if key[1] == event.instrument]:
                del total[key]
    return total


def fees(history: list[events.Event], bp: dict[str, int]) -> dict[int, int]:
    """Return what each order should have been charged: rounded up once over all its fills."""
    points: dict[int, int] = defaultdict(int)
    for event in history:
        if isinstance(event, events.Traded):
            notional = 60 * event.price * event.lots
            points[event.maker_order] += notional * bp["maker"]
            points[event.taker_order] += notional * bp["taker"]
    return {order: -(-total // 10_000) for order, total in points.items()}
