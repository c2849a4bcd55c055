"""What each class still gets when a replica is lost.

What capacity is left fills P0, then P1, then P2; inside a class every rate is scaled by one factor,
so that nobody is served before anybody of the same class, and P3 stops (RULEBOOK 7.8). Factors are
whole millionths, rounded down.
"""

from collections.abc import Sequence

PARTS = 1_000_000
"""A factor of this many is the whole rate."""


def factors(*, capacity_lots: int, sold_lots: Sequence[int]) -> tuple[int, ...]:
    """Return the factor of each class, highest first; a class that sold nothing keeps all."""
    left = capacity_lots
    result = []
    for lots in sold_lots:
        served = min(lots, left)
        result.append(served * PARTS // lots if lots else PARTS)
        left -= served
    return tuple(result)
