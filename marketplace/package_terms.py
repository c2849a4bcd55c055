"""What a package listing offers and what a term of it costs, without a database.

A listing is a schedule of hourly lots, one *unit* of it, over a span of days, at a list price with
discounts for longer terms. A buyer takes a *term*, whole days inside the span, of some units. All
days are UTC and half open: the last day named is the first that is not part of it.

The arithmetic of lots, prices and suspension is the machine's own (`settlement.packages`). What is
added here is the comparison: the same lot-hours at the list price and on the forward curve, summed
exactly and in time that does not depend on how long the term is. Every amount is in micro-USD and
every price in ticks; the one thing rounded is a mean price that is shown and never charged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from marketplace import contract, errors
from settlement import index, packages

PATTERN_LENGTHS = packages.PATTERN_LENGTHS
HOURS_PER_WEEK = 168
DISCOUNTS_MAX = 20
UNITS_MAX = 10_000
LOTS_MAX = contract.LOTS_MAX
AHEAD_MAX = 2 * packages.TERM_DAYS_MAX * contract.DAY
"""How far ahead of now a listing may end."""

Discounts = tuple[tuple[int, int], ...]
"""(at least so many days, percent), both rising."""


class InvalidPackage(errors.Refusal):
    """The terms of a package do not fit each other or the market."""

    code, status, title = "invalid_package", 422, "The package cannot be so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a listing offers; instants are microseconds at 00:00 UTC."""

    starts_at: int
    ends_at: int
    lots: packages.Pattern
    p1_lots: packages.Pattern
    list_price_ticks: int
    discounts: Discounts
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A price that the forward curve has in `[starts_at, ends_at)`."""

    starts_at: int
    ends_at: int
    price_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a term of some units costs, and what the same would cost otherwise."""

    starts_at: int
    ends_at: int
    days: int
    units: int
    lot_hours: int
    list_price_ticks: int
    percent: int
    price_ticks: int
    total_micros: int
    """Paid at once, and in escrow until it is delivered."""
    list_total_micros: int
    curve_price_ticks: int
    """The curve's mean over the lot-hours, half up; shown only."""
    curve_total_micros: int
    is_suspended: bool

    @property
    def saves_against_list_micros(self) -> int:
        """What the discount takes off."""
        return self.list_total_micros - self.total_micros

    @property
    def saves_against_curve_micros(self) -> int:
        """What it costs less than the same hours on the curve; below zero: more."""
        return self.curve_total_micros - self.total_micros


def check(terms: Terms, *, now: int) -> None:
    """Refuse what is no listing.

    :raises InvalidPackage: saying what does not fit.
    """
    if not packages.is_term(terms.starts_at, terms.ends_at):
        raise InvalidPackage(f"a package spans 1 to {packages.TERM_DAYS_MAX} days")
    if now >= packages.sold_until(terms.ends_at - contract.DAY):
        raise InvalidPackage(
            "its last day can no longer be bought: that ends at 11:30 the day before"
        )
    if terms.ends_at > now + AHEAD_MAX:
        raise InvalidPackage("a package ends within two years")
    check_lots(terms.lots, terms.p1_lots)
    if terms.units * max(terms.lots) > LOTS_MAX:
        raise InvalidPackage(f"all units together have at most {LOTS_MAX} lots in an hour")
    check_discounts(terms.discounts)
    if not any(
        packages.lots_at(terms.lots, hour)
        for hour in range(
            terms.starts_at,
            min(terms.ends_at, terms.starts_at + HOURS_PER_WEEK * contract.HOUR),
            contract.HOUR,
        )
    ):
        raise InvalidPackage("no hour of the span has lots")


def check_lots(lots: Sequence[int], p1_lots: Sequence[int]) -> None:
    """Refuse patterns that are no schedule.

    :raises InvalidPackage: saying what does not fit.
    """
    if not packages.is_pattern(lots, LOTS_MAX) or not any(lots):
        raise InvalidPackage("lots are one number, 24 or 168 of them, not all zero")
    if p1_lots and len(p1_lots) != len(lots):
        raise InvalidPackage("P1 lots are as many numbers as lots")
    if not packages.is_schedule(lots, p1_lots):
        raise InvalidPackage("an hour has at least as many lots as P1 lots")


def check_discounts(discounts: Discounts) -> None:
    """Refuse a schedule of discounts that does not rise.

    :raises InvalidPackage: saying what does not fit.
    """
    if len(discounts) > DISCOUNTS_MAX:
        raise InvalidPackage(f"a schedule has at most {DISCOUNTS_MAX} discounts")
    days = percent = 0
    for least, taken_off in discounts:
        if not 1 <= least <= packages.TERM_DAYS_MAX:
            raise InvalidPackage(f"a discount begins at 1 to {packages.TERM_DAYS_MAX} days")
        if not 1 <= taken_off <= packages.DISCOUNT_PERCENT_MAX:
            raise InvalidPackage(f"a discount is 1 to {packages.DISCOUNT_PERCENT_MAX} percent")
        if least <= days or taken_off <= percent:
            raise InvalidPackage("longer terms have larger discounts: days and percent rise")
        days, percent = least, taken_off


