"""Placing and canceling orders.

What is accepted gets a number, and enters the book or waits for its stop price. What it trades may
trigger others; then everything that changed in the books is announced, once.
"""

from exchange import commands, events
from exchange.book import Order
from exchange.machine import books, entering, judging, sessions, stops, terms, withdrawals
from exchange.machine.entries import Entry
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import UNKNOWN_ORDER, Close, Reject
from marketplace import contract


def place(state: State, command: commands.PlaceOrder) -> None:
    """Judge an order, match it and rest what is left."""
    account = state.accounts.get(command.account)
    if account is not None and command.client_order_id in account.orders:
        return
    number = state.next_order
    state.next_order = number + 1
    instrument = state.instruments.get(command.instrument)
    reason = _refuse(state, account, instrument, command)
    if reason is not None:
        _reject(state, command, number, reason)
        return
    assert account is not None, "an unknown account was refused"
    assert instrument is not None, "an unknown instrument was refused"
    known = instrument.positions.get(command.account)
    position = known if known is not None else Position(account, instrument)
    wants = command.terms
    lots = command.lots
    price = command.price or terms.worst_price(instrument, command)
    waits = wants is not None and stops.waits(instrument, command)
    reason = judging.judge(state, instrument, position, command, price, lots, lots, waits)
    if reason is not None:
        _reject(state, command, number, reason)
        return
    if known is None:
        position = state.position(account, instrument)
    order = accept(state, position, command, number, price)
    last = instrument.last
    if waits:
        stops.wait(state, instrument, order)
    elif wants is not None and terms.is_stop(command):
        stops.follow(state, instrument, stops.trigger(state, instrument, order), last)
    else:
        fills = entering.enter(state, instrument, order)
        if fills and instrument.stops:
            stops.follow(state, instrument, fills, last)
    if wants is not None:
        _enter_into_calendar(state, instrument, order)
    if state.dirty:
        books.announce_with(state, instrument)
    elif instrument.dirty:
        books.announce(state, instrument)


def _reject(state: State, command: commands.PlaceOrder, number: int, reason: Reject) -> None:
    """Say that an order is refused."""
    state.events.append(
        events.OrderRejected(number, command, state.sequence, state.at, str(reason))
    )


def _refuse(
    state: State,
    account: Account | None,
    instrument: Instrument | None,
    command: commands.PlaceOrder,
) -> Reject | None:
    """Return the first rule that an order breaks before anything is said about its price."""
    wants = command.terms
    side = command.side
    if wants is not None:
        if not terms.are_valid(command, wants):
            return Reject.INVALID_ORDER
    elif (
        command.lots < 1
        or not 1 <= command.price <= contract.PRICE_TICKS_MAX
        or (side != 1 and side != -1)
        or (command.time_in_force != commands.GTC and command.time_in_force != commands.IOC)
    ):
        return Reject.INVALID_ORDER
    if account is None:
        return Reject.UNKNOWN_ACCOUNT
    if account.killed:
        return Reject.KILLED
    if instrument is None:
        return why_absent(state, command.instrument)
    if not instrument.is_open:
        reason = sessions.refuse(state, instrument, command)
        if reason is not None:
            return reason
    if wants is not None and 0 < wants.expires_at <= state.at:
        return Reject.ALREADY_EXPIRED
    return None


def why_absent(state: State, symbol: str) -> Reject:
    """Return why a symbol is not in the state: what was settled was once listed."""
    terms = contract.parse_symbol(symbol)
    grade = state.grades.get(terms.grade) if terms is not None else None
    if terms is None or grade is None or terms.starts_at < grade.first_hour:
        return Reject.UNKNOWN_INSTRUMENT
    return Reject.CLOSED if terms.trading_ends_at <= state.at else Reject.UNKNOWN_INSTRUMENT


def accept(
    state: State, position: Position, command: commands.PlaceOrder, number: int, price: int
) -> Order:
    """Make the order and say that it was accepted."""
    account = position.account
    lots = command.lots
    sequence = state.sequence
    at = state.at
    order = Order(
        number,
        command.side,
        price,
        lots,
        account.group,
        lots,
        0,
        account,
        position,
        command,
        0 if command.terms is None else command.terms.stop_price,
        sequence,
        at,
        at,
    )
    account.entered += 1
    state.touched_orders[number] = order
    state.events.append(events.OrderPlaced(number, command, sequence, at))
    return order


def _enter_into_calendar(state: State, instrument: Instrument, order: Order) -> None:
    """Have a live order leave at its own instant, if trading goes on until then."""
    request = order.request
    if request.time_in_force == commands.GTD and order.id in state.orders:
        expires_at = request.terms.expires_at
        if expires_at < instrument.contract.trading_ends_at:
            state.clear_calendar()
            state.schedule(expires_at, Entry.EXPIRE, order.id)


def expire(state: State, number: int) -> None:
    """Withdraw an order whose instant has come, if it is still live."""
    order = state.orders.get(number)
    if order is not None:
        _expire(state, order)


def expire_day(state: State) -> None:
    """Withdraw the orders of the day that ends, earliest first."""
    for number in sorted(state.orders):
        order = state.orders[number]
        if order.request.time_in_force == commands.DAY:
            _expire(state, order)


def _expire(state: State, order: Order) -> None:
    """Withdraw an order whose time is up; one that is frozen in a call, after the auction."""
    call = order.position.instrument.call
    if call is not None and withdrawals.is_frozen(state, order):
        state.schedule(call.ends_at, Entry.EXPIRE, order.id)
    else:
        withdrawals.withdraw(state, order, Close.EXPIRED)


def cancel(state: State, command: commands.CancelOrder) -> None:
    """Withdraw one order of an account."""
    order = state.orders.get(command.order)
    if order is None or order.account.id != command.account:
        state.events.append(
            events.CancelRefused(command.account, command.order, UNKNOWN_ORDER, state.sequence)
        )
        return
    if order.is_of_clearing or withdrawals.is_frozen(state, order):
        state.events.append(
            events.CancelRefused(command.account, command.order, str(Reject.FROZEN), state.sequence)
        )
        return
    withdrawals.withdraw(state, order, Close.REQUESTED)
    books.flush(state)


def cancel_matching(state: State, command: commands.CancelOrders) -> None:
    """Withdraw every order of an account that matches and is not frozen, earliest first."""
    account = state.accounts.get(command.account)
    if account is None:
        return
    reason = Close.DISCONNECTED if command.reason == Close.DISCONNECTED else Close.REQUESTED
    for order in sorted(account.orders.values(), key=lambda order: order.id):
        instrument = order.position.instrument
        if command.instrument and instrument.symbol != command.instrument:
            continue
        if command.grade and instrument.grade.code != command.grade:
            continue
        if command.side and order.side != command.side:
            continue
        if order.is_of_clearing or withdrawals.is_frozen(state, order):
            continue
        withdrawals.withdraw(state, order, reason)
