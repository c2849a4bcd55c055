"""What the exchange shows over REST: instruments, books, the tape, candles, the curve, own orders.

Orders are entered and canceled at the small application beside Django (`exchange.entry`); here
their operations are documented only. Market data is public; a list goes from the newest to the
oldest, instruments from the first listed to the last.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from exchange import deltas, feed, intake, queries, reasons, wire
from marketplace import clock, contract, errors
from marketplace import queries as catalog
from marketplace import wire as texts
from marketplace.endpoint import Answer, Call, Endpoint, Listed, Strict

SEQUENCE_MAX = 2**53
ORDER_REASONS = tuple(reasons.Reject)
ENGINE_CODES: tuple[str, ...] = (
    "engine_unavailable",
    "engine_overloaded",
    "never_placed",
    "clock_skew",
    "database_unavailable",
    "outcome_unknown",
)
GradeCode = Annotated[str, msgspec.Meta(min_length=2, max_length=16)]
SequenceText = Annotated[str, texts.whole(1, SEQUENCE_MAX)]
GRADE = r"^(?:[A-Z][A-Z0-9]{1,15})?$"
SYMBOL = r"^(?:[A-Z][A-Z0-9]{1,15}\.H\.[0-9]{8}T[0-9]{2}Z)?$"
"""What the filters of a mass cancel look like; an empty one is none."""


class ShowStatus(Endpoint):
    """Whether the exchange takes orders: `running`, `clock_skew` or `down`."""

    tag = "market"

    class Output(Answer):
        """Where the journal ends, and what the engine says of itself."""

        state: str
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
    starts_at: str
    ends_at: str
    trading_ends_at: str
    state: str
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
                open=texts.price_text(row.open),
                high=texts.price_text(row.high),
                low=texts.price_text(row.low),
                close=texts.price_text(row.close),
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
    """The forward curve of a grade: what each hour that still trades costs now.

    `source` says what the price is: the mid of the book, the last trade, the mark or the reference.
    """

    tag = "market"
    POINTS_MAX = 1_000

    class Point(Answer):
        """One instrument of the curve."""

        instrument: str
        product: str
        starts_at: str
        ends_at: str
        price: str
        source: str
        best_bid: str | None
        best_ask: str | None

    class Output(Answer):
        """The curve, the nearest first."""

        grade: str
        at: str
        points: "list[ShowCurve.Point]"

    def handle(self, call: Call, grade: str) -> Output:
        """Answer."""
        catalog.grade(grade)
        rows = queries.instruments(grade=grade, state="live", limit=self.POINTS_MAX)
        rows.sort(key=lambda row: (row.instrument.starts_at, row.instrument.pk))
        return self.Output(
            grade=grade,
            at=texts.time_text(clock.now_micros()),
            points=[self._point(r) for r in rows],
        )

    def _point(self, row: queries.Quoted) -> Point:
        """Return where one instrument stands on the curve."""
        traded = row.instrument
        price, source = traded.reference_price_ticks, "reference"
        if traded.mark_price_ticks is not None:
            price, source = traded.mark_price_ticks, "mark"
        if traded.last_price_ticks is not None:
            price, source = traded.last_price_ticks, "last"
        if row.best_bid is not None and row.best_ask is not None:
            price, source = (row.best_bid + row.best_ask) // 2, "mid"
        return self.Point(
            instrument=traded.symbol,
            product=traded.product.lower(),
            starts_at=texts.moment_text(traded.starts_at),
            ends_at=texts.moment_text(traded.ends_at),
            price=texts.price_text(price),
            source=source,
            best_bid=texts.optional_price_text(row.best_bid),
            best_ask=texts.optional_price_text(row.best_ask),
        )


# Own orders


class ListOrders(Endpoint):
    """The organization's orders, the newest first."""

    scope = "read"
    tag = "orders"
    Item = wire.OrderOut
    Output = Listed[wire.OrderOut]

    class Query(Strict):
        """Filters; `live` stands for orders that rest in a book or wait for their stop price."""

        instrument: Annotated[str, msgspec.Meta(max_length=intake.SYMBOL_LENGTH_MAX)] = ""
        side: Literal["", "buy", "sell"] = ""
        client_order_id: Annotated[str, msgspec.Meta(max_length=255)] = ""
        status: Literal[
            "",
            "live",
            "open",
            "partially_filled",
            "filled",
            "canceled",
            "expired",
            "rejected",
            "untriggered",
        ] = ""

    def handle(self, call: Call) -> Listed[wire.OrderOut]:
        """Answer."""
        query = call.query
        if query.client_order_id:
            found = queries.order_by_client_id(
                organization=call.organization, client_order_id=query.client_order_id
            )
            return Listed(results=[] if found is None else [found], next_cursor=None)
        rows = queries.orders(
            organization=call.organization,
            limit=call.page.fetch,
            before=call.page.number(),
            symbol=query.instrument,
            status=query.status,
            side={"": 0, "buy": 1, "sell": -1}[query.side],
        )
        shown = {order.id: order for order in queries.with_fills(rows[: call.page.limit])}
        return call.page.page(rows, lambda row: shown[str(row.id)], position=lambda row: [row.id])


