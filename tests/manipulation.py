"""A bounded search for the cheapest way to move an hour's index.

Some groups work together against a tape of honest trades, all of them at the fair price. They trade
with each other, at no cost but the fees, and take from honest books at the price they want to see,
which costs them the whole way from the fair price on every lot. They may always reach the end of
the static band, their trades with each other are never so soon after those that go back that lots
go round, and whomever they meet is somebody new: everything in doubt is in their favor.

An attack is a number of units of lots for each pair of attackers and for each attacker against the
honest market; `attacks` yields every split of up to so many units of each size. What an attack is
worth is told by its *break-even*: from how many lots on, whose payoff follows the index, its cost
is earned back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from settlement import index
from settlement.index import Inputs, Method

FAIR = 1_000
"""Ticks, at which all honest trades are."""
BAND = 150
"""Ticks from the fair price to the end of the static band."""
MAKER_BP, TAKER_BP = 2, 20
LOT_HOUR = 60
"""Micro-USD of a tick and lot."""
APART = 6 * 60_000_000
"""Microseconds between trades: too long for lots to go round."""
FIRST_ATTACKER, FIRST_VICTIM, FIRST_HONEST = 1, 100, 1_000

Trade = tuple[int, int, int, int]
"""Lots, ticks, group that buys, group that sells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an attack did and cost; `shift` is in ticks, `cost` in micro-USD."""

    lots: int
    taken: int
    """Lots of them that were taken from the honest market."""
    shift: int
    cost: int
    method: Method

    @property
    def break_even(self) -> float:
        """Lots of exposure to the index that earn the cost back."""
        return self.cost / (LOT_HOUR * self.shift) if self.shift else float("inf")


def honest(trades: int, lots: int, groups: int) -> list[Trade]:
    """Return trades at the fair price between groups that take turns."""
    ring = [FIRST_HONEST + number for number in range(groups)]
    return [
        (lots, FAIR, ring[n % groups], ring[(n + 1) % groups])
        for n in range(trades if groups else 0)
    ]


def compute(
    trades: Sequence[Trade], *, obligations: int = 0, mark: int = FAIR
) -> tuple[int, Method]:
    """Return the index of a tape whose trades are too far apart for anything to go round."""
    tape = index.number_groups((n * APART, *trade) for n, trade in enumerate(trades))
    return index.compute(
        Inputs(
            grade="LLAMA70B", hour_starts_at=0, trades=tape, obligation_lots=obligations, mark=mark
        )
    )


def attacks(
    background: Sequence[Trade], *, groups: int, units_max: int, sizes: Sequence[int], price: int
) -> Iterator[Outcome]:
    """Yield the outcome of every split of up to `units_max` units of each size."""
    before, _ = compute(background)
    pairs = list(combinations(range(groups), 2))
    for size in sizes:
        for units in range(1, units_max + 1):
            for split in _splits(units, len(pairs) + groups):
                yield _attack(background, before, pairs, split, size, price)


def _attack(
    background: Sequence[Trade],
    before: int,
    pairs: Sequence[tuple[int, int]],
    split: Sequence[int],
    size: int,
    price: int,
) -> Outcome:
    trades = list(background)
    cost = lots = taken = 0
    for (one, other), units in zip(pairs, split, strict=False):
        for turn in range(units):  # to and fro, so that nobody is left with a position
            pair = (one, other) if turn % 2 else (other, one)
            trades.append((size, price, *(FIRST_ATTACKER + number for number in pair)))
            cost += _fee(size, price, MAKER_BP) + _fee(size, price, TAKER_BP)
            lots += size
    for attacker, units in enumerate(split[len(pairs) :]):
        for turn in range(units):
            victim = FIRST_VICTIM + 50 * attacker + turn
            trades.append((size, price, FIRST_ATTACKER + attacker, victim))
            cost += _fee(size, price, TAKER_BP) + abs(price - FAIR) * size * LOT_HOUR
            taken += size
    value, method = compute(trades)
    lots += taken
    return Outcome(lots=lots, taken=taken, shift=abs(value - before), cost=cost, method=method)


def _fee(lots: int, price: int, points: int) -> int:
    return -(-lots * price * LOT_HOUR * points // 10_000)


def _splits(units: int, places: int) -> Iterator[tuple[int, ...]]:
    """Yield every way of putting units into places."""
    if places == 1:
        yield (units,)
        return
    for first in range(units + 1):
        for rest in _splits(units - first, places - 1):
            yield (first, *rest)
