"""Orders, trades and books as callers see them.

The same shapes serve order entry, REST, the WebSocket and the pages. An order that is answered
after its command is made from that command's events, so that the answer to a retry is the answer to
the first request, byte for byte; an order that is read is made from its row.
"""

import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from exchange import commands, events
from marketplace import contract, wire

CHECKSUM_LEVELS = 10

Side = Annotated[str, wire.one_of("buy", "sell")]
OrderType = Annotated[str, wire.one_of("limit", "market", "stop", "stop_limit", "strip")]
TimeInForce = Annotated[str, wire.one_of("gtc", "ioc", "fok", "gtd", "day")]
Prevention = Annotated[
    str, wire.one_of("cancel_newest", "cancel_oldest", "cancel_both", "decrement")
]
Status = Annotated[
    str,
    wire.one_of(
        "open", "partially_filled", "filled", "canceled", "expired", "rejected", "untriggered"
    ),
]
Liquidity = Annotated[str, wire.one_of("maker", "taker", "auction")]
CallKind = Annotated[str, wire.one_of("opening", "reopening", "volatility")]
State = Annotated[
    str, wire.one_of("scheduled", "call", "continuous", "halted", "closed", "settled")
]
Moment = Annotated[str, wire.described("2026-12-05T14:00:00.000000Z", format="date-time")]


class SwitchOut(msgspec.Struct, kw_only=True):
    """When all orders will leave; null where nothing is set."""

    timeout_ms: int
    cancel_at: Moment | None


class Fill(msgspec.Struct, kw_only=True):
    """One order's side of a trade."""

    id: str
    price: str
    quantity: int
    liquidity: Literal["maker", "taker", "auction"]
    fee: str
    at: Moment
    instrument: str | msgspec.UnsetType = msgspec.UNSET
    """The hour, of a strip's fills."""


class OrderState(msgspec.Struct, kw_only=True):
    """An order, without its fills: what the private channel `orders` carries."""

    id: str
    instrument: str
    side: Side
    type: OrderType
    price: str | None
    stop_price: str | None = None
    quantity: int
    display_quantity: int | None = None
    min_quantity: int | None = None
    time_in_force: TimeInForce
    expires_at: Moment | None = None
    post_only: bool = False
    reduce_only: bool = False
    self_trade_prevention: Prevention = "cancel_newest"
    client_order_id: str
    status: Status
    filled_quantity: int
    remaining_quantity: int
    average_price: str | None
    fee: str
    sequence: int
    reason: str | None
    created_at: Moment
    updated_at: Moment


class OrderOut(OrderState, kw_only=True):
    """An order with its fills, oldest first."""

    fills: list[Fill]


class StripOut(OrderOut, kw_only=True):
    """A strip; quantities are lots in each hour, its instrument names the hours it traded."""

    grade: str
    from_: Moment = msgspec.field(name="from")
    to: Moment
    min_share: int
    alternatives: list[str]


class OrderRead(OrderOut, kw_only=True):
    """An order or a strip as both are read: what only strips have is absent from other orders."""

    grade: str | msgspec.UnsetType = msgspec.UNSET
    from_: Moment | msgspec.UnsetType = msgspec.field(name="from", default=msgspec.UNSET)
    to: Moment | msgspec.UnsetType = msgspec.UNSET
    min_share: int | msgspec.UnsetType = msgspec.UNSET
    alternatives: list[str] | msgspec.UnsetType = msgspec.UNSET


class Trade(msgspec.Struct, kw_only=True):
    """A line of the tape; `side` is the taker's, of an auction's the later order's."""

    id: str
    price: str
    quantity: int
    side: Side
    is_auction: bool
    at: Moment


class OwnFill(msgspec.Struct, kw_only=True):
    """A fill with the order it belongs to."""

    id: str
    order_id: str
    client_order_id: str
    instrument: str
    side: Side
    price: str
    quantity: int
    liquidity: Liquidity
    fee: str
    at: Moment


class Book(msgspec.Struct, kw_only=True):
    """A book at one instant, best first."""

    instrument: str
    sequence: int
    checksum: int
    bids: list[tuple[str, int]]
    asks: list[tuple[str, int]]


Level = tuple[int, int]


def side_text(side: int) -> str:
    """Return `buy` or `sell`."""
    return "buy" if side > 0 else "sell"


