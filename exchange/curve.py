"""The forward curve of a grade: what every hour ahead costs now, from whatever is listed.

Energy is sold in windows of different length that overlap: an hour of the day after tomorrow is
part of a day, of a week and of a month, all with books of their own. The hourly curve gives each
hour one price, the mark of the *narrowest* instrument that is listed over it, because that is the
one which says most about it. Every longer window then has a *fair* price, the mean of its hours:
what it would cost to build it from the narrowest instruments, lot for lot, as it cascades in the
end (RULEBOOK 4.1). Priced so, no window is cheaper whole than in parts: the curve has no arbitrage
in itself, and where a mark is away from its fair price, the two books do.

A basis says how far above something else a price is: above the grade's list price, which the
operator set from what providers ask in public, and above the index of the last seven days.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from exchange import queries
from marketplace import clock, contract
from marketplace import queries as catalog
from marketplace.models import Instrument
from settlement import index, index_queries

POINTS_MAX = 1_000
INDEX_WINDOW = 7 * contract.DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One instrument of the curve; prices are ticks, instants microseconds."""

    symbol: str
    product: str
    starts_at: int
    ends_at: int
    mark: int
    reference: int
    last: int | None
    bid: int | None
    ask: int | None
    trades: bool
    """Whether its book trades continuously, so that its middle is a price."""

    @property
    def price(self) -> tuple[int, str]:
        """What it costs now, and what that is: the mid, else the last trade, else the mark."""
        if self.trades and self.bid is not None and self.ask is not None:
            return (self.bid + self.ask) // 2, "mid"
        if self.last is not None:
            return self.last, "last"
        return self.mark, "mark"

    @property
    def change(self) -> int:
        """How far the mark is from the reference that the day began with."""
        return self.mark - self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of hours that have one price, the mark of `symbol`."""

    starts_at: int
    ends_at: int
    price: int
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The curve of a grade; `index_mean` is None while there is no index."""

    grade: str
    at: int
    list_price: int
    index_mean: int | None
    index_hours: int
    points: tuple[Point, ...]
    segments: tuple[Segment, ...]

    def fair(self, point: Point) -> int:
        """Return the mean of the curve's hours over an instrument's window, half up."""
        hours = value = 0
        for segment in self.segments:
            overlap = min(segment.ends_at, point.ends_at) - max(segment.starts_at, point.starts_at)
            if overlap > 0:
                hours += overlap // contract.HOUR
                value += segment.price * (overlap // contract.HOUR)
        assert hours, "an instrument's own window is on the curve"
        return index.half_up(value, hours)

    def above_list(self, price: int) -> int:
        """Return how far a price is above the list price."""
        return price - self.list_price

    def above_index(self, price: int) -> int | None:
        """Return how far a price is above the mean index."""
        return None if self.index_mean is None else price - self.index_mean


def hourly(points: Sequence[Point]) -> tuple[Segment, ...]:
    """Return the hourly curve: each hour at the mark of the narrowest instrument over it.

    Of two that are as narrow the first by symbol is taken; an hour that no instrument covers is
    left out.
    """
    bounds = sorted({bound for point in points for bound in (point.starts_at, point.ends_at)})
    narrowest = sorted(points, key=lambda one: (one.ends_at - one.starts_at, one.symbol))
    segments: list[Segment] = []
    for start, end in pairwise(bounds):
        over = (one for one in narrowest if one.starts_at <= start and end <= one.ends_at)
        point = next(over, None)
        if point is None:
            continue
        before = segments[-1] if segments else None
        if before is not None and (before.symbol, before.ends_at) == (point.symbol, start):
            start = segments.pop().starts_at
        segments.append(
            Segment(starts_at=start, ends_at=end, price=point.mark, symbol=point.symbol)
        )
    return tuple(segments)


def of_grade(code: str) -> Curve:
    """Return the curve of a grade as of now.

    :raises NotFound: when there is no such grade.
    """
    grade = catalog.grade(code)
    now = clock.now_micros()
    rows = queries.instruments(grade=code, state="live", limit=POINTS_MAX)
    points = [
        _point(row)
        for row in rows
        if row.instrument.product in contract.ENERGY
        and row.instrument.trading_ends_at > clock.to_datetime(now)
    ]
    points.sort(key=lambda one: (one.starts_at, one.ends_at, one.symbol))
    until = contract.hour_start(now + contract.GATE_CLOSURE_LEAD) + contract.HOUR
    means = index_queries.index_means(code, periods=[("", until - INDEX_WINDOW, until)])
    return Curve(
        grade=code,
        at=now,
        list_price=grade.reference_price_ticks,
        index_mean=means[0].mean_ticks if means else None,
        index_hours=means[0].hours if means else 0,
        points=tuple(points),
        segments=hourly(points),
    )


def _point(row: queries.Quoted) -> Point:
    """Return where one instrument stands."""
    traded = row.instrument
    mark = traded.mark_price_ticks
    return Point(
        symbol=traded.symbol,
        product=traded.product.lower(),
        starts_at=clock.to_micros(traded.starts_at),
        ends_at=clock.to_micros(traded.ends_at),
        mark=traded.reference_price_ticks if mark is None else mark,
        reference=traded.reference_price_ticks,
        last=traded.last_price_ticks,
        bid=row.best_bid,
        ask=row.best_ask,
        trades=traded.state == Instrument.State.CONTINUOUS,
    )
