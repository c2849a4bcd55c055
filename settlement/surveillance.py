"""What the tape says of those who trade to be seen rather than to own.

Nothing here decides about anybody: it finds patterns in trades and orders that somebody should look
at. One finding has an effect of its own. Lots that two groups pass to each other and back within
minutes say nothing of what capacity is worth, so the mark leaves them out of its volume-weighted
price (RULEBOOK 3.4), whether anybody looks or not.

*Round trips* are found pair by pair. A pair is looked at when its trades with each other are more
than `WASH_VOLUME_PERCENT` of the instrument's volume in the window; a lot that one sold to the
other and bought back within `ROUND_TRIP_MAX` went round; when most of what they traded did, every
such lot is left out, both ways. Whether a lot comes back at the same price does not matter: at
another price it has carried money over as well. Who passes lots round in a ring of three or waits
longer than that is not found here, and bears the market's risk in between.

*Layering* is a side filled with orders that were never meant to trade, away from the touch, while
the group trades on the other. *Concentration* is a group's net purchases, or its long lots, as a
share of all. Sellers are not counted: a provider is often the only one of its hour, and what it is
short of is covered (RULEBOOK 3.6 exempts it for the same reason).

*Core*: integers only, no clock, no database. The machine marks with it, the `surveillance` job
alerts with it.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from marketplace.contract import HOUR

Trade = tuple[int, int, int, int, int]
"""Instant (us), lots, price, the group that bought and the group that sold."""

WASH_VOLUME_PERCENT = 20
"""A pair of groups is looked at when it has more than this of the window's volume."""
WASH_ROUND_PERCENT = 50
"""Its round trips count when they are more than this of what it traded with each other."""
ROUND_TRIP_MAX = HOUR // 12
"""How soon a lot is back for its way to be a round trip."""

CONCENTRATION_PERCENT = 50
"""More than this of a volume bought, net, or of the open interest held long, by one group."""
CONCENTRATION_LOTS_MIN = 50
"""Of fewer lots in all a large share is nothing."""

LAYERED_ORDERS_MIN = 10
"""So many orders entered and canceled in the window, unfilled, on one side."""
LAYERED_MULTIPLE = 5
"""Their lots, in lots that were traded meanwhile on the other side."""
LAYERED_SIDE_PERCENT = 80
"""Their share of all that was canceled unfilled: a maker cancels on both sides alike."""
AWAY_TICKS = 2
"""How far from the trades of the other side an order is away from the touch."""


class AlertKind(StrEnum):
    """What somebody should look at."""

    SELF_DEALING = "SELF_DEALING"
    WASH = "WASH"
    LAYERING = "LAYERING"
    CONCENTRATION = "CONCENTRATION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wash:
    """Two groups, what they traded with each other, and how much of it went round, both ways."""

    groups: tuple[int, int]
    lots: int
    round_lots: int
    volume: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrips:
    """The pairs that passed lots round, and of each trade the lots that did."""

    pairs: tuple[Wash, ...]
    excluded: Mapping[int, int]
    """Lots by the position of their trade in the window; trades without any are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A group that bought or holds more of something than the named share."""

    group: int
    lots: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """An order that was entered and canceled in the window without a fill; `side` is +1 or -1."""

    side: int
    price: int
    lots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layering:
    """The side that a group filled and emptied while it traded on the other."""

    side: int
    orders: int
    lots: int
    traded: int