class ShowOrder(Endpoint):
    """One order with its fills."""

    scope = "read"
    tag = "orders"
    Output = wire.OrderOut

    def handle(self, call: Call, order_id: str) -> wire.OrderOut:
        """Answer."""
        found = queries.order(organization=call.organization, order_id=texts.parse_id(order_id))
        if found is None:
            raise errors.NotFound()
        return found


class _Entered(Endpoint):
    """An operation that `exchange.entry` answers."""

    scope = "trade"
    tag = "orders"
    is_documented_only = True
    codes: ClassVar[Sequence[str]] = ENGINE_CODES


class PlaceOrder(_Entered):
    """Enter an order; answered when it is durable, with what it traded at once.

    `client_order_id` is unique for the organization for ever: the same one with the same terms is
    answered as it was the first time, with `Idempotency-Replayed: true`; with others it is refused
    (409 `key_reuse`). An order that a rule refuses is a 422 with the reason as its code. `price`
    goes with types `limit` and `stop_limit`, `stop_price` with `stop` and `stop_limit`,
    `expires_at` with `gtd`; a market order is `gtc` (which for it is `ioc`), `ioc` or `fok`; only
    limit orders that can rest are `post_only`, and only orders with a limit that can rest have a
    `display_quantity`.
    """

    method = "POST"
    status = 201
    has_client_id = True
    codes = (*ORDER_REASONS, *ENGINE_CODES)
    Input = intake.OrderIn
    Output = wire.OrderOut


class PreviewOrder(_Entered):
    """Ask what an order would do now: reason, fills, fee, margin and impact. Nothing is placed.

    `reason` is why it would be refused or canceled, `margin` what would be reserved more for it.
    The answer is that of one instant and promises nothing.
    """

    method = "POST"
    codes = ("engine_unavailable", "engine_overloaded", "clock_skew")
    Input = intake.PreviewIn
    Output = wire.PreviewOut


class AmendOrder(_Entered):
    """Change price, quantity or stop price of a live order in place; answered with it as it is.

    `quantity` is the new total, with what is filled already; at or below that the order is
    canceled with reason `amended`. A smaller quantity alone keeps the order's time. Margin is
    judged for the order as it would be; what is refused changes nothing. A price that crosses
    trades at once, as a taker.
    """

    method = "PATCH"
    codes = (*ORDER_REASONS, "unknown_order", "order_closed", *ENGINE_CODES)
    Input = intake.AmendIn
    Output = wire.OrderOut


