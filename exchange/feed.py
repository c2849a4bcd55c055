"""What is told of a batch: market data and private news, in the form of INTERFACES.

The engine publishes one message per batch (`envelope.Release`) on one channel; it holds the items
of every topic, so that a process which serves many subscribers reads the market once and picks.
Topics are `book:{symbol}`, `trades:{symbol}`, `ticker:{symbol}`, `auction:{symbol}`,
`index:{grade}`, and of an organization `orders:{id}`, `fills:{id}` and `account:{id}`; a payload is
the JSON that a subscriber gets.

Of a book a batch gives one delta: `previous_sequence` is the book's sequence before the batch,
`sequence` the one after it, quantities are absolute, and the checksum is that of the book after it.
A delta is composed before the batch is committed, because its bytes are stored with it: whoever
missed one asks for it again and gets the very same. On every other topic `sequence` counts the
messages there have been (`exchange.machine.news`), and `previous_sequence` is one less.

Private messages travel as what they are made of, and become text where somebody listens.

A message is a function of the batch's events and of the machine after it, and of nothing else: the
same journal gives the same bytes. So after a recovery what may not have been released is composed
and released again, batch by batch, and a reader drops what it has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from exchange import events, wire
from exchange.machine import Machine, views
from marketplace import contract
from marketplace import wire as text


class BookDelta(msgspec.Struct, kw_only=True):
    """Levels that changed, with their absolute quantities; zero removes a level."""

    bids: list[tuple[str, int]]
    asks: list[tuple[str, int]]
    checksum: int


class Ticker(msgspec.Struct, kw_only=True):
    """An instrument at a glance."""

    state: str
    last: str | None
    best_bid: str | None
    best_ask: str | None
    volume: int
    open_interest: int
    reference_price: str
    band: tuple[str, str]


class MarginCall(msgspec.Struct, kw_only=True):
    """A margin call that runs, and how much cash meets it as the positions now are."""

    amount: str
    due_at: str


class Account(msgspec.Struct, kw_only=True):
    """The money of an organization, and the margin call that runs, if one does."""

    cash: str
    available: str
    order_margin: str
    initial_margin: str
    maintenance_margin: str
    withdrawable: str
    escrow: str
    margin_call: MarginCall | None


class IndexValue(msgspec.Struct, kw_only=True):
    """A published value of the hourly index."""

    hour: str
    price: str
    method: str
    version: int
    at: str


class Message(msgspec.Struct, kw_only=True):
    """One message of a channel."""

    type: str
    channel: str
    instrument: str | None
    sequence: int
    previous_sequence: int
    data: Any


class DeltaOut(msgspec.Struct, kw_only=True):
    """A message of the channel `book`."""

    type: Literal["delta"]
    channel: Literal["book"]
    instrument: str
    sequence: int
    previous_sequence: int
    data: BookDelta


Item = tuple[str, bytes]
"""A topic and the message on it."""
Delta = tuple[str, int, int, bytes]
"""Symbol, sequence before and after, and the message, of a book's change."""


class Private(msgspec.Struct, frozen=True, array_like=True):
    """What the private messages of a batch are made of."""

    trades: Sequence[events.Traded]
    orders: Sequence[views.OrderView]
    accounts: Sequence[views.AccountView]
    strips: Sequence[events.StripPlaced] = ()
    strips_closed: Sequence[events.OrderClosed] = ()


@dataclass(frozen=True, slots=True)
class News:
    """All that is told of a batch; its deltas are items too, and are kept."""

    items: list[Item]
    deltas: list[Delta]
    private: bytes


NOTHING = News([], [], b"")


def compose(facts: events.Facts, touched: views.Touched, machine: Machine) -> News:
    """Return the news of a batch: its events by type, after which the machine stands as it does."""
    deltas = _deltas(facts.get(events.BookChanged, ()), machine)
    items: list[Item] = [_index(value) for value in facts.get(events.IndexPublished, ())]
    items += [(f"book:{symbol}", message) for symbol, _, _, message in deltas]
    tape: dict[str, list[wire.Trade]] = {}
    for trade in facts.get(events.Traded, ()):
        tape.setdefault(trade.instrument, []).append(wire.trade_out(trade))
    for view in touched.instruments:
        if view.symbol in tape:
            lines = tape.pop(view.symbol)
            items.append(_message("trades", view.symbol, view.trades_sequence, lines, view.symbol))
    assert not tape, "an instrument that traded was touched"
    items += [_ticker(view) for view in touched.instruments]
    sequences = {view.symbol: view.auction_sequence for view in touched.instruments}
    for call in touched.auctions:
        auction = wire.auction_out(call)
        items.append(_message("auction", call.symbol, sequences[call.symbol], auction, call.symbol))
    strips = facts.get(events.StripPlaced, ())
    private = Private(
        facts.get(events.Traded, ()),
        touched.orders,
        touched.accounts,
        strips,
        facts.get(events.OrderClosed, ()) if strips else (),
    )
    return News(items, deltas, _packer.encode(private))


def private_items(private: bytes) -> list[Item]:
    """Return the messages that only the organizations themselves may see, of one batch.

    They are made where somebody listens: few do at any moment, and the engine is everybody's.
    """
    return list(_private(_unpacker.decode(private))) if private else []


def _deltas(changes: Iterable[events.BookChanged], machine: Machine) -> list[Delta]:
    """Return one delta for all that a batch did to each book."""
    books: dict[str, list[events.BookChanged]] = {}
    for change in changes:
        books.setdefault(change.instrument, []).append(change)
    return [_delta(symbol, own, machine) for symbol, own in books.items()]


