"""What price caps and shortage cover pay once they do not trade any more (RULEBOOK 6.8, 6.9).

Their trading ends with their month's; their positions stay as they are, with what the writers have
set aside, until the month's last hour is paid. Cover is paid with each settled interval, to holders
who were entitled and missed something that another group owed them. A cap is paid hour by hour, on
what its holder has used of the grade: a token is insured once, so who holds caps of several strikes
is paid for it by the lowest first. With an hour's caps what was set aside for that hour is
released, of caps and of cover.

Payments go through clearing. What is set aside for an hour is never less than what is paid in it; a
writer who has lost it elsewhere is borne as for any payment to clearing. A group that comes to have
a cluster of a grade keeps its cover, which pays it nothing while it has one.
"""

from collections.abc import Iterator, Mapping

from exchange import events, insurance_events
from exchange.machine import (
    coverage,
    listing,
    marks,
    premiums,
    proceeds,
    sessions,
    waterfall,
    withdrawals,
)
from exchange.machine.records import Hour
from exchange.machine.state import Account, Instrument, State
from exchange.reasons import Close, Refuse
from marketplace import contract
from marketplace.contract import HOUR, InstrumentState, Product
from settlement import claims, instructions, insurance
from settlement.ledger import Code

CAUSE_MAX = 80
METERED_MAX = 10**18
"""No account uses so much in an hour, in mNTU."""


def end_trading(state: State, instrument: Instrument) -> None:
    """End the trading of an option; one that nobody holds is over."""
    instrument.phase = InstrumentState.CLOSED
    instrument.call = None
    sessions.change(state, instrument)
    for order in sorted(instrument.live_orders(), key=lambda order: order.id):
        withdrawals.withdraw(state, order, Close.EXPIRED)
    price, method = marks.price_of(instrument, state.at, {})
    state.events.append(events.Marked(instrument.symbol, price, method, state.at))
    marks.set_mark(state, instrument, price)
    instrument.trades.clear()
    for number, position in sorted(instrument.positions.items()):
        if position.net:
            state.events.append(
                insurance_events.OptionHeld(
                    instrument.symbol, number, position.net, instrument.pay_ticks, state.at
                )
            )
    if not instrument.open_interest:
        _end(state, instrument)


def withdraw_ineligible(state: State, account: Account, grade: str) -> None:
    """Withdraw what a group bids for a grade's cover once it has a cluster of the grade."""
    if not premiums.controls_supply(account, grade):
        return
    bids = [
        order
        for peer in account.peers
        for order in peer.orders.values()
        if order.side > 0
        and order.position.instrument.contract.product is Product.COVER
        and order.position.instrument.grade.code == grade
        and order.position.net + order.position.buy_lots > 0
    ]
    for order in sorted(bids, key=lambda order: -order.id):
        withdrawals.withdraw(state, order, Close.NOT_ELIGIBLE)


# Shortage cover, with each interval


def pay_cover(state: State, hour: Hour, interval: int, missed: Mapping[int, int]) -> None:
    """Pay an hour's cover for an interval; `missed` are mNTU by holder, of other groups' lots."""
    month = contract.month_start(hour.starts_at)
    cover = state.instruments.get(contract.cover_contract(hour.grade, month).symbol)
    if cover is None or cover.phase is not InstrumentState.CLOSED:
        return
    entitled: dict[int, int] = {}
    for entitlement in hour.entitlements.values():
        number = entitlement.account
        entitled[number] = entitled.get(number, 0) + entitlement.lots
    tokens = {}
    for number in sorted(missed):
        position = cover.positions.get(number)
        if position is None or position.net <= 0:
            continue
        if premiums.controls_supply(position.account, hour.grade):
            _tell(state, cover, hour.starts_at, interval, number, 0, 0)
            continue
        tokens[number] = min(
            missed[number],
            insurance.insured_in_interval(lots=position.net, entitled_lots=entitled[number]),
        )
    _pay(state, cover, hour.starts_at, interval, cover.pay_ticks, tokens)


# Price caps, and what was set aside