def round_trips(
    trades: Sequence[Trade],
    *,
    within: int = ROUND_TRIP_MAX,
    volume_percent: int = WASH_VOLUME_PERCENT,
    round_percent: int = WASH_ROUND_PERCENT,
) -> RoundTrips:
    """Return what two groups passed to each other and back in a window, in order of time."""
    volume = 0
    legs: dict[tuple[int, int], list[int]] = {}
    for _, lots, _, buyer, seller in trades:
        volume += lots
        pair = (buyer, seller) if buyer < seller else (seller, buyer)
        both = legs.get(pair)
        if both is None:
            both = legs[pair] = [0, 0]
        both[buyer > seller] += lots
    pairs: list[Wash] = []
    excluded: dict[int, int] = {}
    for pair, (one_way, back) in sorted(legs.items()):
        lots = one_way + back
        # What may come back at most is known without looking at when it did.
        if (
            100 * lots <= volume_percent * volume
            or 200 * min(one_way, back) <= round_percent * lots
        ):
            continue
        found = _round_lots(trades, pair, within)
        round_lots = sum(found.values())
        if 100 * round_lots > round_percent * lots:
            pairs.append(Wash(groups=pair, lots=lots, round_lots=round_lots, volume=volume))
            excluded.update(found)
    return RoundTrips(pairs=tuple(pairs), excluded=excluded)


def _round_lots(trades: Sequence[Trade], pair: tuple[int, int], within: int) -> dict[int, int]:
    """Return how many lots of each trade of a pair went round, by the trade's position.

    What comes back closes what has waited longest, which would be the first to be too old: no other
    way of pairing them finds more.
    """
    low, high = pair
    waiting: deque[list[int]] = deque()
    waits_for = 0
    found: dict[int, int] = {}
    for position, (at, lots, _, buyer, seller) in enumerate(trades):
        if (buyer, seller) != pair and (buyer, seller) != (high, low):
            continue
        while waiting and waiting[0][1] < at - within:
            waiting.popleft()
        while lots and waiting and buyer == waits_for:
            first = waiting[0]
            back = min(lots, first[2])
            found[first[0]] = found.get(first[0], 0) + back
            found[position] = found.get(position, 0) + back
            lots -= back
            first[2] -= back
            if not first[2]:
                waiting.popleft()
        if lots:
            waiting.append([position, at, lots])
            waits_for = seller
    return found


def genuine(trades: Sequence[Trade]) -> tuple[int, int]:
    """Return the lots of a window and their value in ticks, without what went round."""
    excluded = round_trips(trades).excluded
    lots = value = 0
    for position, (_, traded, price, _, _) in enumerate(trades):
        counted = traded - excluded.get(position, 0)
        lots += counted
        value += counted * price
    return lots, value


def bought_most(trades: Iterable[Trade]) -> list[Share]:
    """Return the groups whose purchases less sales are too much of a window's volume."""
    volume = 0
    net: dict[int, int] = {}
    for _, lots, _, buyer, seller in trades:
        volume += lots
        net[buyer] = net.get(buyer, 0) + lots
        net[seller] = net.get(seller, 0) - lots
    return _shares(net, volume)


def holds_most(net_lots: Mapping[int, int]) -> list[Share]:
    """Return the groups whose long lots are too much of the open interest."""
    return _shares(net_lots, sum(lots for lots in net_lots.values() if lots > 0))


def _shares(lots_of: Mapping[int, int], of: int) -> list[Share]:
    """Return who has more than the named share, in order of group."""
    if of < CONCENTRATION_LOTS_MIN:
        return []
    return [
        Share(group=group, lots=lots, of=of)
        for group, lots in sorted(lots_of.items())
        if 100 * lots > CONCENTRATION_PERCENT * of
    ]


def layering(
    group: int, withdrawn: Sequence[Withdrawn], trades: Sequence[Trade]
) -> Layering | None:
    """Return the side that a group layered while it traded on the other, or None."""
    for side in (1, -1):
        own = [
            (lots, price)
            for _, lots, price, buyer, seller in trades
            if (seller if side > 0 else buyer) == group
        ]
        if not own:
            continue
        traded = sum(lots for lots, _ in own)
        touch = min(side * price for _, price in own)
        away = [
            order
            for order in withdrawn
            if order.side == side and side * order.price <= touch - AWAY_TICKS
        ]
        lots = sum(order.lots for order in away)
        if (
            len(away) >= LAYERED_ORDERS_MIN
            and lots >= LAYERED_MULTIPLE * traded
            and 100 * lots >= LAYERED_SIDE_PERCENT * sum(order.lots for order in withdrawn)
        ):
            return Layering(side=side, orders=len(away), lots=lots, traded=traded)
    return None
