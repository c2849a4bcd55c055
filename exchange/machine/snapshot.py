"""The state as canonical bytes, and back.

Everything is written in the order of an id and nothing that can be derived is written, so equal
states give equal bytes however they came about; a restored machine continues exactly as the one
that was written. The few mappings inside are filled in ascending order of key. Resting orders
follow their book's order, which carries time priority. What the engine drains after a batch
(events, touched rows) is not state.

`FORMAT` changes with the shape of these bytes, `rules` with what the machine does with them.
"""

import msgspec

from exchange import commands
from exchange.book import Order
from exchange.machine import coverage, listing, marks, pledges, sessions, transfers, withdrawals
from exchange.machine.entries import Entry
from exchange.machine.promises import Package, Purchase
from exchange.machine.records import (
    AccountNews,
    Auction,
    Backing,
    Call,
    Cluster,
    Grade,
    Hold,
    Hour,
    InstrumentNews,
    Month,
    Payout,
    Transfer,
)
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import OrderStatus
from marketplace import contract
from marketplace.contract import InstrumentState

FORMAT = 10


class _Account(msgspec.Struct, array_like=True):
    id: int
    group: int
    cash: int
    escrow: int
    usage_hold: int
    debt: int
    killed: bool
    news: AccountNews
    entered: int
    traded: int
    switches: list[tuple[str, int]]
    fund: int
    in_default: bool
    call_due: int
    owed: list[tuple[int, int]]
    peaks: list[tuple[int, int]]
    locked: list[tuple[int, int]]
    reduced_to: list[tuple[str, int]]
    idle_rounds: int
    months: list[tuple[str, int, Month]]


class _Order(msgspec.Struct, array_like=True):
    id: int
    account: int
    side: int
    price: int
    lots: int
    remaining: int
    hidden: int
    stop_price: int
    request: commands.PlaceOrder
    sequence: int
    created_at: int
    updated_at: int
    value_ticks: int
    fee_points: int
    fee: int
    fee_reserve: int


class _Instrument(msgspec.Struct, array_like=True):
    id: int
    symbol: str
    maker_fee_bp: int
    taker_fee_bp: int
    band_percent: int
    phase: str
    halted: bool
    reference: int
    mark: int
    band_low: int
    band_high: int
    last: int
    volume: int
    book_sequence: int
    mid: tuple[int, int, int, int]
    news: InstrumentNews
    call: tuple[str, int, int] | None
    """(kind, frozen at, ends at) of the call that runs"""
    awaits_opening: bool
    auction: tuple[int, int, int]
    opening_price: int
    band_moved_at: int
    dynamic_percent: int
    trades: list[tuple[int, int, int, int, int]]
    parent_mark: int
    pay_ticks: int
    paid_hours: str
    """A bit set, in hexadecimal digits: a month has more hours than an integer bits."""
    positions: list[tuple[int, int, int, int]]
    """(account, net lots, cost, ticks received)"""
    orders: list[_Order]
    waiting: list[_Order]
    """Orders whose stop price was not reached yet."""


class _State(msgspec.Struct, array_like=True):
    format: int
    rules: int
    sequence: int
    at: int
    halted: bool
    prepaid_until: int
    layer_max: int
    next_order: int
    next_trade: int
    counters: list[tuple[str, int]]
    exchange: list[tuple[int, int]]
    calendar: list[tuple[int, int, int]]
    accounts: list[_Account]
    grades: list[Grade]
    clusters: list[Cluster]
    instruments: list[_Instrument]
    hours: list[Hour]
    holds: list[tuple[int, str, int, Hold]]
    payouts: list[tuple[str, Payout]]
    purchases: list[Purchase]
    packages: list[Package]
    transfers: list[Transfer]
    backings: list[Backing]
    anchored: tuple[int, str]


def dump(state: State) -> bytes:
    """Return the canonical bytes of a state."""
    return _encoder.encode(
        _State(
            FORMAT,
            state.rules,
            state.sequence,
            state.at,
            state.halted,
            state.prepaid_until,
            state.layer_max,
            state.next_order,
            state.next_trade,
            sorted(state.counters.items()),
            sorted((int(kind), amount) for kind, amount in state.exchange.items()),
            sorted(state.useful_entries()),
            [_dump_account(state.accounts[number]) for number in sorted(state.accounts)],
            [state.grades[code] for code in sorted(state.grades)],
            [state.clusters[number] for number in sorted(state.clusters)],
            [_dump_instrument(state.by_id[number]) for number in sorted(state.by_id)],
            [state.hours[key] for key in sorted(state.hours)],
            [(*key, state.holds[key]) for key in sorted(state.holds)],
            sorted(state.payouts.items()),
            [state.purchases[number] for number in sorted(state.purchases)],
            [state.packages[number] for number in sorted(state.packages)],
            [state.transfers[number] for number in sorted(state.transfers)],
            [state.backings[number] for number in sorted(state.backings)],
            state.anchored,
        )
    )


