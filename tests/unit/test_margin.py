"""Margin by hand, and that a fill never asks for more than was reserved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.contract import DAY, HOUR
from settlement import margin
from settlement.margin import Rates, Resting

LOTS = 40
PRICE = 1_250
NOW = 20_000 * DAY + 13 * HOUR
PREPAID_UNTIL = NOW + margin.PREPAID_WINDOW


def energy(hours: int, *, prepaid: int = 0, mark: int = PRICE) -> Rates:
    """Return the rates of a window of which the first hours are prepaid."""
    starts_at = PREPAID_UNTIL - (prepaid - 1) * HOUR
    return margin.energy_rates(
        starts_at=starts_at,
        ends_at=starts_at + hours * HOUR,
        prepaid_until=PREPAID_UNTIL,
        mark=mark,
    )


NEAR = energy(1, prepaid=1)
FAR = energy(1)
DAYLONG = energy(24, prepaid=6)
"""A day of which six hours are prepaid: a buyer has (6 x 100 % + 18 x 10 %) / 24 = 32.5 %."""


@pytest.mark.parametrize(
    ("starts_in", "hours", "prepaid"),
    [(-1, 1, 1), (0, 1, 1), (1, 1, 0), (-5, 24, 6), (-23, 24, 24), (-30, 24, 24), (1, 744, 0)],
)
def test_hours_that_start_within_a_day_are_prepaid(starts_in, hours, prepaid) -> None:
    starts_at = PREPAID_UNTIL + starts_in * HOUR
    window = {"starts_at": starts_at, "ends_at": starts_at + hours * HOUR}
    assert margin.prepaid_hours(**window, prepaid_until=PREPAID_UNTIL) == prepaid


def test_a_long_in_a_prepaid_hour_has_its_whole_price_behind_it() -> None:
    needed = margin.position_margin(
        energy(1, prepaid=1, mark=1_000), net_lots=LOTS, cost_ticks=LOTS * PRICE
    )
    assert needed == 60 * LOTS * PRICE == 3_000_000


def test_a_long_in_a_later_hour_has_a_tenth_of_the_mark_behind_it() -> None:
    needed = margin.position_margin(FAR, net_lots=LOTS, cost_ticks=LOTS * PRICE)
    assert needed == 60 * LOTS * PRICE // 10 == 300_000


def test_a_long_that_lost_has_the_loss_behind_it_until_it_is_paid() -> None:
    needed = margin.position_margin(FAR, net_lots=LOTS, cost_ticks=LOTS * 1_300)
    assert needed == 60 * LOTS * 50 + 300_000
    won = margin.position_margin(FAR, net_lots=LOTS, cost_ticks=LOTS * 1_200)
    assert won == 300_000, "what it has won is not its own before it is paid"


def test_a_day_is_asked_for_hour_by_hour() -> None:
    long = margin.position_margin(DAYLONG, net_lots=LOTS, cost_ticks=LOTS * PRICE)
    assert long == LOTS * PRICE * (6 * 60 + 18 * 6)
    short = margin.position_margin(DAYLONG, net_lots=-LOTS, cost_ticks=-LOTS * PRICE)
    assert short == LOTS * PRICE * 24 * 3
    month = margin.position_margin(energy(744), net_lots=1, cost_ticks=PRICE)
    assert month == 744 * 6 * PRICE


@pytest.mark.parametrize("of", [NEAR, FAR], ids=["prepaid", "later"])
def test_a_covered_short_has_five_percent_of_the_mark_behind_it(of: Rates) -> None:
    needed = margin.position_margin(of, net_lots=-LOTS, cost_ticks=-LOTS * PRICE)
    assert needed == 60 * LOTS * PRICE // 20 == 150_000


def test_a_short_that_lost_has_the_loss_behind_it_too() -> None:
    needed = margin.position_margin(NEAR, net_lots=-LOTS, cost_ticks=-LOTS * 1_200)
    assert needed == 60 * LOTS * 50 + 150_000


def test_a_short_that_gained_still_has_five_percent_behind_it() -> None:
    needed = margin.position_margin(NEAR, net_lots=-LOTS, cost_ticks=-LOTS * 1_400)
    assert needed == 150_000


@pytest.mark.parametrize("of", [NEAR, FAR], ids=["prepaid", "later"])
def test_a_loss_made_by_trading_out_stays_reserved_and_a_gain_does_not_count(of: Rates) -> None:
    assert margin.position_margin(of, net_lots=0, cost_ticks=50) == 3_000
    assert margin.position_margin(of, net_lots=0, cost_ticks=-50) == 0


def test_a_sale_out_of_a_prepaid_long_needs_nothing_more() -> None:
    resting = Resting(sell_lots=LOTS, sell_fees=6_000)
    with_sale = margin.requirement(NEAR, LOTS, LOTS * PRICE, resting)
    assert with_sale == margin.requirement(NEAR, LOTS, LOTS * PRICE, Resting())


@pytest.mark.parametrize(("of", "percent"), [(NEAR, 100), (FAR, 10)], ids=["prepaid", "later"])
def test_a_bid_and_an_offer_are_not_charged_twice(of: Rates, percent: int) -> None:
    bid_long, bid_short = margin.order_excess(of, side=1, price=1_250, lots=10)
    ask_long, ask_short = margin.order_excess(of, side=-1, price=1_260, lots=10)
    both = Resting(
        buy_lots=10,
        sell_lots=10,
        long_excess=bid_long + ask_long,
        short_excess=bid_short + ask_short,
    )
    assert margin.requirement(of, 0, 0, both) == 60 * 10 * 1_250 * percent // 100


def test_slots_are_paid_in_full_and_sold_for_a_quarter() -> None:
    of = margin.slot_rates(mark=80)
    assert margin.position_margin(of, net_lots=10, cost_ticks=800) == 100 * 800
    assert margin.position_margin(of, net_lots=-10, cost_ticks=-800) == 25 * 800


def test_an_options_writer_holds_what_it_pays_at_most_and_its_buyer_nothing() -> None:
    of = margin.collateral_rates(unit=60 * 720, collateral=60 * 720 * 6_250)
    assert margin.position_margin(of, net_lots=-2, cost_ticks=0) == 2 * 60 * 720 * 6_250
    assert margin.position_margin(of, net_lots=2, cost_ticks=0) == 0


def test_uncovered_lots_need_the_rest_of_twenty_percent_and_late_ones_of_a_hundred_and_fifty() -> (
    None
):
    assert margin.uncovered_micros(is_late=False) == 9
    assert margin.uncovered_micros(is_late=True) == 87


def test_fees_are_rounded_up_once() -> None:
    assert margin.fee_points(unit=60, price=1, lots=1, basis_points=2) == 120
    assert margin.fee_points(unit=60 * 24, price=1, lots=1, basis_points=2) == 24 * 120
    assert margin.fee_charged(120) == 1
    assert margin.fee_charged(10_000) == 1
    assert margin.fee_charged(10_001) == 2


def test_maintenance_is_three_quarters_against_the_account() -> None:
    assert margin.maintenance(100) == 75
    assert margin.maintenance(101) == 76


ORDERS = st.lists(
    st.tuples(
        st.sampled_from((1, -1)), st.integers(1, 300), st.integers(1, 50), st.integers(0, 99)
    ),
    max_size=8,
)
"""(side, price, lots, fee a lot)"""

RATES = st.one_of(
    st.builds(
        energy, st.sampled_from((1, 24, 168)), prepaid=st.integers(0, 30), mark=st.integers(1, 300)
    ),
    st.builds(margin.slot_rates, mark=st.integers(1, 300)),
    st.builds(
        margin.collateral_rates, unit=st.just(60), collateral=st.integers(300 * 60, 10**6)
    ),
)  # fmt: skip
"""Every kind of window, prepaid in full, in part or not, and what is no energy."""


def _resting(of: Rates, orders) -> Resting:
    excess = [margin.order_excess(of, side=s, price=p, lots=q) for s, p, q, _ in orders]
    return Resting(
        buy_lots=sum(q for s, _, q, _ in orders if s > 0),
        sell_lots=sum(q for s, _, q, _ in orders if s < 0),
        long_excess=sum(long for long, _ in excess),
        short_excess=sum(short for _, short in excess),
        buy_fees=sum(q * fee for s, _, q, fee in orders if s > 0),
        sell_fees=sum(q * fee for s, _, q, fee in orders if s < 0),
    )


@given(RATES, ORDERS, st.integers(-100, 100), st.integers(-20_000, 20_000), st.data())
def test_no_order_of_fills_needs_more_than_was_reserved(of, orders, net, cost, data) -> None:
    """What is asked for never outgrows what was reserved, the fees that were paid included."""
    reserved = margin.requirement(of, net, cost, _resting(of, orders))
    left = list(orders)
    paid = 0
    while left:
        side, price, lots, fee = left.pop(data.draw(st.integers(0, len(left) - 1)))
        filled = data.draw(st.integers(0, lots))
        net += side * filled
        cost += side * filled * price
        paid += filled * fee
        if filled < lots and data.draw(st.booleans()):
            left.append((side, price, lots - filled, fee))
        now = margin.requirement(of, net, cost, _resting(of, left))
        assert now <= reserved
        reserved = now
    assert reserved == margin.position_margin(of, net_lots=net, cost_ticks=cost)


# Worked by hand: a tick is 60 micro-USD a lot and hour; of it a buyer has 60 behind a prepaid hour
# and 6 behind another, a covered seller 3. Ten lots each, what was traded at 1.250.
#
#   window                     lots   mark   lost since     behind the mark              together
TABLE = """
    hour, later                 +10  1.250            0     6 x 1250 x 10 =     75000       75000
    hour, later                 +10  1.300            0     6 x 1300 x 10 =     78000       78000
    hour, later                 +10  1.200        30000     6 x 1200 x 10 =     72000      102000
    hour, prepaid               +10  1.250            0    60 x 1250 x 10 =    750000      750000
    hour, prepaid               +10  1.200        30000    60 x 1200 x 10 =    720000      750000
    hour, prepaid               +10  1.300       -30000    60 x 1300 x 10 =    780000      750000
    hour, later                 -10  1.250            0     3 x 1250 x 10 =     37500       37500
    hour, later                 -10  1.300        30000     3 x 1300 x 10 =     39000       69000
    hour, later                 -10  1.200            0     3 x 1200 x 10 =     36000       36000
    hour, prepaid               -10  1.300        30000     3 x 1300 x 10 =     39000       69000
    day, 6 hours prepaid        +10  1.250            0   468 x 1250 x 10 =   5850000     5850000
    day, 6 hours prepaid        +10  1.300            0   468 x 1300 x 10 =   6084000     6084000
    day, 6 hours prepaid        +10  1.200       720000   468 x 1200 x 10 =   5616000     6336000
    day, 6 hours prepaid        -10  1.300       720000    72 x 1300 x 10 =    936000     1656000
    day, 6 hours prepaid        -10  1.200            0    72 x 1200 x 10 =    864000      864000
    month of 744 hours          +10  1.250            0  4464 x 1250 x 10 =  55800000    55800000
    month of 744 hours          +10  1.240      4464000  4464 x 1240 x 10 =  55353600    59817600
    month of 744 hours          -10  1.250            0  2232 x 1250 x 10 =  27900000    27900000
    month of 744 hours          -10  1.260      4464000  2232 x 1260 x 10 =  28123200    32587200