def order_out(happened: Sequence[events.Event]) -> OrderOut:
    """Return an order as the command that entered it left it, from that command's events."""
    first = happened[0]
    if isinstance(first, events.StripPlaced | events.StripRejected):
        return strip_out(first, happened)
    assert isinstance(first, events.OrderPlaced | events.OrderRejected), "an order begins here"
    request, number = first.request, first.order
    price, lots = request.price, request.lots
    stop_price = request.terms.stop_price if request.terms is not None else 0
    fills: list[Fill] = []
    filled = value = fee = 0
    status = "untriggered" if stop_price else "open"
    reason = ""
    if isinstance(first, events.OrderRejected):
        status, reason = "rejected", first.reason
    for event in happened[1:]:
        if isinstance(event, events.Traded):
            fill = _fill_out(event, number)
            fills.append(fill)
            filled += event.lots
            value += event.lots * event.price
            fee += event.taker_fee if event.taker_order == number else event.maker_fee
            status = "partially_filled"
        elif isinstance(event, events.OrderClosed):
            status, reason = event.status, event.reason
        elif isinstance(event, events.OrderTriggered):
            status = "open"
        elif isinstance(event, events.OrderAmended):
            price, lots, stop_price = event.price, event.lots, event.stop_price
    moment = wire.time_text(first.at)
    decimals = contract.decimals_of(request.instrument)
    order = OrderOut(
        id=str(number),
        instrument=request.instrument,
        side=side_text(request.side),
        type="limit",
        price=wire.price_text(price, decimals),
        quantity=lots,
        time_in_force=request.time_in_force.lower(),
        client_order_id=request.client_order_id,
        status=status,
        filled_quantity=filled,
        remaining_quantity=lots - filled,
        average_price=wire.average_price_text(value, filled, decimals),
        fee=wire.micros_text(fee),
        sequence=first.sequence,
        reason=reason or None,
        created_at=moment,
        updated_at=moment,
        fills=fills,
    )
    if request.terms is not None:
        _add_terms(order, request.terms, stop_price)
    return order


def _add_terms(order: OrderState, terms: commands.Terms, stop_price: int) -> None:
    """Write into a plain order what makes it more."""
    order.type = terms.type.lower()
    if terms.type in (commands.MARKET, commands.STOP):
        order.price = None  # what it is limited to is the market's, not its own
    if terms.type in (commands.STOP, commands.STOP_LIMIT):
        order.stop_price = wire.price_text(stop_price, contract.decimals_of(order.instrument))
    order.display_quantity = terms.display_lots or None
    order.min_quantity = terms.min_lots or None
    order.expires_at = wire.time_text(terms.expires_at) if terms.expires_at else None
    order.post_only = terms.post_only
    order.reduce_only = terms.reduce_only
    order.self_trade_prevention = terms.prevention.lower()


def _fill_out(event: events.Traded, order: int) -> Fill:
    """Return an order's side of a trade."""
    is_taker = event.taker_order == order
    return Fill(
        id=str(event.trade),
        price=wire.price_text(event.price, contract.decimals_of(event.instrument)),
        quantity=event.lots,
        liquidity=liquidity(is_taker=is_taker, is_auction=event.is_auction),
        fee=wire.micros_text(event.taker_fee if is_taker else event.maker_fee),
        at=wire.time_text(event.at),
    )


def liquidity(*, is_taker: bool, is_auction: bool) -> Literal["maker", "taker", "auction"]:
    """Return what a fill's side did for the market."""
    if is_auction:
        return "auction"
    return "taker" if is_taker else "maker"


def strip_out(
    first: events.StripPlaced | events.StripRejected, happened: Sequence[events.Event]
) -> StripOut:
    """Return a strip as the command that entered it left it, from that command's events."""
    request, outcome = first.request, strip_outcome(first, happened)
    hours = (request.to_at - request.from_at) // contract.HOUR
    moment = wire.time_text(first.at)
    fills = []
    for event in outcome.trades:
        fill = _fill_out(event, first.order)
        fill.instrument = event.instrument
        fills.append(fill)
    return StripOut(
        id=str(first.order),
        instrument=outcome.symbol,
        side=side_text(request.side),
        type="strip",
        price=wire.price_text(request.price),
        quantity=request.lots,
        time_in_force=outcome.time_in_force.lower(),
        client_order_id=request.client_order_id,
        status=outcome.status,
        filled_quantity=outcome.filled,
        remaining_quantity=request.lots - outcome.filled,
        average_price=wire.average_price_text(outcome.value_ticks, outcome.filled * hours),
        fee=wire.micros_text(outcome.fee),
        sequence=first.sequence,
        reason=outcome.reason or None,
        created_at=moment,
        updated_at=moment,
        fills=fills,
        grade=request.grade,
        from_=wire.time_text(request.from_at),
        to=wire.time_text(request.to_at),
        min_share=request.min_share,
        alternatives=list(request.alternatives),
    )


