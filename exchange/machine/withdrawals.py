"""How orders leave the book other than by trading: asked for, or for one of the market's reasons.

Where the market chooses, it takes the newest first and only as many as it must: orders that money
is missing for (RULEBOOK 3.1) and sales beyond what is certified (RULEBOOK 3.2).
"""

from exchange import events
from exchange.book import Order
from exchange.machine.state import Account, State
from exchange.reasons import Close, OrderStatus
from settlement import margin


def end(state: State, order: Order, status: str, reason: str, *, live: bool = True) -> None:
    """Close an order and say so."""
    order.status = status
    order.reason = str(reason)
    order.updated_at = state.at
    order.sequence = state.sequence
    if live:
        del order.account.orders[order.request.client_order_id]
    state.touched_orders[order.id] = order
    state.events.append(
        events.OrderClosed(
            order.id, order.account.id, str(status), order.reason, state.sequence, state.at
        )
    )


def withdraw(state: State, order: Order, reason: Close) -> None:
    """Take a resting order out of its book and release what it reserved."""
    position = order.position
    instrument = position.instrument
    instrument.book.remove(order)
    instrument.dirty.add(order.side * order.price)
    state.dirty[instrument.id] = instrument
    position.order_count -= 1
    position.add_resting(order, -order.left, -order.fee_reserve)
    order.fee_reserve = 0
    position.refresh()
    state.touched_positions.add(position)
    status = OrderStatus.EXPIRED if reason is Close.EXPIRED else OrderStatus.CANCELED
    end(state, order, status, reason)


def withdraw_all(state: State, account: Account, reason: Close) -> None:
    """Withdraw every order of an account, earliest first."""
    for order in sorted(account.orders.values(), key=lambda order: order.id):
        withdraw(state, order, reason)


def withdraw_free(state: State, account: Account, reason: Close) -> None:
    """Withdraw every order of an account that is not frozen in a call, earliest first."""
    for order in sorted(account.orders.values(), key=lambda order: order.id):
        if not state.is_frozen(order.position.instrument):
            withdraw(state, order, reason)


def withdraw_unfunded(state: State, account: Account) -> None:
    """Withdraw orders that need money until the account has what it needs, newest first."""
    if account.cash >= account.required:
        return
    for order in sorted(account.orders.values(), key=lambda order: -order.id):
        if account.cash >= account.required:
            return
        without = order.position.required_with(
            order.side, order.price, -order.left, -order.fee_reserve
        )
        if without < order.position.required:
            withdraw(state, order, Close.UNFUNDED)


def withdraw_uncovered(state: State, account: Account, grade: str) -> None:
    """Withdraw sales of a grade beyond what the account is certified for, newest first."""
    positions = [p for p in account.positions.values() if p.instrument.grade.code == grade]
    for position in sorted(positions, key=lambda p: p.instrument.id):
        if not position.sell_lots:
            continue
        certified = position.certified_lots()
        sales = [o for o in account.orders.values() if o.position is position and o.side < 0]
        for order in sorted(sales, key=lambda order: -order.id):
            if not margin.uncovered_lots(
                net_lots=position.net, sell_lots=position.sell_lots, certified_lots=certified
            ):
                break
            withdraw(state, order, Close.COVERAGE_LOST)