class PlaceStrip(_Entered):
    """Trade the same lots in every hour of `[from, to)`, at once or not at all.

    `price` limits the average over all lots and hours, `min_share` is the percent of `quantity`
    (lots in each hour) that must trade if anything does. `alternatives` are grades to try, in
    order, when `grade` cannot be had: one of them trades at most. What cannot trade is answered
    with status `canceled`, reason `strip_unfilled`. `client_order_id` is as for orders, in the same
    name space.
    """

    method = "POST"
    status = 201
    has_client_id = True
    codes = (*ORDER_REASONS, *ENGINE_CODES)
    Input = intake.StripIn
    Output = wire.StripOut


class EnterBatch(_Entered):
    """Place, amend and cancel up to 500 orders; an order or a problem for each, in order.

    Each operation counts as a write. An order that an operation names by its id is answered as it
    stands when all are done.
    """

    method = "POST"
    codes = ("engine_unavailable", "database_unavailable")
    Input = intake.BatchIn

    class Output(Answer):
        """An order, or a problem, for every operation, in order."""

        results: Annotated[
            list[Any],
            msgspec.Meta(
                extra_json_schema={
                    "items": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/OrderOut"},
                            {"$ref": "#/components/schemas/Problem"},
                        ]
                    }
                }
            ),
        ]


class CancelAllAfter(_Entered):
    """Set a dead-man's switch: unless this is said again in time, all orders are canceled.

    `timeout_ms` is 1,000 to 86,400,000, or 0, which unsets it. Orders that are frozen in an auction
    stay.
    """

    method = "POST"
    codes = ("unknown_account", *ENGINE_CODES)
    Input = intake.SwitchIn
    Output = wire.SwitchOut


class CancelOrder(_Entered):
    """Cancel a live order; answered with the order as it is then."""

    method = "DELETE"
    codes = ("unknown_order", "order_closed", "frozen", *ENGINE_CODES)
    Output = wire.OrderOut


class CancelOrders(_Entered):
    """Cancel every live order that matches the filters; without any, all of them.

    Orders that are frozen in an auction stay.
    """

    method = "DELETE"

    class Query(Strict):
        """Filters."""

        instrument: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": SYMBOL})] = ""
        side: Literal["", "buy", "sell"] = ""
        grade: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": GRADE})] = ""

    class Output(Answer):
        """The orders that were canceled."""

        results: list[wire.OrderOut]


class ListFills(Endpoint):
    """The organization's fills, the newest first."""

    scope = "read"
    tag = "orders"
    Item = wire.OwnFill
    Output = Listed[wire.OwnFill]

    class Query(Strict):
        """Of one instrument only."""

        instrument: Annotated[str, msgspec.Meta(max_length=intake.SYMBOL_LENGTH_MAX)] = ""

    def handle(self, call: Call) -> Listed[wire.OwnFill]:
        """Answer."""
        rows = queries.fills(
            organization=call.organization,
            limit=call.page.fetch,
            before=call.page.number(),
            symbol=call.query.instrument,
        )
        return call.page.page(rows, lambda row: row, position=lambda row: [int(row.id)])


def instrument_out(row: queries.Quoted) -> Instrument:
    """Return what is published of an instrument."""
    traded = row.instrument
    return Instrument(
        symbol=traded.symbol,
        grade=traded.grade_id,
        product=traded.product.lower(),
        service_class=traded.service_class.lower() or None,
        strike=texts.optional_price_text(traded.strike_ticks),
        starts_at=texts.moment_text(traded.starts_at),
        ends_at=texts.moment_text(traded.ends_at),
        trading_ends_at=texts.moment_text(traded.trading_ends_at),
        state=_state(traded.state, traded.trading_ends_at),
        tick=texts.price_text(1),
        lot_ntu_per_minute=contract.NTU_PER_LOT_MINUTE,
        reference_price=texts.price_text(traded.reference_price_ticks),
        band=(
            texts.price_text(traded.band_low_ticks),
            texts.price_text(traded.band_high_ticks),
        ),
        last=texts.optional_price_text(traded.last_price_ticks),
        mark=texts.optional_price_text(traded.mark_price_ticks),
        best_bid=texts.optional_price_text(row.best_bid),
        best_ask=texts.optional_price_text(row.best_ask),
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
