"""What an order would do: the very code that places it, on a copy of as much as it can reach.

The copy holds the instrument with the levels the order could meet and the next one behind them,
whatever the asking group has live there, and the accounts these orders belong to. So the answer
is what placing would give, to the micro-dollar, at a price that grows with what the order meets and
not with the market. Stop orders that its trades would trigger come after it and are left out.
Nothing of the state itself is touched.
"""

import copy
from collections.abc import Iterable, Iterator

import msgspec

from exchange import commands, events
from exchange.book import Book, Ladder, Order, Stops
from exchange.machine import coverage, orders, views
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import OrderStatus


def preview(state: State, command: commands.PlaceOrder) -> events.Previewed:
    """Return what placing an order now would do; its client order id is not looked at."""
    command = msgspec.structs.replace(command, client_order_id="")
    trial = _copy(state, command)
    number = trial.next_order
    account = trial.accounts.get(command.account)
    instrument = trial.instruments.get(command.instrument)
    best_before = _best(instrument, command.side)
    required = account.required if account is not None else 0
    orders.place(trial, command)
    coverage.settle(trial)
    first = trial.events[0]
    if isinstance(first, events.OrderRejected):
        return events.Previewed(
            reason=first.reason,
            status=str(OrderStatus.REJECTED),
            lots=0,
            fills=(),
            fee=0,
            margin=0,
            available_after=account.available if account is not None else 0,
            best_before=best_before,
            best_after=best_before,
        )
    assert account is not None, "an unknown account was refused"
    view = views.of_order(trial.touched_orders[number])
    return events.Previewed(
        reason=view.reason,
        status=view.status,
        lots=view.filled,
        fills=tuple(_fills(trial.events, number)),
        fee=view.fee,
        margin=account.required - required,
        available_after=account.available,
        best_before=best_before,
        best_after=_best(instrument, command.side),
        capped=_capped(trial, trial.touched_orders[number]),
    )


def _capped(trial: State, order: Order) -> tuple[int, int, int]:
    """Return lots, value and fee that a purchase of a price cap comes to at most."""
    if not order.position.instrument.contract.strike or order.side < 0:
        return 0, 0, 0
    lots, value, fee = order.lots - order.left, order.value_ticks, order.fee
    if order.id in trial.orders:
        lots += order.left
        value += order.left * order.price
        fee += order.fee_reserve
    return lots, value, fee


def _best(instrument: Instrument | None, side: int) -> int:
    """Return the best price that an order of this side could meet."""
    return instrument.book.ladder(-side).best() if instrument is not None else 0


def _fills(happened: Iterable[events.Event], number: int) -> Iterator[tuple[int, int]]:
    """Yield (price, lots) of an order's trades, those of one price put together."""
    lots: dict[int, int] = {}
    for event in happened:
        if isinstance(event, events.Traded) and event.taker_order == number:
            lots[event.price] = lots.get(event.price, 0) + event.lots
    yield from lots.items()


def _copy(state: State, command: commands.PlaceOrder) -> State:
    """Return a state with copies of everything that placing an order can change or ask for."""
    trial = State()
    trial.sequence, trial.at, trial.halted = state.sequence, state.at, state.halted
    trial.prepaid_until, trial.by_window = state.prepaid_until, state.by_window
    trial.curves = state.curves
    trial.next_order, trial.next_trade = state.next_order, state.next_trade
    trial.grades, trial.clusters = state.grades, state.clusters
    trial.exchange = dict(state.exchange)
    account = state.accounts.get(command.account)
    if account is None:
        return trial
    instrument = state.instruments.get(command.instrument)
    live = _live(instrument, command, account) if instrument is not None else []
    peers = [peer for peer in account.peers if peer is not account]
    for known in (account, *peers, *(order.account for order in live)):
        if known.id not in trial.accounts:
            trial.accounts[known.id] = _copy_account(trial, known)
    own = trial.accounts[account.id]
    own.peers = [trial.accounts[peer.id] for peer in account.peers]
    if instrument is not None:
        _copy_instrument(trial, instrument, live)
    # What stands elsewhere counts, but cannot change.
    own.orders = account.orders | own.orders
    return trial


def _live(instrument: Instrument, command: commands.PlaceOrder, account: Account) -> list[Order]:
    """Return the live orders that placing an order could come upon, in their books' order."""
    side = command.side
    own = [
        order
        for peer in account.peers
        for order in peer.orders.values()
        if order.position.instrument is instrument
    ]
    other = instrument.book.ladder(-side)
    wanted = command.lots if instrument.is_open else 0
    found = list(_reached(other, -side * command.price, wanted, account.group))
    known = {order.id for order in found}
    rest = [order for order in sorted(own, key=lambda order: order.id) if order.id not in known]
    return found + rest


def _reached(ladder: Ladder, worst: int, wanted: int, group: int) -> Iterator[Order]:
    """Yield the orders of every level up to a signed key, and of one level more.

    `worst` 0 goes to the end. With `wanted` lots it ends where others than the group have them.
    """
    missing = wanted
    for key in reversed(ladder.keys):
        level = ladder.levels[key]
        yield from level
        if (worst and key < worst) or (wanted and missing <= 0):
            return
        missing -= sum(order.left for order in level if order.group != group)


def _copy_account(trial: State, account: Account) -> Account:
    """Return an account that can change alone; what it holds elsewhere is only looked at."""
    copied = copy.copy(account)
    copied.orders = {}
    copied.positions = dict(account.positions)
    copied.uncovered = dict(account.uncovered)
    copied.stale = trial.stale
    return copied


def _copy_instrument(trial: State, instrument: Instrument, live: Iterable[Order]) -> None:
    """Enter a copy of an instrument, with these of its orders and their accounts' positions."""
    copied = copy.copy(instrument)
    copied.book = Book(trial.orders)
    copied.stops = Stops()
    copied.positions = {}
    copied.trades = []
    copied.dirty = set()
    trial.instruments[copied.symbol] = trial.by_id[copied.id] = copied
    for account in trial.accounts.values():
        position = instrument.positions.get(account.id)
        if position is not None:
            _copy_position(position, account, copied)
    for order in live:
        _copy_order(trial, order, copied)


def _copy_position(position: Position, account: Account, instrument: Instrument) -> None:
    """Enter a copy of a position; its orders follow."""
    copied = copy.copy(position)
    copied.account = account
    copied.instrument = instrument
    copied.reducing = {}
    account.positions[instrument.symbol] = instrument.positions[account.id] = copied


def _copy_order(trial: State, order: Order, instrument: Instrument) -> None:
    """Enter a copy of a live order: into the book, or among those that wait."""
    copied = copy.copy(order)
    copied.account = trial.accounts[order.account.id]
    copied.position = position = instrument.positions[order.account.id]
    copied.account.orders[order.request.client_order_id] = copied
    if order.id in order.position.reducing:
        position.reducing[order.id] = copied
    if order.rests:
        instrument.book.rest(copied)
    else:
        trial.orders[order.id] = copied
