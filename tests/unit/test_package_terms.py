"""What a term of a package costs, and which terms and listings there are, to the tick."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace import contract, package_terms
from marketplace.contract import DAY, HOUR
from marketplace.package_terms import InvalidPackage, Span, TermPassed, Terms
from settlement import packages

MONDAY = 1_796_601_600_000_000  # 2026-12-07 00:00 UTC
assert contract.week_start(MONDAY) == MONDAY
NOW = MONDAY - 3 * DAY
OFFICE = tuple(10 if 8 <= hour < 18 else 0 for hour in range(24))


def terms(**change) -> Terms:
    values = {
        "starts_at": MONDAY,
        "ends_at": MONDAY + 28 * DAY,
        "lots": (10,),
        "p1_lots": (),
        "list_price_ticks": 1_250,
        "discounts": ((7, 5), (28, 12)),
        "units": 4,
    }
    return Terms(**(values | change))


def quote(of: Terms, curve: int, days: int, units: int = 1) -> package_terms.Quote:
    spans = package_terms.spans(
        [], starts_at=of.starts_at, ends_at=of.starts_at + days * DAY, otherwise=curve
    )
    return package_terms.quote(
        of, spans, starts_at=of.starts_at, ends_at=of.starts_at + days * DAY, units=units
    )


@pytest.mark.parametrize(
    ("days", "percent", "price"),
    [(1, 0, 1_250), (6, 0, 1_250), (7, 5, 1_187), (27, 5, 1_187), (28, 12, 1_100)],
)
def test_longer_terms_cost_less_rounded_down_to_a_whole_tick(
    days: int, percent: int, price: int
) -> None:
    found = quote(terms(), 1_300, days, units=2)
    assert (found.percent, found.price_ticks) == (percent, price)
    assert found.lot_hours == 2 * 10 * 24 * days
    assert found.total_micros == 60 * price * found.lot_hours
    assert found.saves_against_list_micros == 60 * (1_250 - price) * found.lot_hours
    assert found.saves_against_curve_micros == 60 * (1_300 - price) * found.lot_hours
    assert found.curve_price_ticks == 1_300


def test_a_price_is_never_less_than_a_tick() -> None:
    assert quote(terms(list_price_ticks=1), 1, 28).price_ticks == 1


def test_the_curve_is_compared_hour_by_hour_and_where_it_ends_at_the_reference() -> None:
    office = terms(lots=OFFICE, discounts=())
    segments = [(MONDAY + 8 * HOUR, MONDAY + 13 * HOUR, 2_000), (0, MONDAY + 8 * HOUR, 9_000)]
    spans = package_terms.spans(segments, starts_at=MONDAY, ends_at=MONDAY + DAY, otherwise=1_000)
    assert [(one.starts_at - MONDAY, one.price_ticks) for one in spans] == [
        (0, 9_000), (8 * HOUR, 2_000), (13 * HOUR, 1_000),
    ]  # fmt: skip
    found = package_terms.quote(office, spans, starts_at=MONDAY, ends_at=MONDAY + DAY, units=1)
    assert found.lot_hours == 100
    assert found.curve_total_micros == 60 * (50 * 2_000 + 50 * 1_000)
    assert found.curve_price_ticks == 1_500


def test_a_listing_is_suspended_when_the_curve_is_more_than_ten_percent_above_it() -> None:
    assert not quote(terms(), 1_375, 1).is_suspended
    assert quote(terms(), 1_376, 1).is_suspended
    # It is the list price that is compared, whatever the discount.
    assert not quote(terms(), 1_375, 28).is_suspended


@pytest.mark.parametrize(
    "change",
    [
        {"starts_at": MONDAY + HOUR},
        {"ends_at": MONDAY},
        {"ends_at": MONDAY + 366 * DAY},
        {"starts_at": MONDAY - 3 * DAY, "ends_at": MONDAY - 2 * DAY},
        {"starts_at": MONDAY + 400 * DAY, "ends_at": MONDAY + 730 * DAY},
        {"lots": ()},
        {"lots": (0,)},
        {"lots": (1, 2)},
        {"lots": (1_000_001,)},
        {"lots": (300_000,), "units": 4},
        {"lots": (0,) * 24 * 5 + (1,) * 48, "ends_at": MONDAY + 2 * DAY},
        {"p1_lots": (11,)},
        {"p1_lots": (1,) * 24},
        {"discounts": ((7, 5), (7, 6))},
        {"discounts": ((7, 5), (8, 5))},
        {"discounts": ((7, 5), (6, 6))},
        {"discounts": ((0, 5),)},
        {"discounts": ((7, 0),)},
        {"discounts": ((7, 100),)},
        {"discounts": ((366, 5),)},
        {"discounts": tuple((days, days) for days in range(1, 22))},
    ],
)
def test_what_does_not_fit_is_no_listing(change) -> None:
    package_terms.check(terms(), now=NOW)
    with pytest.raises(InvalidPackage):
        package_terms.check(terms(**change), now=NOW)


def test_a_year_is_a_listing_and_a_day_more_is_none() -> None:
    package_terms.check(terms(ends_at=MONDAY + 365 * DAY), now=NOW)
    package_terms.check(terms(p1_lots=(10,)), now=NOW)


def test_a_term_lies_inside_what_is_offered_and_is_bought_until_half_past_eleven() -> None:
    last = MONDAY - DAY + 11 * HOUR + HOUR // 2

    def check(start: int, end: int, units: int = 1, now: int = NOW) -> None:
        package_terms.check_term(
            terms(), starts_at=MONDAY + start, ends_at=MONDAY + end, units=units, now=now
        )

    check(0, DAY)
    check(0, 28 * DAY, units=4)
    check(0, DAY, now=last - 1)
    with pytest.raises(TermPassed):
        check(0, DAY, now=last)
    for start, end, units in (
        (-DAY, DAY, 1), (0, 29 * DAY, 1), (0, HOUR, 1), (DAY, DAY, 1), (0, DAY, 5),
    ):  # fmt: skip
        with pytest.raises(InvalidPackage):
            check(start, end, units)


@pytest.mark.parametrize(
    ("bought", "left"),
    [
        ([], 4),
        ([(0, 7, 1)], 3),
        ([(0, 2, 3), (2, 4, 3)], 1),  # one after the other, never both
        ([(0, 3, 3), (2, 4, 1)], 0),
        ([(7, 9, 4), (-3, 0, 4)], 4),  # beside the term
        ([(-3, 1, 2), (6, 9, 1)], 2),
    ],
)
def test_units_are_left_that_no_day_of_the_term_has_sold(bought, left: int) -> None:
    rows = [(MONDAY + start * DAY, MONDAY + end * DAY, units) for start, end, units in bought]
    assert package_terms.free_units(4, rows, starts_at=MONDAY, ends_at=MONDAY + 7 * DAY) == left


@given(
    length=st.sampled_from(package_terms.PATTERN_LENGTHS),
    numbers=st.binary(min_size=168, max_size=168),
    start=st.integers(0, 400),
    hours=st.integers(0, 500),
)
def test_lot_hours_of_any_window_are_those_of_its_hours(length, numbers, start, hours) -> None:
    pattern = tuple(numbers[:length])
    starts_at = MONDAY + start * HOUR
    ends_at = starts_at + hours * HOUR
    stretch = packages.Stretch(starts_at, ends_at, pattern)
    assert package_terms.lot_hours(pattern, starts_at, ends_at) == packages.lot_hours([stretch])


@given(
    cuts=st.lists(st.tuples(st.integers(-5, 40), st.integers(1, 9), st.integers(1, 99)), max_size=6)
)
def test_spans_cover_a_window_once_without_a_gap(cuts) -> None:
    at, segments = -5, []
    for start, length, price in sorted(cuts):
        start = max(start, at)
        segments.append((MONDAY + start * HOUR, MONDAY + (start + length) * HOUR, price))
        at = start + length
    spans = package_terms.spans(segments, starts_at=MONDAY, ends_at=MONDAY + DAY, otherwise=7)
    assert (spans[0].starts_at, spans[-1].ends_at) == (MONDAY, MONDAY + DAY)
    assert all(a.ends_at == b.starts_at for a, b in pairwise(spans))
    assert all(isinstance(one, Span) and one.starts_at < one.ends_at for one in spans)
