"""Packages: a schedule of hourly lots at one price, and what a slice of it is (RULEBOOK 4.7).

A schedule is written as *patterns* over stretches of time. A pattern is one number of lots for
every hour, 24 for the hours of the day, or 168 for those of the week from Monday 00:00, UTC; so a
year of office hours is 168 numbers, and cutting a slice out of it only makes more stretches.

Everything is whole lot-hours at whole ticks, so no price is ever rounded but once: what a discount
makes of a list price is rounded down, in the buyer's favor.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from marketplace import contract
from marketplace.contract import DAY, HOUR
from settlement import delivery

PATTERN_LENGTHS = (1, 24, 168)
TERM_DAYS_MAX = 365
RESALE_FEE_BP_MAX = 100
"""A slice is resold at a fee of at most 1 %."""
DISCOUNT_PERCENT_MAX = 99
SUSPENDED_ABOVE_PERCENT = 110
"""Of its list price: a listing whose term costs more than this on the curve is suspended."""
STRETCHES_MAX = 200
"""How often a package may be cut."""

Pattern = tuple[int, ...]


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """What a package has in the hours of `[starts_at, ends_at)`."""

    starts_at: int
    ends_at: int
    lots: Pattern
    p1_lots: Pattern = ()
    """Of these lots, those that are served as P1; empty stands for none."""


class HourLots(NamedTuple):
    """Lots of one hour, and how many of them are P1."""

    starts_at: int
    lots: int
    p1_lots: int


def lots_at(pattern: Sequence[int], starts_at: int) -> int:
    """Return the lots that a pattern has in the hour that starts at an instant."""
    if not pattern:
        return 0
    hour_of_week = (starts_at - contract.week_start(starts_at)) // HOUR
    return pattern[hour_of_week % len(pattern)]


def is_pattern(pattern: Sequence[int], lots_max: int) -> bool:
    """Whether numbers are a pattern of lots, none above the most."""
    return len(pattern) in PATTERN_LENGTHS and all(0 <= lots <= lots_max for lots in pattern)


def is_schedule(lots: Sequence[int], p1_lots: Sequence[int]) -> bool:
    """Whether patterns fit each other: something in some hour, and a lot for every P1 lot."""
    if not is_pattern(lots, contract.LOTS_MAX) or not any(lots):
        return False
    if not p1_lots:
        return True
    return (
        len(p1_lots) == len(lots)
        and is_pattern(p1_lots, contract.LOTS_MAX)
        and all(timed <= each for timed, each in zip(p1_lots, lots, strict=True))
    )


def hours(stretches: Iterable[Stretch]) -> Iterator[HourLots]:
    """Yield every hour that has lots, stretch by stretch."""
    for stretch in stretches:
        lots, p1_lots = stretch.lots, stretch.p1_lots or (0,)
        first = (stretch.starts_at - contract.week_start(stretch.starts_at)) // HOUR
        for number, starts_at in enumerate(range(stretch.starts_at, stretch.ends_at, HOUR), first):
            each = lots[number % len(lots)]
            if each:
                yield HourLots(starts_at, each, p1_lots[number % len(p1_lots)])


def lot_hours(stretches: Iterable[Stretch]) -> int:
    """Return how many lots there are, hour by hour."""
    return sum(hour.lots for hour in hours(stretches))


def price_micros(*, price_ticks: int, lot_hours: int) -> int:
    """Return what lot-hours cost in micro-USD, exactly."""
    return contract.TICK_MICROS_PER_LOT_HOUR * price_ticks * lot_hours


def margin_micros(*, price_ticks: int, lots: int) -> int:
    """Return what a seller keeps reserved for an hour's lots: 5 % of their price."""
    return delivery.delivery_margin(price=price_ticks, lots=lots)


def discount_percent(schedule: Iterable[tuple[int, int]], days: int) -> int:
    """Return the discount of a term by a schedule of (at least so many days, percent)."""
    found = [percent for least, percent in schedule if days >= least]
    return max(found, default=0)


def discounted(list_price_ticks: int, percent: int) -> int:
    """Return a price after a discount, rounded down to a whole tick, at least one."""
    return max(1, list_price_ticks * (100 - percent) // 100)


def resale_fee(*, amount_micros: int, fee_bp: int) -> int:
    """Return what a resale of a slice costs its seller, rounded down."""
    return amount_micros * fee_bp // 10_000


def is_suspended(*, curve_ticks: int, lot_hours: int, list_price_ticks: int) -> bool:
    """Whether the curve is more than 10 % above a list price over a term.

    `curve_ticks` is the sum of lots times the curve's price over the hours of the schedule.
    """
    return 100 * curve_ticks > SUSPENDED_ABOVE_PERCENT * list_price_ticks * lot_hours


def is_term(starts_at: int, ends_at: int) -> bool:
    """Whether two instants are a package's term: 1 to 365 whole days."""
    return (
        starts_at >= 0
        and starts_at % DAY == ends_at % DAY == 0
        and DAY <= ends_at - starts_at <= TERM_DAYS_MAX * DAY
    )


def sold_until(starts_at: int) -> int:
    """Return when a package that starts at an instant can no longer be bought.

    At 11:30 on the day before, when days and longer products become hours.
    """
    return contract.day_start(starts_at) - DAY + contract.CASCADE_HOUR


def cut(stretches: Sequence[Stretch], slice_of: Stretch) -> list[Stretch] | None:
    """Return what is left when a slice is cut out, in order of time; None where it is too much.

    Of every hour no more may be cut than it has, and every P1 lot that stays needs a lot that does.
    """
    left: list[Stretch] = []
    found = 0
    for stretch in stretches:
        starts_at = max(stretch.starts_at, slice_of.starts_at)
        ends_at = min(stretch.ends_at, slice_of.ends_at)
        if starts_at >= ends_at:
            left.append(stretch)
            continue
        lots = _less(stretch.lots, slice_of.lots)
        p1_lots = _less(stretch.p1_lots, slice_of.p1_lots)
        for hour in range(starts_at, ends_at, HOUR):
            kept, timed = lots_at(lots, hour), lots_at(p1_lots, hour)
            if not 0 <= timed <= kept:
                return None
            found += lots_at(slice_of.lots, hour)
        left += [
            Stretch(stretch.starts_at, starts_at, stretch.lots, stretch.p1_lots),
            Stretch(starts_at, ends_at, lots, p1_lots if any(p1_lots) else ()),
            Stretch(ends_at, stretch.ends_at, stretch.lots, stretch.p1_lots),
        ]
    if found < lot_hours([slice_of]):
        return None
    return [stretch for stretch in left if next(hours([stretch]), None)]


def _less(pattern: Sequence[int], taken: Sequence[int]) -> Pattern:
    """Return a pattern less another, as long as the longer of the two."""
    length = max(len(pattern), len(taken))
    if not length:
        return ()
    of, by = pattern or (0,), taken or (0,)
    return tuple(of[i % len(of)] - by[i % len(by)] for i in range(length))