def pay_hour(state: State, order: instructions.PayInsurance) -> Refuse | None:
    """Pay the caps of an hour that is over and settled, and release what was set aside for it."""
    grade = state.grades.get(order.grade)
    if grade is None:
        return Refuse.UNKNOWN_GRADE
    starts_at = order.hour_starts_at
    if starts_at % HOUR or starts_at < 0:
        return Refuse.INVALID_TERMS
    if state.at < starts_at + HOUR:
        return Refuse.INTERVAL_NOT_OVER
    if (order.grade, starts_at) in state.hours:
        return Refuse.HOUR_NOT_SETTLED
    metered = dict(order.metered)
    if len(metered) != len(order.metered) or not all(
        number in state.accounts and 0 <= mntu <= METERED_MAX for number, mntu in metered.items()
    ):
        return Refuse.INVALID_REPORT
    books = list(_unpaid(state, order.grade, starts_at))
    if not books:
        return Refuse.ALREADY_SETTLED
    index = grade.index_in_force(starts_at)
    if index is None:
        return Refuse.PRICE_UNRESOLVED
    for book in books:
        if book.contract.product is Product.CAP:
            _pay_cap(state, book, starts_at, index, metered)
    for book in books:
        _release(state, book, starts_at)
    return None


def _unpaid(state: State, grade: str, starts_at: int) -> Iterator[Instrument]:
    """Yield the options for which an hour is still to be paid, those of the lowest strike first."""
    found = [
        book
        for book in state.by_id.values()
        if book.is_option
        and book.phase is InstrumentState.CLOSED
        and book.contract.grade == grade
        and book.contract.starts_at <= starts_at < book.contract.ends_at
        and not book.paid_hours & _bit(book, starts_at)
    ]
    yield from sorted(found, key=lambda book: (book.contract.strike, book.id))


