"""The price that every position is settled to, every full hour and after a large move.

A book's mark (RULEBOOK 3.4) is the price of an auction that ended since the last full hour (between
the hours, of one that ended just now), else what traded in the last 30 minutes without what only
went round (`settlement.surveillance`), else the middle of a tight book that trades, else the last
mark moved as its parent's did (that of an option by what its first reference would have moved with
its month). The middle counts only while a book trades: in a call it may be crossed, and nobody is
bound yet.

At a mark every position pays or receives the difference to its cost, and its cost becomes the mark.
What one instrument's positions pay adds up to zero, and each account pays or receives the sum over
all of them in one transfer, those who pay first. Then everything is reserved anew at the new price,
and at the full hour one more hour is near enough to be prepaid: positions first, then orders, and
what is not funded any more is withdrawn.
"""

from bisect import bisect_left

from exchange import events
from exchange.machine import books, coverage, margin_calls, proceeds, waterfall
from exchange.machine.entries import Entry
from exchange.machine.state import Instrument, State
from marketplace import contract
from marketplace.contract import HOUR, MICROS_PER_SECOND, InstrumentState, Product
from settlement import index, insurance, margin, surveillance
from settlement.ledger import Code

MARK_WINDOW = HOUR // 2
LOOK_AFTER = MICROS_PER_SECOND
"""A move that may be large enough for a mark of its own is looked at this soon, and once."""

_TRADING = (InstrumentState.SCHEDULED, InstrumentState.CALL, InstrumentState.CONTINUOUS)
_TENORS = (Product.MONTH, Product.WEEK, Product.DAY, Product.HOUR)


def trading(state: State) -> list[Instrument]:
    """Return the instruments whose trading has not ended, in order of id."""
    return [
        state.by_id[number]
        for number in sorted(state.by_id)
        if state.by_id[number].phase in _TRADING
    ]


def mark_all(state: State) -> None:
    """Mark every open book at a full hour, and withdraw what is not funded any more."""
    state.prepaid_until = state.at + margin.PREPAID_WINDOW
    state.curves.clear()
    payments: dict[int, int] = {}
    before: dict[int, int] = {}
    for instrument in sorted(trading(state), key=_longest_first):
        before[instrument.id] = instrument.mark
        price, method = price_of(instrument, state.at, before)
        if price != instrument.mark:
            state.events.append(events.Marked(instrument.symbol, price, method, state.at))
        settle(state, instrument, price, payments)
    waterfall.settle(state, payments, Code.VARIATION, f"mark:{state.at}")
    waterfall.note_peaks(state)
    proceeds.release(state)
    for account in state.accounts.values():
        coverage.disturb(state, account)
    coverage.settle(state)
    for number in sorted(state.accounts):
        account = state.accounts[number]
        for grade in sorted(account.uncovered):
            coverage.withdraw_uncovered(state, account, grade)
        coverage.withdraw_unfunded(state, account)
        margin_calls.look(state, account)


def _longest_first(instrument: Instrument) -> tuple[int, int]:
    """Sort parents before what they cascade into."""
    product = instrument.contract.product
    rank = _TENORS.index(product) if product in _TENORS else len(_TENORS)
    return rank, instrument.id


def mark_now(state: State, instrument: Instrument) -> None:
    """Mark a book between the hours, if its price has moved by half the maintenance margin."""
    instrument.look_due = 0
    # An older auction's price is not where the book has moved to since.
    price, method = price_of(instrument, state.at, {}, auction_within=LOOK_AFTER + 1)
    if instrument.watch_low <= price <= instrument.watch_high:
        return
    state.events.append(events.Marked(instrument.symbol, price, method, state.at))
    payments: dict[int, int] = {}
    settle(state, instrument, price, payments)
    cause = f"mark:{instrument.symbol}:{state.at}"
    waterfall.settle(state, payments, Code.VARIATION, cause)
    # Whoever is short of these hours in a longer window needs more, or less, as well.
    concerned = set(instrument.positions) | coverage.settle(state)
    for account in [state.accounts[number] for number in sorted(concerned)]:
        coverage.withdraw_unfunded(state, account)
        margin_calls.look(state, account)


def watch(state: State, instrument: Instrument) -> None:
    """Have a book looked at soon whose last price is further from its mark than it should be.

    That is half the maintenance margin of a short (RULEBOOK 3.4).
    """
    if not instrument.look_due:
        instrument.look_due = state.at + LOOK_AFTER
        state.schedule(instrument.look_due, Entry.MARK_ONE, instrument.id)