def _dump_account(account: Account) -> _Account:
    return _Account(
        account.id,
        account.group,
        account.cash,
        account.escrow,
        account.usage_hold,
        account.debt,
        account.killed,
        account.news,
        account.entered,
        account.traded,
        sorted(account.switches.items()),
        account.fund,
        account.in_default,
        account.call_due,
        sorted(account.owed.items()),
        sorted(account.peaks.items()),
        sorted(account.locked.items()),
        sorted(account.reduced_to.items()),
        account.idle_rounds,
        [(*key, account.months[key]) for key in sorted(account.months)],
    )


def _dump_instrument(instrument: Instrument) -> _Instrument:
    call = instrument.call
    return _Instrument(
        instrument.id,
        instrument.symbol,
        instrument.maker_fee_bp,
        instrument.taker_fee_bp,
        instrument.band_percent,
        str(instrument.phase),
        instrument.halted,
        instrument.reference,
        instrument.mark,
        instrument.band_low,
        instrument.band_high,
        instrument.last,
        instrument.volume,
        instrument.book_sequence,
        (
            instrument.mid_since,
            instrument.mid_value,
            instrument.mid_area,
            instrument.mid_time,
        ),
        instrument.news,
        (str(call.kind), call.frozen_at, call.ends_at) if call is not None else None,
        instrument.awaits_opening,
        instrument.auction,
        instrument.opening_price,
        instrument.band_moved_at,
        instrument.dynamic_percent,
        instrument.trades,
        instrument.parent_mark,
        instrument.pay_ticks,
        f"{instrument.paid_hours:x}",
        [
            (number, position.net, position.cost, position.received)
            for number, position in sorted(instrument.positions.items())
        ],
        [_dump_order(order) for order in instrument.book],
        [_dump_order(order) for order in instrument.stops],
    )


def _dump_order(order: Order) -> _Order:
    return _Order(
        order.id,
        order.account.id,
        order.side,
        order.price,
        order.lots,
        order.remaining,
        order.hidden,
        order.stop_price,
        order.request,
        order.sequence,
        order.created_at,
        order.updated_at,
        order.value_ticks,
        order.fee_points,
        order.fee,
        order.fee_reserve,
    )


def load(data: bytes) -> State:
    """Return the state of canonical bytes.

    :raises ValueError: when they are not of this format.
    """
    written = _decoder.decode(data)
    if written.format != FORMAT:
        raise ValueError(f"snapshot format {written.format} is not {FORMAT}")
    state = State()
    state.rules = written.rules
    state.sequence = written.sequence
    state.at = written.at
    state.halted = written.halted
    state.prepaid_until = written.prepaid_until
    state.layer_max = written.layer_max
    state.anchored = written.anchored
    state.next_order = written.next_order
    state.next_trade = written.next_trade
    state.counters.update(written.counters)
    state.exchange.update(written.exchange)
    state.calendar = written.calendar
    for row in written.accounts:
        account = state.open_account(row.id, row.group)
        account.cash = row.cash
        account.escrow = row.escrow
        account.usage_hold = row.usage_hold
        account.debt = row.debt
        account.killed = row.killed
        account.news = row.news
        account.entered = row.entered
        account.traded = row.traded
        account.switches.update(row.switches)
        account.fund = row.fund
        account.in_default = row.in_default
        account.call_due = row.call_due
        account.owed.update(row.owed)
        account.peaks.update(row.peaks)
        account.locked.update(row.locked)
        account.reduced_to.update(row.reduced_to)
        account.idle_rounds = row.idle_rounds
        account.months = {(grade, since): month for grade, since, month in row.months}
    for due_at, kind, number in state.calendar:
        if kind == Entry.SWITCH:
            state.accounts[number].switch_due = due_at
    state.grades = {grade.code: grade for grade in written.grades}
    for cluster in written.clusters:
        state.clusters[cluster.id] = state.accounts[cluster.account].clusters[cluster.id] = cluster
    for backing in written.backings:
        transfers.stand(state, backing)
    for terms in written.instruments:
        _load_instrument(state, terms)
    for instrument in state.by_id.values():
        instrument.parents = listing.parents_of(state, instrument.contract)
    for due_at, kind, number in state.calendar:
        if kind == Entry.MARK_ONE and number in state.by_id:
            state.by_id[number].look_due = due_at
    for package in written.packages:
        pledges.take_up(state, package)
    for account in state.accounts.values():
        coverage.settle_account(state, account)
    _load_deliveries(state, written)
    _load_purchases(state, written)
    return state


