"""Which session a book is in, and what that asks of its orders (RULEBOOK section 2).

A book is in a *call* or trades continuously; a halt stops either. In a call orders are gathered and
nothing trades, so its book may be crossed; towards its end it is frozen: nothing is canceled, and
what is amended only improves. A call belongs to the opening of a book, to its re-opening after a
halt, or to a trade that the dynamic band has stopped; `uncrossing` ends it.

The dynamic band lies around the last trade before a command. A trade outside of it does not
happen: `match` stops an order at its edge and says so, and its caller opens a call. Most orders
have a limit inside the band and are matched without any of this: `Instrument.calm_low` and
`calm_high` say which.
"""

from exchange import auction, commands, events, matching
from exchange.book import Ladder, Order
from exchange.machine import books
from exchange.machine.entries import Entry
from exchange.machine.records import Call
from exchange.machine.state import Instrument, Position, State
from exchange.reasons import Reject
from marketplace import contract
from marketplace.contract import CallKind, InstrumentState

CALL_LENGTH = 5 * 60 * contract.MICROS_PER_SECOND
"""How long a call lasts that is not the day's opening."""
CALL_FREEZE = 60 * contract.MICROS_PER_SECOND
OPENING_FREEZE = 5 * 60 * contract.MICROS_PER_SECOND
LATE = 10 * 60 * contract.MICROS_PER_SECOND
"""This long before trading ends no call begins any more."""
BAND_TICKS_MIN = 10

_RESTING = frozenset({commands.GTC, commands.GTD, commands.DAY})
_NOT_TRADING = {
    InstrumentState.SCHEDULED: Reject.NOT_OPEN,
    InstrumentState.HALTED: Reject.HALTED,
    InstrumentState.CLOSED: Reject.CLOSED,
    InstrumentState.SETTLED: Reject.CLOSED,
}


def open_call(state: State, instrument: Instrument, kind: CallKind, opens_at: int = 0) -> None:
    """Begin a call; under a halt it begins when that ends.

    A book opens when it would as its contract is listed, unless told otherwise.
    """
    at = state.at
    instrument.phase = InstrumentState.CALL
    if state.state_of(instrument) is InstrumentState.CALL:
        opens_at = opens_at or contract.next_opening(contract.listed_at(instrument.contract))
        if kind is CallKind.OPENING and at < opens_at - OPENING_FREEZE:
            call = Call(kind, opens_at - OPENING_FREEZE, opens_at)
        else:
            call = Call(kind, at + CALL_LENGTH - CALL_FREEZE, at + CALL_LENGTH)
        instrument.call = call
        state.schedule(call.ends_at, Entry.UNCROSS, instrument.id)
        state.events.append(
            events.CallOpened(instrument.symbol, str(kind), call.frozen_at, call.ends_at, at)
        )
    change(state, instrument)


def halt(state: State, instrument: Instrument) -> None:
    """Stop a call where one runs, and say that the instrument is halted."""
    instrument.call = None
    change(state, instrument)


def change(state: State, instrument: Instrument) -> None:
    """Announce the state of an instrument; its mid counts only while it trades."""
    state.announce(instrument)
    state.touched_auctions.add(instrument)
    watch_band(instrument)
    if instrument.mid_since:
        books.advance_mid(instrument, state.at)


