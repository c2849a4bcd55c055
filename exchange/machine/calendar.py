"""What time does: listing, the end of calls, marks, the change of day, the end of trading.

Entries are `(due at, kind, id)` on a heap and are performed in that order, each with its due
instant as its time, before the command that found them due; the order at one instant is that of
`Entry` (RULEBOOK 2.6). An entry that recurs enters its next occurrence itself, so after a downtime
the calendar catches up in order.
"""

from heapq import heappop

from exchange.machine import (
    bids,
    books,
    buy_in,
    cascade,
    commitments,
    coverage,
    delivery,
    insurance,
    limits,
    liquidation,
    listing,
    marks,
    orders,
    purchases,
    slots,
    switches,
    transfers,
    uncrossing,
    usage,
    waterfall,
)
from exchange.machine.entries import Entry
from exchange.machine.records import Grade
from exchange.machine.state import Instrument, State
from marketplace import contract
from marketplace.contract import DAY, HOUR

INDEX_KEPT = (listing.REFERENCE_DAYS + 2) * DAY
HOLDS_KEPT = usage.USAGE_AGE_MAX + DAY


def advance(
    state: State,
    at: int,
    aside: tuple[int, int, int] | None = None,
    last: tuple[int, int, int] | None = None,
) -> None:
    """Perform everything that is due at or before an instant; with a `last` entry, up to that one.

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
        if state.stale or state.repriced:
            coverage.settle(state)
        books.flush(state)
        if entry == last:
            break
    state.performing = None


def _drop(state: State, due_at: int, kind: Entry, number: int) -> None:
    """Do without an entry that cannot be performed; one that recurs enters its next occurrence."""
    if kind in _RECURS_AFTER:
        state.schedule(due_at + _RECURS_AFTER[kind], kind, number)
    elif kind is Entry.SWITCH:
        switches.skip(state, state.accounts[number])
    elif kind is Entry.PURCHASE:
        commitments.drop(state, number)
    elif kind is Entry.TRANSFER:
        bids.drop(state, number)


_RECURS_AFTER = {Entry.EXPIRE_DAY: DAY, Entry.MARK: HOUR, Entry.NEW_DAY: DAY, Entry.LIST: DAY}


def _perform(state: State, at: int, kind: Entry, number: int, now: int) -> None:
    """Perform one entry and enter its next occurrence; `now` is when it was found due."""
    match kind:
        case Entry.TRADING_ENDS:
            ended = state.by_id.get(number)
            if ended is not None:  # The books of slots end with their hour.
                end_trading(state, ended)
        case Entry.UNCROSS:
            instrument = state.by_id.get(number)
            if instrument is not None:
                uncrossing.end_call(state, instrument)
        case Entry.EXPIRE_DAY:
            orders.expire_day(state)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.MARK:
            marks.mark_all(state)
            listing.add_strikes(state)
            buy_in.look_at_all(state)
            limits.start_hour(state)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.NEW_DAY:
            _start_day(state)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.LIST:
            listing.list_due(state, _grade(state, number))
            buy_in.look_at_all(state)
            state.schedule(at + _RECURS_AFTER[kind], kind, number)
        case Entry.EXPIRE:
            orders.expire(state, number)
        case Entry.SWITCH:
            switches.fire(state, state.accounts[number], now)
        case Entry.MARGIN_CALL:
            liquidation.enforce(state, state.accounts[number])
        case Entry.PURCHASE:
            purchases.buy(state, number)
        case Entry.TRANSFER:
            transfers.award(state, number)
        case Entry.MARK_ONE:
            instrument = state.by_id.get(number)
            if instrument is not None:
                marks.mark_now(state, instrument)
        case Entry.WATCH_MID:
            listing.watch_mid(state, state.by_id[number])


def end_trading(state: State, instrument: Instrument) -> None:
    """End the trading of an instrument: the gate of an hour, or the cascade of what is longer."""
    if instrument.contract.product is contract.Product.HOUR:
        delivery.end_trading(state, instrument)
    elif instrument.contract.product is contract.Product.SLOT:
        slots.end_trading(state, instrument)
    elif instrument.is_option:
        insurance.end_trading(state, instrument)
    else:
        cascade.end_trading(state, instrument)


def _grade(state: State, number: int) -> Grade:
    return next(grade for grade in state.grades.values() if grade.id == number)


def _start_day(state: State) -> None:
    """Move the bands to the marks, withdraw what is left outside, and forget what is old."""
    for instrument in marks.trading(state):
        if instrument.reference == instrument.mark:
            continue
        uncrossing.move_band(state, instrument, instrument.mark)
        state.announce(instrument)
    waterfall.set_shares(state)
    transfers.forget_old(state)
    for grade in sorted(state.grades.values(), key=lambda grade: grade.id):
        listing.list_due(state, grade)
        old = [hour for hour in grade.index if hour < state.at - INDEX_KEPT]
        for hour in old:
            del grade.index[hour]
            grade.corrections.pop(hour, None)
    for key in [key for key, hold in state.holds.items() if not hold.amount]:
        if key[2] < state.at - HOLDS_KEPT:
            del state.holds[key]
