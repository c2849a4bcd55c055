"""The uniform-price call auction: one price at which the most lots change hands.

Buys at the price or above and sells at the price or below trade, all of them at that one price. It
is chosen by four rules, each deciding among what the one before leaves (RULEBOOK 2.3): the greatest
volume, the smallest surplus, the nearest to the reference price, the lower. Between two
neighboring order prices volume and surplus do not change, so the best price is one of few: an
order's, one tick beside an order's, or the reference. Better prices are served first, then earlier
orders; the last lots at the margin go by time.

Only prices from the best ask to the best bid can trade, so callers may leave out the rest of a
book.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

Entry = TypeVar("Entry")


class Result(NamedTuple):
    """What an auction gives: price and lots are 0 where no two orders cross.

    `surplus` is what finds no partner at the price: positive where buys are left over, negative
    where sells are.
    """

    price: int
    lots: int
    surplus: int


NOTHING = Result(0, 0, 0)


def uncross(
    bids: Sequence[tuple[int, int]], asks: Sequence[tuple[int, int]], reference: int
) -> Result:
    """Return the price of an auction, its volume and its surplus.

    Both sides are (price, lots) of levels, best first, each price once.
    """
    if not bids or not asks or bids[0][0] < asks[0][0]:
        return NOTHING
    low, high = asks[0][0], bids[0][0]
    prices = {price + step for price, _ in (*bids, *asks) for step in (-1, 0, 1)}
    prices.add(reference)
    rising = sorted(price for price in prices if low <= price <= high)
    demand = _reached(bids, rising[::-1], 1)[::-1]
    supply = _reached(asks, rising, -1)
    # Of equals `max` takes the first, which is the lower price.
    best = max(
        zip(rising, demand, supply, strict=True),
        key=lambda of: (min(of[1], of[2]), -abs(of[1] - of[2]), -abs(of[0] - reference)),
    )
    price, bought, sold = best
    return Result(price, min(bought, sold), bought - sold)


def _reached(levels: Sequence[tuple[int, int]], prices: Sequence[int], side: int) -> list[int]:
    """Return the lots of all levels at each price or better; both come best price first."""
    totals = []
    total = number = 0
    for price in prices:
        while number < len(levels) and side * levels[number][0] >= side * price:
            total += levels[number][1]
            number += 1
        totals.append(total)
    return totals


def pair(
    buys: Iterable[tuple[Entry, int]], sells: Iterable[tuple[Entry, int]], lots: int
) -> Iterator[tuple[Entry, Entry, int]]:
    """Yield (buy, sell, lots) until `lots` have changed hands.

    Both sides are (order, lots) in the order in which they are served: price, then time.
    """
    buying, selling = iter(buys), iter(sells)
    wanted = offered = 0
    while lots:
        if not wanted:
            buy, wanted = next(buying)
        if not offered:
            sell, offered = next(selling)
        traded = min(wanted, offered, lots)
        yield buy, sell, traded
        wanted -= traded
        offered -= traded
        lots -= traded