class StripOutcome(msgspec.Struct, kw_only=True):
    """What became of a strip, all of it by the command that entered it.

    `filled` are lots in each hour; value and fee are sums over all hours.
    """

    symbol: str
    status: Status
    reason: str
    filled: int
    value_ticks: int
    fee: int
    time_in_force: TimeInForce
    trades: list[events.Traded]


def strip_outcome(
    first: events.StripPlaced | events.StripRejected, happened: Iterable[events.Event]
) -> StripOutcome:
    """Return what became of a strip, from the events of its command or of its whole batch."""
    request = first.request
    outcome = StripOutcome(
        symbol=contract.strip_symbol(request.grade, request.from_at, request.to_at),
        status="rejected",
        reason="",
        filled=0,
        value_ticks=0,
        fee=0,
        time_in_force=commands.FOK if request.min_share == 100 else commands.IOC,
        trades=[],
    )
    if isinstance(first, events.StripRejected):
        outcome.reason = first.reason
        return outcome
    if first.grade:
        outcome.symbol = contract.strip_symbol(first.grade, request.from_at, request.to_at)
    outcome.filled = first.lots
    outcome.status = "filled" if first.lots == request.lots else "canceled"
    for event in happened:
        if isinstance(event, events.Traded) and event.taker_order == first.order:
            outcome.trades.append(event)
            outcome.value_ticks += event.lots * event.price
            outcome.fee += event.taker_fee
        elif isinstance(event, events.OrderClosed) and event.order == first.order:
            outcome.status, outcome.reason = event.status, event.reason
    return outcome


def order_state(view: Any) -> OrderState:
    """Return an order as the machine shows it (`exchange.machine.views.OrderView`)."""
    decimals = contract.decimals_of(view.symbol)
    order = OrderState(
        id=str(view.order),
        instrument=view.symbol,
        side=side_text(view.side),
        type="limit",
        price=wire.price_text(view.price, decimals),
        quantity=view.lots,
        time_in_force=view.request.time_in_force.lower(),
        client_order_id=view.request.client_order_id,
        status=view.status,
        filled_quantity=view.filled,
        remaining_quantity=view.lots - view.filled,
        average_price=wire.average_price_text(view.value_ticks, view.filled, decimals),
        fee=wire.micros_text(view.fee),
        sequence=view.sequence,
        reason=view.reason or None,
        created_at=wire.time_text(view.created_at),
        updated_at=wire.time_text(view.updated_at),
    )
    if view.request.terms is not None:
        _add_terms(order, view.request.terms, view.stop_price)
    return order


def order_row(row: Any, trades: Sequence[Any]) -> OrderOut:
    """Return an order or strip from its row (`exchange.models.Order`) and trades, oldest first."""
    is_strip = row.type == "STRIP"
    decimals = contract.decimals_of(row.symbol)
    fills = [_fill_row(row.id, trade) for trade in trades]
    order = OrderOut(
        id=str(row.id),
        instrument=row.symbol,
        side=side_text(row.side),
        type=row.type.lower(),
        price=wire.optional_price_text(row.price_ticks, decimals),
        stop_price=wire.optional_price_text(row.stop_price_ticks, decimals),
        quantity=row.lots,
        display_quantity=row.display_lots,
        min_quantity=row.min_lots,
        time_in_force=row.time_in_force.lower(),
        expires_at=wire.optional_moment_text(row.expires_at),
        post_only=row.post_only,
        reduce_only=row.reduce_only,
        self_trade_prevention=row.prevention.lower(),
        client_order_id=row.client_order_id,
        status=row.status.lower(),
        filled_quantity=row.filled_lots,
        remaining_quantity=row.lots - row.filled_lots,
        average_price=wire.average_price_text(
            row.notional_ticks,
            sum(trade.lots for trade in trades) if is_strip else row.filled_lots,
            decimals,
        ),
        fee=wire.micros_text(row.fee_micros),
        sequence=row.sequence,
        reason=row.reason or None,
        created_at=wire.moment_text(row.created_at),
        updated_at=wire.moment_text(row.updated_at),
        fills=fills,
    )
    if not is_strip:
        return order
    for fill, trade in zip(fills, trades, strict=True):
        fill.instrument = trade.symbol
    starts_at, ends_at = _hours_of(row.symbol)
    return StripOut(
        **{name: getattr(order, name) for name in OrderOut.__struct_fields__},
        grade=row.grade,
        from_=wire.moment_text(starts_at),
        to=wire.moment_text(ends_at),
        min_share=row.min_share,
        alternatives=row.alternatives.split(",") if row.alternatives else [],
    )


def _hours_of(symbol: str) -> tuple[datetime, datetime]:
    """Return the range of hours that a strip's symbol names."""
    first, _, hours = symbol.rpartition(".")[2].partition("+")
    starts_at = datetime.strptime(first, "%Y%m%dT%HZ").replace(tzinfo=UTC)
    return starts_at, starts_at + timedelta(hours=int(hours))


