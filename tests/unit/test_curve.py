"""The hourly curve from instruments that overlap, and what a window is worth by it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from exchange import curve
from exchange.curve import Curve, Point, Segment
from marketplace import contract
from marketplace.contract import DAY, HOUR

MONDAY = contract.week_start(1_800_000_000_000_000)


def point(symbol: str, start: int, hours: int, mark: int, **more) -> Point:
    """An instrument whose window starts `start` hours after a Monday's midnight."""
    starts_at = MONDAY + start * HOUR
    values = {
        "product": "hour",
        "reference": mark,
        "last": None,
        "bid": None,
        "ask": None,
        "trades": True,
    }
    return Point(
        symbol=symbol,
        starts_at=starts_at,
        ends_at=starts_at + hours * HOUR,
        mark=mark,
        **(values | more),
    )


def curve_of(*points: Point, index_mean: int | None = None) -> Curve:
    return Curve(
        grade="LLAMA70B",
        at=0,
        list_price=1_200,
        index_mean=index_mean,
        index_hours=0,
        points=points,
        segments=curve.hourly(points),
    )


def steps(*points: Point) -> list[tuple[int, int, int, str]]:
    """Return (first hour, hour behind the last, price, symbol) of each segment."""
    return [
        ((one.starts_at - MONDAY) // HOUR, (one.ends_at - MONDAY) // HOUR, one.price, one.symbol)
        for one in curve.hourly(points)
    ]


def test_an_hour_costs_the_mark_of_the_narrowest_instrument_over_it() -> None:
    assert steps(
        point("month", 0, 720, 1_000),
        point("week", 0, 168, 1_100),
        point("day", 24, 24, 1_200),
        point("hour", 30, 1, 1_500),
    ) == [
        (0, 24, 1_100, "week"),
        (24, 30, 1_200, "day"),
        (30, 31, 1_500, "hour"),
        (31, 48, 1_200, "day"),
        (48, 168, 1_100, "week"),
        (168, 720, 1_000, "month"),
    ]


def test_a_week_over_the_turn_of_a_month_goes_before_both_months() -> None:
    assert steps(
        point("one", 0, 400, 1_000), point("two", 400, 700, 900), point("week", 336, 168, 950)
    ) == [(0, 336, 1_000, "one"), (336, 504, 950, "week"), (504, 1_100, 900, "two")]


def test_an_hour_that_nothing_covers_is_left_out() -> None:
    assert steps(point("a", 0, 1, 1_000), point("b", 5, 1, 1_010)) == [
        (0, 1, 1_000, "a"),
        (5, 6, 1_010, "b"),
    ]
    assert steps() == []


def test_a_window_is_fair_at_the_mean_of_its_hours_half_up() -> None:
    month, day = point("month", 0, 720, 1_000), point("day", 0, 24, 1_030)
    hour = point("hour", 3, 1, 1_053)
    found = curve_of(month, day, hour)
    assert found.fair(hour) == 1_053
    # 23 hours at 1,030 and one at 1,053: 1,030.96.
    assert found.fair(day) == 1_031
    # 696 at 1,000, 23 at 1,030, one at 1,053: 1,001.03.
    assert found.fair(month) == 1_001
    assert found.fair(point("two", 2, 2, 0)) == 1_042, "a half goes up"


@given(st.lists(st.integers(1, 3_000), min_size=24, max_size=24), st.integers(1, 3_000))
def test_a_day_of_listed_hours_is_fair_at_their_mean_whatever_its_mark(hours, mark) -> None:
    """What it cascades into is what it is worth: its own mark does not matter."""
    parts = [point(f"h{n:02}", n, 1, price) for n, price in enumerate(hours)]
    day = point("day", 0, 24, mark)
    assert curve_of(day, *parts).fair(day) == (2 * sum(hours) + 24) // 48


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 300), st.integers(1, 3_000)), max_size=12
    )
)
def test_every_hour_has_one_price_by_an_instrument_over_it_and_none_is_narrower(windows) -> None:
    points = [point(f"i{n:02}", *window) for n, window in enumerate(windows)]
    by_symbol = {one.symbol: one for one in points}
    segments = curve.hourly(points)
    assert all(a.ends_at <= b.starts_at for a, b in pairwise(segments))
    priced: dict[int, Segment] = {}
    for segment in segments:
        for at in range(segment.starts_at, segment.ends_at, HOUR):
            priced[at] = segment
    for at in range(MONDAY, MONDAY + 600 * HOUR, HOUR):
        over = [one for one in points if one.starts_at <= at < one.ends_at]
        assert (at in priced) == bool(over)
        if over:
            chosen = by_symbol[priced[at].symbol]
            assert chosen in over and chosen.mark == priced[at].price
            widths = [one.ends_at - one.starts_at for one in over]
            assert chosen.ends_at - chosen.starts_at == min(widths)


def test_a_price_is_the_mid_else_the_last_trade_else_the_mark() -> None:
    quoted = {"bid": 1_240, "ask": 1_247, "last": 1_230}
    assert point("a", 0, 1, 1_250, **quoted).price == (1_243, "mid")
    assert point("a", 0, 1, 1_250, **quoted, trades=False).price == (1_230, "last")
    assert point("a", 0, 1, 1_250, **(quoted | {"ask": None})).price == (1_230, "last")
    assert point("a", 0, 1, 1_250, bid=1_240, ask=None).price == (1_250, "mark")


def test_changes_and_bases_have_their_sign() -> None:
    one = point("a", 0, 24, 1_150, reference=1_175)
    found = curve_of(one, index_mean=1_100)
    assert (one.change, found.above_list(1_150), found.above_index(1_150)) == (-25, -50, 50)
    assert curve_of(one).above_index(1_150) is None
    assert one.ends_at - one.starts_at == DAY