def check_term(terms: Terms, *, starts_at: int, ends_at: int, units: int, now: int) -> None:
    """Refuse a term that the listing does not offer.

    :raises InvalidPackage: when it is none, is outside the span, or of too many units.
    :raises TermPassed: when it can no longer be bought.
    """
    if not packages.is_term(starts_at, ends_at):
        raise InvalidPackage(f"a term is 1 to {packages.TERM_DAYS_MAX} whole days")
    if starts_at < terms.starts_at or ends_at > terms.ends_at:
        raise InvalidPackage("the term is outside what is offered")
    if units > terms.units:
        raise InvalidPackage(f"{terms.units} units are offered")
    if now >= packages.sold_until(starts_at):
        raise TermPassed("a term is bought until 11:30 on the day before it starts")


class TermPassed(errors.Refusal):
    """The term can no longer be bought."""

    code, status, title = "deadline_passed", 422, "The deadline has passed"


def scaled(pattern: Iterable[int], units: int) -> packages.Pattern:
    """Return the lots of some units."""
    return tuple(lots * units for lots in pattern)


def lot_hours(pattern: Sequence[int], starts_at: int, ends_at: int) -> int:
    """Return the lots of a pattern, summed over the hours of a window."""
    return _Sums(pattern).between(starts_at, ends_at)


def quote(
    terms: Terms, curve: Iterable[Span], *, starts_at: int, ends_at: int, units: int
) -> Quote:
    """Return what a term of some units costs.

    Hours that the curve does not reach are at its grade's reference price, which the caller puts
    into a span of its own.
    """
    days = (ends_at - starts_at) // contract.DAY
    percent = packages.discount_percent(terms.discounts, days)
    price = packages.discounted(terms.list_price_ticks, percent)
    sums = _Sums(terms.lots)
    total = units * sums.between(starts_at, ends_at)
    curve_ticks = units * sum(
        span.price_ticks * sums.between(max(starts_at, span.starts_at), min(ends_at, span.ends_at))
        for span in curve
        if span.starts_at < ends_at and starts_at < span.ends_at
    )
    return Quote(
        starts_at=starts_at,
        ends_at=ends_at,
        days=days,
        units=units,
        lot_hours=total,
        list_price_ticks=terms.list_price_ticks,
        percent=percent,
        price_ticks=price,
        total_micros=packages.price_micros(price_ticks=price, lot_hours=total),
        list_total_micros=packages.price_micros(
            price_ticks=terms.list_price_ticks, lot_hours=total
        ),
        curve_price_ticks=index.half_up(curve_ticks, total) if total else 0,
        curve_total_micros=contract.TICK_MICROS_PER_LOT_HOUR * curve_ticks,
        is_suspended=packages.is_suspended(
            curve_ticks=curve_ticks, lot_hours=total, list_price_ticks=terms.list_price_ticks
        ),
    )


def spans(
    segments: Iterable[tuple[int, int, int]], *, starts_at: int, ends_at: int, otherwise: int
) -> tuple[Span, ...]:
    """Return a curve's (start, end, price) over a window, its gaps filled with one price."""
    found: list[Span] = []
    at = starts_at
    for start, end, price in sorted(segments):
        if end <= at or start >= ends_at:
            continue
        if start > at:
            found.append(Span(starts_at=at, ends_at=start, price_ticks=otherwise))
        found.append(Span(starts_at=max(start, at), ends_at=min(end, ends_at), price_ticks=price))
        at = min(end, ends_at)
    if at < ends_at:
        found.append(Span(starts_at=at, ends_at=ends_at, price_ticks=otherwise))
    return tuple(found)


def free_units(
    offered: int, bought: Iterable[tuple[int, int, int]], *, starts_at: int, ends_at: int
) -> int:
    """Return the units that are left on every day of a term, of (start, end, units) bought."""
    steps: dict[int, int] = {}
    for start, end, units in bought:
        if start < ends_at and starts_at < end:
            begins = max(start, starts_at)
            steps[begins] = steps.get(begins, 0) + units
            steps[end] = steps.get(end, 0) - units
    taken = accumulate(change for at, change in sorted(steps.items()) if at < ends_at)
    return offered - max(taken, default=0)


class _Sums:
    """Lots of a pattern, summed over any window in the same time."""

    def __init__(self, pattern: Sequence[int]) -> None:
        week = [pattern[hour % len(pattern)] for hour in range(HOURS_PER_WEEK)]
        self._until = [0, *accumulate(week)]

    def between(self, starts_at: int, ends_at: int) -> int:
        """Return the sum over `[starts_at, ends_at)`."""
        if starts_at >= ends_at:
            return 0
        first = contract.week_start(starts_at)
        return self._up_to(ends_at - first) - self._up_to(starts_at - first)

    def _up_to(self, span: int) -> int:
        weeks, hours = divmod(span // contract.HOUR, HOURS_PER_WEEK)
        return weeks * self._until[-1] + self._until[hours]