def _bit(book: Instrument, starts_at: int) -> int:
    """Return the bit of an hour of an option's window."""
    return 1 << ((starts_at - book.contract.starts_at) // HOUR)


def _pay_cap(
    state: State, cap: Instrument, starts_at: int, index: int, metered: dict[int, int]
) -> None:
    """Pay one cap for an hour; what it pays for is not `metered` any more."""
    price = insurance.cap_pays(index=index, strike=cap.contract.strike)
    if not price:
        return
    lots = {number: position.net for number, position in cap.positions.items()}
    _pay(state, cap, starts_at, 0, price, insurance.take_insured(metered, lots))


def _pay(
    state: State,
    book: Instrument,
    starts_at: int,
    interval: int,
    price: int,
    tokens: Mapping[int, int],
) -> None:
    """Pay holders for tokens, at a price in ticks, from what the writers have set aside."""
    due = {number: insurance.payment(pay_ticks=price, mntu=mntu) for number, mntu in tokens.items()}
    writers = {number: -p.net for number, p in book.positions.items() if p.net < 0}
    payments = insurance.settle(due, writers)
    if not payments:
        return
    aside = contract.notional_micros(
        price_ticks=insurance.pays_most(book.contract, pay_ticks=book.pay_ticks), lots=1
    )
    if interval:
        aside //= contract.INTERVALS_PER_HOUR
    for number, lots in writers.items():
        assert -payments.get(number, 0) <= aside * lots, "nobody pays more than was set aside"
    code = Code.COVER_PAYMENT if interval else Code.CAP_PAYMENT
    cause = f"insurance:{book.symbol}:{starts_at}:{interval}"
    waterfall.settle(state, payments, code, cause)
    for number in sorted(payments):
        mntu = tokens.get(number, 0)
        if interval:  # Compensation of an interval, which a run may still find to be too much.
            proceeds.lock(state, state.accounts[number], payments[number], starts_at)
        _tell(state, book, starts_at, interval, number, mntu, payments[number], price)


def _tell(
    state: State,
    book: Instrument,
    starts_at: int,
    interval: int,
    number: int,
    mntu: int,
    amount: int,
    price: int = 0,
) -> None:
    """Say what an account was paid; a holder's 0 says that its cover was suspended."""
    state.events.append(
        insurance_events.InsurancePaid(
            book.symbol,
            starts_at,
            interval,
            number,
            book.positions[number].net,
            mntu,
            price,
            amount,
            state.at,
        )
    )


# What a later run adds


def correct(state: State, order: instructions.CorrectInsurance) -> Refuse | None:
    """Pay what a run found that an hour of an option should have paid beyond what it has."""
    terms = contract.parse_symbol(order.instrument)
    refused = _refuse_correction(state, order, terms)
    if refused is not None:
        return refused
    assert terms is not None, "what is refused above"
    payments = {line.account: line.amount_micros for line in order.lines}
    cause = _correction_cause(order)
    waterfall.settle(state, payments, Code.INSURANCE_CORRECTION, cause)
    for line in order.lines:
        state.events.append(
            insurance_events.InsuranceCorrected(
                order.run,
                order.instrument,
                order.hour_starts_at,
                line.account,
                line.amount_micros,
                state.at,
            )
        )
    for number in sorted(payments):
        coverage.withdraw_unfunded(state, state.accounts[number])
    return None


def _refuse_correction(
    state: State, order: instructions.CorrectInsurance, terms: contract.Contract | None
) -> Refuse | None:
    """Return what is wrong with a correction; it is believed within what an hour can pay."""
    if terms is None or terms.product not in contract.OPTIONS:
        return Refuse.UNKNOWN_INSTRUMENT
    starts_at = order.hour_starts_at
    if starts_at % HOUR or not terms.starts_at <= starts_at < terms.ends_at:
        return Refuse.UNKNOWN_HOUR
    book = state.instruments.get(order.instrument)
    is_open = book is not None and not book.paid_hours & _bit(book, starts_at)
    if state.at < starts_at + HOUR or (terms.grade, starts_at) in state.hours or is_open:
        return Refuse.HOUR_NOT_SETTLED
    numbers = [line.account for line in order.lines]
    is_cover = terms.product is Product.COVER
    if (
        not 2 <= len(numbers) <= instructions.CORRECTION_LINES_MAX
        or numbers != sorted(set(numbers))
        or not 1 <= len(order.run) <= instructions.RUN_MAX
        or not is_cover <= order.pay_ticks <= is_cover * contract.PRICE_TICKS_MAX
    ):
        return Refuse.INVALID_TERMS
    for line in order.lines:
        if line.account not in state.accounts:
            return Refuse.UNKNOWN_ACCOUNT
        if not 1 <= line.lots <= contract.LOTS_MAX:
            return Refuse.INVALID_TERMS
        if (
            not 0
            < abs(line.amount_micros)
            <= claims.bound(terms, pay_ticks=order.pay_ticks, lots=line.lots)
        ):
            return Refuse.INVALID_AMOUNT
    if sum(line.amount_micros for line in order.lines):
        return Refuse.INVALID_AMOUNT
    return None


def _correction_cause(order: instructions.CorrectInsurance) -> str:
    """Return the cause of a correction's transfers; the run's day and grade are the hour's."""
    kind = order.run.rpartition("/")[2]
    return f"insurance:{order.instrument}:{order.hour_starts_at}:{kind}"[:CAUSE_MAX]


def _release(state: State, book: Instrument, starts_at: int) -> None:
    """Release what was set aside for an hour; with the last one, the option is over."""
    book.paid_hours |= _bit(book, starts_at)
    state.touched_positions.update(book.positions.values())
    marks.set_rates(book, marks.rates_of(state, book))
    if book.paid_hours.bit_count() < book.contract.hours:
        for position in book.positions.values():
            position.refresh()
        return
    _end(state, book)


def _end(state: State, book: Instrument) -> None:
    """Take an option that is over out of the books, and the positions in it."""
    for number in sorted(book.positions):
        position = book.positions[number]
        position.net = 0
        position.refresh()
        state.drop_position(position)
    book.positions.clear()
    book.open_interest = 0
    listing.unlist(state, book)
