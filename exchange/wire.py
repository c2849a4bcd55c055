"""Orders, trades and books as callers see them, and how an order comes in.

The same shapes serve order entry, REST, the WebSocket and the pages. An order that is answered
after its command is made from that command's events, so that the answer to a retry is the answer to
the first request, byte for byte; an order that is read is made from its row.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from exchange import commands, events
from marketplace import contract, errors, http, wire

CHECKSUM_LEVELS = 10
SYMBOL_LENGTH_MAX = 40
BATCH_OPERATIONS_MAX = 500

Symbol = Annotated[
    str, msgspec.Meta(min_length=1, max_length=SYMBOL_LENGTH_MAX, pattern=r"^[A-Z0-9.]+\Z")
]
ClientOrderId = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[ -~]+\Z")]
OrderType = Literal["limit", "market", "stop", "stop_limit"]
TimeInForce = Literal["gtc", "ioc", "fok", "gtd", "day"]
SelfTradePrevention = Literal["cancel_newest", "cancel_oldest", "cancel_both", "decrement"]


class UnsupportedOrder(errors.Refusal):
    """A form of order that this market does not take yet; nothing was journaled."""

    code, status, title = "unsupported_order_type", 422, "Unsupported order"


class OrderIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An order as it is asked for; prices are text with the tick's decimals, lots an integer."""

    instrument: Symbol
    side: Literal["buy", "sell"]
    quantity: int
    client_order_id: ClientOrderId
    type: OrderType = "limit"
    price: str | None = None
    stop_price: str | None = None
    display_quantity: int | None = None
    min_quantity: int | None = None
    time_in_force: TimeInForce = "gtc"
    expires_at: str | None = None
    post_only: bool = False
    reduce_only: bool = False
    self_trade_prevention: SelfTradePrevention = "cancel_newest"


class PlaceOperation(OrderIn, tag="place", tag_field="op", kw_only=True):
    """An order in a batch."""


class CancelOperation(
    msgspec.Struct, tag="cancel", tag_field="op", forbid_unknown_fields=True, kw_only=True
):
    """The cancel of an order in a batch."""

    id: str


