"""Levels, estimates and turns: what of a rate may be used now, and who of those waiting is next."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.fairness import FairQueue, jain
from admission.levels import GRAINS_PER_MNTU, Level, OutputEstimate, Window

SECOND = 1_000_000
HOUR = 3_600 * SECOND


def window(lots: int, starts_at: int = 0, ends_at: int = HOUR) -> Window:
    return Window(starts_at=starts_at, ends_at=ends_at, lots=lots)


def test_a_lot_refills_one_grain_a_microsecond_up_to_two_seconds() -> None:
    level = Level(windows=[window(3)], at=0)
    assert level.refill(1) == 3
    assert level.refill(SECOND) == 3 * SECOND
    assert level.refill(10 * SECOND) == 3 * 2 * SECOND
    assert level.refill(10 * SECOND) // GRAINS_PER_MNTU == 100_000, "two seconds of 3 kNTU/min"


def test_debt_stops_at_what_the_contiguous_hours_still_owe() -> None:
    level = Level(
        windows=[window(1), window(2, HOUR, 2 * HOUR), window(9, 3 * HOUR, 4 * HOUR)], at=0
    )
    level.refill(HOUR - 10)
    assert level.owed(HOUR - 10) == 10 + 2 * HOUR, "the hour behind the gap owes nothing yet"
    taken = level.debit(10**12)
    assert taken == 2 * SECOND + 10 + 2 * HOUR
    assert level.forgiven == 10**12 - taken
    assert level.refill(2 * HOUR) == 0
    assert level.refill(3 * HOUR + 1) == 9


def test_a_level_that_nobody_uses_is_empty_in_a_gap() -> None:
    level = Level(windows=[window(5), window(5, 2 * HOUR, 3 * HOUR)], at=0)
    assert level.refill(HOUR + 1) == 0
    assert level.ready_at() == 2 * HOUR + 1
    assert level.refill(2 * HOUR + 2) == 10


def test_the_estimate_is_the_larger_of_mean_and_ninetieth_percentile_within_the_limit() -> None:
    estimate = OutputEstimate()
    assert estimate.tokens(1_000) == 256
    assert estimate.tokens(100) == 100
    for tokens in (10,) * 9 + (1_000,):
        estimate.observe(tokens)
    assert estimate.tokens(5_000) == 109, "the mean of 10 x 9 and 1000, above the percentile"
    estimate.observe(1_000)
    assert estimate.tokens(5_000) == 1_000
    for _ in range(100):
        estimate.observe(7)
    assert estimate.tokens(5_000) == 26, "the mean remembers, the percentile has forgotten"


@pytest.mark.parametrize(
    ("shares", "index"),
    [([1, 1, 1], Fraction(1)), ([1, 0, 0, 0], Fraction(1, 4)), ([], Fraction(1))],
)
def test_jain_is_one_when_equal_and_one_over_n_when_one_has_all(shares, index) -> None:
    assert jain(shares) == index


@given(
    charges=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=40, max_size=80),
    weights=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_two_who_both_wait_are_served_alike(charges, weights) -> None:
    queue: FairQueue[int] = FairQueue()
    for first, second in charges:
        queue.push(1, first)
        queue.push(2, second)
    served = {1: Fraction(0), 2: Fraction(0)}
    bound = 2 * 500
    while queue.waiting(1) and queue.waiting(2):
        organization, charge = queue.peek()
        weight = weights[organization - 1]
        queue.pop(organization, charge=charge, weight=weight)
        served[organization] += Fraction(charge, weight)
        assert abs(served[1] - served[2]) <= bound


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 20 * SECOND), st.integers(0, 10**9)), min_size=1, max_size=40
    )
)
def test_no_more_is_debited_than_the_hours_bought(steps) -> None:
    windows = [window(3, 0, 60 * SECOND), window(7, 60 * SECOND, 100 * SECOND)]
    bought = 3 * 60 * SECOND + 7 * 40 * SECOND
    level, at, debited = Level(windows=windows, at=0), 0, 0
    for wait, grains in steps:
        at += wait
        level.refill(at)
        if level.affords(grains):
            debited += level.debit(grains)
        assert level.grains + level.owed(at) >= 0
        assert debited + level.grains + level.owed(at) <= bought
    assert debited <= bought


def test_a_part_of_a_rate_fills_a_part_of_the_burst_and_loses_nothing_to_rounding() -> None:
    level = Level(windows=[window(1)], at=0)
    level.scale(333_333, 0)
    for at in range(1, 3 * SECOND // 1_000 + 1):
        level.refill(at * 1_000)
    assert level.grains == 666_666, "a third of two seconds"
    level.debit(666_666)
    for at in range(30):
        level.refill(3 * SECOND + at)
    assert level.grains == 29 * 333_333 // 1_000_000
    assert level.ready_at() == level.refilled_at
    level.debit(level.grains)
    assert level.ready_at() == level.refilled_at + 4, "a grain takes more than three microseconds"
    level.scale(0, level.refilled_at)
    assert level.ready_at() is None