def _delta(symbol: str, changes: list[events.BookChanged], machine: Machine) -> Delta:
    levels: dict[tuple[int, int], int] = {}
    for change in changes:
        for side, price, lots in change.levels:
            levels[side, price] = lots
    bids, asks = machine.book_levels(symbol, wire.CHECKSUM_LEVELS)
    decimals = contract.decimals_of(symbol)
    delta = BookDelta(
        bids=wire.levels_text([(p, n) for (side, p), n in levels.items() if side > 0], decimals),
        asks=wire.levels_text([(p, n) for (side, p), n in levels.items() if side < 0], decimals),
        checksum=wire.checksum(bids, asks, decimals),
    )
    message = Message(
        type="delta",
        channel="book",
        instrument=symbol,
        sequence=changes[-1].book_sequence,
        previous_sequence=changes[0].book_sequence - 1,
        data=delta,
    )
    return symbol, message.previous_sequence, message.sequence, _encoder.encode(message)


def _index(event: events.IndexPublished) -> Item:
    value = IndexValue(
        hour=text.time_text(event.hour_starts_at),
        price=text.price_text(event.price),
        method=event.method,
        version=event.version,
        at=text.time_text(event.at),
    )
    return _message("index", event.grade, event.sequence, value, event.grade)


def _ticker(view: views.InstrumentView) -> Item:
    decimals = contract.decimals_of(view.symbol)
    ticker = Ticker(
        state=view.state.lower(),
        last=text.optional_price_text(view.last or None, decimals),
        best_bid=text.optional_price_text(view.best_bid or None, decimals),
        best_ask=text.optional_price_text(view.best_ask or None, decimals),
        volume=view.volume,
        open_interest=view.open_interest,
        reference_price=text.price_text(view.reference_price, decimals),
        band=(
            text.price_text(view.band_low, decimals),
            text.price_text(view.band_high, decimals),
        ),
    )
    return _message("ticker", view.symbol, view.ticker_sequence, ticker, view.symbol)


def _private(made_of: Private) -> Iterable[Item]:
    """Yield what only the organization itself may see."""
    orders: dict[int, list[Any]] = {}
    names: dict[int, str] = {}
    for placed in made_of.strips:
        own: list[events.Event] = [*made_of.trades, *made_of.strips_closed]
        strip = msgspec.to_builtins(wire.strip_out(placed, own))
        del strip["fills"]
        orders.setdefault(placed.request.account, []).append(strip)
        names[placed.order] = placed.request.client_order_id
    for view in made_of.orders:
        orders.setdefault(view.account, []).append(wire.order_state(view))
        names[view.order] = view.request.client_order_id
    fills: dict[int, list[wire.OwnFill]] = {}
    for trade in made_of.trades:
        for organization, fill in _own_fills(trade, names):
            fills.setdefault(organization, []).append(fill)
    for account in made_of.accounts:
        name = str(account.account)
        if account.account in orders:
            states = orders.pop(account.account)
            yield _message("orders", name, account.orders_sequence, states)
        if account.account in fills:
            lines = fills.pop(account.account)
            yield _message("fills", name, account.fills_sequence, lines)
        yield _message("account", name, account.account_sequence, account_out(account))
    assert not orders, "whose order changed was touched"
    assert not fills, "who traded was touched"


def _own_fills(event: events.Traded, names: dict[int, str]) -> Iterable[tuple[int, wire.OwnFill]]:
    """Yield the two sides of a trade, each for its own organization."""
    liquidity = ("auction", "auction") if event.is_auction else ("maker", "taker")
    for order, organization, side, role, fee in (
        (event.maker_order, event.maker, -event.taker_side, liquidity[0], event.maker_fee),
        (event.taker_order, event.taker, event.taker_side, liquidity[1], event.taker_fee),
    ):
        yield (
            organization,
            wire.OwnFill(
                id=str(event.trade),
                order_id=str(order),
                client_order_id=names.get(order, ""),
                instrument=event.instrument,
                side=wire.side_text(side),
                price=text.price_text(event.price, contract.decimals_of(event.instrument)),
                quantity=event.lots,
                liquidity=role,
                fee=text.micros_text(fee),
                at=text.time_text(event.at),
            ),
        )


def account_out(view: Any) -> Account:
    """Return an account as callers see it."""
    return Account(
        cash=text.micros_text(view.cash),
        available=text.micros_text(view.available),
        order_margin=text.micros_text(view.order_margin),
        initial_margin=text.micros_text(view.initial_margin),
        maintenance_margin=text.micros_text(view.maintenance_margin),
        withdrawable=text.micros_text(view.withdrawable),
        escrow=text.micros_text(view.escrow),
        margin_call=margin_call_out(
            view.margin_call_due, initial=view.initial_margin, cash=view.cash
        ),
    )


def margin_call_out(due_at: int, *, initial: int, cash: int) -> MarginCall | None:
    """Return a margin call as its account sees it; None where none is due."""
    if not due_at:
        return None
    return MarginCall(
        amount=text.micros_text(max(0, initial - cash)), due_at=text.time_text(due_at)
    )


def _message(
    channel: str, name: str, sequence: int, data: Any, instrument: str | None = None
) -> Item:
    message = Message(
        type="update",
        channel=channel,
        instrument=instrument,
        sequence=sequence,
        previous_sequence=sequence - 1,
        data=data,
    )
    return f"{channel}:{name}", _encoder.encode(message)


def delta_out(row: Any) -> DeltaOut:
    """Return a delta from its row (`exchange.models.BookDelta`)."""
    return _deltas_out.decode(bytes(row.body))


_encoder = msgspec.json.Encoder()
_deltas_out = msgspec.json.Decoder(DeltaOut)
_packer = msgspec.msgpack.Encoder()
_unpacker: msgspec.msgpack.Decoder[Private] = msgspec.msgpack.Decoder(Private)
