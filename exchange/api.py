"""What the exchange shows over REST: instruments, books, auctions, the tape, candles, the curve.

Market data is public. A list goes from the newest to the oldest, instruments from the first listed
to the last, the changes of a book from the oldest on.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from exchange import curve, deltas, feed, queries, wire
from marketplace import clock, contract, errors
from marketplace import wire as texts
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Strict

SEQUENCE_MAX = 2**53
GradeCode = Annotated[str, msgspec.Meta(min_length=2, max_length=16)]
SequenceText = Annotated[str, texts.whole(1, SEQUENCE_MAX)]


class ShowStatus(Endpoint):
    """Whether the exchange takes orders: `running`, `clock_skew` or `down`."""

    tag = "market"

    class Output(Answer):
        """Where the journal ends, and what the engine says of itself."""

        state: Annotated[str, texts.one_of("running", "clock_skew", "down")]
        epoch: int
        sequence: int
        at: str
        now: str

    def handle(self, call: Call) -> Output:
        """Answer."""
        status = queries.status()
        return self.Output(
            state=status.state,
            epoch=status.epoch,
            sequence=status.sequence,
            at=texts.moment_text(status.at),
            now=texts.time_text(clock.now_micros()),
        )


class Instrument(Answer):
    """A tradable contract, and where its market stands."""

    symbol: str
    grade: str
    product: str
    service_class: str | None = msgspec.field(name="class")
    strike: str | None
    pay_price: str | None
    """What shortage cover pays for what is missed, per million NTU."""
    starts_at: wire.Moment
    ends_at: wire.Moment
    trading_ends_at: wire.Moment
    state: wire.State
    tick: str
    lot_ntu_per_minute: int
    reference_price: str
    band: tuple[str, str]
    last: str | None
    mark: str | None
    best_bid: str | None
    best_ask: str | None
    volume: int
    open_interest: int


class ListInstruments(Endpoint):
    """All instruments, in the order in which they were listed."""

    tag = "market"
    Item = Instrument
    Output = Listed[Instrument]

    class Query(Strict):
        """Filters; `live` stands for every state in which an instrument may still trade."""

        grade: GradeCode = ""
        product: Literal["", "hour", "day", "week", "month", "slot", "cap", "cover"] = ""
        state: Literal[
            "", "live", "scheduled", "call", "continuous", "halted", "closed", "settled"
        ] = ""

    def handle(self, call: Call) -> Listed[Instrument]:
        """Answer."""
        rows = queries.instruments(
            grade=call.query.grade,
            product=call.query.product,
            state=call.query.state,
            after=call.page.number(),
            limit=call.page.fetch,
        )
        return call.page.page(rows, instrument_out, position=lambda row: [row.instrument.pk])


class ShowInstrument(Endpoint):
    """One instrument."""

    tag = "market"
    Output = Instrument

    def handle(self, call: Call, symbol: str) -> Instrument:
        """Answer."""
        return instrument_out(_instrument(symbol))


class ShowBook(Endpoint):
    """The book of an instrument at one instant, best first.

    `checksum` is the CRC32 of the top ten bids, then the top ten asks, each `price:quantity`,
    joined by `|`; `sequence` is the one that the stream's deltas go on from.
    """

    tag = "market"
    Output = wire.Book

    class Query(Strict):
        """How many levels a side."""

        depth: Annotated[str, texts.whole(1, queries.BOOK_DEPTH_MAX)] | None = None

    def handle(self, call: Call, symbol: str) -> wire.Book:
        """Answer."""
        depth = queries.BOOK_DEPTH_DEFAULT
        if call.query.depth is not None:
            depth = texts.parse_whole(call.query.depth, "depth", low=1, high=queries.BOOK_DEPTH_MAX)
        book = queries.book(symbol=symbol, depth=depth)
        if book is None:
            raise errors.NotFound()
        return book


class ListTrades(Endpoint):
    """The tape of an instrument, the newest trade first; `side` is the taker's."""

    tag = "market"
    Item = wire.Trade
    Output = Listed[wire.Trade]

    def handle(self, call: Call, symbol: str) -> Listed[wire.Trade]:
        """Answer."""
        _instrument(symbol)
        rows = queries.trades(symbol=symbol, limit=call.page.fetch, before=call.page.number())
        return call.page.page(
            rows,
            wire.trade_row,
            position=lambda row: [row.id],
        )


