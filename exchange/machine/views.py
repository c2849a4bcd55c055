"""What the machine shows of itself: frozen rows, safe to keep after the state has moved on.

The engine writes its projections from these. Amounts are micro-USD, prices ticks, quantities lots,
instants microseconds since the epoch.
"""

import msgspec

from exchange import auction, commands, events
from exchange.book import Order
from exchange.machine import coverage, news, proceeds, sessions
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import OrderStatus
from settlement import margin


class AccountView(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Cash of an account and what is asked of it.

    `available` is cash less everything reserved; it can be negative after a mark moved against the
    account, and is what new orders are paid from. `initial_margin` is what positions, open
    deliveries and shorts that nothing covers need, `order_margin` what resting orders need beyond.
    """

    account: int
    group: int
    cash: int
    available: int
    order_margin: int
    initial_margin: int
    maintenance_margin: int
    withdrawable: int
    escrow: int
    usage_hold: int
    debt: int
    killed: bool
    orders_sequence: int
    fills_sequence: int
    account_sequence: int
    fund: int = 0
    """Its share of the default fund."""
    margin_call_due: int = 0
    """When the margin call that runs is enforced; 0 while none does."""
    locked: int = 0
    """Proceeds that cannot be withdrawn before their day is final."""
    in_default: bool = False
    owed: tuple[tuple[int, int], ...] = ()
    """(account, micro-USD) of the debt that members have paid; the exchange has paid the rest."""
    uncovered: tuple[coverage.Line, ...] = ()
    """What of the initial margin is for shorts that nothing covers, line by line."""


class PositionView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Net lots and their signed cost (sum of lots x price over all fills) in one instrument.

    `received_ticks` is what marks have paid of the difference to the cost already.
    """

    account: int
    symbol: str
    net_lots: int
    cost_ticks: int
    received_ticks: int
    resting_buy_lots: int
    resting_sell_lots: int
    initial_margin: int
    order_margin: int


class OrderView(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """An order as it is, or as it ended; `value_ticks` sums lots x price over its fills.

    Price, lots and stop price are as amended; everything else of its terms is the request's.
    `remaining` counts what an iceberg does not show, which `hidden` is.
    """

    order: int
    account: int
    symbol: str
    side: int
    price: int
    lots: int
    remaining: int
    hidden: int
    filled: int
    value_ticks: int
    fee: int
    stop_price: int
    request: commands.PlaceOrder
    status: str
    reason: str
    sequence: int
    created_at: int
    updated_at: int


class InstrumentView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instrument as it is, or as it ended; `last` and the bests are 0 where there is none."""

    id: int
    symbol: str
    grade: str
    starts_at: int
    ends_at: int
    trading_ends_at: int
    state: str
    reference_price: int
    band_low: int
    band_high: int
    mark: int
    last: int
    best_bid: int
    best_ask: int
    volume: int
    open_interest: int
    book_sequence: int
    trades_sequence: int
    ticker_sequence: int
    auction_sequence: int
    pay_price: int
    """What shortage cover pays; 0 of all others."""


class AuctionView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call as it runs and what it would give now, and the last auction that found a price.

    Outside a call `kind` is empty and everything before `last_price` is 0. `surplus` is what would
    be left over at the indicative price, on the side `surplus_side` (1 buys, -1 sells, 0 neither).
    """

    symbol: str
    state: str
    kind: str
    frozen_at: int
    ends_at: int
    indicative_price: int
    indicative_lots: int
    surplus: int
    surplus_side: int
    last_price: int
    last_lots: int
    last_at: int


class Touched(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything that changed since the last drain, each once, in order of id.

    `auctions` has the books whose call began, ended, or would now end differently.
    """

    accounts: tuple[AccountView, ...]
    positions: tuple[PositionView, ...]
    orders: tuple[OrderView, ...]
    instruments: tuple[InstrumentView, ...]
    auctions: tuple[AuctionView, ...] = ()


def of_account(state: State, account: Account) -> AccountView:
    """Return an account as it is."""
    initial = account.delivery_margin + sum(account.uncovered.values())
    initial += sum(position.initial_margin for position in account.positions.values())
    available = account.available
    return AccountView(
        account=account.id,
        group=account.group,
        cash=account.cash,
        available=available,
        order_margin=account.required - initial,
        initial_margin=initial,
        maintenance_margin=margin.maintenance(initial),
        withdrawable=proceeds.withdrawable(account),
        escrow=account.escrow,
        usage_hold=account.usage_hold,
        debt=account.debt,
        killed=account.killed,
        orders_sequence=account.news.orders,
        fills_sequence=account.news.fills,
        account_sequence=account.news.account,
        fund=account.fund,
        margin_call_due=account.call_due,
        locked=sum(account.locked.values()),
        in_default=account.in_default,
        owed=tuple(sorted(account.owed.items())),
        uncovered=coverage.statement(state, account) if account.uncovered else (),
    )


def of_position(position: Position) -> PositionView:
    """Return a position as it is."""
    initial = position.initial_margin
    return PositionView(
        account=position.account.id,
        symbol=position.instrument.symbol,
        net_lots=position.net,
        cost_ticks=position.cost - position.received,
        received_ticks=position.received,
        resting_buy_lots=position.buy_lots,
        resting_sell_lots=position.sell_lots,
        initial_margin=initial,
        order_margin=position.required - initial,
    )


def flat_position(account: int, symbol: str) -> PositionView:
    """Return what stands where there never was a position."""
    return PositionView(
        account=account,
        symbol=symbol,
        net_lots=0,
        cost_ticks=0,
        received_ticks=0,
        resting_buy_lots=0,
        resting_sell_lots=0,
        initial_margin=0,
        order_margin=0,
    )


def of_order(order: Order) -> OrderView:
    """Return an order as it is."""
    status = order.status
    if status == OrderStatus.OPEN and order.left < order.lots:
        status = OrderStatus.PARTIALLY_FILLED
    return OrderView(
        order=order.id,
        account=order.account.id,
        symbol=order.position.instrument.symbol,
        side=order.side,
        price=order.price,
        lots=order.lots,
        remaining=order.left,
        hidden=order.hidden,
        filled=order.lots - order.left,
        value_ticks=order.value_ticks,
        fee=order.fee,
        stop_price=order.stop_price,
        request=order.request,
        status=str(status),
        reason=order.reason,
        sequence=order.sequence,
        created_at=order.created_at,
        updated_at=order.updated_at,
    )


def of_instrument(state: State, instrument: Instrument) -> InstrumentView:
    """Return an instrument as it is."""
    bid, ask = instrument.book.best()
    return InstrumentView(
        id=instrument.id,
        symbol=instrument.symbol,
        grade=instrument.grade.code,
        starts_at=instrument.contract.starts_at,
        ends_at=instrument.contract.ends_at,
        trading_ends_at=instrument.contract.trading_ends_at,
        state=str(state.state_of(instrument)),
        reference_price=instrument.reference,
        band_low=instrument.band_low,
        band_high=instrument.band_high,
        mark=instrument.mark,
        last=instrument.last,
        best_bid=bid,
        best_ask=ask,
        volume=instrument.volume,
        open_interest=instrument.open_interest,
        book_sequence=instrument.book_sequence,
        trades_sequence=instrument.news.trades,
        ticker_sequence=instrument.news.ticker,
        auction_sequence=instrument.news.auction,
        pay_price=instrument.pay_ticks,
    )


def of_auction(state: State, instrument: Instrument) -> AuctionView:
    """Return the call of an instrument and what its orders would give now."""
    call = instrument.call
    found = sessions.indicate(instrument) if call is not None else auction.NOTHING
    last = instrument.auction
    return AuctionView(
        symbol=instrument.symbol,
        state=str(state.state_of(instrument)),
        kind=str(call.kind) if call is not None else "",
        frozen_at=call.frozen_at if call is not None else 0,
        ends_at=call.ends_at if call is not None else 0,
        indicative_price=found.price,
        indicative_lots=found.lots,
        surplus=abs(found.surplus),
        surplus_side=(found.surplus > 0) - (found.surplus < 0),
        last_price=last.price,
        last_lots=last.lots,
        last_at=last.at,
    )


def drain(state: State, facts: events.Facts) -> Touched:
    """Number the messages of a batch, return what changed in it, and forget that it did."""
    accounts = news.number(state, facts)
    positions = sorted(state.touched_positions, key=lambda p: (p.account.id, p.instrument.id))
    orders = state.touched_orders
    instruments = sorted(state.touched_instruments, key=lambda instrument: instrument.id)
    auctions = sorted(state.touched_auctions, key=lambda instrument: instrument.id)
    touched = Touched(
        accounts=tuple(of_account(state, account) for account in accounts),
        positions=tuple(of_position(position) for position in positions),
        orders=tuple(of_order(orders[number]) for number in sorted(orders)),
        instruments=tuple(of_instrument(state, instrument) for instrument in instruments),
        auctions=tuple(of_auction(state, instrument) for instrument in auctions),
    )
    state.forget_touched()
    return touched
