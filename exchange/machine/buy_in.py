"""Shorts that nothing covers inside the prepaid window are bought in (RULEBOOK 3.3).

From 24 hours before an hour on, whoever is short of it without cover has an order at the band's top
that buys what is missing: in the day's book while the hours are not listed (as far as the whole day
is uncovered, for nothing is bought that would not reduce), then in the hour's, through the auction
and until gate closure. It is looked at again at every full hour, when the hours are listed, and
when capacity falls away. What is not bought in becomes failed lots, behind which no cluster stands.
"""

from exchange.machine import clearing_orders, coverage, withdrawals
from exchange.machine.state import Account, Instrument, State
from exchange.reasons import Close
from marketplace import contract
from marketplace.contract import DAY, HOUR, InstrumentState, Product

BUY_IN = "buy_in"
_OPEN = (InstrumentState.CALL, InstrumentState.CONTINUOUS)


def look_at_all(state: State) -> None:
    """Bring every account's orders in line with what it lacks, in order of id."""
    for number in sorted(state.accounts):
        look(state, state.accounts[number])


def look(state: State, account: Account) -> None:
    """Bring the orders that buy in for an account in line with what it lacks."""
    wanted: dict[int, int] = {}
    for grade in sorted(account.uncovered):
        wanted |= _wanted(state, account, grade)
    for order in sorted(account.orders.values(), key=lambda order: order.id):
        instrument = order.position.instrument
        if not order.is_of_clearing or instrument.id in wanted or state.is_frozen(instrument):
            continue
        if withdrawals.is_reduction(order):
            continue
        withdrawals.withdraw(state, order, Close.COVERED)
    for number in sorted(wanted):
        _buy(state, account, state.by_id[number], wanted[number])


def _wanted(state: State, account: Account, grade: str) -> dict[int, int]:
    """Return how many lots are to be bought in each book, by its id."""
    wanted: dict[int, int] = {}
    for span in coverage.uncovered(account, grade):
        until = min(span.ends_at, state.prepaid_until + HOUR)
        for starts_at in range(span.starts_at, until, HOUR):
            hour = state.hour(grade, starts_at)
            if hour is not None:
                wanted[hour.id] = span.lots
                continue
            start = contract.day_start(starts_at)
            day = state.by_window.get((grade, Product.DAY, start))
            if day is not None:
                least = min(s.lots for s in coverage.exposure(account, grade, start, start + DAY))
                if least > 0:
                    wanted[day.id] = least
    return wanted


def _buy(state: State, account: Account, instrument: Instrument, lots: int) -> None:
    """Have orders for so many lots in a book, and no more."""
    resting = clearing_orders.live(account, instrument)
    missing = lots - sum(order.left for order in resting)
    if missing < 0 and not state.is_frozen(instrument):
        for order in resting:
            withdrawals.withdraw(state, order, Close.COVERED)
        missing = lots
    if missing > 0 and state.state_of(instrument) in _OPEN:
        clearing_orders.place(state, account, instrument, 1, missing, what=BUY_IN)
