"""Placing and canceling orders.

An order is judged before it meets the book, by the whole of what it could cost: its worst-case
requirement is compared with what is available, so nothing that follows can overdraw. The rules are
walked in the order of `Reject`. Fees are rounded up once per order: each fill is charged what the
order's fee has grown by (RULEBOOK 3.9), and what can still be charged is reserved.
"""

from exchange import commands, events, matching
from exchange.book import Order
from exchange.machine import books, limits, sessions, withdrawals
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import UNKNOWN_ORDER, Close, OrderStatus, Reject
from marketplace import contract
from marketplace.contract import CallKind
from settlement.ledger import EXCHANGE, Code, Kind

QUANTITY_MAX = 100_000
"""Lots of one order."""

GTC = commands.GTC
IOC = commands.IOC
_TIMES_IN_FORCE = frozenset({GTC, IOC})
_CASH = int(Kind.CASH)
_FEES = int(Kind.FEES)
_TRADING_FEE = int(Code.TRADING_FEE)
_FILLED = str(OrderStatus.FILLED)


def place(state: State, command: commands.PlaceOrder) -> None:
    """Judge an order, match it and rest what is left."""
    account = state.accounts.get(command.account)
    if account is not None and command.client_order_id in account.orders:
        return
    number = state.next_order
    state.next_order = number + 1
    instrument = state.instruments.get(command.instrument)
    reason = _judge(state, account, instrument, command)
    if reason is not None:
        state.events.append(
            events.OrderRejected(number, command, state.sequence, state.at, str(reason))
        )
        return
    assert account is not None, "an unknown account was refused"
    assert instrument is not None, "an unknown instrument was refused"
    order = _accept(state, account, instrument, command, number)
    is_calm = instrument.calm_low <= order.price <= instrument.calm_high
    leaves_band = False
    if is_calm:
        fills, stopped = matching.match(instrument.book, order)
    elif instrument.is_open:
        fills, stopped, leaves_band = sessions.match(instrument, order, matching.CANCEL_NEWEST)
    else:
        fills, stopped = matching.give_way(instrument.book, order)
    if fills:
        _book_fills(state, instrument, order, fills)
    if leaves_band:
        sessions.open_call(state, instrument, CallKind.VOLATILITY)
        if command.time_in_force == GTC:
            _, stopped = matching.give_way(instrument.book, order)
    _finish(state, instrument, order, stopped)
    if not is_calm:
        sessions.watch_band(instrument)
    if instrument.dirty:
        books.announce(state, instrument)


