"""What stands behind shorts over windows that overlap, exact to the hour."""

from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import commands
from exchange.reasons import Reject
from marketplace import contract
from marketplace.contract import DAY, HOUR
from tests.floor import FAR, GRADE, Floor, hour, instant, symbol

SELLER, BUYER, OTHER = 1, 2, 3
WEEK = f"{GRADE}.W.25W50"
"""8 to 14 December."""
TUESDAY, FRIDAY = f"{GRADE}.D.20251209", f"{GRADE}.D.20251212"
SUNDAY = f"{GRADE}.D.20251207"
NEW_YEAR = f"{GRADE}.W.26W01"
"""29 December to 4 January."""
JANUARY = f"{GRADE}.M.F26"
EARLY, LATE = 9, 87
"""Micro-USD of a tick, lot and hour beyond a covered short's 3: to 20 % and to 150 % of 60."""


def floor_at(at: str = "13:00", *, certified: int = 0) -> Floor:
    floor = Floor(at)
    floor.account(SELLER, certified=certified)
    floor.account(BUYER, certified=4_000)
    floor.account(OTHER)
    return floor


def trade(floor: Floor, lots: int, instrument: str, *, seller=SELLER, buyer=BUYER) -> None:
    floor.sell(seller, lots, 1_250, instrument=instrument)
    assert floor.rejected() is None
    floor.buy(buyer, lots, 1_250, instrument=instrument)
    assert floor.rejected() is None


def bare(floor: Floor, account: int = SELLER) -> list[tuple[int, int, int]]:
    """Return (first hour, hours, lots) of what an account is short of and has nothing behind.

    Hours are counted from the present day's midnight.
    """
    start = hour("00")
    found: list[tuple[int, int, int]] = []
    for line in floor.view(account).uncovered:
        first, hours = (line.starts_at - start) // HOUR, (line.ends_at - line.starts_at) // HOUR
        if found and (sum(found[-1][:2]), found[-1][2]) == (first, line.lots):
            found[-1] = (found[-1][0], found[-1][1] + hours, line.lots)
        else:
            found.append((first, hours, line.lots))
    return found


def asked(floor: Floor, account: int = SELLER) -> int:
    return sum(line.margin for line in floor.view(account).uncovered)


def test_a_week_sold_against_a_cluster_is_covered() -> None:
    floor = floor_at(certified=40)
    trade(floor, 40, WEEK)
    assert bare(floor) == []
    assert floor.view(SELLER).initial_margin == 3 * 168 * 40 * 1_250


def test_lots_beyond_the_cluster_need_twenty_percent() -> None:
    floor = floor_at(certified=40)
    trade(floor, 50, WEEK)
    assert bare(floor) == [(3 * 24, 168, 10)]
    assert asked(floor) == 168 * 10 * 1_250 * EARLY
    assert floor.view(SELLER).initial_margin == 168 * 1_250 * (50 * 3 + 10 * EARLY)
    assert 3 + EARLY == 60 * 20 // 100


def test_a_long_day_covers_a_short_week_in_its_own_hours_only() -> None:
    floor = floor_at()
    trade(floor, 30, WEEK)
    trade(floor, 20, TUESDAY, seller=BUYER, buyer=SELLER)
    assert bare(floor) == [(72, 24, 30), (96, 24, 10), (120, 120, 30)]
    trade(floor, 40, FRIDAY, seller=BUYER, buyer=SELLER)
    assert bare(floor) == [(72, 24, 30), (96, 24, 10), (120, 48, 30), (192, 48, 30)]
    assert asked(floor) == 1_250 * EARLY * 24 * (30 * 5 + 10)


def test_a_month_covers_the_days_of_a_week_that_lie_in_it() -> None:
    floor = floor_at()
    trade(floor, 25, NEW_YEAR)
    trade(floor, 25, JANUARY, seller=BUYER, buyer=SELLER)
    # 29 to 31 December are in no January.
    assert bare(floor) == [(24 * 24, 72, 25)]


def test_resting_sales_need_it_too_and_resting_buys_cover_nothing() -> None:
    floor = floor_at()
    sale = floor.sell(SELLER, 10, 1_250, instrument=WEEK)
    assert bare(floor) == [(72, 168, 10)]
    floor.buy(SELLER, 10, 1_200, instrument=TUESDAY)
    assert bare(floor) == [(72, 168, 10)]
    floor.cancel(SELLER, sale)
    assert bare(floor) == []
    assert asked(floor) == 0


