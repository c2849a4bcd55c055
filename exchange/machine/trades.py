"""Booking what was matched: positions, fees, the tape, and what the makers still reserve.

Fees are rounded up once per order: each fill is charged what the order's fee has grown by (RULEBOOK
3.9), through amendments and triggers too, and what can still be charged is reserved. An order that
still waits for its stop price will trade as a taker at a better price than its own, so a sale
reserves the fee of the highest price there can be.
"""

from exchange import events, matching
from exchange.book import Order
from exchange.machine import marks, premiums, waterfall, withdrawals
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import Close, OrderStatus
from settlement.ledger import EXCHANGE, Code, Kind

_CASH = int(Kind.CASH)
_FEES = int(Kind.FEES)
_TRADING_FEE = int(Code.TRADING_FEE)
_FILLED = str(OrderStatus.FILLED)
_UNTRIGGERED = OrderStatus.UNTRIGGERED


def book(state: State, instrument: Instrument, taker: Order, fills: matching.Fills) -> None:
    """Book everything that an arriving order did on its way, in the order it happened.

    The taker's own reserve is brought up to date by whoever rests or closes it, once.
    """
    side = taker.side
    maker_bp = instrument.unit * instrument.maker_fee_bp
    taker_bp = instrument.unit * instrument.taker_fee_bp
    out = state.events
    trade = first = state.next_trade
    price = 0
    icebergs: dict[int, Order] = {}
    for maker, lots in fills:
        if lots <= 0:
            give_way(state, instrument, maker, lots)
            continue
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
        cause = f"trade:{trade}"
        if maker_fee:
            pay_fee(state, maker.account, maker_fee, cause)
        if taker_fee:
            pay_fee(state, taker.account, taker_fee, cause)
        if maker.request.terms is None:
            note_maker(state, maker)
        else:
            icebergs[maker.id] = maker
        buyer, seller = (taker, maker) if side > 0 else (maker, taker)
        instrument.trades.append((state.at, lots, price, buyer.group, seller.group))
        instrument.volume += lots
        instrument.dirty.add(-side * price)
        trade += 1
    for maker in icebergs.values():
        note_maker(state, maker)
    if trade > first:
        state.next_trade = trade
        if instrument.is_option:
            premiums.pay(state, instrument, first)
        if price != instrument.last:
            instrument.set_last(price)
        if not instrument.watch_low <= price <= instrument.watch_high:
            marks.watch(state, instrument)
        state.touched_instruments.add(instrument)


def give_way(state: State, instrument: Instrument, maker: Order, lots: int) -> None:
    """Book what one of the arriving order's group has lost without a trade.

    With zero lots it has left its book and is closed; else it rests on with so many fewer.
    """
    instrument.dirty.add(maker.side * maker.price)
    if not lots:
        withdrawals.withdraw(state, maker, Close.SELF_TRADE)
        return
    resize(state, instrument, maker, lots)


def resize(state: State, instrument: Instrument, order: Order, lots: int) -> None:
    """Count lots that an order at rest has lost without a trade (below zero), and say so."""
    position = order.position
    reserve = fee_reserve(instrument, order)
    position.add_resting(order, lots, reserve - order.fee_reserve)
    order.fee_reserve = reserve
    position.refresh()
    state.touched_positions.add(position)
    announce_terms(state, order)


def announce_terms(state: State, order: Order) -> None:
    """Say what the terms of a live order are from here on."""
    order.updated_at = state.at
    order.sequence = state.sequence
    state.touched_orders[order.id] = order
    state.events.append(terms_of(state, order))


def terms_of(state: State, order: Order) -> events.OrderAmended:
    """Return what the terms of a live order are now."""
    return events.OrderAmended(
        order.id,
        order.account.id,
        order.price if order.request.price else 0,
        order.lots,
        order.left,
        order.stop_price,
        state.sequence,
        state.at,
    )


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
    state.touched_positions.add(maker.position)
    if not maker.remaining:
        withdrawals.unlist(maker)
        withdrawals.end(state, maker, _FILLED, "")
        return
    maker.updated_at = state.at
    maker.sequence = state.sequence
    state.touched_orders[maker.id] = maker


def charge(order: Order, value_ticks: int, basis_points: int) -> int:
    """Add a fill to an order's fee and return by how much the rounded fee has grown.

    `basis_points` are those of a tick and lot in micro-USD.
    """
    order.value_ticks += value_ticks
    points = order.fee_points + value_ticks * basis_points
    order.fee_points = points
    total = -(-points // 10_000)
    grown = total - order.fee
    order.fee = total
    return grown


def release_reserve(instrument: Instrument, maker: Order, lots: int) -> None:
    """Take filled lots of a maker out of its position's sums."""
    reserve = fee_reserve(instrument, maker) if maker.remaining else 0
    position = maker.position
    position.add_resting(maker, -lots, reserve - maker.fee_reserve)
    maker.fee_reserve = reserve
    position.refresh()


def fee_reserve(instrument: Instrument, order: Order) -> int:
    """Return what a live order can still be charged."""
    left = order.remaining + order.hidden
    if not left:
        return 0
    price = order.price
    if order.side < 0 and order.status is _UNTRIGGERED:
        price = instrument.band_high
    points = order.fee_points + instrument.unit * price * left * instrument.fee_bp_max
    return -(-points // 10_000) - order.fee


def pay_fee(state: State, account: Account, fee: int, cause: str) -> None:
    """Move a fee to the exchange; an account that a mark or a damage has emptied is lent it."""
    if account.cash < fee:
        waterfall.lend(state, account, fee - account.cash, cause)
    account.cash -= fee
    state.exchange[_FEES] += fee
    state.events.append(
        events.Transferred(account.id, _CASH, EXCHANGE, _FEES, fee, _TRADING_FEE, cause)
    )