def price_of(
    instrument: Instrument, at: int, before: dict[int, int], *, auction_within: int = HOUR
) -> tuple[int, str]:
    """Return the mark of a book in ticks and where it is from.

    `before` has the marks, by id, that its parents had until now, where they have new ones. An
    auction counts that ended less than `auction_within` ago.
    """
    if instrument.auction.at > at - auction_within:
        return instrument.auction.price, "auction"
    window = bisect_left(instrument.trades, (at - MARK_WINDOW, 0, 0, 0, 0))
    lots, value = surveillance.genuine(instrument.trades[window:])
    if lots:
        return index.half_up(value, lots), "trades"
    bid, ask = instrument.book.best()
    if instrument.is_open and bid and ask and books.is_tight(bid, ask):
        return index.half_up(bid + ask, 2), "mid"
    for parent in instrument.parents[:1]:
        if instrument.is_option:
            old = instrument.parent_mark
            moved = _premium(instrument, parent.mark) - _premium(instrument, old)
            price = min(contract.PRICE_TICKS_MAX, max(1, instrument.mark + moved))
            return price, "parent" if moved else "mark"
        old = before.get(parent.id, parent.mark)
        if old != parent.mark:
            return max(1, index.half_up(instrument.mark * parent.mark, old)), "parent"
    return instrument.mark, "mark"


def _premium(instrument: Instrument, mark: int) -> int:
    """Return what an option would begin at with its month at a mark."""
    return insurance.premium(
        instrument.contract,
        mark=mark,
        percent=instrument.grade.premium_percent(instrument.contract),
    )


def settle(state: State, instrument: Instrument, price: int, payments: dict[int, int]) -> None:
    """Settle the positions of a book to a price, and add what each is due to `payments`."""
    unit = instrument.unit
    for position in instrument.positions.values():
        due = price * position.net - position.cost
        if due and not instrument.is_option:
            position.cost += due
            position.received += due
            number = position.account.id
            payments[number] = payments.get(number, 0) + unit * due
            state.touched_positions.add(position)
    set_mark(state, instrument, price)


def set_mark(state: State, instrument: Instrument, price: int) -> None:
    """Change the mark, and everything that is reserved by it and by how near delivery is."""
    if price != instrument.mark:
        instrument.mark = price
        coverage.forget_curve(state, instrument.grade.code)
        state.touched_instruments.add(instrument)
    if instrument.is_option and instrument.parents:
        instrument.parent_mark = instrument.parents[0].mark
    rates = rates_of(state, instrument)
    if rates != instrument.rates:
        set_rates(instrument, rates)
        _sum_up(instrument)
        state.touched_positions.update(instrument.positions.values())
    for position in instrument.positions.values():
        position.refresh()


def set_rates(instrument: Instrument, rates: margin.Rates) -> None:
    """Set what the lots of an instrument ask for, and how far its price may move unseen."""
    instrument.rates = rates
    width = 3 * rates.short_mark // (8 * instrument.unit)
    instrument.watch_low = instrument.mark - width
    instrument.watch_high = instrument.mark + width


def rates_of(state: State, instrument: Instrument) -> margin.Rates:
    """Return what the lots of an instrument ask for at its mark now."""
    terms = instrument.contract
    if terms.product is Product.SLOT:
        return margin.slot_rates(mark=instrument.mark)
    if instrument.is_option:
        hours = terms.hours - instrument.paid_hours.bit_count()
        return margin.collateral_rates(
            unit=instrument.unit,
            collateral=insurance.collateral(terms, pay_ticks=instrument.pay_ticks, hours=hours),
        )
    return margin.energy_rates(
        starts_at=terms.starts_at,
        ends_at=terms.ends_at,
        prepaid_until=state.prepaid_until,
        mark=instrument.mark,
    )


def _sum_up(instrument: Instrument) -> None:
    """Add up what resting orders add to the sums that depend on the rates."""
    for position in instrument.positions.values():
        position.long_excess = position.short_excess = 0
    for order in instrument.live_orders():
        position = order.position
        long, short = margin.order_excess(
            instrument.rates, side=order.side, price=order.price, lots=order.left
        )
        position.long_excess += long
        position.short_excess += short
