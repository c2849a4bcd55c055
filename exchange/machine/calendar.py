"""What time does: listing, the end of calls, marks, the change of day, the end of trading.

Entries are `(due at, kind, id)` on a heap and are performed in that order, each with its due
instant as its time, before the command that found them due; the order at one instant is that of
`Entry` (RULEBOOK 2.6). An entry that recurs enters its next occurrence itself, so after a downtime
the calendar catches up in order.

Marks (RULEBOOK 3.4): at every full hour each book is marked, with the price of an auction where one
ended since the last mark. The middle of a book counts only while it trades: in a call it may be
crossed, and nobody is bound yet. Buyers have paid in full and sellers are covered, so a mark moves
no cash yet: it moves what shorts and orders reserve, and the last variation, at gate closure, pays
the whole difference at once.
"""

from bisect import bisect_left
from heapq import heappop

from exchange import events
from exchange.machine import (
    books,
    delivery,
    limits,
    orders,
    sessions,
    switches,
    uncrossing,
    usage,
    withdrawals,
)
from exchange.machine.entries import Entry
from exchange.machine.state import Grade, Instrument, State
from marketplace import contract
from marketplace.contract import DAY, HOUR, CallKind, InstrumentState
from settlement import index, surveillance

MARK_WINDOW = HOUR // 2
MID_WINDOW = index.MID_WINDOW
REFERENCE_DAYS = 7
INDEX_KEPT = (REFERENCE_DAYS + 2) * DAY
HOLDS_KEPT = usage.USAGE_AGE_MAX + DAY
_TRADING = (InstrumentState.SCHEDULED, InstrumentState.CALL, InstrumentState.CONTINUOUS)


def advance(state: State, at: int, aside: tuple[int, int, int] | None = None) -> None:
    """Perform everything that is due at or before an instant.

    With an entry that cannot be performed, `aside`, only what comes before it: it is dropped, and
    what comes after it is left to the next command, because that may not be performed either.
    """
    calendar = state.calendar
    while calendar and calendar[0][0] <= at:
        entry = state.performing = heappop(calendar)
        due_at, kind, number = entry
        state.at = due_at
        if entry == aside:
            _drop(state, due_at, Entry(kind), number)
            break
        _perform(state, due_at, Entry(kind), number, at)
        books.flush(state)
    state.performing = None


def _drop(state: State, due_at: int, kind: Entry, number: int) -> None:
    """Do without an entry that cannot be performed; one that recurs enters its next occurrence."""
    if kind in _RECURS_AFTER:
        state.schedule(due_at + _RECURS_AFTER[kind], kind, number)
    elif kind is Entry.SWITCH:
        switches.skip(state, state.accounts[number])


_RECURS_AFTER = {Entry.EXPIRE_DAY: DAY, Entry.MARK: HOUR, Entry.NEW_DAY: DAY, Entry.LIST: DAY}


def _perform(state: State, at: int, kind: Entry, number: int, now: int) -> None:
    """Perform one entry and enter its next occurrence; `now` is when it was found due."""
    match kind:
        case Entry.TRADING_ENDS:
            delivery.end_trading(state, state.by_id[number])
        case Entry.UNCROSS:
            instrument = state.by_id.get(number)
            if instrument is not None:
                uncrossing.end_call(state, instrument)
        case Entry.EXPIRE_DAY:
            orders.expire_day(state)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.MARK:
            _mark_all(state)
            limits.start_hour(state)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.NEW_DAY:
            _start_day(state)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.LIST:
            _list_day(state, _grade(state, number), contract.day_start(at) + DAY)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.EXPIRE:
            orders.expire(state, number)
        case Entry.SWITCH:
            switches.fire(state, state.accounts[number], now)
        case Entry.WATCH_MID:
            state.by_id[number].mid_since = at
            books.advance_mid(state.by_id[number], at)


def _grade(state: State, number: int) -> Grade:
    return next(grade for grade in state.grades.values() if grade.id == number)


def start_grade(state: State, grade: Grade) -> None:
    """List the hours that would be listed by now, and enter the days to come."""
    at = state.at
    today = contract.day_start(at)
    if not state.calendar:
        state.schedule(contract.hour_start(at) + HOUR, Entry.MARK, 0)
        state.schedule(today + DAY, Entry.EXPIRE_DAY, 0)
        state.schedule(today + DAY, Entry.NEW_DAY, 0)
    _list_day(state, grade, today)
    lists_at = today + DAY - contract.LISTING_LEAD
    if at >= lists_at:
        _list_day(state, grade, today + DAY)
        lists_at += DAY
    state.schedule(lists_at, Entry.LIST, grade.id)