def test_a_certificate_covers_the_hours_that_end_while_it_holds() -> None:
    floor = floor_at()
    floor.certify(SELLER, 30, until=instant("+4 06:30"))
    trade(floor, 30, WEEK)
    assert bare(floor) == [(4 * 24 + 6, 6 * 24 - 6, 30)]


def test_a_drop_in_certification_counts_at_once_and_withdraws_only_what_is_late() -> None:
    floor = floor_at(certified=100)
    trade(floor, 60, WEEK)
    far = floor.sell(SELLER, 20, 1_260, instrument=WEEK)
    near = floor.sell(SELLER, 30, 1_260, at="+1 10")
    newer = floor.sell(SELLER, 30, 1_260, at="+1 10")
    assert bare(floor) == []
    floor.certify(SELLER, 40)
    assert floor.closed() == [(newer, "canceled", "coverage_lost")]
    assert {far, near} <= set(floor.machine.state.orders)
    assert bare(floor) == [(72, 168, 40)]
    assert asked(floor) == 168 * 40 * 1_250 * EARLY


def test_nothing_may_become_uncovered_inside_a_day() -> None:
    floor = floor_at(certified=10)
    assert contract.hour_start(floor.at) + DAY == hour("+1 13")
    for at, lots, reason in (
        ("+1 13", 11, Reject.INSUFFICIENT_COVERAGE),
        ("+1 14", 11, None),
        ("+1 13", 10, None),
    ):
        floor.sell(SELLER, lots, 1_250, at=at)
        assert floor.rejected() == reason, at
    floor.sell(SELLER, 1, 1_250, instrument=symbol("+1 13"))
    assert floor.rejected() == Reject.INSUFFICIENT_COVERAGE
    floor.to("14:00")
    closed = [reason for _, _, reason in floor.closed()]
    assert closed == ["coverage_lost"], "the sale of 14:00 tomorrow is a day ahead now"


def test_a_week_that_is_short_is_used_up_in_each_of_its_days() -> None:
    floor = floor_at(certified=40)
    trade(floor, 30, WEEK)
    floor.sell(SELLER, 10, 1_250, instrument=TUESDAY)
    assert bare(floor) == []
    floor.sell(SELLER, 5, 1_250, instrument=FRIDAY)
    assert bare(floor) == []
    floor.sell(SELLER, 5, 1_250, instrument=WEEK)
    # 40 + 5 on Tuesday, 35 + 5 on Friday.
    assert bare(floor) == [(96, 24, 5)]


def test_uncovered_shorts_are_limited_over_all_tenors() -> None:
    floor = floor_at()
    assert floor.machine.state.clusters[BUYER].lots == 4_000
    floor.sell(SELLER, 600, 1_250, instrument=WEEK)
    floor.sell(SELLER, 401, 1_250, instrument=TUESDAY)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.sell(SELLER, 400, 1_250, instrument=TUESDAY)
    assert floor.rejected() is None
    floor.sell(SELLER, 1, 1_250, instrument=WEEK)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.sell(SELLER, 1_000, 1_250, instrument=SUNDAY)
    assert floor.rejected() is None, "Sunday is not in that week"


def test_long_lots_are_limited_over_all_tenors() -> None:
    floor = floor_at()
    floor.buy(OTHER, 600, 1_250, instrument=WEEK)
    assert floor.rejected() is None
    floor.buy(OTHER, 401, 1_250, instrument=TUESDAY)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.buy(OTHER, 400, 1_250, instrument=TUESDAY)
    assert floor.rejected() is None
    floor.buy(OTHER, 1, 1_250, instrument=WEEK)
    assert floor.rejected() == Reject.POSITION_LIMIT


def test_an_uncovered_short_that_comes_near_needs_a_hundred_and_fifty_percent() -> None:
    floor = floor_at(certified=40)
    trade(floor, 50, SUNDAY)
    assert asked(floor) == 24 * 10 * 1_250 * EARLY
    floor.to("+1 03:00")
    lines = floor.view(SELLER).uncovered
    assert sum(line.prepaid_hours for line in lines) == 4
    assert asked(floor) == 10 * 1_250 * (4 * LATE + 20 * EARLY)
    assert 3 + LATE == 60 * 150 // 100


def test_the_price_of_an_uncovered_hour_is_the_narrowest_mark() -> None:
    floor = floor_at()
    trade(floor, 10, WEEK)
    floor.machine.state.instruments[TUESDAY].mark = 2_000
    floor.machine.state.curves.clear()
    floor.sell(SELLER, 1, 1_250, instrument=WEEK)
    assert asked(floor) == 11 * EARLY * 24 * (6 * 1_250 + 2_000)