def set_reference(instrument: Instrument, price: int) -> None:
    """Move the reference, and the static band around it (RULEBOOK 2.4)."""
    width = max(BAND_TICKS_MIN, price * instrument.band_percent // 100)
    instrument.reference = price
    instrument.band_low = max(1, price - width)
    instrument.band_high = min(contract.PRICE_TICKS_MAX, price + width)


# What a session asks of an order


def refuse(state: State, instrument: Instrument, command: commands.PlaceOrder) -> Reject | None:
    """Return why the session of a book that does not trade continuously refuses an order."""
    session = state.state_of(instrument)
    if session is not InstrumentState.CALL:
        return _NOT_TRADING[session]
    terms = command.terms or commands.PLAIN
    if command.time_in_force not in _RESTING or terms.type != commands.LIMIT or terms.min_lots:
        return Reject.NOT_IN_CALL
    position = instrument.positions.get(command.account)
    if position is not None and not terms.reduce_only and state.is_frozen(instrument):
        return Reject.FROZEN if unseats(position, command.side, command.lots) else None
    return None


def unseats(position: Position, side: int, lots: int) -> bool:
    """Whether so many more lots of a side would have reduce-only orders leave that rest there."""
    if not any(o.side == side and o.rests for o in position.reducing.values()):
        return False
    resting = position.buy_lots if side > 0 else position.sell_lots
    return resting + lots > -side * position.net


def refuse_at_once(state: State, instrument: Instrument) -> Reject:
    """Return why a book that does not trade continuously refuses what has to trade at once."""
    session = state.state_of(instrument)
    return Reject.NOT_IN_CALL if session is InstrumentState.CALL else _NOT_TRADING[session]


def improves(instrument: Instrument, order: Order, price: int, lots: int) -> bool:
    """Whether new terms of a frozen order only make it better: price, or more lots, no less.

    A price that crosses its own group's orders would make it give way, which is no better; nor is
    it where reduce-only orders would have to leave for it.
    """
    side = order.side
    if side * price < side * order.price or lots < order.lots:
        return False
    if order.id not in order.position.reducing and unseats(order.position, side, lots - order.lots):
        return False
    for other in instrument.book.ladder(-side):
        if side * other.price > side * price:
            return True
        if other.group == order.group:
            return False
    return True


def is_late(instrument: Instrument, at: int) -> bool:
    """Whether trading ends too soon for a call."""
    return at >= instrument.contract.trading_ends_at - LATE


def make_way(
    state: State, instrument: Instrument, order: Order, prevention: str
) -> tuple[matching.Fills, bool]:
    """Apply an order's mode to those of its group that it crosses on entry into a call.

    Return what `matching.give_way` does. In the freeze the arriving order gives way whatever its
    mode: a frozen order must not leave by being crossed.
    """
    held = (instrument.positions.get(peer.id) for peer in order.account.peers)
    if not any(p and (p.sell_lots if order.side > 0 else p.buy_lots) for p in held):
        return [], False
    if state.is_frozen(instrument):
        prevention = matching.CANCEL_NEWEST
    return matching.give_way(instrument.book, order, prevention)


# The dynamic band


def watch_band(instrument: Instrument) -> None:
    """Find out with which limits orders may simply be matched from here on."""
    bid, ask = instrument.book.best()
    is_calm = (
        instrument.is_open
        and bid <= instrument.dynamic_high
        and (not ask or ask >= instrument.dynamic_low)
    )
    if is_calm:
        instrument.calm_low, instrument.calm_high = instrument.dynamic_low, instrument.dynamic_high
    else:
        instrument.calm_low, instrument.calm_high = 1, 0


def leaves_band(
    instrument: Instrument, side: int, price: int, lots: int, group: int, prevention: str
) -> bool:
    """Whether an order with this limit would trade outside the dynamic band."""
    book = instrument.book
    reached = matching.reach(book, side, price, lots, group, prevention)
    low, high = instrument.dynamic_low, instrument.dynamic_high
    return any(not low <= traded_at <= high for traded_at, _ in reached)


def match(
    instrument: Instrument, order: Order, prevention: str
) -> tuple[matching.Fills, bool, bool]:
    """Trade an arriving order inside the dynamic band.

    Return what `matching.match` does, and whether the band has stopped the order: then a call is to
    be opened, and what may rest takes part in it.
    """
    side, book = order.side, instrument.book
    if not leaves_band(instrument, side, order.price, order.remaining, order.group, prevention):
        return *matching.match(book, order, 0, prevention), False
    low, high = instrument.dynamic_low, instrument.dynamic_high
    best = book.ladder(-side).best()
    if not low <= best <= high:
        return [], False, True
    fills, _ = matching.match(book, order, high if side > 0 else low, prevention)
    return fills, False, True


# What a call would give


def indicate(instrument: Instrument) -> auction.Result:
    """Return what the book would trade if it were uncrossed now."""
    book = instrument.book
    bid, ask = book.best()
    if not bid or not ask or bid < ask:
        return auction.NOTHING
    return auction.uncross(_levels(book.bids, ask), _levels(book.asks, -bid), instrument.reference)


def _levels(ladder: Ladder, worst: int) -> list[tuple[int, int]]:
    """Return (price, all lots) of the levels up to a signed key, best first."""
    found = []
    for key in reversed(ladder.keys):
        if key < worst:
            break
        found.append((abs(key), sum(order.left for order in ladder.levels[key])))
    return found