def _list_day(state: State, grade: Grade, day: int) -> None:
    """List the hours of a day whose trading has not ended."""
    for starts_at in range(day, day + DAY, HOUR):
        terms = contract.hour_contract(grade.code, starts_at)
        if terms.trading_ends_at > state.at and terms.symbol not in state.instruments:
            _list(state, grade, terms, is_open=state.at >= day - contract.OPENING_LEAD)


def _list(state: State, grade: Grade, terms: contract.Contract, *, is_open: bool) -> None:
    """List one hour."""
    instrument = Instrument(state.number("instrument"), terms, grade, state.orders)
    state.instruments[terms.symbol] = instrument
    state.by_id[instrument.id] = instrument
    state.by_hour[grade.code, terms.starts_at] = instrument
    instrument.mark = reference_price(grade, terms.starts_at)
    sessions.set_reference(instrument, instrument.mark)
    state.touched_instruments.add(instrument)
    state.events.append(
        events.InstrumentListed(
            instrument.id,
            instrument.symbol,
            instrument.reference,
            instrument.band_low,
            instrument.band_high,
            state.at,
        )
    )
    state.schedule(terms.trading_ends_at, Entry.TRADING_ENDS, instrument.id)
    watched_from = terms.trading_ends_at - MID_WINDOW
    if watched_from > state.at:
        state.schedule(watched_from, Entry.WATCH_MID, instrument.id)
    else:
        instrument.mid_since = state.at
    if is_open:
        instrument.phase = InstrumentState.CONTINUOUS
        sessions.change(state, instrument)
    else:
        instrument.awaits_opening = True
        sessions.open_call(state, instrument, CallKind.OPENING)


def reference_price(grade: Grade, starts_at: int) -> int:
    """Return the 7-day mean index of an hour, else the operator's price (RULEBOOK 1.5)."""
    days = range(1, REFERENCE_DAYS + 1)
    found = [grade.index_in_force(starts_at - day * DAY) for day in days]
    known = [price for price in found if price is not None]
    return index.half_up(sum(known), len(known)) if known else grade.reference


def _trading(state: State) -> list[Instrument]:
    """Return the instruments whose trading has not ended, in order of id."""
    return [
        state.by_id[number]
        for number in sorted(state.by_id)
        if state.by_id[number].phase in _TRADING
    ]


def _mark_all(state: State) -> None:
    """Mark every open book, reserve again, and withdraw what is not funded any more."""
    for instrument in _trading(state):
        price, method = _mark_price(instrument, state.at)
        if price != instrument.mark:
            _set_mark(state, instrument, price)
            state.events.append(events.Marked(instrument.symbol, price, method, state.at))
    for number in sorted(state.accounts):
        withdrawals.withdraw_unfunded(state, state.accounts[number])


def _mark_price(instrument: Instrument, at: int) -> tuple[int, str]:
    """Return the mark of a book and where it is from."""
    if instrument.auction.at > at - HOUR:
        return instrument.auction.price, "auction"
    window = bisect_left(instrument.trades, (at - MARK_WINDOW, 0, 0, 0, 0))
    lots, value = surveillance.genuine(instrument.trades[window:])
    if lots:
        return index.half_up(value, lots), "trades"
    bid, ask = instrument.book.best()
    if instrument.is_open and bid and ask and books.is_tight(bid, ask):
        return index.half_up(bid + ask, 2), "mid"
    return instrument.mark, "mark"


def _set_mark(state: State, instrument: Instrument, price: int) -> None:
    """Change the mark and everything that is reserved by it."""
    instrument.mark = price
    state.touched_instruments.add(instrument)
    for position in instrument.positions.values():
        position.excess = 0
    for order in instrument.live_orders():
        excess = order.side * (60 * order.price - 63 * price)
        if excess > 0:
            order.position.excess += excess * order.left
    for position in instrument.positions.values():
        position.refresh()
        state.touched_positions.add(position)


def _start_day(state: State) -> None:
    """Move the bands to the marks, withdraw what is left outside, and forget what is old."""
    for instrument in _trading(state):
        if instrument.reference == instrument.mark:
            continue
        uncrossing.move_band(state, instrument, instrument.mark)
        state.announce(instrument)
    for grade in state.grades.values():
        old = [hour for hour in grade.index if hour < state.at - INDEX_KEPT]
        for hour in old:
            del grade.index[hour]
            grade.corrections.pop(hour, None)
    for key in [key for key, hold in state.holds.items() if not hold.amount]:
        if key[2] < state.at - HOLDS_KEPT:
            del state.holds[key]