"""
WINDOWS = {
    "hour, later": (1, 0),
    "hour, prepaid": (1, 1),
    "day, 6 hours prepaid": (24, 6),
    "month of 744 hours": (744, 0),
}
ROWS = [line[4:] for line in TABLE.strip("\n").splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:40].split()))
def test_margin_is_as_worked_by_hand(row: str) -> None:
    """The reader adds the columns up; the code has to come to the last one by itself."""
    hours, prepaid = WINDOWS[row[:26].strip()]
    lots, mark, lost, rate, _, price, _, ten, _, behind, together = row[26:].split()
    assert int(rate) * int(price) * int(ten) == int(behind), "the table itself is right"
    assert int(lost) + int(behind) == int(together), "the table itself is right"
    of = energy(hours, prepaid=prepaid, mark=round(float(mark) * 1_000))
    net = int(lots)
    needed = margin.position_margin(of, net_lots=net, cost_ticks=net * 1_250)
    assert needed == int(together)
    maintained = margin.maintenance(needed)
    assert 4 * maintained >= 3 * needed > 4 * (maintained - 1)


@pytest.mark.parametrize(
    ("covered", "hours", "is_late", "by_hand"),
    [
        (10, 1, False, 37_500),  # 3 x 1250 x 10
        (4, 1, False, 37_500 + 67_500),  # and 9 x 1250 x 6
        (0, 1, False, 150_000),  # 20 % of 750,000
        (0, 1, True, 1_125_000),  # 150 % of 750,000
        (4, 24, False, 24 * 105_000),
        (4, 24, True, 24 * (37_500 + 652_500)),  # and 87 x 1250 x 6
    ],
)
def test_a_short_that_is_covered_in_part_is_as_worked_by_hand(
    covered: int, hours: int, is_late: bool, by_hand: int
) -> None:
    base = margin.position_margin(energy(hours), net_lots=-10, cost_ticks=-10 * PRICE)
    bare = hours * (10 - covered) * PRICE * margin.uncovered_micros(is_late=is_late)
    assert base + bare == by_hand
