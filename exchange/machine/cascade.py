"""A month or a week becomes its days, a day its hours, lot for lot (RULEBOOK 4.1).

It is one step at the end of trading: orders expire, the final mark is set and paid, every position
is handed on to each part of the window at that mark, and what everybody must have is added up
again. A part that is listed already keeps its book; one that is not is listed now. So a position
that was built as a month is, hour by hour, the same as one that was built from hours: the same
lots, and from the final mark on the same variation.

What one parent's positions add up to is zero, so it is in its parts.
"""

from exchange import events
from exchange.machine import coverage, listing, marks, sessions, waterfall, withdrawals
from exchange.machine.state import Account, Instrument, State
from exchange.reasons import Close
from marketplace.contract import DAY, HOUR, InstrumentState, Product
from settlement.ledger import Code


def end_trading(state: State, instrument: Instrument) -> None:
    """End the trading of a longer product and cascade it into its parts."""
    instrument.phase = InstrumentState.CLOSED
    instrument.call = None
    sessions.change(state, instrument)
    for order in sorted(instrument.live_orders(), key=lambda order: order.id):
        withdrawals.withdraw(state, order, Close.EXPIRED)
    price, method = marks.price_of(instrument, state.at, {})
    state.events.append(events.Marked(instrument.symbol, price, method, state.at))
    payments: dict[int, int] = {}
    marks.settle(state, instrument, price, payments)
    waterfall.settle(state, payments, Code.VARIATION, f"cascade:{instrument.symbol}")
    listing.list_due(state, instrument.grade)
    children = _children(state, instrument)
    concerned = _hand_on(state, instrument, children, price)
    for child in children:
        child.parent_mark = price
    state.events.append(
        events.Cascaded(
            instrument.symbol,
            price,
            sum(p.net for p in instrument.positions.values() if p.net > 0),
            state.at,
        )
    )
    for number in sorted(instrument.positions):
        position = instrument.positions[number]
        position.net = position.cost = 0
        position.refresh()
        state.drop_position(position)
    instrument.positions.clear()
    instrument.trades.clear()
    instrument.open_interest = 0
    listing.unlist(state, instrument)
    for account in concerned:
        coverage.settle_account(state, account)
        coverage.withdraw_unfunded(state, account)


def _children(state: State, instrument: Instrument) -> list[Instrument]:
    """Return the parts of a window, in the order of time."""
    terms = instrument.contract
    product, length = (Product.DAY, DAY)
    if terms.product is Product.DAY:
        product, length = Product.HOUR, HOUR
    return [
        state.by_window[terms.grade, product, starts_at]
        for starts_at in range(terms.starts_at, terms.ends_at, length)
    ]


def _hand_on(
    state: State, instrument: Instrument, children: list[Instrument], price: int
) -> list[Account]:
    """Add every position to each part, at the final mark; return whose they were."""
    concerned = []
    for number in sorted(instrument.positions):
        held = instrument.positions[number]
        concerned.append(held.account)
        if not held.net:
            continue
        for child in children:
            position = state.position(held.account, child)
            before = max(0, position.net)
            position.net += held.net
            position.cost += held.net * price
            child.open_interest += max(0, position.net) - before
            position.refresh()
            state.touched_positions.add(position)
            state.touched_instruments.add(child)
            if position.reducing:
                withdrawals.withdraw_not_reducing(state, position)
    return concerned
