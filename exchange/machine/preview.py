"""What an order or a strip would do: the very code that places it, on a copy of what it can reach.

The copy holds the instrument, or every hour of every grade that a strip may trade, with the levels
that the order could meet and the next one behind them, whatever the asking group has live there,
and the accounts these orders belong to. So the answer is what placing would give, to the
micro-dollar, at a price that grows with what the order meets and not with the market. Stop orders
that its trades would trigger come after it and are left out. Nothing of the state itself is
touched.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from exchange import commands, events
from exchange.book import Book, Ladder, Order, Stops
from exchange.machine import coverage, orders, strips, views
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import OrderStatus
from marketplace.contract import HOUR


class Wanted(NamedTuple):
    """What could be traded of an instrument: up to `lots`, at a price no worse, 0 for any."""

    instrument: Instrument
    side: int
    price: int
    lots: int


def preview(state: State, command: commands.PlaceOrder) -> events.Previewed:
    """Return what placing an order now would do; its client order id is not looked at."""
    command = msgspec.structs.replace(command, client_order_id="")
    known = state.instruments.get(command.instrument)
    wanted = [Wanted(known, command.side, command.price, command.lots)] if known else []
    trial = _copy(state, command.account, wanted)
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


def preview_strip(state: State, command: commands.PlaceStrip) -> events.StripPreviewed:
    """Return what placing a strip now would do; its client order id is not looked at."""
    command = msgspec.structs.replace(command, client_order_id="")
    trial = _copy(state, command.account, list(_hours(state, command)))
    number = trial.next_order
    account = trial.accounts.get(command.account)
    required = account.required if account is not None else 0
    before = {each.symbol: _best(each, command.side) for each in trial.instruments.values()}
    strips.place(trial, command)
    coverage.settle(trial)
    first = trial.events[0]
    if isinstance(first, events.StripRejected):
        return events.StripPreviewed(
            reason=first.reason,
            status=str(OrderStatus.REJECTED),
            grade=command.grade,
            lots=0,
            hours=(),
            fee=0,
            margin=0,
            available_after=account.available if account is not None else 0,
        )
    assert isinstance(first, events.StripPlaced), "a strip is placed or rejected"
    assert account is not None, "an unknown account was refused"
    closed, trades = _ended(trial.events, number)
    return events.StripPreviewed(
        reason=closed.reason,
        status=closed.status,
        grade=first.grade,
        lots=first.lots,
        hours=tuple(
            events.StripHour(
                instrument=symbol,
                fills=tuple(_fills(own, number)),
                best_before=before[symbol],
                best_after=_best(trial.instruments[symbol], command.side),
            )
            for symbol, own in trades.items()
        ),
        fee=sum(trade.taker_fee for own in trades.values() for trade in own),
        margin=account.required - required,
        available_after=account.available,
    )


def _hours(state: State, command: commands.PlaceStrip) -> Iterator[Wanted]:
    """Yield the listed hours of every grade that a strip may trade."""
    if strips.is_valid(command):
        for grade in (command.grade, *command.alternatives):
            for starts_at in range(command.from_at, command.to_at, HOUR):
                instrument = state.hour(grade, starts_at)
                if instrument is not None:
                    yield Wanted(instrument, command.side, 0, command.lots)


def _ended(
    happened: Iterable[events.Event], number: int
) -> tuple[events.OrderClosed, dict[str, list[events.Traded]]]:
    """Return how a strip ended, and its trades by hour."""
    trades: dict[str, list[events.Traded]] = {}
    ended = None
    for event in happened:
        if isinstance(event, events.Traded) and event.taker_order == number:
            trades.setdefault(event.instrument, []).append(event)
        elif isinstance(event, events.OrderClosed) and event.order == number:
            ended = event
    assert ended is not None, "a strip never rests"
    return ended, trades


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


def _copy(state: State, asking: int, wanted: Sequence[Wanted]) -> State:
    """Return a state with copies of everything that an order can change or ask for."""
    trial = State()
    trial.sequence, trial.at, trial.halted = state.sequence, state.at, state.halted
    trial.prepaid_until, trial.by_window = state.prepaid_until, dict(state.by_window)
    trial.curves = state.curves
    trial.next_order, trial.next_trade = state.next_order, state.next_trade
    trial.grades, trial.clusters = state.grades, state.clusters
    trial.exchange = dict(state.exchange)
    account = state.accounts.get(asking)
    if account is None:
        return trial
    live = [(each.instrument, _live(each, account)) for each in wanted]
    peers = [peer for peer in account.peers if peer is not account]
    owners = (order.account for _, found in live for order in found)
    for known in (account, *peers, *owners):
        if known.id not in trial.accounts:
            trial.accounts[known.id] = _copy_account(trial, known)
    own = trial.accounts[account.id]
    own.peers = [trial.accounts[peer.id] for peer in account.peers]
    for instrument, found in live:
        _copy_instrument(trial, instrument, found)
    # What stands elsewhere counts, but cannot change.
    own.orders = account.orders | own.orders
    return trial


def _live(wanted: Wanted, account: Account) -> list[Order]:
    """Return the live orders that an order could come upon, in their books' order."""
    instrument, side = wanted.instrument, wanted.side
    own = [
        order
        for peer in account.peers
        for order in peer.orders.values()
        if order.position.instrument is instrument
    ]
    other = instrument.book.ladder(-side)
    lots = wanted.lots if instrument.is_open else 0
    found = list(_reached(other, -side * wanted.price, lots, account.group))
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
    terms = copied.contract
    window = terms.grade, terms.product, terms.starts_at
    if trial.by_window.get(window) is instrument:
        trial.by_window[window] = copied
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
