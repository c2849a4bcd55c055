"""Price-time priority: an arriving order meets the best price first, then the earliest order.

A trade happens at the maker's price. An iceberg shows its tip; when that is consumed the next one
stands behind all others of the price. An order never trades with one of its own beneficial-owner
group; where it would, its mode says who gives way:

- cancel newest: the arriving order stops, and what is left of it is canceled;
- cancel oldest: the one at rest is canceled, and the arriving order goes on;
- cancel both: the one at rest is canceled, and the arriving order stops;
- decrement: both lose what the smaller one has left, and that one is canceled.

`match` does it, `reach` says beforehand what `match` would trade, and `give_way` does only what the
mode asks, where nothing trades yet. The loop touches the price list only when a level empties and
allocates nothing but the fills it returns.
"""

from collections.abc import Sequence

from exchange import commands
from exchange.book import Book, Level, Order

Fill = tuple[Order, int]
"""A maker and the lots it traded, at its own price.

One of the arriving order's own group has traded nothing: with zero lots it gave way and has left
the book with all it had, with lots below zero it has lost that many and rests on.
"""
Fills = Sequence[Fill]

CANCEL_NEWEST = commands.CANCEL_NEWEST

_UNTOUCHED: tuple[Fills, bool] = ((), False)
"""What most orders do when they arrive, which rest where nothing meets them: made once."""


def match(
    book: Book, order: Order, limit: int = 0, prevention: str = CANCEL_NEWEST
) -> tuple[Fills, bool]:
    """Trade an arriving order as far as `limit` allows; 0 is the order's own price.

    Return the fills in the order they happened and whether the order stopped at one of its group.
    Filled makers have left the book; the order itself does not rest yet. An iceberg has a fill for
    each tip; a decrement lowers `lots`.
    """
    price = limit or order.price
    if order.side > 0:
        ladder, worst = book.asks, -price
        crosses = price >= ladder.front
    else:
        ladder, worst = book.bids, price
        crosses = price <= ladder.front
    if not crosses:
        return _UNTOUCHED
    remaining, group = order.remaining, order.group
    keys, index = ladder.keys, book.orders
    fills: list[Fill] = []
    stopped, key = False, keys[-1]
    while key >= worst:
        level = ladder.levels[key]
        orders, gone = level.orders, level.gone
        at, shown = level.start, level.lots
        while True:
            maker = orders[at]
            lots = maker.remaining
            if gone and level.passes(maker):
                at += 1
                continue
            if maker.group == group:
                order.remaining = remaining
                lost, stopped = _meet_own(order, maker, prevention, fills)
                remaining = order.remaining
                shown -= lost
                if lost < lots:
                    break
            elif lots > remaining:
                maker.remaining = lots - remaining
                fills.append((maker, remaining))
                shown -= remaining
                remaining = 0
                break
            else:
                fills.append((maker, lots))
                shown -= lots
                remaining -= lots
                if maker.hidden:
                    shown += maker.show(maker.hidden)
                    orders.append(maker)
                    at += 1
                    if remaining:
                        continue
                    break
                maker.remaining = 0
            at += 1
            del index[maker.id]
            if not shown or not remaining or stopped:
                break
        if shown:
            level.keep(at, shown)
            break
        ladder.drop(key)
        if not remaining or stopped or not keys:
            break
        key = keys[-1]
    order.remaining = remaining
    return fills, stopped


def _meet_own(order: Order, maker: Order, prevention: str, fills: list[Fill]) -> tuple[int, bool]:
    """Let an arriving order and one of its group give way to each other as the mode says.

    Return how many lots the one at rest loses of those on show, all of them when it has to leave,
    and whether the arriving order stops; one of the two always happens.
    """
    remaining = order.remaining
    left = maker.left
    yields, stopped = _verdict(prevention, left, remaining)
    if yields:
        fills.append((maker, 0))
        if prevention == commands.DECREMENT and not stopped:
            order.remaining = remaining - left
            order.lots -= left
        return maker.remaining, stopped
    if prevention == commands.DECREMENT:
        fills.append((maker, -remaining))
        return maker.shrink(remaining), stopped
    return 0, stopped


def _verdict(prevention: str, own: int, remaining: int) -> tuple[bool, bool]:
    """Return whether the order at rest, with `own` lots, leaves, and whether the other stops."""
    match prevention:
        case commands.CANCEL_OLDEST:
            return True, False
        case commands.CANCEL_BOTH:
            return True, True
        case commands.DECREMENT:
            return own <= remaining, own >= remaining
    return False, True


def reach(
    book: Book,
    side: int,
    limit: int,
    lots: int,
    group: int,
    prevention: str = CANCEL_NEWEST,
) -> list[tuple[int, int]]:
    """Return the (price, lots) that an order would trade, best price first, changing nothing.

    It looks at exactly what `match` would take from `side` at `limit` or better: icebergs with all
    that they hide, none of the group's own. The sum falls short of `lots` where the book or the
    limit ends, where the mode stops the order at one of its group, and by what a decrement takes.
    """
    ladder = book.asks if side > 0 else book.bids
    worst = -side * limit
    found: list[tuple[int, int]] = []
    for key in reversed(ladder.keys):
        if key < worst or not lots:
            break
        taken, lots = _reach_level(ladder.levels[key], lots, group, prevention)
        if taken:
            found.append((abs(key), taken))
    return found


def _reach_level(level: Level, lots: int, group: int, prevention: str) -> tuple[int, int]:
    """Return what an order would take from a level and what it would go on with.

    Every tip of the queue is met before the first tip that is shown again.
    """
    taken = hidden = 0
    for maker in level:
        if maker.group == group:
            _, stops = _verdict(prevention, maker.left, lots)
            if stops:
                return taken, 0
            if prevention == commands.DECREMENT:
                lots -= maker.left
            continue
        met = min(lots, maker.remaining)
        taken += met
        lots -= met
        if not lots:
            return taken, 0
        hidden += maker.hidden
    met = min(lots, hidden)
    return taken + met, lots - met


def give_way(book: Book, order: Order, prevention: str = CANCEL_NEWEST) -> tuple[Fills, bool]:
    """Apply an arriving order's mode to its group's orders at crossing prices; nothing trades.

    Return what happened as `match` does, and whether the order stopped.
    """
    ladder = book.asks if order.side > 0 else book.bids
    worst = -order.side * order.price
    own = [
        maker
        for key in reversed(ladder.keys)
        if key >= worst
        for maker in ladder.levels[key]
        if maker.group == order.group
    ]
    changes: list[Fill] = []
    for maker in own:
        left = maker.left
        yields, stops = _verdict(prevention, left, order.remaining)
        if yields:
            book.remove(maker)
            changes.append((maker, 0))
        elif prevention == commands.DECREMENT:
            book.shrink(maker, order.remaining)
            changes.append((maker, -order.remaining))
        if stops:
            return changes, True
        if prevention == commands.DECREMENT:
            order.remaining -= left
            order.lots -= left
    return changes, False


def submit(book: Book, order: Order) -> Fills:
    """Match an order and rest what is left of it: the book on its own, without a machine."""
    fills, stopped = match(book, order)
    if order.remaining and not stopped:
        book.rest(order)
    return fills