class ListCandles(Endpoint):
    """Candles of an instrument, the newest first. An interval without trades has no candle."""

    tag = "market"

    class Query(Strict):
        """How long a candle lasts."""

        interval: Literal["1m", "5m", "15m", "1h", "1d"] = "1h"

    class Item(Answer):
        """Prices of one interval."""

        starts_at: str
        open: str
        high: str
        low: str
        close: str
        volume: int
        trades: int

    Output = Listed[Item]

    def handle(self, call: Call, symbol: str) -> Listed[Item]:
        """Answer."""
        _instrument(symbol)
        decimals = contract.decimals_of(symbol)
        after = call.page.number()
        rows = queries.candles(
            symbol=symbol,
            interval=call.query.interval,
            limit=call.page.fetch,
            before=None if after is None else clock.to_datetime(after),
        )
        return call.page.page(
            rows,
            lambda row: self.Item(
                starts_at=texts.moment_text(row.starts_at),
                open=texts.price_text(row.open, decimals),
                high=texts.price_text(row.high, decimals),
                low=texts.price_text(row.low, decimals),
                close=texts.price_text(row.close, decimals),
                volume=row.lots,
                trades=row.trades,
            ),
            position=lambda row: [clock.to_micros(row.starts_at)],
        )


class ListDeltas(Endpoint):
    """What changed a book, the oldest first: the stream's deltas, as they were published.

    `from` and `to` are sequences of the book, both included. A delta holds the changes after its
    `previous_sequence` up to its `sequence`, so the first may begin before `from` and the last end
    behind `to`; without `to` the list goes on to the present. Deltas are kept until an instrument
    has been settled for 24 hours, and are `gone` after that.
    """

    tag = "market"

    class Query(Strict):
        """From which change to which."""

        first: SequenceText = msgspec.field(name="from")
        last: SequenceText | None = msgspec.field(name="to", default=None)

    Item = feed.DeltaOut
    Output = Listed[feed.DeltaOut]

    def handle(self, call: Call, symbol: str) -> Listed[feed.DeltaOut]:
        """Answer."""
        first = texts.parse_whole(call.query.first, "from", low=1, high=SEQUENCE_MAX)
        last = call.query.last
        if last is not None:
            last = texts.parse_whole(last, "to", low=first, high=SEQUENCE_MAX)
        after = call.page.number()
        rows = deltas.since(
            symbol=symbol,
            first=first if after is None else max(first, after + 1),
            last=last,
            limit=call.page.fetch,
        )
        return call.page.page(rows, feed.delta_out, position=lambda row: [row.sequence])


class ShowAuction(Endpoint):
    """The auction of an instrument: the call that runs and what it would give now.

    `kind` is `opening`, `reopening` or `volatility`, and null outside of a call; `last_auction` is
    the last one that made a price. From `frozen_at` on nothing is canceled, and what is amended
    only improves. `surplus` is what finds no partner at the indicative price.
    """

    tag = "market"
    Output = wire.Auction

    def handle(self, call: Call, symbol: str) -> wire.Auction:
        """Answer."""
        found = queries.auction(symbol=symbol)
        if found is None:
            raise errors.NotFound()
        return wire.auction_out(found)


