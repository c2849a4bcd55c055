"""Strips: the same lots in every hour of a range, bought or sold at once, or not at all.

A strip never rests. Every hour's book is looked at with the matcher's own eyes, as far as both
bands and the group's own orders allow. The quantity is the same in every hour; the price limits the
average over all lots and hours, and that average only gets worse with the quantity, so the largest
one that keeps it is found by halving. What is found is then traded in every hour within one
command: nothing can come between, so either all hours trade or none does. Stop orders that this
triggers follow when the whole strip is done.

Each grade of the alternatives is taken for itself and in the order given: the first whose hours
trade, which has the lots at the price, and which no rule forbids to this account, is traded and no
other. Rules are asked about what would really be traded, all hours together: the money behind every
position as it would be, with a fee that is rounded up once over the whole strip.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from exchange import commands, events, matching
from exchange.book import Order
from exchange.commands import CANCEL_NEWEST
from exchange.machine import (
    books,
    coverage,
    entering,
    judging,
    limits,
    orders,
    sessions,
    stops,
    terms,
    trades,
    withdrawals,
)
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import Close, OrderStatus, Reject
from marketplace import contract
from marketplace.contract import HOUR
from settlement import margin

HOURS_MAX = 48
ALTERNATIVES_MAX = 8
_YEAR_10000 = 253_402_300_800 * contract.MICROS_PER_SECOND
"""From where on no hour has a symbol."""

Ladder = Sequence[tuple[int, int]]
"""(price, lots) that can be had in an hour, best first."""

_PRECEDENCE = {reason: rank for rank, reason in enumerate(Reject)}


class Leg(NamedTuple):
    """One hour of a strip, and what of it is in reach."""

    instrument: Instrument
    position: Position
    ladder: Ladder


class Plan(NamedTuple):
    """What a strip would trade: `lots` in each leg."""

    grade: str
    legs: list[Leg]
    lots: int


def place(state: State, command: commands.PlaceStrip) -> None:
    """Judge a strip, find what it can trade, and trade it in every hour."""
    account = state.accounts.get(command.account)
    if account is not None and command.client_order_id in account.orders:
        return
    number = state.next_order
    state.next_order = number + 1
    found = _refuse(state, account, command) or _choose(state, command)
    if isinstance(found, Reject):
        state.events.append(
            events.StripRejected(number, command, state.sequence, state.at, str(found))
        )
        return
    assert account is not None, "an unknown account was refused"
    account.entered += 1
    state.events.append(
        events.StripPlaced(number, command, found.grade, found.lots, state.sequence, state.at)
    )
    _trade(state, account, command, number, found)
    status, reason = OrderStatus.CANCELED, str(Close.IOC_REMAINDER)
    if found.lots == command.lots:
        status, reason = OrderStatus.FILLED, ""
    elif not found.lots:
        reason = str(Close.STRIP_UNFILLED)
    state.events.append(
        events.OrderClosed(number, account.id, str(status), reason, state.sequence, state.at)
    )


def is_valid(command: commands.PlaceStrip) -> bool:
    """Whether what a strip asks for means something."""
    grades = (command.grade, *command.alternatives)
    return (
        command.lots >= 1
        and 1 <= command.price <= contract.PRICE_TICKS_MAX
        and command.side in (1, -1)
        and command.from_at % HOUR == command.to_at % HOUR == 0
        and command.from_at >= 0
        and HOUR <= command.to_at - command.from_at <= HOURS_MAX * HOUR
        and command.to_at <= _YEAR_10000
        and 0 <= command.min_share <= 100
        and len(command.alternatives) <= ALTERNATIVES_MAX
        and len(set(grades)) == len(grades)
    )


def _refuse(state: State, account: Account | None, command: commands.PlaceStrip) -> Reject | None:
    """Return the first rule that a strip breaks, whichever grade it takes."""
    if not is_valid(command):
        return Reject.INVALID_ORDER
    if account is None:
        return Reject.UNKNOWN_ACCOUNT
    if account.killed:
        return Reject.KILLED
    if any(grade not in state.grades for grade in (command.grade, *command.alternatives)):
        return Reject.UNKNOWN_INSTRUMENT
    return None


def _choose(state: State, command: commands.PlaceStrip) -> Plan | Reject:
    """Return what the first grade that can trade would trade, or why none can.

    A grade that no rule forbids but has too little makes the strip accepted and unfilled; where all
    are forbidden, the answer is the first one's.
    """
    account = state.accounts[command.account]
    least = max(1, -(-command.lots * command.min_share // 100))
    refused: list[Reject] = []
    unfilled = False
    for grade in (command.grade, *command.alternatives):
        legs = _legs(state, account, command, grade)
        if isinstance(legs, Reject):
            refused.append(legs)
            continue
        ladders = [leg.ladder for leg in legs]
        lots = largest(ladders, command.side, command.price, command.lots, least)
        if not lots:
            unfilled = True
            continue
        reason = _judge(state, account, legs, command.side, lots)
        if reason is None:
            return Plan(grade, legs, lots)
        refused.append(reason)
    return Plan(command.grade, [], 0) if unfilled else refused[0]


def _legs(
    state: State, account: Account, command: commands.PlaceStrip, grade: str
) -> list[Leg] | Reject:
    """Return what is in reach in every hour of a grade, or why it may not be traded."""
    found = []
    refused = []
    for starts_at in range(command.from_at, command.to_at, HOUR):
        instrument = state.hour(grade, starts_at)
        if instrument is None:
            symbol = contract.hour_contract(grade, starts_at).symbol
            refused.append(orders.why_absent(state, symbol))
        elif not instrument.is_open:
            refused.append(sessions.refuse_at_once(state, instrument))
        else:
            position = instrument.positions.get(account.id) or Position(account, instrument)
            price = terms.protection_price(instrument, command.side)
            ladder = entering.look_ahead(
                instrument, command.side, price, command.lots, account.group, CANCEL_NEWEST
            )
            found.append(Leg(instrument, position, ladder))
    if not refused and command.lots > judging.QUANTITY_MAX:
        refused.append(Reject.QUANTITY_LIMIT)
    if not refused and limits.is_out_of_ratio(account):
        refused.append(Reject.ORDER_TO_TRADE_RATIO)
    return min(refused, key=_PRECEDENCE.__getitem__) if refused else found


def largest(ladders: Sequence[Ladder], side: int, price: int, lots: int, least: int) -> int:
    """Return the most lots, from `least` up, that every hour has at an average of `price`; or 0."""
    sums = [_Sums(ladder) for ladder in ladders]
    most = min(lots, *(each.lots for each in sums))
    limit = price * len(ladders)

    def is_kept(lots: int) -> bool:
        return side * (sum(each.ticks(lots) for each in sums) - limit * lots) <= 0

    if most < least or not is_kept(least):
        return 0
    low, high = least, most
    while low < high:
        middle = (low + high + 1) // 2
        if is_kept(middle):
            low = middle
        else:
            high = middle - 1
    return low


class _Sums:
    """A ladder added up, so that any quantity's price is a look-up."""

    __slots__ = ("_lots", "_prices", "_ticks", "lots")

    def __init__(self, ladder: Ladder) -> None:
        self._prices = [price for price, _ in ladder]
        self._lots = [0, *accumulate(lots for _, lots in ladder)]
        self._ticks = [0, *accumulate(price * lots for price, lots in ladder)]
        self.lots = self._lots[-1]

    def ticks(self, lots: int) -> int:
        """Return the sum of lots x price of the first `lots`."""
        level = bisect_left(self._lots, lots) - 1
        return self._ticks[level] + self._prices[level] * (lots - self._lots[level])


