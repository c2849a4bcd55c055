"""Changing a live order in place.

Less quantity alone keeps the order's time; a new price, a new stop price or more quantity is an
arrival: the order goes behind all others, and what crosses trades at once. The quantity of an
amendment is the whole one, with what is filled already, so a fill that came first is never filled
again; amended to that or less, the order is canceled.

The change is judged as one step, the old terms out and the new ones in: either all of it is in
force or nothing. Who only shrinks an order is asked no more than whether the session allows it. In
the frozen end of a call an amendment may only improve.
"""

from exchange import commands, events
from exchange.book import Order
from exchange.machine import books, entering, judging, sessions, stops, trades, withdrawals
from exchange.machine.state import Instrument, State
from exchange.reasons import UNKNOWN_ORDER, Close, OrderStatus, Reject
from marketplace import contract
from marketplace.contract import InstrumentState


def amend(state: State, command: commands.AmendOrder) -> None:
    """Judge an amendment and carry it out."""
    order = state.orders.get(command.order)
    if order is None or order.account.id != command.account:
        _refuse(state, command, UNKNOWN_ORDER)
        return
    if order.is_of_clearing:
        _refuse(state, command, Reject.FROZEN)
        return
    instrument = order.position.instrument
    price = command.price or order.price
    lots = command.lots or order.lots
    stop_price = command.stop_price or order.stop_price
    shrinks = price == order.price and stop_price == order.stop_price and lots <= order.lots
    reason = _judge(state, instrument, order, command, price, lots)
    if reason is None and not shrinks:
        reason = _judge_terms(state, instrument, order, price, lots, stop_price)
    if reason is not None:
        _refuse(state, command, reason)
        return
    order.account.entered += 1
    if lots <= order.lots - order.left:
        trades.announce_terms(state, order)
        withdrawals.withdraw(state, order, Close.AMENDED)
    elif not shrinks:
        _enter_again(state, instrument, order, price, lots, stop_price)
    elif lots < order.lots:
        _shrink(state, instrument, order, order.lots - lots)
    else:
        state.events.append(trades.terms_of(state, order))
    books.announce_with(state, instrument)


def _refuse(state: State, command: commands.AmendOrder, reason: str) -> None:
    state.events.append(
        events.AmendRefused(command.account, command.order, str(reason), state.sequence)
    )


def _judge(
    state: State,
    instrument: Instrument,
    order: Order,
    command: commands.AmendOrder,
    price: int,
    lots: int,
) -> Reject | None:
    """Return why no such amendment may be made now, whatever it costs."""
    request = order.request
    is_waiting = order.status is OrderStatus.UNTRIGGERED
    if (
        not 0 <= command.price <= contract.PRICE_TICKS_MAX
        or not 0 <= command.stop_price <= contract.PRICE_TICKS_MAX
        or (
            (command.price or command.stop_price)
            and command.decimals not in (0, contract.decimals_of(instrument.symbol))
        )
        or command.lots < 0
        or (command.price and not request.price)
        or (command.stop_price and not is_waiting)
    ):
        return Reject.INVALID_ORDER
    if instrument.is_open:
        return None
    if state.state_of(instrument) is not InstrumentState.CALL:
        return sessions.refuse_at_once(state, instrument)
    if is_waiting:
        return Reject.NOT_IN_CALL
    if state.is_frozen(instrument) and not sessions.improves(instrument, order, price, lots):
        return Reject.FROZEN
    return None


def _judge_terms(
    state: State, instrument: Instrument, order: Order, price: int, lots: int, stop_price: int
) -> Reject | None:
    """Return the first rule that an order breaks with new terms in place of its own."""
    position = order.position
    left = lots - (order.lots - order.left)
    if left <= 0:
        return None
    waits = order.status is OrderStatus.UNTRIGGERED and not stops.is_reached(
        instrument, order.side, stop_price
    )
    position.add_resting(order, -order.left, -order.fee_reserve)
    reason = judging.judge(
        state,
        instrument,
        position,
        order.request,
        price,
        lots,
        left,
        waits,
        is_new=False,
    )
    position.add_resting(order, order.left, order.fee_reserve)
    return reason


def _shrink(state: State, instrument: Instrument, order: Order, lots: int) -> None:
    """Take lots off an order that keeps its place."""
    if order.rests:
        instrument.book.shrink(order, lots)
        instrument.dirty.add(order.side * order.price)
    else:
        order.shrink(lots)
    trades.resize(state, instrument, order, -lots)


def _enter_again(
    state: State, instrument: Instrument, order: Order, price: int, lots: int, stop_price: int
) -> None:
    """Let an order arrive anew with other terms."""
    is_waiting = order.status is OrderStatus.UNTRIGGERED
    left = lots - (order.lots - order.left)
    withdrawals.lift(state, order)
    order.remaining = left
    order.hidden = 0
    order.lots = lots
    order.price = price
    order.stop_price = stop_price
    trades.announce_terms(state, order)
    last = instrument.last
    if is_waiting:
        fills = stops.start(state, instrument, order)
    else:
        fills = entering.enter(state, instrument, order)
    stops.follow(state, instrument, fills, last)
