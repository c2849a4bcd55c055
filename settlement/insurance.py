"""What price caps and shortage cover cost, pay and set aside (RULEBOOK 3.1, 6.8, 6.9).

A *cap* is a strip of hourly calls: in every hour of its month it pays by how much the index exceeds
its strike, at most five strikes, on the tokens that the holder used and had insured. *Cover* pays
the price that its month had when it was listed, on what the holder was owed and missed.

A premium, like any price, is in ticks of a million tokens, over every token that is insured, used
or not: whoever buys at the index pays for them at most premium and strike together, while the index
is at most six strikes. `worst_case` says so before a cap is bought.

Both are paid by their writers pro rata to their lots. What a lot can pay at most in an hour is set
aside for every hour that is still to be paid, and released hour by hour; so no payment can exceed
what its writer has behind it. Payments are rounded down; parts of them are not rounded at all,
because the largest remainder shares every micro-dollar.
"""

from collections.abc import Mapping
from typing import NamedTuple

from marketplace import contract
from marketplace.contract import Contract, Product
from settlement import delivery

PAY_STRIKES_MAX = 5
"""A cap pays at most this many strikes."""
STRIKE_PERCENTS = (100, 110, 125, 150, 200)
"""Strikes at listing, of the month's reference."""
STRIKE_STEP = 50
PREMIUM_TICKS_MIN = 10
"""A first reference is not lower: the band needs something to be around."""
_MILLION = 1_000_000


def strikes(reference: int) -> tuple[int, ...]:
    """Return the strikes at which a month's caps are listed, in ticks, lowest first."""
    rounded = {round_strike(reference * percent, 100) for percent in STRIKE_PERCENTS}
    return tuple(strike for strike in sorted(rounded) if strike <= contract.PRICE_TICKS_MAX)


def next_strike(outermost: int) -> int:
    """Return the strike that is listed when the month has passed the outermost one.

    That is four thirds of it; 0 where it would be no price any more.
    """
    strike = max(outermost + STRIKE_STEP, round_strike(4 * outermost, 3))
    return strike if strike <= contract.PRICE_TICKS_MAX else 0


def round_strike(ticks: int, divisor: int) -> int:
    """Return `ticks / divisor` rounded half up to whole steps, at least one."""
    step = STRIKE_STEP * divisor
    return max(1, (2 * ticks + step) // (2 * step)) * STRIKE_STEP


def premium(terms: Contract, *, mark: int, percent: int) -> int:
    """Return the premium that an option is taken to be worth while nobody has traded it.

    A share of the month's mark, and of a cap what it is in the money; in ticks.
    """
    inside = max(0, mark - terms.strike) if terms.product is Product.CAP else 0
    return min(contract.PRICE_TICKS_MAX, max(PREMIUM_TICKS_MIN, inside + mark * percent // 100))


def pays_most(terms: Contract, *, pay_ticks: int) -> int:
    """Return what an option can pay at most, in ticks; `pay_ticks` is what cover pays."""
    return PAY_STRIKES_MAX * terms.strike if terms.product is Product.CAP else pay_ticks


def collateral(terms: Contract, *, pay_ticks: int, hours: int) -> int:
    """Return what a writer sets aside for a lot with so many hours to be paid, in micro-USD."""
    most = pays_most(terms, pay_ticks=pay_ticks)
    return contract.notional_micros(price_ticks=most, lots=1, hours=hours)


def cap_pays(*, index: int, strike: int) -> int:
    """Return what a cap pays at an index, in ticks: `min(max(0, I - K), 5K)`."""
    return min(max(0, index - strike), PAY_STRIKES_MAX * strike)


def payment(*, pay_ticks: int, mntu: int) -> int:
    """Return what is paid on tokens, in micro-USD, rounded down as damages are."""
    return pay_ticks * contract.TICK_MICROS_PER_MILLION * (mntu // 1_000) // _MILLION


def take_insured(metered: dict[int, int], lots: Mapping[int, int]) -> dict[int, int]:
    """Return the tokens that a cap pays its holders for, in mNTU; they are `metered` no more.

    A token is insured once, so caps take theirs in order of strike, the lowest first.
    """
    taken = {}
    for holder in sorted(lots):
        if lots[holder] > 0 and metered.get(holder):
            taken[holder] = min(metered[holder], insured_in_hour(lots[holder]))
            metered[holder] -= taken[holder]
    return taken


def insured_in_hour(lots: int) -> int:
    """Return the tokens that lots of a cap insure in an hour, in mNTU."""
    return lots * contract.MNTU_PER_LOT_HOUR


def insured_in_interval(*, lots: int, entitled_lots: int) -> int:
    """Return the tokens that lots of cover insure in an interval, in mNTU: only entitled ones."""
    return min(lots, entitled_lots) * contract.MNTU_PER_LOT_INTERVAL


def settle(paid: Mapping[int, int], writers: Mapping[int, int]) -> dict[int, int]:
    """Return what each account receives or pays (below zero), in micro-USD; it adds up to zero.

    `paid` is what holders receive, `writers` the lots each writer is short of. An account is one of
    the two, never both.
    """
    total = sum(paid.values())
    payments = {holder: amount for holder, amount in sorted(paid.items()) if amount}
    if total:
        order = sorted(writers)
        parts = delivery.largest_remainder(total, [writers[writer] for writer in order])
        payments |= {writer: -part for writer, part in zip(order, parts, strict=True) if part}
    return payments


class WorstCase(NamedTuple):
    """What the holder of a cap pays at most for the tokens it insures, bought at the index."""

    per_million: int
    """Ticks per million tokens, premium and strike; rounded up."""
    insured_mntu: int
    """Tokens of the whole month that are insured."""
    total_micros: int
    """For all of them, the fee of the purchase included."""
    holds_to: int
    """The highest index, in ticks, up to which this is so; above it every tick is the holder's."""


def worst_case(terms: Contract, *, value_ticks: int, lots: int, fee_micros: int) -> WorstCase:
    """Return what a cap leaves its holder to pay; `value_ticks` sums lots x premium."""
    assert terms.product is Product.CAP, "only a cap bounds a price"
    return WorstCase(
        -(-value_ticks // lots) + terms.strike,
        insured_in_hour(lots) * terms.hours,
        (value_ticks + terms.strike * lots) * terms.tick_micros + fee_micros,
        (PAY_STRIKES_MAX + 1) * terms.strike,
    )