def _fill_row(order: int, trade: Any) -> Fill:
    is_taker = trade.taker_order == order
    return Fill(
        id=str(trade.id),
        price=wire.price_text(trade.price_ticks, contract.decimals_of(trade.symbol)),
        quantity=trade.lots,
        liquidity=liquidity(is_taker=is_taker, is_auction=trade.is_auction),
        fee=wire.micros_text(trade.taker_fee_micros if is_taker else trade.maker_fee_micros),
        at=wire.moment_text(trade.at),
    )


def fill_row(trade: Any, *, order: int, client_order_id: str) -> OwnFill:
    """Return one order's side of a trade from the trade's row (`exchange.models.Trade`)."""
    fill = _fill_row(order, trade)
    return OwnFill(
        id=fill.id,
        order_id=str(order),
        client_order_id=client_order_id,
        instrument=trade.symbol,
        side=side_text(trade.taker_side if trade.taker_order == order else -trade.taker_side),
        price=fill.price,
        quantity=fill.quantity,
        liquidity=fill.liquidity,
        fee=fill.fee,
        at=fill.at,
    )


def trade_row(trade: Any) -> Trade:
    """Return a line of the tape from its row."""
    return Trade(
        id=str(trade.id),
        price=wire.price_text(trade.price_ticks, contract.decimals_of(trade.symbol)),
        quantity=trade.lots,
        side=side_text(trade.taker_side),
        is_auction=trade.is_auction,
        at=wire.moment_text(trade.at),
    )


def trade_out(event: events.Traded) -> Trade:
    """Return a line of the tape."""
    return Trade(
        id=str(event.trade),
        price=wire.price_text(event.price, contract.decimals_of(event.instrument)),
        quantity=event.lots,
        side=side_text(event.taker_side),
        is_auction=event.is_auction,
        at=wire.time_text(event.at),
    )


class AuctionPrice(msgspec.Struct, kw_only=True):
    """What an auction traded at one price."""

    price: str
    quantity: int
    at: Moment


class Auction(msgspec.Struct, kw_only=True):
    """A call as it runs and what it would give now; `kind` is null outside of one."""

    instrument: str
    kind: CallKind | None
    state: State
    ends_at: Moment | None
    frozen_at: Moment | None
    indicative_price: str | None
    indicative_quantity: int
    surplus: int
    surplus_side: Side | None
    last_auction: AuctionPrice | None


def auction_out(view: Any) -> Auction:
    """Return an auction as the machine shows it (`exchange.machine.views.AuctionView`)."""
    last = None
    decimals = contract.decimals_of(view.symbol)
    if view.last_lots:
        last = AuctionPrice(
            price=wire.price_text(view.last_price, decimals),
            quantity=view.last_lots,
            at=wire.time_text(view.last_at),
        )
    return Auction(
        instrument=view.symbol,
        kind=view.kind.lower() or None,
        state=view.state.lower(),
        ends_at=wire.time_text(view.ends_at) if view.kind else None,
        frozen_at=wire.time_text(view.frozen_at) if view.kind else None,
        indicative_price=wire.optional_price_text(view.indicative_price or None, decimals),
        indicative_quantity=view.indicative_lots,
        surplus=view.surplus,
        surplus_side=side_text(view.surplus_side) if view.surplus_side else None,
        last_auction=last,
    )


def levels_text(
    levels: Iterable[Level], decimals: int = contract.PRICE_DECIMALS
) -> list[tuple[str, int]]:
    """Return levels with their prices as text."""
    return [(wire.price_text(price, decimals), lots) for price, lots in levels]


def checksum(
    bids: Sequence[Level], asks: Sequence[Level], decimals: int = contract.PRICE_DECIMALS
) -> int:
    """Return the CRC32 of the top ten bids, then the top ten asks: `price:quantity|...`."""
    parts = [
        f"{wire.price_text(price, decimals)}:{lots}"
        for levels in (bids[:CHECKSUM_LEVELS], asks[:CHECKSUM_LEVELS])
        for price, lots in levels
    ]
    return zlib.crc32("|".join(parts).encode())


def book_out(
    symbol: str, sequence: int, bids: Sequence[Level], asks: Sequence[Level], *, depth: int
) -> Book:
    """Return a book of `depth` levels a side; the checksum is of the top ten whatever the depth."""
    decimals = contract.decimals_of(symbol)
    return Book(
        instrument=symbol,
        sequence=sequence,
        checksum=checksum(bids, asks, decimals),
        bids=levels_text(bids[:depth], decimals),
        asks=levels_text(asks[:depth], decimals),
    )
