"""How orders leave the book other than by trading: asked for, or for one of the market's reasons.

Where the market chooses, it takes the newest first and only as many as it must: reduce-only orders
that would do more than reduce, and what `coverage` finds without money or capacity behind it. An
order is live while it rests in its book or waits for its stop price; `lift` takes it from there
without an end, for one that comes back with other terms.
"""

from exchange import commands, events
from exchange.book import Order
from exchange.machine.state import Account, Position, State
from exchange.reasons import Close, OrderStatus

_CANCELED = str(OrderStatus.CANCELED)
_EXPIRED = str(OrderStatus.EXPIRED)


def end(state: State, order: Order, status: str, reason: str) -> None:
    """Close an order that is not live any more, and say so."""
    number = order.id
    order.status = status
    order.reason = reason = str(reason)
    order.updated_at = at = state.at
    order.sequence = sequence = state.sequence
    state.touched_orders[number] = order
    state.events.append(events.OrderClosed(number, order.account.id, status, reason, sequence, at))
    request = order.request
    if request.terms is not None and request.time_in_force == commands.GTD:
        state.idle_entries += 1


def is_frozen(state: State, order: Order) -> bool:
    """Whether an order may not leave: it rests in a call that is about to end."""
    return order.rests and state.is_frozen(order.position.instrument)


def is_reduction(order: Order) -> bool:
    """Whether the clearing house placed an order so that its account holds less."""
    return order.is_of_clearing and order.request.terms is not None


def enlist(order: Order, fee_reserve: int) -> None:
    """Make an order one of its account's live ones, with what it reserves."""
    request = order.request
    position = order.position
    order.account.orders[request.client_order_id] = order
    position.order_count += 1
    order.fee_reserve = fee_reserve
    position.add_resting(order, order.remaining + order.hidden, fee_reserve)
    if request.terms is not None and request.terms.reduce_only:
        position.reducing[order.id] = order


def unlist(order: Order) -> None:
    """Make an order none of its account's live ones; what it reserves is another matter."""
    request = order.request
    position = order.position
    del order.account.orders[request.client_order_id]
    position.order_count -= 1
    if request.terms is not None and request.terms.reduce_only:
        del position.reducing[order.id]


def lift(state: State, order: Order) -> None:
    """Take a live order from where it rests or waits, and release what it reserved."""
    position = order.position
    instrument = position.instrument
    if order.status is OrderStatus.UNTRIGGERED:
        instrument.stops.discard(order)
        del state.orders[order.id]
    elif order.id in state.orders:  # What gave way to another order has left its book already.
        instrument.book.remove(order)
        instrument.dirty.add(order.side * order.price)
        state.dirty[instrument.id] = instrument
    unlist(order)
    position.add_resting(order, -order.remaining - order.hidden, -order.fee_reserve)
    order.fee_reserve = 0
    position.refresh()
    state.touched_positions.add(position)


def withdraw(state: State, order: Order, reason: Close) -> None:
    """Take a live order out of the market and release what it reserved."""
    lift(state, order)
    end(state, order, _EXPIRED if reason is Close.EXPIRED else _CANCELED, reason)


def withdraw_all(state: State, account: Account, reason: Close) -> None:
    """Withdraw every order of an account but the clearing house's, earliest first."""
    for order in sorted(account.orders.values(), key=lambda order: order.id):
        if not order.is_of_clearing:
            withdraw(state, order, reason)


def withdraw_free(state: State, account: Account, reason: Close) -> None:
    """Withdraw an account's orders that may leave now, earliest first."""
    for order in sorted(account.orders.values(), key=lambda order: order.id):
        if not order.is_of_clearing and not is_frozen(state, order):
            withdraw(state, order, reason)


def withdraw_not_reducing(state: State, position: Position) -> None:
    """Withdraw reduce-only orders until every one left can only reduce, newest first.

    Where one is, everything of its side together is no more than the position it reduces.
    """
    for side in (1, -1):
        held = -side * position.net
        own = [order for order in position.reducing.values() if order.side == side]
        for order in sorted(own, key=lambda order: -order.id):
            if (position.buy_lots if side > 0 else position.sell_lots) <= held:
                break
            withdraw(state, order, Close.REDUCE_ONLY)