def _load_deliveries(state: State, written: _State) -> None:
    """Take up the hours that are delivered, and cash that is held."""
    for hour in written.hours:
        state.hours[hour.grade, hour.starts_at] = hour
        for obligation in hour.obligations.values():
            account = state.accounts[obligation.account]
            account.delivery_margin += obligation.margin
            account.required += obligation.margin
    state.holds = {(owner, grade, at): hold for owner, grade, at, hold in written.holds}
    state.payouts = dict(written.payouts)
    for payout in state.payouts.values():
        state.accounts[payout.account].held += payout.amount


def _load_purchases(state: State, written: _State) -> None:
    """Take up pools and shorts on offer, with what is reserved for them."""
    for purchase in written.purchases:
        state.purchases[purchase.id] = purchase
        for commitment in purchase.commitments.values():
            account = state.accounts[commitment.account]
            account.committed += commitment.reserve
            account.required += commitment.reserve
    for transfer in written.transfers:
        state.transfers[transfer.id] = transfer
        for bid in transfer.bids.values():
            account = state.accounts[bid.account]
            account.committed += bid.reserve
            account.required += bid.reserve


def _load_instrument(state: State, row: _Instrument) -> None:
    """Rebuild an instrument with its positions and its book."""
    terms = contract.parse_symbol(row.symbol)
    assert terms is not None, "a listed symbol is a contract"
    instrument = Instrument(row.id, terms, state.grades[terms.grade], state.orders)
    state.instruments[row.symbol] = instrument
    state.by_id[row.id] = instrument
    if terms.is_energy:
        state.by_window[terms.grade, terms.product, terms.starts_at] = instrument
    instrument.set_fees(row.maker_fee_bp, row.taker_fee_bp)
    instrument.band_percent = row.band_percent
    instrument.phase = InstrumentState(row.phase)
    instrument.halted = row.halted
    instrument.is_open = state.state_of(instrument) is InstrumentState.CONTINUOUS
    instrument.reference = row.reference
    instrument.mark = row.mark
    instrument.pay_ticks = row.pay_ticks
    instrument.paid_hours = int(row.paid_hours, 16)
    marks.set_rates(instrument, marks.rates_of(state, instrument))
    instrument.band_low = row.band_low
    instrument.band_high = row.band_high
    instrument.dynamic_percent = row.dynamic_percent
    if row.last:
        instrument.set_last(row.last)
    if row.call is not None:
        kind, frozen_at, ends_at = row.call
        instrument.call = Call(contract.CallKind(kind), frozen_at, ends_at)
    instrument.awaits_opening = row.awaits_opening
    instrument.auction = Auction(*row.auction)
    instrument.opening_price = row.opening_price
    instrument.band_moved_at = row.band_moved_at
    instrument.volume = row.volume
    instrument.book_sequence = row.book_sequence
    instrument.news = row.news
    (
        instrument.mid_since,
        instrument.mid_value,
        instrument.mid_area,
        instrument.mid_time,
    ) = row.mid
    instrument.trades = row.trades
    instrument.parent_mark = row.parent_mark
    for number, net, cost, received in row.positions:
        position = state.position(state.accounts[number], instrument)
        position.net = net
        position.cost = cost
        position.received = received
        instrument.open_interest += max(0, net)
    for written in row.orders:
        order = _load_order(state, instrument, written)
        instrument.book.rest(order)
        withdrawals.enlist(order, written.fee_reserve)
    for written in row.waiting:
        order = _load_order(state, instrument, written)
        order.status = OrderStatus.UNTRIGGERED
        instrument.stops.add(order)
        state.orders[order.id] = order
        withdrawals.enlist(order, written.fee_reserve)
    for position in instrument.positions.values():
        position.refresh()
    sessions.watch_band(instrument)


def _load_order(state: State, instrument: Instrument, row: _Order) -> Order:
    """Make an order what it was."""
    account = state.accounts[row.account]
    order = Order(row.id, row.side, row.price, row.lots, account.group, row.remaining)
    order.account = account
    position: Position = instrument.positions[row.account]
    order.position = position
    order.hidden = row.hidden
    order.stop_price = row.stop_price
    order.request = row.request
    order.sequence = row.sequence
    order.created_at = row.created_at
    order.updated_at = row.updated_at
    order.value_ticks = row.value_ticks
    order.fee_points = row.fee_points
    order.fee = row.fee
    return order


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_State] = msgspec.msgpack.Decoder(_State)
