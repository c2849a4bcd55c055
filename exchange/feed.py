"""What is released after a commit: market data and private news, in the form of INTERFACES.

The engine publishes one message per batch (`envelope.Release`) on one channel; it holds the items
of every topic, so that a process which serves many subscribers reads the market once and picks.
Topics are `book:{symbol}`, `trades:{symbol}`, `ticker:{symbol}`, `index:{grade}`, and of an
organization `orders:{id}`, `fills:{id}` and `account:{id}`; a payload is the JSON that a
subscriber gets.

Of a book a batch gives one delta: `previous_sequence` is the book's sequence before the batch,
`sequence` the one after it, quantities are absolute, and the checksum is that of the book after it.
After a recovery everything that may not have been released is released once more: a reader drops a
delta that ends at or before what it has, and asks for a snapshot when one does not begin there.
On other topics `sequence` is that of the last command, and `previous_sequence` that of the topic's
message before, or null when the engine began after it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from exchange import events, wire
from exchange.machine import Machine, views
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


class Account(msgspec.Struct, kw_only=True):
    """The money of an organization."""

    cash: str
    available: str
    order_margin: str
    initial_margin: str
    maintenance_margin: str
    withdrawable: str
    escrow: str


class IndexValue(msgspec.Struct, kw_only=True):
    """A published value of the hourly index."""

    hour: str
    price: str
    method: str
    at: str


class Message(msgspec.Struct, kw_only=True):
    """One message of a channel."""

    type: str
    channel: str
    instrument: str | None
    sequence: int
    previous_sequence: int | None
    data: Any


Item = tuple[str, bytes]


class Feed:
    """Makes messages of batches, and remembers the last sequence of every topic."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def compose(
        self,
        happened: Sequence[events.Event],
        touched: views.Touched,
        machine: Machine,
    ) -> list[Item]:
        """Return the items of a batch, after which the machine stands as it does."""
        items: list[Item] = []
        sequence = machine.sequence
        trades: dict[str, list[wire.Trade]] = {}
        books: dict[str, list[events.BookChanged]] = {}
        fills: dict[int, list[wire.OwnFill]] = {}
        orders = {view.order: view for view in touched.orders}
        for event in happened:
            if isinstance(event, events.BookChanged):
                books.setdefault(event.instrument, []).append(event)
            elif isinstance(event, events.Traded):
                trades.setdefault(event.instrument, []).append(wire.trade_out(event))
                for organization, fill in _own_fills(event, orders):
                    fills.setdefault(organization, []).append(fill)
            elif isinstance(event, events.IndexPublished):
                items.append(self._index(event, sequence))
        items += [_book(symbol, changes, machine) for symbol, changes in books.items()]
        for symbol, lines in trades.items():
            items.append(self._message("trades", symbol, sequence, lines, symbol))
        items += [self._ticker(view, sequence) for view in touched.instruments]
        items += self._private(touched, fills, sequence)
        return items

    def _private(
        self, touched: views.Touched, fills: dict[int, list[wire.OwnFill]], sequence: int
    ) -> Iterable[Item]:
        """Yield what only the organization itself may see."""
        orders: dict[int, list[wire.OrderState]] = {}
        for view in touched.orders:
            orders.setdefault(view.account, []).append(wire.order_state(view))
        for organization, states in orders.items():
            yield self._message("orders", str(organization), sequence, states)
        for organization, lines in fills.items():
            yield self._message("fills", str(organization), sequence, lines)
        for account in touched.accounts:
            yield self._message("account", str(account.account), sequence, account_out(account))

    def _ticker(self, view: views.InstrumentView, sequence: int) -> Item:
        ticker = Ticker(
            state=view.state.lower(),
            last=text.optional_price_text(view.last or None),
            best_bid=text.optional_price_text(view.best_bid or None),
            best_ask=text.optional_price_text(view.best_ask or None),
            volume=view.volume,
            open_interest=view.open_interest,
            reference_price=text.price_text(view.reference_price),
            band=(text.price_text(view.band_low), text.price_text(view.band_high)),
        )
        return self._message("ticker", view.symbol, sequence, ticker, view.symbol)

    def _index(self, event: events.IndexPublished, sequence: int) -> Item:
        value = IndexValue(
            hour=text.time_text(event.hour_starts_at),
            price=text.price_text(event.price),
            method=event.method,
            at=text.time_text(event.at),
        )
        return self._message("index", event.grade, sequence, value, event.grade)

    def _message(
        self, channel: str, name: str, sequence: int, data: Any, instrument: str | None = None
    ) -> Item:
        topic = f"{channel}:{name}"
        message = Message(
            type="update",
            channel=channel,
            instrument=instrument,
            sequence=sequence,
            previous_sequence=self._last.get(topic),
            data=data,
        )
        self._last[topic] = sequence
        return topic, _encoder.encode(message)


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
    )


def _book(symbol: str, changes: list[events.BookChanged], machine: Machine) -> Item:
    """Return one delta for all that a batch did to a book."""
    levels: dict[tuple[int, int], int] = {}
    for change in changes:
        for side, price, lots in change.levels:
            levels[side, price] = lots
    bids, asks = machine.book_levels(symbol, wire.CHECKSUM_LEVELS)
    delta = BookDelta(
        bids=[(text.price_text(p), lots) for (side, p), lots in levels.items() if side > 0],
        asks=[(text.price_text(p), lots) for (side, p), lots in levels.items() if side < 0],
        checksum=wire.checksum(bids, asks),
    )
    message = Message(
        type="delta",
        channel="book",
        instrument=symbol,
        sequence=changes[-1].book_sequence,
        previous_sequence=changes[0].book_sequence - 1,
        data=delta,
    )
    return f"book:{symbol}", _encoder.encode(message)


def _own_fills(
    event: events.Traded, orders: dict[int, views.OrderView]
) -> Iterable[tuple[int, wire.OwnFill]]:
    """Yield the two sides of a trade, each for its own organization."""
    for order, organization, side, liquidity, fee in (
        (event.maker_order, event.maker, -event.taker_side, "maker", event.maker_fee),
        (event.taker_order, event.taker, event.taker_side, "taker", event.taker_fee),
    ):
        view = orders.get(order)
        yield (
            organization,
            wire.OwnFill(
                id=str(event.trade),
                order_id=str(order),
                client_order_id=view.request.client_order_id if view is not None else "",
                instrument=event.instrument,
                side=wire.side_text(side),
                price=text.price_text(event.price),
                quantity=event.lots,
                liquidity=liquidity,
                fee=text.micros_text(fee),
                at=text.time_text(event.at),
            ),
        )


_encoder = msgspec.json.Encoder()
