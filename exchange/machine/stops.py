"""Orders that wait for a price: unseen and in no book, but reserved for like any other.

A stop order is triggered by the last trade at or beyond its stop price, an auction's included, and
then enters the book as a market order, or as a limit order at its price. Those that one command
triggers are worked off a queue, in the order the trades reached them: nearest stop price first,
then oldest. What they trade may trigger more, which join the queue; nothing calls itself. While its
book is in a call or halted an order goes on waiting.

A stop order without a limit could trade anywhere in the static band and reserves its edge; when the
band moves, so does that.
"""

from collections import deque

from exchange import commands, events, matching
from exchange.book import Order
from exchange.machine import coverage, entering, sessions, terms, trades, withdrawals
from exchange.machine.state import Instrument, State
from exchange.reasons import Close, OrderStatus


def is_reached(instrument: Instrument, side: int, stop_price: int) -> bool:
    """Whether the last price is at or beyond a stop price."""
    last = instrument.last
    return last > 0 and side * last >= side * stop_price


def waits(instrument: Instrument, request: commands.PlaceOrder) -> bool:
    """Whether an order as it was placed has to wait for its stop price."""
    wants = request.terms
    return (
        wants is not None
        and terms.is_stop(request)
        and not is_reached(instrument, request.side, wants.stop_price)
    )


def start(state: State, instrument: Instrument, order: Order) -> matching.Fills:
    """Let an order wait for its stop price, or enter if that was reached; return what it did."""
    if is_reached(instrument, order.side, order.stop_price):
        return trigger(state, instrument, order)
    wait(state, instrument, order)
    return []


def wait(state: State, instrument: Instrument, order: Order) -> None:
    """Let an order wait for its stop price."""
    order.status = OrderStatus.UNTRIGGERED
    instrument.stops.add(order)
    state.orders[order.id] = order
    withdrawals.enlist(order, trades.fee_reserve(instrument, order))
    position = order.position
    position.refresh()
    state.touched_positions.add(position)
    if position.reducing:
        withdrawals.withdraw_not_reducing(state, position)


def trigger(state: State, instrument: Instrument, order: Order) -> matching.Fills:
    """Make an order that does not wait any more one like others; return what it did."""
    order.status = OrderStatus.OPEN
    order.sequence = state.sequence
    order.updated_at = state.at
    state.touched_orders[order.id] = order
    state.events.append(events.OrderTriggered(order.id, order.account.id, state.sequence, state.at))
    if not order.request.price:
        order.price = terms.protection_price(instrument, order.side)
    return entering.enter(state, instrument, order)


def follow(state: State, instrument: Instrument, fills: matching.Fills, last: int) -> None:
    """Trigger what the trades of an arriving order have reached, and what that reaches in turn.

    `last` is the last price before that order came.
    """
    if instrument.stops:
        _work_off(state, instrument, _reached_by(instrument, fills), last)


def follow_last(state: State, instrument: Instrument) -> None:
    """Trigger what the last price has reached: after an auction, or when trading goes on."""
    if instrument.stops and instrument.last:
        last = instrument.last
        _work_off(state, instrument, instrument.stops.take(last), last)


def _reached_by(instrument: Instrument, fills: matching.Fills) -> list[Order]:
    """Take out what trades have reached; their prices go one way, so two of them say it all."""
    prices = [maker.price for maker, lots in fills if lots > 0]
    if not prices:
        return []
    return instrument.stops.take(prices[0]) + instrument.stops.take(prices[-1])


def _work_off(state: State, instrument: Instrument, reached: list[Order], last: int) -> None:
    """Let orders enter that were taken out because their stop price was reached.

    All of them trade inside the dynamic band that the command found, so that one that triggers the
    next does not carry the price away step by step.
    """
    queue = deque(reached)
    while queue:
        order = queue.popleft()
        if order.status is not OrderStatus.UNTRIGGERED:
            continue  # An earlier one of the queue has had it withdrawn.
        if not instrument.is_open:
            instrument.stops.add(order)
            continue
        withdrawals.lift(state, order)
        instrument.band_around(last)
        sessions.watch_band(instrument)
        queue.extend(_reached_by(instrument, trigger(state, instrument, order)))
    if reached:
        instrument.band_around(instrument.last)
        sessions.watch_band(instrument)
    if instrument.dirty:
        state.dirty[instrument.id] = instrument


def move_band(state: State, instrument: Instrument) -> None:
    """Bring waiting orders to a band that has moved, earliest first.

    Those with a limit outside of it leave; those without reserve its edge from here on, and what is
    not funded any more leaves too.
    """
    waiting = sorted(instrument.stops, key=lambda order: order.id)
    for order in waiting:
        is_inside = instrument.band_low <= order.price <= instrument.band_high
        if order.request.price and not is_inside:
            withdrawals.withdraw(state, order, Close.BAND_MOVED)
            continue
        position = order.position
        position.add_resting(order, -order.left, -order.fee_reserve)
        if not order.request.price:
            order.price = terms.band_edge(instrument, order.side)
        order.fee_reserve = trades.fee_reserve(instrument, order)
        position.add_resting(order, order.left, order.fee_reserve)
        position.refresh()
        state.touched_positions.add(position)
        state.touched_orders[order.id] = order
    for account in {order.account.id: order.account for order in waiting}.values():
        coverage.withdraw_unfunded(state, account)