class BatchIn(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Operations that are carried out in order, each with an outcome of its own."""

    operations: Annotated[
        list[PlaceOperation | CancelOperation],
        msgspec.Meta(min_length=1, max_length=BATCH_OPERATIONS_MAX),
    ]


class Fill(msgspec.Struct, kw_only=True):
    """One order's side of a trade."""

    id: str
    price: str
    quantity: int
    liquidity: Literal["maker", "taker", "auction"]
    fee: str
    at: str


class OrderState(msgspec.Struct, kw_only=True):
    """An order, without its fills: what the private channel `orders` carries."""

    id: str
    instrument: str
    side: str
    type: str
    price: str
    stop_price: str | None = None
    quantity: int
    display_quantity: int | None = None
    min_quantity: int | None = None
    time_in_force: str
    expires_at: str | None = None
    post_only: bool = False
    reduce_only: bool = False
    self_trade_prevention: str = "cancel_newest"
    client_order_id: str
    status: str
    filled_quantity: int
    remaining_quantity: int
    average_price: str | None
    fee: str
    sequence: int
    reason: str | None
    created_at: str
    updated_at: str


class OrderOut(OrderState, kw_only=True):
    """An order with its fills, oldest first."""

    fills: list[Fill]


class Trade(msgspec.Struct, kw_only=True):
    """A line of the tape; `side` is the taker's."""

    id: str
    price: str
    quantity: int
    side: str
    at: str


class OwnFill(msgspec.Struct, kw_only=True):
    """A fill with the order it belongs to."""

    id: str
    order_id: str
    client_order_id: str
    instrument: str
    side: str
    price: str
    quantity: int
    liquidity: str
    fee: str
    at: str


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


def place_order(account: int, given: OrderIn) -> commands.PlaceOrder:
    """Return the command of an order.

    :raises Malformed: when price or quantity have no valid form.
    :raises UnsupportedOrder: when it asks for what this market does not do yet.
    """
    lots = wire.parse_lots(given.quantity, lots_max=contract.LOTS_MAX)
    # A form that the market does not take is a refusal of its own, after what is plainly wrong.
    if given.price is None and given.type in ("limit", "stop_limit"):
        raise http.malformed("price", "missing_field", "a limit order has a price")
    price = None if given.price is None else wire.parse_price(given.price)
    _refuse_unsupported(given)
    if price is None:
        raise http.malformed("price", "missing_field", "a limit order has a price")
    side, time_in_force = 1 if given.side == "buy" else -1, given.time_in_force.upper()
    return commands.PlaceOrder(
        account=account,
        instrument=given.instrument,
        side=side,
        price=price,
        lots=lots,
        time_in_force=time_in_force,
        client_order_id=given.client_order_id,
        fingerprint=fingerprint(
            instrument=given.instrument,
            side=side,
            price_ticks=price,
            lots=lots,
            time_in_force=time_in_force,
        ),
    )


def _refuse_unsupported(given: OrderIn) -> None:
    """:raises UnsupportedOrder: naming the field."""
    wanted = [
        ("type", given.type != "limit"),
        ("time_in_force", given.time_in_force not in ("gtc", "ioc")),
        ("stop_price", given.stop_price is not None),
        ("display_quantity", given.display_quantity is not None),
        ("min_quantity", given.min_quantity is not None),
        ("expires_at", given.expires_at is not None),
        ("post_only", given.post_only),
        ("reduce_only", given.reduce_only),
        ("self_trade_prevention", given.self_trade_prevention != "cancel_newest"),
    ]
    for field, is_asked in wanted:
        if is_asked:
            raise UnsupportedOrder(
                f"{field} has a value that is not supported",
                errors=[errors.FieldError(field=field, code="unsupported")],
            )


def fingerprint(
    *, instrument: str, side: int, price_ticks: int, lots: int, time_in_force: str
) -> bytes:
    """Return the digest of an order's terms: what a retry must have in common with the first.

    It is made of the terms and not of the request's bytes, so that a retry may spell out a default
    or come through another door.
    """
    terms = f"{side} {price_ticks} {lots} {time_in_force} {instrument}"
    return hashlib.sha256(terms.encode()).digest()


def order_out(happened: Sequence[events.Event]) -> OrderOut:
    """Return an order as the command that entered it left it, from that command's events."""
    first = happened[0]
    assert isinstance(first, events.OrderPlaced | events.OrderRejected), "an order begins here"
    request = first.request
    fills: list[Fill] = []
    filled = value = fee = 0
    status = "rejected" if isinstance(first, events.OrderRejected) else "open"
    reason = first.reason if isinstance(first, events.OrderRejected) else ""
    for event in happened[1:]:
        if isinstance(event, events.Traded):
            filled += event.lots
            value += event.lots * event.price
            fee += event.taker_fee
            status = "partially_filled"
            fills.append(
                Fill(
                    id=str(event.trade),
                    price=wire.price_text(event.price),
                    quantity=event.lots,
                    liquidity="taker",
                    fee=wire.micros_text(event.taker_fee),
                    at=wire.time_text(event.at),
                )
            )
        elif isinstance(event, events.OrderClosed):
            status, reason = event.status, event.reason
    moment = wire.time_text(first.at)
    return OrderOut(
        id=str(first.order),
        instrument=request.instrument,
        side=side_text(request.side),
        type="limit",
        price=wire.price_text(request.price),
        quantity=request.lots,
        time_in_force=request.time_in_force.lower(),
        client_order_id=request.client_order_id,
        status=status,
        filled_quantity=filled,
        remaining_quantity=request.lots - filled,
        average_price=wire.average_price_text(value, filled),
        fee=wire.micros_text(fee),
        sequence=first.sequence,
        reason=reason or None,
        created_at=moment,
        updated_at=moment,
        fills=fills,
    )


class StripOutcome(msgspec.Struct, kw_only=True):
    """What became of a strip, all of it by the command that entered it.

    `filled` are lots in each hour; value and fee are sums over all hours.
    """

    symbol: str
    status: str
    reason: str
    filled: int
    value_ticks: int
    fee: int
    time_in_force: str
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
    return OrderState(
        id=str(view.order),
        instrument=view.symbol,
        side=side_text(view.side),
        type="limit",
        price=wire.price_text(view.price),
        quantity=view.lots,
        time_in_force=view.request.time_in_force.lower(),
        client_order_id=view.request.client_order_id,
        status=view.status,
        filled_quantity=view.filled,
        remaining_quantity=view.lots - view.filled,
        average_price=wire.average_price_text(view.value_ticks, view.filled),
        fee=wire.micros_text(view.fee),
        sequence=view.sequence,
        reason=view.reason or None,
        created_at=wire.time_text(view.created_at),
        updated_at=wire.time_text(view.updated_at),
    )


def order_row(row: Any, trades: Sequence[Any]) -> OrderOut:
    """Return an order from its row (`exchange.models.Order`) and its trades, oldest first."""
    status = row.status.lower()
    return OrderOut(
        id=str(row.id),
        instrument=row.symbol,
        side=side_text(row.side),
        type="limit",
        price=wire.price_text(row.price_ticks),
        quantity=row.lots,
        time_in_force=row.time_in_force.lower(),
        client_order_id=row.client_order_id,
        status=status,
        filled_quantity=row.filled_lots,
        remaining_quantity=row.lots - row.filled_lots,
        average_price=wire.average_price_text(row.notional_ticks, row.filled_lots),
        fee=wire.micros_text(row.fee_micros),
        sequence=row.sequence,
        reason=row.reason or None,
        created_at=wire.moment_text(row.created_at),
        updated_at=wire.moment_text(row.updated_at),
        fills=[_fill_row(row.id, trade) for trade in trades],
    )


def _fill_row(order: int, trade: Any) -> Fill:
    is_maker = trade.maker_order == order
    return Fill(
        id=str(trade.id),
        price=wire.price_text(trade.price_ticks),
        quantity=trade.lots,
        liquidity="maker" if is_maker else "taker",
        fee=wire.micros_text(trade.maker_fee_micros if is_maker else trade.taker_fee_micros),
        at=wire.moment_text(trade.at),
    )


def fill_row(trade: Any, *, order: int, client_order_id: str) -> OwnFill:
    """Return one order's side of a trade from the trade's row (`exchange.models.Trade`)."""
    is_maker = trade.maker_order == order
    fill = _fill_row(order, trade)
    return OwnFill(
        id=fill.id,
        order_id=str(order),
        client_order_id=client_order_id,
        instrument=trade.symbol,
        side=side_text(-trade.taker_side if is_maker else trade.taker_side),
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
        price=wire.price_text(trade.price_ticks),
        quantity=trade.lots,
        side=side_text(trade.taker_side),
        at=wire.moment_text(trade.at),
    )


def trade_out(event: events.Traded) -> Trade:
    """Return a line of the tape."""
    return Trade(
        id=str(event.trade),
        price=wire.price_text(event.price),
        quantity=event.lots,
        side=side_text(event.taker_side),
        at=wire.time_text(event.at),
    )


class AuctionPrice(msgspec.Struct, kw_only=True):
    """What an auction traded at one price."""

    price: str
    quantity: int
    at: str


class Auction(msgspec.Struct, kw_only=True):
    """A call as it runs and what it would give now; `kind` is null outside of one."""

    instrument: str
    kind: str | None
    state: str
    ends_at: str | None
    frozen_at: str | None
    indicative_price: str | None
    indicative_quantity: int
    surplus: int
    surplus_side: str | None
    last_auction: AuctionPrice | None


def auction_out(view: Any) -> Auction:
    """Return an auction as the machine shows it (`exchange.machine.views.AuctionView`)."""
    last = None
    if view.last_lots:
        last = AuctionPrice(
            price=wire.price_text(view.last_price),
            quantity=view.last_lots,
            at=wire.time_text(view.last_at),
        )
    return Auction(
        instrument=view.symbol,
        kind=view.kind or None,
        state=view.state.lower(),
        ends_at=wire.time_text(view.ends_at) if view.kind else None,
        frozen_at=wire.time_text(view.frozen_at) if view.kind else None,
        indicative_price=wire.optional_price_text(view.indicative_price or None),
        indicative_quantity=view.indicative_lots,
        surplus=view.surplus,
        surplus_side=side_text(view.surplus_side) if view.surplus_side else None,
        last_auction=last,
    )


def levels_text(levels: Sequence[Level]) -> list[tuple[str, int]]:
    """Return levels with their prices as text."""
    return [(wire.price_text(price), lots) for price, lots in levels]


def checksum(bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """Return the CRC32 of the top ten bids, then the top ten asks: `price:quantity|...`."""
    parts = [
        f"{wire.price_text(price)}:{lots}"
        for levels in (bids[:CHECKSUM_LEVELS], asks[:CHECKSUM_LEVELS])
        for price, lots in levels
    ]
    return zlib.crc32("|".join(parts).encode())


def book_out(
    symbol: str, sequence: int, bids: Sequence[Level], asks: Sequence[Level], *, depth: int
) -> Book:
    """Return a book of `depth` levels a side; the checksum is of the top ten whatever the depth."""
    return Book(
        instrument=symbol,
        sequence=sequence,
        checksum=checksum(bids, asks),
        bids=levels_text(bids[:depth]),
        asks=levels_text(asks[:depth]),
    )