def test_a_day_marked_between_the_hours_moves_what_a_week_around_it_needs() -> None:
    floor = floor_at()
    trade(floor, 10, WEEK)
    before = asked(floor)
    assert before == 168 * 10 * 1_250 * EARLY
    floor.to("13:20")
    floor.sell(BUYER, 5, 1_290, instrument=TUESDAY)
    floor.buy(OTHER, 5, 1_290, instrument=TUESDAY)
    floor.to("13:20:01")
    assert floor.machine.instrument_view(TUESDAY).mark == 1_290
    assert asked(floor) == before + 24 * 10 * 40 * EARLY


# Against an oracle that counts every hour

HOURS = [symbol("20"), symbol("+1 09"), symbol("+1 20")]
WINDOWS = [*HOURS, SUNDAY, TUESDAY, FRIDAY, WEEK, NEW_YEAR, f"{GRADE}.D.20251231", JANUARY]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sell"), st.sampled_from(WINDOWS), st.integers(1, 40)),
        st.tuples(st.just("buy"), st.sampled_from(WINDOWS), st.integers(1, 40)),
        st.tuples(st.just("fill"), st.sampled_from(WINDOWS), st.integers(1, 60)),
        st.tuples(st.just("certify"), st.sampled_from((60, 400, 10**6)), st.integers(0, 60)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 9)),
    ),
    max_size=25,
)


def sold_by_hour(floor: Floor, more: tuple[str, int] = ("", 0)) -> dict[int, int]:
    """Return by hour what an account has sold and offers, beyond its certificates."""
    machine = floor.machine
    hours: dict[int, int] = {}
    for name in machine.symbols():
        terms = contract.parse_symbol(name)
        if not terms.is_energy:
            continue
        position = machine.position(SELLER, name)
        lots = position.resting_sell_lots - position.net_lots + (more[1] if name == more[0] else 0)
        for starts_at in range(terms.starts_at, terms.ends_at, HOUR) if lots else ():
            hours[starts_at] = hours.get(starts_at, 0) + lots
    for cluster in machine.state.clusters.values():
        for starts_at in hours if cluster.account == SELLER else ():
            if starts_at + HOUR <= cluster.valid_until:
                hours[starts_at] -= cluster.lots
    return hours


def price_of(floor: Floor, starts_at: int) -> int:
    """Return the mark of the narrowest energy that has an hour in it."""
    around = [
        (terms.hours, view.mark)
        for name in floor.machine.symbols()
        if (terms := contract.parse_symbol(name)).is_energy
        and terms.starts_at <= starts_at < terms.ends_at
        and (view := floor.machine.instrument_view(name))
    ]
    return min(around)[1]


def assert_as_counted(floor: Floor) -> None:
    prepaid_until = contract.hour_start(floor.at) + DAY
    expected = sum(
        lots * price_of(floor, starts_at) * (LATE if starts_at <= prepaid_until else EARLY)
        for starts_at, lots in sold_by_hour(floor).items()
        if lots > 0
    )
    assert asked(floor) == expected


@settings(deadline=None, max_examples=50)
@given(STEPS)
def test_what_is_asked_for_is_what_every_hour_adds_up_to(steps) -> None:
    floor = Floor("13:00", checked=False)
    floor.account(SELLER, certified=20)
    floor.account(BUYER, certified=1_000_000)
    for kind, what, number in steps:
        if kind == "sell":
            floor.sell(SELLER, number, 1_260, instrument=what)
            terms = contract.parse_symbol(what)
            sold = sold_by_hour(floor, ("", 0) if floor.rejected() is None else (what, number))
            prepaid_until = contract.hour_start(floor.at) + DAY
            late = any(
                sold[at] > 0
                for at in range(terms.starts_at, terms.ends_at, HOUR)
                if at <= prepaid_until and at in sold
            )
            if floor.machine.instrument_view(what) is None or terms.trading_ends_at <= floor.at:
                assert floor.rejected() in (Reject.CLOSED, Reject.UNKNOWN_INSTRUMENT)
            else:
                assert floor.rejected() == (Reject.INSUFFICIENT_COVERAGE if late else None)
        elif kind == "buy":
            floor.buy(SELLER, number, 1_240, instrument=what)
        elif kind == "fill":
            floor.buy(BUYER, number, 1_260, instrument=what, time_in_force="IOC")
            floor.sell(BUYER, number, 1_240, instrument=what, time_in_force="IOC")
        elif kind == "certify":
            until = floor.at + what * HOUR if what < 10**6 else FAR
            floor.certify(SELLER, number, until=until)
        else:
            floor.at += number * HOUR
            floor.apply(commands.Tick())
        assert_as_counted(floor)
    floor.machine.check()
