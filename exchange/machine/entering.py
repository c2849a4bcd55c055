"""An order meets the book: what it trades at once, and what becomes of the rest.

Every order comes this way when its time comes: one that was just accepted, one that was amended and
has lost its place, one whose stop price was reached. What must be known beforehand is known by
looking ahead with the matcher's own eyes, inside both bands. Where the dynamic band stops an order
a call begins, and what may rest takes part in it. In a call nothing trades; an order only makes way
for its group, or has it make way.
"""

from itertools import takewhile

from exchange import commands, matching
from exchange.book import Order
from exchange.machine import sessions, terms, trades, withdrawals
from exchange.machine.state import Instrument, State
from exchange.reasons import Close, OrderStatus
from marketplace.contract import CallKind

_FILLED = str(OrderStatus.FILLED)
_CANCELED = str(OrderStatus.CANCELED)


def enter(state: State, instrument: Instrument, order: Order) -> matching.Fills:
    """Match an order, rest what may rest, close what may not; return what it did on its way."""
    request = order.request
    position = order.position
    state.touched_positions.add(position)
    is_plain = request.terms is None and instrument.calm_low <= order.price <= instrument.calm_high
    if is_plain:
        fills, stopped = matching.match(instrument.book, order)
        if fills:
            trades.book(state, instrument, order, fills)
            # Its own trades may have moved the band away from where it comes to rest.
            is_plain = instrument.calm_low <= order.price <= instrument.calm_high
        rests = request.time_in_force == commands.GTC
    else:
        reason = _falls_short(instrument, order)
        if reason is not None:
            withdrawals.end(state, order, _CANCELED, reason)
            return []
        fills, stopped, rests = _meet(state, instrument, order)
    rests = rests and not stopped and order.remaining > 0
    if rests:
        _rest(instrument, order)
    elif not order.remaining:
        withdrawals.end(state, order, _FILLED, "")
    elif stopped:
        withdrawals.end(state, order, _CANCELED, Close.SELF_TRADE)
    else:
        withdrawals.end(state, order, _CANCELED, _why_it_does_not_rest(order))
    if not is_plain:
        sessions.watch_band(instrument)
    if fills or rests:
        position.refresh()
        if position.reducing:
            withdrawals.withdraw_not_reducing(state, position)
    return fills


def _meet(state: State, instrument: Instrument, order: Order) -> tuple[matching.Fills, bool, bool]:
    """Match an order of any terms, wherever the bands are, and book what it did.

    Return that, whether it stopped at one of its group, and whether what is left may rest.
    """
    book = instrument.book
    wants = order.request.terms
    prevention = matching.CANCEL_NEWEST if wants is None else wants.prevention
    lots = order.lots
    rests = terms.may_rest(order.request)
    leaves_band = False
    if instrument.calm_low <= order.price <= instrument.calm_high:
        fills, stopped = matching.match(book, order, 0, prevention)
    elif instrument.is_open:
        fills, stopped, leaves_band = sessions.match(instrument, order, prevention)
    else:
        fills, stopped = sessions.make_way(state, instrument, order, prevention)
    trades.book(state, instrument, order, fills)
    if leaves_band:
        if _is_market(order) or sessions.is_late(instrument, state.at):
            rests = False
        else:
            sessions.open_call(state, instrument, CallKind.VOLATILITY)
            if rests:
                changes, stopped = sessions.make_way(state, instrument, order, prevention)
                trades.book(state, instrument, order, changes)
    if order.lots != lots:
        trades.announce_terms(state, order)
    return fills, stopped, rests


def look_ahead(
    instrument: Instrument, side: int, price: int, lots: int, group: int, prevention: str
) -> list[tuple[int, int]]:
    """Return the (price, lots) that an order would trade at once, inside the dynamic band."""
    low, high = instrument.dynamic_low, instrument.dynamic_high
    reached = matching.reach(instrument.book, side, price, lots, group, prevention)
    return list(takewhile(lambda level: low <= level[0] <= high, reached))


def _falls_short(instrument: Instrument, order: Order) -> Close | None:
    """Return why an order that has to trade at once does not, if it would get too little."""
    request = order.request
    wants = request.terms
    if wants is None:
        return None
    if request.time_in_force == commands.FOK:
        least, reason = order.remaining, Close.FILL_OR_KILL
    else:
        least, reason = wants.min_lots - (order.lots - order.remaining), Close.MIN_QUANTITY
    if least <= 0:
        return None
    ahead = look_ahead(
        instrument, order.side, order.price, order.remaining, order.group, wants.prevention
    )
    return reason if sum(lots for _, lots in ahead) < least else None


def _is_market(order: Order) -> bool:
    """Whether an order has no limit of its own."""
    return not order.request.price


def _why_it_does_not_rest(order: Order) -> Close:
    """Return why what is left of an order is canceled."""
    immediate = order.request.time_in_force == commands.IOC
    return Close.IOC_REMAINDER if immediate and not _is_market(order) else Close.PROTECTION_BAND


def _rest(instrument: Instrument, order: Order) -> None:
    """Let what is left of an order rest; an iceberg shows its tip."""
    wants = order.request.terms
    if wants is not None and wants.display_lots:
        order.show(order.remaining)
    instrument.book.rest(order)
    instrument.dirty.add(order.side * order.price)
    withdrawals.enlist(order, trades.fee_reserve(instrument, order))
