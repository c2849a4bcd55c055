"""Price-time priority: an arriving order meets the best price first, then the earliest order.

A trade happens at the maker's price. An order never meets one of its own beneficial-owner group:
where it would, it stops, and what is left of it is canceled (the newest gives way). The loop
touches the price list only when a level empties and allocates nothing but the fills it returns.
"""

from exchange.book import Book, Order

Fill = tuple[Order, int]
"""A maker and the lots it traded, at its own price."""


def match(book: Book, order: Order) -> tuple[list[Fill], bool]:
    """Trade an arriving order as far as its limit allows.

    Return the fills in the order they happened and whether the order stopped at one of its own
    group. Makers that were filled have left the book; the order itself does not rest yet.
    """
    side = order.side
    ladder = book.asks if side > 0 else book.bids
    keys = ladder.keys
    limit = -side * order.price
    fills: list[Fill] = []
    if not keys or keys[-1] < limit:
        return fills, False
    remaining = order.remaining
    group = order.group
    levels = ladder.levels
    index = book.orders
    while keys and keys[-1] >= limit:
        level = levels[keys[-1]]
        maker = level.head
        traded = 0
        while maker is not None:
            if maker.group == group:
                break
            lots = maker.remaining
            if lots > remaining:
                maker.remaining = lots - remaining
                fills.append((maker, remaining))
                traded += remaining
                remaining = 0
                break
            fills.append((maker, lots))
            traded += lots
            remaining -= lots
            maker.remaining = 0
            del index[maker.id]
            after = maker.after
            maker.level = maker.after = None
            maker = after
            if not remaining:
                break
        if maker is None:
            del levels[keys.pop()]
            if remaining:
                continue
        else:
            level.head = maker
            maker.before = None
            level.lots -= traded
        order.remaining = remaining
        return fills, remaining > 0
    order.remaining = remaining
    return fills, False


def submit(book: Book, order: Order) -> list[Fill]:
    """Match an order and rest what is left of it: the book on its own, without a machine."""
    fills, stopped = match(book, order)
    if order.remaining and not stopped:
        book.rest(order)
    return fills
