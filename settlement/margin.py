"""What positions and resting orders must have behind them (RULEBOOK 3.1, 3.2).

A position is its net lots `n` and its cost `c`, the signed sum of lots x price over its fills since
it was last marked: sums of integers, so nothing rounds. With `u` for what a tick of a lot over the
whole window is worth (60 micro-USD an hour), `m` for the mark, `a` of `u` that a buyer and `s` that
a seller must have at the mark (100 % and 5 % of every hour inside the prepaid window, 10 % and 5 %
of others), the requirement in micro-USD is

    R(n, c) = max(0, L1, L2, S1, S2)
    L1 = uc - (u - a)mn     a long at the mark, with what it has lost since, less what it has won
    L2 = amn                a long at the mark; what it has won since is not counted before it is
                            paid, unless the price is prepaid in full (a = u, and L1 = uc)
    S1 = -smn               a short at the mark
    S2 = uc - (u + s)mn     a short at the mark, with what it has lost since

Resting orders reserve what their fill would require, in the worst case over every subset of them
that could fill. R is a maximum of linear functions, so the worst case is a maximum of sums that are
kept as orders come and go: no order is charged for what another offsets, a sale out of a long needs
nothing, and a fill never asks for more than was reserved. Fees not charged yet are part of it.

What a short needs beyond that because nothing stands behind it is not a matter of one position:
`exchange.machine.coverage` adds it up by hour.
"""

from typing import NamedTuple

from marketplace import contract

PREPAID_WINDOW = contract.DAY
"""A buyer has paid for an hour in full this long before it starts."""
LONG_PERCENT = 10
SHORT_PERCENT = 5
UNCOVERED_PERCENT = 20
UNCOVERED_LATE_PERCENT = 150
"""Of an uncovered short inside the prepaid window, where there should be none (RULEBOOK 3.3)."""
SLOT_SHORT_PERCENT = 25

BASIS_POINTS = 10_000


class Rates(NamedTuple):
    """What a lot of an instrument asks for at its mark, in micro-USD; made by `rates`.

    `long_floor` is (u - a)m, `long_mark` am (0 where the price is prepaid in full), `short_mark`
    sm, `short_cap` (u + s)m.
    """

    unit: int
    long_floor: int
    long_mark: int
    short_mark: int
    short_cap: int


class Resting(NamedTuple):
    """Sums over the resting orders of one account in one instrument.

    `long_excess` and `short_excess` are the sums of what each order adds to L1 and to S2, if it
    adds to it; the fees are what the remaining lots can still be charged.
    """

    buy_lots: int = 0
    sell_lots: int = 0
    long_excess: int = 0
    short_excess: int = 0
    buy_fees: int = 0
    sell_fees: int = 0


def rates(*, unit: int, long_micros: int, short_micros: int, mark: int) -> Rates:
    """Return the rates of an instrument at a mark, of `a` and `s` in micro-USD for a tick."""
    return Rates(
        unit,
        (unit - long_micros) * mark,
        long_micros * mark if long_micros < unit else 0,
        short_micros * mark,
        (unit + short_micros) * mark,
    )


def collateral_rates(*, unit: int, collateral: int) -> Rates:
    """Return the rates of an option: the buyer pays the premium, the writer holds `collateral`."""
    return Rates(unit, 0, 0, collateral, collateral)


def prepaid_hours(*, starts_at: int, ends_at: int, prepaid_until: int) -> int:
    """Return how many hours of a window start at or before the end of the prepaid one."""
    if prepaid_until < starts_at:
        return 0
    return min(
        (ends_at - starts_at) // contract.HOUR, (prepaid_until - starts_at) // contract.HOUR + 1
    )


def energy_rates(*, starts_at: int, ends_at: int, prepaid_until: int, mark: int) -> Rates:
    """Return the rates of lots of tokens: hour by hour of their window, prepaid or not.

    Of 60 micro-USD for a tick and hour every percentage here is whole.
    """
    hours = (ends_at - starts_at) // contract.HOUR
    prepaid = prepaid_hours(starts_at=starts_at, ends_at=ends_at, prepaid_until=prepaid_until)
    hourly = contract.TICK_MICROS_PER_LOT_HOUR
    return rates(
        unit=hourly * hours,
        long_micros=hourly * prepaid + (hours - prepaid) * hourly * LONG_PERCENT // 100,
        short_micros=hours * hourly * SHORT_PERCENT // 100,
        mark=mark,
    )


def slot_rates(*, mark: int) -> Rates:
    """Return the rates of slots: paid in full by the buyer, a quarter by the seller."""
    unit = contract.SLOT_TICK_MICROS
    return rates(
        unit=unit, long_micros=unit, short_micros=unit * SLOT_SHORT_PERCENT // 100, mark=mark
    )


def uncovered_micros(*, is_late: bool) -> int:
    """Return what an uncovered lot needs for a tick and hour, beyond what a covered one does."""
    percent = UNCOVERED_LATE_PERCENT if is_late else UNCOVERED_PERCENT
    return contract.TICK_MICROS_PER_LOT_HOUR * (percent - SHORT_PERCENT) // 100


def position_margin(of: Rates, *, net_lots: int, cost_ticks: int) -> int:
    """Return the initial margin of a position in micro-USD."""
    return required(of, net_lots, cost_ticks, 0, 0, 0, 0, 0, 0)


def order_excess(of: Rates, *, side: int, price: int, lots: int) -> tuple[int, int]:
    """Return what filling an order adds to L1 and to S2, where it adds to them."""
    value = of.unit * price
    return (
        max(0, side * (value - of.long_floor)) * lots,
        max(0, side * (value - of.short_cap)) * lots,
    )


def requirement(of: Rates, net_lots: int, cost_ticks: int, resting: Resting) -> int:
    """Return the margin of a position together with its resting orders, in micro-USD."""
    return required(of, net_lots, cost_ticks, *resting)


def required(
    of: Rates,
    net_lots: int,
    cost_ticks: int,
    buy_lots: int,
    sell_lots: int,
    long_excess: int,
    short_excess: int,
    buy_fees: int,
    sell_fees: int,
) -> int:
    """Return `requirement` of loose arguments: called at every fill, so nothing is packed.

    Nor is anything added up that cannot be the greatest.
    """
    unit, long_floor, long_mark, short_mark, short_cap = of
    most = fees = buy_fees + sell_fees
    cost = unit * cost_ticks
    if long_mark:
        other = cost - long_floor * net_lots + long_excess + fees
        if other > most:
            most = other
        other = long_mark * (net_lots + buy_lots) + fees
    else:  # Sales add nothing to a price that is paid in full, nor do their fees.
        other = cost - long_floor * net_lots + long_excess + buy_fees
    if other > most:
        most = other
    short = sell_lots - net_lots
    if short > 0:
        other = short_mark * short + fees
        if other > most:
            most = other
    other = cost - short_cap * net_lots + short_excess + fees
    return other if other > most else most


def maintenance(initial_margin: int) -> int:
    """Return the maintenance margin: 75 % of the initial, rounded against the account."""
    return -(-initial_margin * 3 // 4)


def fee_points(*, unit: int, price: int, lots: int, basis_points: int) -> int:
    """Return a fee in micro-USD times 10^4: what an order sums up before it is rounded."""
    return unit * price * lots * basis_points


def fee_charged(points: int) -> int:
    """Return the fee of an order's summed points, rounded up once per order (RULEBOOK 3.9)."""
    return -(-points // BASIS_POINTS)
