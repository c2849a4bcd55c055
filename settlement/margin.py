"""What positions and resting orders must have behind them (RULEBOOK 3.1, 3.2).

A position is its net lots `n` and its cost `c`, the signed sum of lots x price over its fills: sums
of integers, so nothing rounds. A buyer inside the prepaid window has the whole cost behind it; a
covered short has 5 % of the notional at the mark `m`, and what it would lose at the mark. What was
lost or won by trading in and out is in `c`. In micro-USD, with 60 for a tick, lot and hour (and so
exactly 3 for 5 % of it), the requirement is

    R(n, c) = max(0, 60c, -3mn, 60c - 63mn)

which is 60c for a long, and for a short the greater of 5 % and 5 % plus the loss.

Resting orders reserve what their fill would require, in the worst case over every subset of them
that could fill. R is a maximum of linear functions, so the worst case is a maximum of four sums
that are kept as orders come and go (`Resting`): no order is charged for what another offsets, a
sale out of a long needs nothing, and a fill never asks for more than was reserved. Fees not charged
yet are part of it.
"""

from typing import NamedTuple

PREPAID_TICK_MICROS = 60
COVERED_SHORT_TICK_MICROS = 3
"""5 % of 60 micro-USD, exactly."""
_SHORT_AND_LOSS = PREPAID_TICK_MICROS + COVERED_SHORT_TICK_MICROS

BASIS_POINTS = 10_000


class Resting(NamedTuple):
    """Sums over the resting orders of one account in one instrument.

    `buy_ticks` is lots x price of the buys, `sell_lots` the lots offered, `excess` the sum of
    `order_excess`, the fees what the remaining lots can still be charged.
    """

    buy_ticks: int = 0
    sell_lots: int = 0
    excess: int = 0
    buy_fees: int = 0
    sell_fees: int = 0


def position_margin(*, net_lots: int, cost_ticks: int, mark: int) -> int:
    """Return the initial margin of a position in micro-USD."""
    cost = PREPAID_TICK_MICROS * cost_ticks
    return max(
        0,
        cost,
        -COVERED_SHORT_TICK_MICROS * mark * net_lots,
        cost - _SHORT_AND_LOSS * mark * net_lots,
    )


def order_excess(*, side: int, price: int, lots: int, mark: int) -> int:
    """Return what filling an order adds to the last of the four sums, if it adds to it."""
    per_lot = side * (PREPAID_TICK_MICROS * price - _SHORT_AND_LOSS * mark)
    return per_lot * lots if per_lot > 0 else 0


def requirement(net_lots: int, cost_ticks: int, mark: int, resting: Resting) -> int:
    """Return the margin of a position together with its resting orders, in micro-USD."""
    buy_ticks, sell_lots, excess, buy_fees, sell_fees = resting
    return required(net_lots, cost_ticks, mark, buy_ticks, sell_lots, excess, buy_fees, sell_fees)


def required(
    net_lots: int,
    cost_ticks: int,
    mark: int,
    buy_ticks: int,
    sell_lots: int,
    excess: int,
    buy_fees: int,
    sell_fees: int,
) -> int:
    """Return `requirement` of loose arguments: called at every fill, so nothing is packed.

    Nor is anything added up that is zero or cannot be the greatest.
    """
    most = fees = buy_fees + sell_fees
    other = 60 * (cost_ticks + buy_ticks) + buy_fees
    if other > most:
        most = other
    short = sell_lots - net_lots
    if short > 0:
        other = 3 * mark * short + fees
        if other > most:
            most = other
    other = excess + fees
    if net_lots or cost_ticks:
        other += 60 * cost_ticks - 63 * mark * net_lots
    return other if other > most else most


def maintenance(initial_margin: int) -> int:
    """Return the maintenance margin: 75 % of the initial, rounded against the account."""
    return -(-initial_margin * 3 // 4)


def fee_points(*, price: int, lots: int, basis_points: int) -> int:
    """Return a fee in micro-USD times 10^4: what an order sums up before it is rounded."""
    return PREPAID_TICK_MICROS * price * lots * basis_points


def fee_charged(points: int) -> int:
    """Return the fee of an order's summed points, rounded up once per order (RULEBOOK 3.9)."""
    return -(-points // BASIS_POINTS)


def uncovered_lots(*, net_lots: int, sell_lots: int, certified_lots: int) -> int:
    """Return by how many lots the short and the resting sales of an hour exceed its coverage."""
    return max(0, sell_lots - net_lots - certified_lots)
