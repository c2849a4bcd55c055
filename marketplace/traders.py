"""Who trades when nobody else does: a market-maker, and traders with views of their own.

The demo's market-maker, the seeded history and the simulations all act through these functions.
They decide and return values; whoever calls them places the orders. A maker anchors each hour to
the grade's reference price, bends it by the hour of the day and lets it wander, quotes a ladder
around the result, and leans against what it holds. A trader has a view of an hour, a few percent
off the maker's, and acts when the book is on the wrong side of it.

Nothing here is random: chance is a hash of what it is about (`noise`), so the same market comes
out of the same seed on any machine. Prices are ticks, sizes lots, instants microseconds since the
epoch.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marketplace import contract

HOURLY_DEMAND_PERCENT = (
    101, 104, 115, 117, 102, 94, 98, 106, 98, 99, 111, 111,
    96, 113, 106, 85, 84, 93, 90, 89, 101, 93, 93, 102,
)  # fmt: skip
"""Requests by hour of day (UTC) against the mean: ServeGen, clients of model m-mid, 14 days."""

DEMAND_TO_PRICE_DIVISOR = 4
"""A quarter of the swing in demand shows in the price."""

WANDER_PERMILLE = 40
"""How far a reference wanders from its anchor, at most, either way."""

WANDER_STEP = 15 * 60 * contract.MICROS_PER_SECOND
"""How often the wandering takes a step; between steps a maker has no reason to requote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """An order that should rest in a book."""

    side: contract.Side
    price_ticks: int
    lots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resting:
    """An order of ours that does."""

    order: int
    side: contract.Side
    price_ticks: int
    lots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requote:
    """What turns the resting orders of one book into the wanted ones: cancels, then orders."""

    cancels: tuple[int, ...]
    orders: tuple[Quote, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakerTerms:
    """How a market-maker quotes one grade."""

    half_spread_permille: int = 18
    step_permille: int = 8
    levels: int = 3
    lots_per_level: int = 40
    lean_permille_per_lot: int = 1
    """How far the whole ladder moves against each ten lots held."""
    reach_permille: int = 50
    """How far from the last trade the next one may be (RULEBOOK 2.4)."""


OPTION_TERMS = MakerTerms(
    half_spread_permille=100,
    levels=1,
    lots_per_level=2,
    lean_permille_per_lot=0,
    reach_permille=500,
)
"""How it quotes caps and cover, whose writers set aside all that they may have to pay."""
SLOT_TERMS = MakerTerms(
    half_spread_permille=100,
    levels=1,
    lots_per_level=10,
    lean_permille_per_lot=0,
    reach_permille=500,
)
"""How it quotes priority slots: one price a side around the reference, and only that moves it."""


def noise(*about: object) -> int:
    """Return a number in [0, 2^32) that depends on nothing but its arguments."""
    digest = hashlib.sha256("\x1f".join(map(str, about)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


TENOR_PERCENT = {
    contract.Product.MONTH: 25,
    contract.Product.WEEK: 25,
    contract.Product.DAY: 50,
    contract.Product.HOUR: 50,
}
"""What part of its capacity a maker offers in each tenor, so that all of them are covered at once;
an hour whose day has become hours has all that is left."""


def offered_lots(terms: contract.Contract, lots: int, at: int) -> int:
    """Return how many of an account's lots are offered in a book, before what it holds there."""
    if terms.product is contract.Product.HOUR:
        day = contract.day_contract(terms.grade, contract.day_start(terms.starts_at))
        if at >= day.trading_ends_at:
            return lots
    return lots * TENOR_PERCENT.get(terms.product, 0) // 100


def fair_ticks(*, terms: contract.Contract, reference_ticks: int, at: int) -> int:
    """Return what a window is worth at an instant: anchor, hour of day, and a slow wander.

    The wander is the mean of four steps, so that it moves a little at a time and returns. What is
    longer than an hour has no hour of the day.
    """
    grade = terms.grade
    shape = 100
    if terms.product is contract.Product.HOUR:
        hour = terms.starts_at % contract.DAY // contract.HOUR
        shape += (HOURLY_DEMAND_PERCENT[hour] - 100) // DEMAND_TO_PRICE_DIVISOR
    step = at // WANDER_STEP
    spread = 2 * WANDER_PERMILLE + 1
    wander = sum(noise("wander", grade, step - k) % spread for k in range(4)) // 4
    permille = 1_000 + wander - WANDER_PERMILLE
    return max(1, reference_ticks * shape * permille // 100_000)


def ladder(
    *,
    terms: MakerTerms,
    fair: int,
    band: tuple[int, int],
    net_lots: int,
    sellable_lots: int,
    buyable_lots: int,
    last: int = 0,
) -> list[Quote]:
    """Return the quotes a maker wants in one book, both sides, inside the band.

    `sellable_lots` is what its cover still allows it to sell, `buyable_lots` what the position
    limit still allows it to buy; the best prices have them first. A trade too far from the `last`
    one would stop the book for an auction, so the best quotes stay where they can still trade, and
    follow the trades they make. What is too little for every level is spread over all of them.
    """
    lean = fair * terms.lean_permille_per_lot * net_lots // 10_000
    middle = max(2, fair - lean)
    if last:
        room = last * (terms.reach_permille - terms.half_spread_permille - 2) // 1_000
        middle = max(2, min(max(middle, last - room), last + room))
    low, high = band
    quotes: list[Quote] = []
    to_sell, to_buy = sellable_lots, buyable_lots
    for level in range(terms.levels):
        distance = max(
            level + 1,
            middle * (terms.half_spread_permille + level * terms.step_permille) // 1_000,
        )
        bid = max(low, middle - distance)
        ask = min(high, middle + distance)
        lots = min(terms.lots_per_level, -(-to_buy // (terms.levels - level)))
        if low <= bid < middle and lots > 0:
            quotes.append(Quote(side=contract.Side.BUY, price_ticks=bid, lots=lots))
            to_buy -= lots
        lots = min(terms.lots_per_level, -(-to_sell // (terms.levels - level)))
        if middle < ask <= high and lots > 0:
            quotes.append(Quote(side=contract.Side.SELL, price_ticks=ask, lots=lots))
            to_sell -= lots
    return _merged(quotes)


def requote(*, resting: Sequence[Resting], wanted: Sequence[Quote]) -> Requote:
    """Return the fewest cancels and orders that make the wanted quotes rest.

    An order at a wanted price with the wanted size stays, and keeps its place in the queue.
    """
    missing = {(quote.side, quote.price_ticks): quote for quote in wanted}
    cancels: list[int] = []
    for order in resting:
        key = (order.side, order.price_ticks)
        quote = missing.get(key)
        if quote is not None and quote.lots == order.lots:
            del missing[key]
        else:
            cancels.append(order.order)
    return Requote(cancels=tuple(cancels), orders=tuple(missing.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trader:
    """A participant with a view: what it thinks of prices, and how much it deals at once."""

    name: str
    opinion_permille: int
    """How far its view of value is from the maker's, either way, at most."""
    lots_max: int
    needs_lots: int
    """What it wants to be long in an hour (a hedger), 0 for one that trades its view alone."""


def decide(
    *,
    trader: Trader,
    symbol: str,
    fair: int,
    best: tuple[int | None, int | None],
    net_lots: int,
    sellable_lots: int,
    buyable_lots: int,
    band: tuple[int, int],
    at: int,
) -> Quote | None:
    """Return the order a trader sends now, or None; it rests if nobody takes the other side.

    A hedger buys towards its need, and pays the ask while it lacks more than half. Others offer to
    deal at their view, on the side that the book makes them prefer or else on either, and never
    sell more than they hold or have cover for, nor buy more than they may hold.
    """
    bid, ask = best
    low, high = band
    swing = noise(trader.name, symbol, at) % (2 * trader.opinion_permille + 1)
    view = _within(fair * (1_000 + swing - trader.opinion_permille) // 1_000, low, high)
    size = 1 + noise(trader.name, symbol, at, "size") % trader.lots_max
    needed = trader.needs_lots - net_lots
    if needed > 0 and trader.needs_lots:
        is_keen = ask is not None and needed * 2 > trader.needs_lots
        price = _within(max(ask or 0, view), low, high) if is_keen else view
        return _bid(price, min(size, needed, buyable_lots))
    sellable = min(size, max(0, net_lots - trader.needs_lots) + sellable_lots)
    is_selling = sellable > 0 and (
        (bid is not None and view < bid) or noise(trader.name, symbol, at, "side") % 2 == 0
    )
    if is_selling:
        return Quote(side=contract.Side.SELL, price_ticks=view, lots=sellable)
    if trader.needs_lots:
        return None
    return _bid(view, min(size, buyable_lots))


def _bid(price: int, lots: int) -> Quote | None:
    return Quote(side=contract.Side.BUY, price_ticks=price, lots=lots) if lots > 0 else None


def demand_mntu(*, organization: str, lots: int, interval_starts_at: int) -> int:
    """Return how many mNTU an organization asks for in a five-minute interval.

    A fifth to three fifths of what it holds, by the hour of the day and by its own habit.
    """
    hour = interval_starts_at % contract.DAY // contract.HOUR
    habit = 20 + noise("demand", organization, interval_starts_at) % 40
    percent = min(100, habit * HOURLY_DEMAND_PERCENT[hour] // 100)
    return lots * contract.MNTU_PER_LOT_INTERVAL * percent // 100


def _merged(quotes: Iterable[Quote]) -> list[Quote]:
    """Return the quotes with those of one side and price put together, in the order given."""
    lots: dict[tuple[contract.Side, int], int] = {}
    for quote in quotes:
        key = (quote.side, quote.price_ticks)
        lots[key] = lots.get(key, 0) + quote.lots
    return [Quote(side=side, price_ticks=price, lots=size) for (side, price), size in lots.items()]


def _within(price: int, low: int, high: int) -> int:
    return max(low, min(high, price))
