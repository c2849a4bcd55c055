"""Which contracts there are: everything that should be listed by now and still trades.

When a contract is listed, opens and ends follows from its window (`marketplace.contract`), so
listing is one question asked again: at 00:00 for days, weeks and months, at 10:00 for the hours of
the next day, and whenever a month or a week cascades into days that were not listed yet. A book
opens with the next auction; one that should have opened before its grade existed trades at once.

Its reference is its parent's mark; where there is none, what the same hour cost on average in the
last seven days (for longer windows, all hours); where that is not known either, the operator's
price (RULEBOOK 1.5). Slots have neither parent nor index: theirs is the operator's price, and a
grade without one lists none. Price caps and shortage cover are listed beside the next three months,
where the operator says at what share of the month's mark a premium begins; a month that passes the
outermost strike of its caps gets one more (RULEBOOK 6.8).
"""

from collections.abc import Iterator

from exchange import events
from exchange.machine import books, coverage, marks, sessions
from exchange.machine.entries import Entry
from exchange.machine.records import Grade
from exchange.machine.state import Instrument, State
from marketplace import contract
from marketplace.contract import DAY, HOUR, CallKind, Contract, InstrumentState, Product
from settlement import index, insurance, margin

MID_WINDOW = index.MID_WINDOW
REFERENCE_DAYS = 7
DAYS_AHEAD = 45
"""No day is listed further ahead than its month cascades."""


def start_grade(state: State, grade: Grade) -> None:
    """List what would be listed by now, and enter the days to come."""
    at = state.at
    today = contract.day_start(at)
    if not state.calendar:
        state.prepaid_until = contract.hour_start(at) + margin.PREPAID_WINDOW
        state.schedule(contract.hour_start(at) + HOUR, Entry.MARK, 0)
        state.schedule(today + DAY, Entry.EXPIRE_DAY, 0)
        state.schedule(today + DAY, Entry.NEW_DAY, 0)
    list_due(state, grade)
    lists_at = today + DAY - contract.LISTING_LEAD
    state.schedule(lists_at if lists_at > at else lists_at + DAY, Entry.LIST, grade.id)


def list_due(state: State, grade: Grade) -> None:
    """List every contract of a grade that is due and is not listed, the longest first."""
    for terms in _due(grade, state.at):
        if (
            terms.symbol not in state.instruments
            and contract.listed_at(terms) <= state.at < terms.trading_ends_at
        ):
            _list(state, grade, terms)
    for terms in _options_due(state, grade):
        _list(state, grade, terms)


def _options_due(state: State, grade: Grade) -> Iterator[Contract]:
    """Yield the caps and the cover of months that are due and have none yet."""
    listed = {(i.contract.product, i.contract.starts_at) for i in _options(state, grade)}
    first = contract.month_start(state.at)
    for ahead in range(contract.OPTION_MONTHS_LISTED + 2):
        starts_at = contract.add_months(first, ahead)
        month = state.by_window.get((grade.code, Product.MONTH, starts_at))
        cover = contract.cover_contract(grade.code, starts_at)
        if month is None or not contract.listed_at(cover) <= state.at < cover.trading_ends_at:
            continue
        cap_percent, cover_percent = grade.premium_percents
        if cap_percent and (Product.CAP, starts_at) not in listed:
            for strike in insurance.strikes(month.mark):
                yield contract.cap_contract(grade.code, starts_at, strike)
        if cover_percent and (Product.COVER, starts_at) not in listed:
            yield cover


def _options(state: State, grade: Grade) -> Iterator[Instrument]:
    """Yield the options of a grade, in order of id."""
    for number in sorted(state.by_id):
        instrument = state.by_id[number]
        if instrument.is_option and instrument.grade is grade:
            yield instrument


def add_strikes(state: State) -> None:
    """List one more strike of every month that has passed the outermost of its caps."""
    for code in sorted(state.grades):
        grade = state.grades[code]
        outermost: dict[int, int] = {}
        for cap in _options(state, grade):
            starts_at = cap.contract.starts_at
            if cap.contract.product is Product.CAP and state.at < cap.contract.trading_ends_at:
                outermost[starts_at] = max(outermost.get(starts_at, 0), cap.contract.strike)
        for starts_at, strike in sorted(outermost.items()):
            month = state.by_window.get((code, Product.MONTH, starts_at))
            if month is not None and month.mark > strike and insurance.next_strike(strike):
                terms = contract.cap_contract(code, starts_at, insurance.next_strike(strike))
                _list(state, grade, terms, contract.next_opening(state.at))