def _judge(
    state: State,
    account: Account | None,
    instrument: Instrument | None,
    command: commands.PlaceOrder,
) -> Reject | None:
    """Return the first rule that an order breaks."""
    lots = command.lots
    side = command.side
    if (
        lots < 1
        or not 1 <= command.price <= contract.PRICE_TICKS_MAX
        or (side != 1 and side != -1)
        or command.time_in_force not in _TIMES_IN_FORCE
    ):
        return Reject.INVALID_ORDER
    if account is None:
        return Reject.UNKNOWN_ACCOUNT
    if account.killed:
        return Reject.KILLED
    if instrument is None:
        return _why_absent(state, command.instrument)
    if not instrument.is_open:
        reason = sessions.refuse(state, instrument, command)
        if reason is not None:
            return reason
    if not instrument.band_low <= command.price <= instrument.band_high:
        return Reject.OUTSIDE_BAND
    if lots > QUANTITY_MAX:
        return Reject.QUANTITY_LIMIT
    position = instrument.positions.get(account.id)
    if position is None:
        position = Position(account, instrument)
    if command.time_in_force == GTC and limits.has_too_many_orders(position):
        return Reject.OPEN_ORDER_LIMIT
    if limits.is_out_of_ratio(account):
        return Reject.ORDER_TO_TRADE_RATIO
    if account.debt and not _reduces(position, side, lots):
        return Reject.ACCOUNT_IN_DEBT
    if side > 0 and limits.is_too_long(state, position, lots):
        return Reject.POSITION_LIMIT
    price = command.price if side > 0 else instrument.band_high
    points = 60 * price * lots * instrument.fee_bp_max
    needed = position.required_with(side, command.price, lots, -(-points // 10_000))
    increase = needed - position.required
    if increase > 0 and increase > account.cash - account.required:
        return Reject.INSUFFICIENT_FUNDS
    if side < 0 and position.sell_lots + lots - position.net > position.certified_lots():
        return Reject.INSUFFICIENT_COVERAGE
    if (
        not instrument.calm_low <= command.price <= instrument.calm_high
        and sessions.is_late(instrument, state.at)
        and sessions.leaves_band(
            instrument, side, command.price, lots, account.group, matching.CANCEL_NEWEST
        )
    ):
        return Reject.VOLATILITY
    return None


def _why_absent(state: State, symbol: str) -> Reject:
    """Return why a symbol is not in the state: an hour that was settled was once listed."""
    terms = contract.parse_symbol(symbol)
    grade = state.grades.get(terms.grade) if terms is not None else None
    if terms is None or grade is None or terms.starts_at < grade.first_hour:
        return Reject.UNKNOWN_INSTRUMENT
    return Reject.CLOSED if terms.trading_ends_at <= state.at else Reject.UNKNOWN_INSTRUMENT


def _reduces(position: Position, side: int, lots: int) -> bool:
    """Whether an order only brings a position nearer to flat, resting orders considered."""
    if side > 0:
        return position.net < 0 and position.buy_lots + lots <= -position.net
    return position.net > 0 and position.sell_lots + lots <= position.net


def _accept(
    state: State,
    account: Account,
    instrument: Instrument,
    command: commands.PlaceOrder,
    number: int,
) -> Order:
    """Make the order and say that it was accepted."""
    order = Order(number, command.side, command.price, command.lots, account.group)
    order.account = account
    order.position = state.position(account, instrument)
    order.request = command
    order.stop_price = 0
    order.sequence = state.sequence
    order.created_at = order.updated_at = state.at
    order.value_ticks = order.fee_points = order.fee = order.fee_reserve = 0
    order.status = OrderStatus.OPEN
    order.reason = ""
    account.entered += 1
    state.touched_orders[number] = order
    state.events.append(events.OrderPlaced(number, command, state.sequence, state.at))
    return order


def _book_fills(
    state: State, instrument: Instrument, taker: Order, fills: list[matching.Fill]
) -> None:
    """Book every fill of an arriving order: positions, fees, the tape, the makers' reserves.

    The taker's own reserve is brought up to date by `_finish`, once.
    """
    side = taker.side
    maker_bp = 60 * instrument.maker_fee_bp
    taker_bp = 60 * instrument.taker_fee_bp
    out = state.events
    trade = state.next_trade
    for maker, lots in fills:
        price = maker.price
        value = price * lots
        maker_fee = charge(maker, value, maker_bp)
        taker_fee = charge(taker, value, taker_bp)
        move(instrument, taker.position, maker.position, side * lots, side * value)
        release_reserve(instrument, maker, lots)
        out.append(
            events.Traded(
                trade,
                instrument.symbol,
                price,
                lots,
                maker.id,
                taker.id,
                maker.account.id,
                taker.account.id,
                side,
                maker_fee,
                taker_fee,
                state.sequence,
                state.at,
            )
        )
        if maker_fee:
            pay_fee(state, maker.account, maker_fee, trade)
        if taker_fee:
            pay_fee(state, taker.account, taker_fee, trade)
        note_maker(state, maker)
        buyer, seller = (taker, maker) if side > 0 else (maker, taker)
        instrument.trades.append((state.at, lots, price, buyer.group, seller.group))
        instrument.volume += lots
        instrument.dirty.add(-side * price)
        trade += 1
    state.next_trade = trade
    instrument.set_last(price)
    state.touched_instruments.add(instrument)


def move(
    instrument: Instrument, taker: Position, maker: Position, lots: int, value_ticks: int
) -> None:
    """Move signed lots and their cost from the maker's position to the taker's."""
    before = taker.net
    taker.net = after = before + lots
    taker.cost += value_ticks
    interest = (after if after > 0 else 0) - (before if before > 0 else 0)
    before = maker.net
    maker.net = after = before - lots
    maker.cost -= value_ticks
    interest += (after if after > 0 else 0) - (before if before > 0 else 0)
    instrument.open_interest += interest
    taker.account.traded += 1
    maker.account.traded += 1


def note_maker(state: State, maker: Order) -> None:
    """Remember that a maker has changed, and close it when it is filled."""
    maker.updated_at = state.at
    maker.sequence = state.sequence
    state.touched_orders[maker.id] = maker
    state.touched_positions.add(maker.position)
    if not maker.remaining:
        maker.position.order_count -= 1
        withdrawals.end(state, maker, _FILLED, "")


def charge(order: Order, value_ticks: int, basis_points_60: int) -> int:
    """Add a fill to an order's fee and return by how much the rounded fee has grown."""
    order.value_ticks += value_ticks
    points = order.fee_points + value_ticks * basis_points_60
    order.fee_points = points
    total = -(-points // 10_000)
    grown = total - order.fee
    order.fee = total
    return grown


def release_reserve(instrument: Instrument, maker: Order, lots: int) -> None:
    """Take filled lots of a maker out of its position's sums."""
    reserve = _fee_reserve(instrument, maker)
    position = maker.position
    position.add_resting(maker, -lots, reserve - maker.fee_reserve)
    maker.fee_reserve = reserve
    position.refresh()


def _fee_reserve(instrument: Instrument, order: Order) -> int:
    """Return what an order at rest can still be charged."""
    remaining = order.left
    if not remaining:
        return 0
    points = order.fee_points + 60 * order.price * remaining * instrument.fee_bp_max
    return -(-points // 10_000) - order.fee


def pay_fee(state: State, account: Account, fee: int, trade: int) -> None:
    """Move a fee to the exchange; an account that a mark or a damage has emptied is lent it."""
    if account.cash < fee:
        state.lend_up_to(account, fee, f"trade:{trade}")
    account.cash -= fee
    state.exchange[_FEES] += fee
    state.events.append(
        events.Transferred(account.id, _CASH, EXCHANGE, _FEES, fee, _TRADING_FEE, f"trade:{trade}")
    )


def _finish(state: State, instrument: Instrument, order: Order, stopped: bool) -> None:
    """Rest what is left of an order, or close it."""
    position = order.position
    state.touched_positions.add(position)
    if stopped:
        withdrawals.end(state, order, OrderStatus.CANCELED, Close.SELF_TRADE, live=False)
    elif not order.remaining:
        withdrawals.end(state, order, _FILLED, "", live=False)
    elif order.request.time_in_force == IOC:
        withdrawals.end(state, order, OrderStatus.CANCELED, Close.IOC_REMAINDER, live=False)
    else:
        instrument.book.rest(order)
        instrument.dirty.add(order.side * order.price)
        order.account.orders[order.request.client_order_id] = order
        position.order_count += 1
        order.fee_reserve = _fee_reserve(instrument, order)
        position.add_resting(order, order.left, order.fee_reserve)
    position.refresh()


def cancel(state: State, command: commands.CancelOrder) -> None:
    """Withdraw one order of an account."""
    order = state.orders.get(command.order)
    if order is None or order.account.id != command.account:
        state.events.append(
            events.CancelRefused(command.account, command.order, UNKNOWN_ORDER, state.sequence)
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
        if state.is_frozen(instrument):
            continue
        withdrawals.withdraw(state, order, reason)