class ShowCurve(Endpoint):
    """The forward curve of a grade: every hour, day, week and month that trades, and each hour.

    `points` are the instruments, the nearest first. `price` is what one costs now and `source`
    what that is: the mid of a book that trades, else the last trade, else the mark. `change` is how
    far the mark is from the day's reference. `segments` are the hours, with the mark of the
    narrowest instrument that is listed over each; `fair_price` is the mean of them over an
    instrument's window. A basis is how far the mark, or the hour, is above the list price of the
    grade, and above the mean index of the last seven days.
    """

    tag = "market"

    class Point(Answer):
        """One instrument of the curve."""

        instrument: str
        product: str
        starts_at: str
        ends_at: str
        price: str
        source: Annotated[str, texts.one_of("mid", "last", "mark")]
        mark: str
        last: str | None
        best_bid: str | None
        best_ask: str | None
        reference_price: str
        change: str
        fair_price: str
        list_basis: str
        index_basis: str | None

    class Segment(Answer):
        """Hours that have one price on the curve, the mark of `instrument`."""

        starts_at: str
        ends_at: str
        price: str
        instrument: str
        list_basis: str
        index_basis: str | None

    class Output(Answer):
        """The curve; `index_mean` is of the `index_hours` published in the last seven days."""

        grade: str
        at: str
        list_price: str
        index_mean: str | None
        index_hours: int
        points: "list[ShowCurve.Point]"
        segments: "list[ShowCurve.Segment]"

    def handle(self, call: Call, grade: str) -> Output:
        """Answer."""
        found = curve.of_grade(grade)
        return self.Output(
            grade=grade,
            at=texts.time_text(found.at),
            list_price=texts.price_text(found.list_price),
            index_mean=texts.optional_price_text(found.index_mean),
            index_hours=found.index_hours,
            points=[self._point(found, point) for point in found.points],
            segments=[self._segment(found, segment) for segment in found.segments],
        )

    def _point(self, found: curve.Curve, point: curve.Point) -> Point:
        """Return where one instrument stands on the curve."""
        price, source = point.price
        return self.Point(
            instrument=point.symbol,
            product=point.product,
            starts_at=texts.time_text(point.starts_at),
            ends_at=texts.time_text(point.ends_at),
            price=texts.price_text(price),
            source=source,
            mark=texts.price_text(point.mark),
            last=texts.optional_price_text(point.last),
            best_bid=texts.optional_price_text(point.bid),
            best_ask=texts.optional_price_text(point.ask),
            reference_price=texts.price_text(point.reference),
            change=texts.price_text(point.change),
            fair_price=texts.price_text(found.fair(point)),
            list_basis=texts.price_text(found.above_list(point.mark)),
            index_basis=texts.optional_price_text(found.above_index(point.mark)),
        )

    def _segment(self, found: curve.Curve, segment: curve.Segment) -> Segment:
        """Return a run of hours."""
        return self.Segment(
            starts_at=texts.time_text(segment.starts_at),
            ends_at=texts.time_text(segment.ends_at),
            price=texts.price_text(segment.price),
            instrument=segment.symbol,
            list_basis=texts.price_text(found.above_list(segment.price)),
            index_basis=texts.optional_price_text(found.above_index(segment.price)),
        )


def instrument_out(row: queries.Quoted) -> Instrument:
    """Return what is published of an instrument."""
    traded = row.instrument
    decimals = contract.decimals_of(traded.symbol)
    return Instrument(
        symbol=traded.symbol,
        grade=traded.grade_id,
        product=traded.product.lower(),
        service_class=traded.service_class.lower() or None,
        strike=texts.optional_price_text(traded.strike_ticks, decimals),
        pay_price=texts.optional_price_text(traded.pay_ticks, decimals),
        starts_at=texts.moment_text(traded.starts_at),
        ends_at=texts.moment_text(traded.ends_at),
        trading_ends_at=texts.moment_text(traded.trading_ends_at),
        state=_state(traded.state, traded.trading_ends_at),
        tick=texts.price_text(1, decimals),
        lot_ntu_per_minute=contract.NTU_PER_LOT_MINUTE,
        reference_price=texts.price_text(traded.reference_price_ticks, decimals),
        band=(
            texts.price_text(traded.band_low_ticks, decimals),
            texts.price_text(traded.band_high_ticks, decimals),
        ),
        last=texts.optional_price_text(traded.last_price_ticks, decimals),
        mark=texts.optional_price_text(traded.mark_price_ticks, decimals),
        best_bid=texts.optional_price_text(row.best_bid, decimals),
        best_ask=texts.optional_price_text(row.best_ask, decimals),
        volume=traded.volume_lots,
        open_interest=traded.open_interest_lots,
    )


def _state(state: str, trading_ends_at: datetime) -> str:
    """Return the state as orders would be judged by it: nothing trades after trading ends."""
    if trading_ends_at <= clock.now() and state in ("SCHEDULED", "CALL", "CONTINUOUS", "HALTED"):
        return "closed"
    return state.lower()


def _instrument(symbol: str) -> queries.Quoted:
    """:raises NotFound: when there is no such instrument."""
    found = queries.instrument(symbol=symbol)
    if found is None:
        raise errors.NotFound()
    return found