def _due(of: Grade, at: int) -> Iterator[Contract]:
    """Yield every contract that may be listed at an instant, the longest first, slots last."""
    grade = of.code
    month = contract.month_start(at)
    for ahead in range(contract.MONTHS_LISTED + 2):
        yield contract.month_contract(grade, contract.add_months(month, ahead))
    week = contract.week_start(at)
    for ahead in range(contract.WEEKS_LISTED + 2):
        yield contract.week_contract(grade, week + 7 * ahead * DAY)
    today = contract.day_start(at)
    for ahead in range(DAYS_AHEAD):
        yield contract.day_contract(grade, today + ahead * DAY)
    for starts_at in range(today, today + 2 * DAY, HOUR):
        yield contract.hour_contract(grade, starts_at)
    for service_class, reference in zip(contract.SLOT_CLASSES, of.slot_references, strict=True):
        if reference:
            for starts_at in range(today, today + 2 * DAY, HOUR):
                yield contract.slot_contract(grade, service_class, starts_at)


def _list(state: State, grade: Grade, terms: Contract, opens_at: int = 0) -> None:
    """List one contract; it opens with the first auction after its day, or when it is told."""
    instrument = Instrument(state.number("instrument"), terms, grade, state.orders)
    state.instruments[terms.symbol] = instrument
    state.by_id[instrument.id] = instrument
    instrument.parents = parents_of(state, terms)
    if terms.is_energy:
        state.by_window[terms.grade, terms.product, terms.starts_at] = instrument
        coverage.forget_curve(state, terms.grade)
    price = reference_price(instrument)
    instrument.mark = price
    if instrument.is_option:
        instrument.parent_mark = instrument.parents[0].mark
        if terms.product is Product.COVER:
            instrument.pay_ticks = instrument.parent_mark
    marks.set_rates(instrument, marks.rates_of(state, instrument))
    sessions.set_reference(instrument, price)
    state.touched_instruments.add(instrument)
    state.events.append(
        events.InstrumentListed(
            instrument.id,
            instrument.symbol,
            instrument.reference,
            instrument.band_low,
            instrument.band_high,
            state.at,
            instrument.pay_ticks,
        )
    )
    state.schedule(terms.trading_ends_at, Entry.TRADING_ENDS, instrument.id)
    if terms.product is Product.HOUR:
        watched_from = terms.trading_ends_at - MID_WINDOW
        if watched_from > state.at:
            state.schedule(watched_from, Entry.WATCH_MID, instrument.id)
        else:
            instrument.mid_since = state.at
    if state.at >= (opens_at or contract.next_opening(contract.listed_at(terms))):
        instrument.phase = InstrumentState.CONTINUOUS
        sessions.change(state, instrument)
    else:
        instrument.awaits_opening = True
        sessions.open_call(state, instrument, CallKind.OPENING, opens_at)


def parents_of(state: State, terms: Contract) -> tuple[Instrument, ...]:
    """Return the longer energy that is listed and has a window in it, the shortest first.

    That of an option is its month; slots have none.
    """
    starts_at = terms.starts_at
    longer = {
        Product.DAY: contract.day_start(starts_at),
        Product.WEEK: contract.week_start(starts_at),
        Product.MONTH: contract.month_start(starts_at),
    }
    if not terms.is_energy:
        month = state.by_window.get((terms.grade, Product.MONTH, terms.starts_at))
        return (month,) if month is not None and terms.product in contract.OPTIONS else ()
    found = []
    for product, start in longer.items():
        parent = state.by_window.get((terms.grade, product, start))
        if parent is None or parent.contract.hours <= terms.hours:
            continue
        if parent.contract.ends_at >= terms.ends_at:
            found.append(parent)
    return tuple(found)


def reference_price(instrument: Instrument) -> int:
    """Return what a new book's band and first mark are set by, in ticks."""
    grade, terms = instrument.grade, instrument.contract
    if instrument.is_option:
        mark = instrument.parents[0].mark
        return insurance.premium(terms, mark=mark, percent=grade.premium_percent(terms))
    if instrument.parents:
        return instrument.parents[0].mark
    if terms.product is Product.SLOT:
        return grade.slot_references[contract.SLOT_CLASSES.index(terms.service_class)]
    if terms.product is Product.HOUR:
        hours = [terms.starts_at - day * DAY for day in range(1, REFERENCE_DAYS + 1)]
    else:
        hours = sorted(grade.index)[-24 * REFERENCE_DAYS :]
    found = [grade.index_in_force(hour) for hour in hours]
    known = [price for price in found if price is not None]
    return index.half_up(sum(known), len(known)) if known else grade.reference


def unlist(state: State, instrument: Instrument) -> None:
    """Forget an instrument that is settled."""
    terms = instrument.contract
    instrument.phase = InstrumentState.SETTLED
    state.announce(instrument)
    del state.instruments[instrument.symbol]
    del state.by_id[instrument.id]
    if terms.is_energy:
        del state.by_window[terms.grade, terms.product, terms.starts_at]
        coverage.forget_curve(state, terms.grade)
    for other in state.by_id.values():
        if instrument in other.parents:
            other.parents = tuple(parent for parent in other.parents if parent is not instrument)


def watch_mid(state: State, instrument: Instrument) -> None:
    """Begin to integrate the middle of a book for the index."""
    instrument.mid_since = state.at
    books.advance_mid(instrument, state.at)