def _taken(ladder: Ladder, lots: int) -> Iterator[tuple[int, int]]:
    """Yield (price, lots) of the first `lots` of a ladder."""
    for price, there in ladder:
        part = min(there, lots)
        if part:
            yield price, part
        lots -= part


def _judge(
    state: State, account: Account, legs: Sequence[Leg], side: int, lots: int
) -> Reject | None:
    """Return the first rule that trading `lots` in every leg would break."""
    if account.debt and not all(judging.reduces(leg.position, side, lots) for leg in legs):
        return Reject.ACCOUNT_IN_DEBT
    if side > 0 and any(limits.is_too_long(state, leg.position, lots) for leg in legs):
        return Reject.POSITION_LIMIT
    needed = points = 0
    for leg in legs:
        ticks = sum(price * part for price, part in _taken(leg.ladder, lots))
        points += margin.fee_points(
            unit=leg.instrument.unit, price=1, lots=ticks, basis_points=leg.instrument.taker_fee_bp
        )
        needed += _required_after(leg.position, side * lots, side * ticks) - leg.position.required
    needed += margin.fee_charged(points)
    if needed > 0 and needed > account.available:
        return Reject.INSUFFICIENT_FUNDS
    if side < 0 and any(_is_uncovered(leg.position, lots) for leg in legs):
        return Reject.INSUFFICIENT_COVERAGE
    return None


def _required_after(position: Position, lots: int, ticks: int) -> int:
    """Return what a position and its orders need once signed lots have been traded."""
    return margin.required(
        position.instrument.rates,
        position.net + lots,
        position.cost + ticks,
        position.buy_lots,
        position.sell_lots,
        position.long_excess,
        position.short_excess,
        position.buy_fees,
        position.sell_fees,
    )


def _is_uncovered(position: Position, lots: int) -> bool:
    """Whether selling so many more lots is more than coverage is left for: a strip has to be."""
    return position.sell_lots + lots - position.net > coverage.behind(position)


def _trade(
    state: State, account: Account, command: commands.PlaceStrip, number: int, plan: Plan
) -> None:
    """Trade a plan, hour by hour; one order, so that its fee is rounded up once."""
    taker = Order(number, command.side, command.price, 0, account.group, 0)
    taker.account = account
    taker.value_ticks = taker.fee_points = taker.fee = 0
    done: list[tuple[Instrument, matching.Fills, int]] = []
    for leg in plan.legs:
        instrument = leg.instrument
        taker.remaining = plan.lots
        taker.position = position = state.position(account, instrument)
        price = terms.protection_price(instrument, command.side)
        last = instrument.last
        fills, _ = matching.match(instrument.book, taker, price)
        assert not taker.remaining, "what was looked at is there"
        trades.book(state, instrument, taker, fills)
        state.dirty[instrument.id] = instrument
        sessions.watch_band(instrument)
        position.refresh()
        state.touched_positions.add(position)
        if position.reducing:
            withdrawals.withdraw_not_reducing(state, position)
        done.append((instrument, fills, last))
    for instrument, fills, last in done:
        stops.follow(state, instrument, fills, last)
    books.flush(state)
