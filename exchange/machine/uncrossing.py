"""The end of a call: its orders trade at one price, and the book goes on continuously.

Whatever finds a partner trades at the price of `exchange.auction`; of each two orders the later is
the taker, and both pay what makers pay. Then, at the same instant, the auction's price becomes the
last one and, at most once an hour, the static band's reference; orders that this leaves outside are
withdrawn, icebergs show their tips again, and stop orders that the price has reached follow last.

Orders of one group whose prices cross never rest together (they give way on entry), so a group is
never paired with itself.
"""

from collections.abc import Iterator

from exchange import auction, events
from exchange.book import Ladder, Order
from exchange.machine import marks, premiums, sessions, stops, trades, withdrawals
from exchange.machine.records import Auction
from exchange.machine.state import Instrument, State
from exchange.reasons import Close
from marketplace.contract import HOUR, CallKind, InstrumentState

BAND_MOVES_EVERY = HOUR


def end_call(state: State, instrument: Instrument) -> None:
    """Uncross the book where its call ends now; a call that was halted ends with the halt."""
    call = instrument.call
    if call is not None and call.ends_at == state.at:
        uncross(state, instrument, call.kind)


def resume(state: State, instrument: Instrument) -> None:
    """Go on after a halt: by a call, unless trading ends too soon for one."""
    opening = instrument.awaits_opening
    kind = CallKind.OPENING if opening else CallKind.REOPENING
    if not sessions.is_late(instrument, state.at):
        sessions.open_call(state, instrument, kind)
    elif instrument.phase is InstrumentState.CALL:
        uncross(state, instrument, kind)
    else:
        go_on(state, instrument)


def uncross(state: State, instrument: Instrument, kind: CallKind) -> None:
    """Trade what crosses at one price and open the book."""
    found = sessions.indicate(instrument)
    instrument.call = None
    instrument.phase = InstrumentState.CONTINUOUS
    if found.lots:
        _trade(state, instrument, found)
        instrument.auction = Auction(found.price, found.lots, state.at)
    if instrument.awaits_opening:
        instrument.awaits_opening = False
        instrument.opening_price = found.price
    state.events.append(
        events.Uncrossed(instrument.symbol, str(kind), found.price, found.lots, state.at)
    )
    if found.lots and state.at >= instrument.band_moved_at + BAND_MOVES_EVERY:
        instrument.band_moved_at = state.at
        move_band(state, instrument, found.price)
    go_on(state, instrument)


def go_on(state: State, instrument: Instrument) -> None:
    """Trade continuously from here on; stop orders that the last price has reached follow."""
    sessions.change(state, instrument)
    stops.follow_last(state, instrument)


def move_band(state: State, instrument: Instrument, reference: int) -> None:
    """Put the static band around another price; orders outside of it leave, earliest first."""
    sessions.set_reference(instrument, reference)
    for order in sorted(instrument.book, key=lambda order: order.id):
        if not instrument.band_low <= order.price <= instrument.band_high:
            withdrawals.withdraw(state, order, Close.BAND_MOVED)
    stops.move_band(state, instrument)


def _trade(state: State, instrument: Instrument, found: auction.Result) -> None:
    """Book every trade of an auction."""
    price = found.price
    book = instrument.book
    first = state.next_trade
    pairs = list(auction.pair(_served(book.bids, price), _served(book.asks, -price), found.lots))
    filled: dict[int, tuple[Order, int]] = {}
    for buy, sell, lots in pairs:
        for order in (buy, sell):
            filled[order.id] = order, filled.get(order.id, (order, 0))[1] + lots
    for order, lots in filled.values():
        instrument.dirty.add(order.side * order.price)
        book.fill(order, lots)
    state.dirty[instrument.id] = instrument
    points = instrument.unit * instrument.maker_fee_bp
    for buy, sell, lots in pairs:
        maker, taker = (buy, sell) if buy.id < sell.id else (sell, buy)
        value = price * lots
        side = taker.side
        fees = trades.charge(maker, value, points), trades.charge(taker, value, points)
        trades.move(instrument, taker.position, maker.position, side * lots, side * value)
        state.events.append(
            events.Traded(
                state.next_trade,
                instrument.symbol,
                price,
                lots,
                maker.id,
                taker.id,
                maker.account.id,
                taker.account.id,
                side,
                *fees,
                state.sequence,
                state.at,
                is_auction=True,
            )
        )
        for order, fee in zip((maker, taker), fees, strict=True):
            trades.release_reserve(instrument, order, lots)
            if fee:
                trades.pay_fee(state, order.account, fee, f"trade:{state.next_trade}")
        instrument.trades.append((state.at, lots, price, buy.group, sell.group))
        instrument.volume += lots
        state.next_trade += 1
    if instrument.is_option:
        premiums.pay(state, instrument, first)
    for order, _ in filled.values():
        trades.note_maker(state, order)
        if order.position.reducing:
            withdrawals.withdraw_not_reducing(state, order.position)
    instrument.set_last(price)
    if not instrument.watch_low <= price <= instrument.watch_high:
        marks.watch(state, instrument)


def _served(ladder: Ladder, worst: int) -> Iterator[tuple[Order, int]]:
    """Yield the orders up to a signed key with all their lots, in the order of price and time."""
    for key in reversed(ladder.keys):
        if key < worst:
            return
        for order in ladder.levels[key]:
            yield order, order.left
