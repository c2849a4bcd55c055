"""What stands behind the shorts of an account, hour by hour over all tenors (RULEBOOK 3.2, 3.3).

In every hour an account's clusters and its long lots of any product cover its short lots, and those
its resting sales would make, one for one. What is left over is *uncovered*: it needs more margin
(`margin.uncovered_micros`, at the hour's price on the curve), is limited by group, and may not come
to be inside the prepaid window at all. A cluster covers the hours that end while its certificate
holds, and with what it has not pledged to packages.

Everything here is a step function of time: a position is one step up and one down, however many
hours it has, so a month costs no more than an hour. An account that only trades hours, and sells no
more than its clusters are certified for, is not even asked: a position then knows all by itself.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from exchange.machine import commitments, limits, withdrawals
from exchange.machine.state import Account, Position, State
from exchange.reasons import Close
from marketplace import contract
from marketplace.contract import HOUR, Product
from settlement import margin


class Span(NamedTuple):
    """Lots in every hour of `[starts_at, ends_at)`."""

    starts_at: int
    ends_at: int
    lots: int


class Line(NamedTuple):
    """Lots that nothing covers in every hour of `[starts_at, ends_at)`, and what they need for it.

    That is beyond a covered short's margin, in micro-USD, at one price in ticks.
    """

    grade: str
    starts_at: int
    ends_at: int
    lots: int
    price: int
    prepaid_hours: int
    margin: int


class Curve(NamedTuple):
    """The price of every hour of a grade in ticks, from each start to the next.

    `sums` has what one uncovered lot needs, in micro-USD, of all hours before each start.
    """

    starts: list[int]
    prices: list[int]
    sums: list[int]
    early: int
    late: int


class Bare(NamedTuple):
    """What an order that nothing stands behind would add."""

    margin: int
    is_late: bool
    """Whether some of it would be inside the prepaid window, where nothing may be uncovered."""
    is_too_much: bool
    """Whether its group would be short of more than it may."""


COVERED = Bare(0, is_late=False, is_too_much=False)
LATE = Bare(0, is_late=True, is_too_much=False)


def behind(position: Position) -> int:
    """Return how many lots short a position, with its resting sales, may be in any of its hours."""
    account = position.account
    instrument = position.instrument
    lots = position.certified_lots()
    if instrument.contract.product is Product.HOUR:
        if account.crossing:
            for parent in instrument.parents:
                longer = account.positions.get(parent.symbol)
                if longer is not None:
                    lots -= longer.sell_lots - longer.net
        return lots
    terms = instrument.contract
    spans = exposure(account, terms.grade, terms.starts_at, terms.ends_at, without=position)
    return -max(span.lots for span in spans)


def sell(state: State, position: Position, lots: int) -> Bare:
    """Return what offering so many more lots would leave uncovered."""
    if position.sell_lots + lots - position.net <= behind(position):
        return COVERED
    account, terms = position.account, position.instrument.contract
    grade = terms.grade
    spans = [
        span
        for span in exposure(account, grade, *_horizon(account, grade, position), position, lots)
        if span.lots > 0
    ]
    inside = [s for s in spans if s.starts_at < terms.ends_at and s.ends_at > terms.starts_at]
    if any(max(span.starts_at, terms.starts_at) <= state.prepaid_until for span in inside):
        return LATE
    return Bare(
        _priced(state, grade, spans) - account.uncovered.get(grade, 0),
        is_late=False,
        is_too_much=any(_is_too_much(state, account, grade, span) for span in inside),
    )


def exposure(
    account: Account,
    grade: str,
    starts_at: int,
    ends_at: int,
    without: Position | None = None,
    lots: int | None = None,
) -> list[Span]:
    """Return by how many lots what is sold exceeds what stands behind it; below zero, what is left.

    The spans follow one another from `starts_at` to `ends_at`. One position can be left out, or,
    with `lots`, be counted with so many more of them offered.
    """
    level, steps = _free(account, grade, starts_at, ends_at)
    short = [
        (position, position.sell_lots - position.net)
        for position in account.positions.values()
        if position is not without and position.instrument.is_energy
    ]
    if without is not None and lots is not None:
        short.append((without, without.sell_lots - without.net + lots))
    for position, sold in short:
        terms = position.instrument.contract
        if not sold or terms.grade != grade:
            continue
        if terms.starts_at >= ends_at or terms.ends_at <= starts_at:
            continue
        if terms.starts_at <= starts_at:
            level += sold
        else:
            steps[terms.starts_at] = steps.get(terms.starts_at, 0) + sold
        steps[terms.ends_at] = steps.get(terms.ends_at, 0) - sold
    spans = []
    at = starts_at
    for step in sorted(steps):
        if step >= ends_at:
            break
        if steps[step]:
            if step > at:
                spans.append(Span(at, step, level))
            at = step
            level += steps[step]
    spans.append(Span(at, ends_at, level))
    return spans


def _free(account: Account, grade: str, starts_at: int, ends_at: int) -> tuple[int, dict[int, int]]:
    """Return certified lots that are not pledged, negative, at an instant, and how they change.

    A certificate that has fallen below what is pledged leaves nothing; it makes no short.
    """
    level = 0
    steps: dict[int, int] = {}
    if account.backs or account.backed:
        before = 0
        for hour in range(starts_at, ends_at, HOUR):
            lots = account.free_lots(grade, hour + HOUR)
            steps[hour], before = before - lots, lots
        return steps.pop(starts_at, 0), steps
    for cluster in account.clusters.values():
        until = contract.hour_start(cluster.valid_until)
        if cluster.grade == grade and until > starts_at:
            level -= cluster.lots
            steps[until] = steps.get(until, 0) + cluster.lots
    pledged = account.pledges.get(grade)
    if not pledged or starts_at >= ends_at:
        return level, steps
    certified, free = -level, []
    for hour in range(starts_at, ends_at, HOUR):
        certified -= steps.get(hour, 0)
        pledge = pledged.get(hour)
        free.append(certified if pledge is None else max(0, certified - pledge.lots))
    changes = {
        starts_at + number * HOUR: before - after
        for number, (before, after) in enumerate(pairwise(free), 1)
        if before != after
    }
    return -free[0], changes


def _horizon(account: Account, grade: str, also: Position | None = None) -> tuple[int, int]:
    """Return from when to when an account has positions in a grade."""
    windows = [
        position.instrument.contract
        for position in (*account.positions.values(), *((also,) if also is not None else ()))
        if position.instrument.is_energy and position.instrument.contract.grade == grade
    ]
    return (
        min((terms.starts_at for terms in windows), default=0),
        max((terms.ends_at for terms in windows), default=0),
    )


def curve(state: State, grade: str) -> Curve:
    """Return the price of every hour: the mark of the shortest energy that is listed around it."""
    known = state.curves.get(grade)
    if known is None:
        known = state.curves[grade] = _draw(state, grade)
    return known


def _draw(state: State, grade: str) -> Curve:
    """Return the curve of a grade as the marks now are, and what it adds up to."""
    listed = state.by_window
    windows = [one.contract for key, one in listed.items() if key[0] == grade]
    edges = {terms.starts_at for terms in windows} | {terms.ends_at for terms in windows}
    edges.add(state.prepaid_until + HOUR)
    early, late = margin.uncovered_micros(is_late=False), margin.uncovered_micros(is_late=True)
    starts, prices, sums = sorted(edges), [], [0]
    for starts_at, ends_at in pairwise(starts):
        day = contract.day_start(starts_at)
        shortest = (
            listed.get((grade, Product.HOUR, starts_at))
            or listed.get((grade, Product.DAY, day))
            or listed.get((grade, Product.WEEK, contract.week_start(starts_at)))
            or listed.get((grade, Product.MONTH, contract.month_start(starts_at)))
        )
        price = shortest.mark if shortest is not None else state.grades[grade].reference
        prices.append(price)
        rate = late if starts_at <= state.prepaid_until else early
        sums.append(sums[-1] + price * rate * ((ends_at - starts_at) // HOUR))
    return Curve(starts, prices, sums, early, late)


def _priced(state: State, grade: str, spans: list[Span]) -> int:
    """Return what uncovered lots need beyond a covered short's margin, in micro-USD."""
    if not spans:
        return 0
    drawn = curve(state, grade)
    return sum(
        span.lots * (_sum_to(drawn, state, span.ends_at) - _sum_to(drawn, state, span.starts_at))
        for span in spans
    )


def _sum_to(drawn: Curve, state: State, at: int) -> int:
    """Return what one uncovered lot needs of every hour before an instant."""
    cell = bisect_right(drawn.starts, at) - 1
    assert cell >= 0, "positions are in what is listed"
    whole = drawn.sums[cell]
    if at == drawn.starts[cell]:
        return whole
    rate = drawn.late if drawn.starts[cell] <= state.prepaid_until else drawn.early
    return whole + drawn.prices[cell] * rate * ((at - drawn.starts[cell]) // HOUR)


def _lines(state: State, grade: str, spans: list[Span]) -> Iterator[Line]:
    """Yield what uncovered lots need, one price at a time."""
    drawn = curve(state, grade)
    for span in spans:
        first = bisect_right(drawn.starts, span.starts_at) - 1
        for cell in range(first, len(drawn.prices)):
            starts_at = max(span.starts_at, drawn.starts[cell])
            ends_at = min(span.ends_at, drawn.starts[cell + 1])
            if starts_at >= ends_at:
                break
            hours = (ends_at - starts_at) // HOUR
            inside = hours if starts_at <= state.prepaid_until else 0
            needed = _priced(state, grade, [Span(starts_at, ends_at, span.lots)])
            yield Line(grade, starts_at, ends_at, span.lots, drawn.prices[cell], inside, needed)


def statement(state: State, account: Account) -> tuple[Line, ...]:
    """Return what an account must have for shorts that nothing covers, line by line."""
    return tuple(
        line
        for grade in sorted(account.uncovered)
        for line in _lines(state, grade, uncovered(account, grade))
    )


def uncovered(account: Account, grade: str) -> list[Span]:
    """Return the hours of a grade in which an account is short of more than it has."""
    starts_at, ends_at = _horizon(account, grade)
    if starts_at == ends_at:
        return []
    return [span for span in exposure(account, grade, starts_at, ends_at) if span.lots > 0]


def _is_too_much(state: State, account: Account, grade: str, span: Span) -> bool:
    """Whether so many uncovered lots, with those of the rest of its group, exceed the limit."""
    total = span.lots
    for peer in account.peers:
        if peer is not account:
            spans = exposure(peer, grade, span.starts_at, span.ends_at)
            total += max(0, *(other.lots for other in spans))
    return total > limits.lots_max(limits.supply(state, grade, span.ends_at))


def refresh(state: State, account: Account, grade: str) -> None:
    """Bring up to date what an account must have for shorts of a grade that nothing covers."""
    needed = _priced(state, grade, uncovered(account, grade))
    change = needed - account.uncovered.get(grade, 0)
    if change:
        account.required += change
        state.touched_accounts.add(account)
    if needed:
        account.uncovered[grade] = needed
    else:
        account.uncovered.pop(grade, None)


def forget_curve(state: State, grade: str) -> None:
    """Draw the curve of a grade anew when it is next asked for, and add up by it all it priced."""
    state.curves.pop(grade, None)
    state.repriced.add(grade)


def settle(state: State) -> set[int]:
    """Add up again what has become stale, in order of id; return whose it was."""
    if state.repriced:
        for account in state.accounts.values():
            if account.uncovered:
                state.stale.update((account.id, grade) for grade in account.uncovered)
        state.repriced.clear()
    found = sorted(state.stale)
    state.stale.clear()
    for number, grade in found:
        refresh(state, state.accounts[number], grade)
    return {number for number, _ in found}


def disturb(state: State, account: Account) -> None:
    """Have what an account must have for uncovered shorts added up again: prices have changed."""
    state.stale.update((account.id, grade) for grade in account.uncovered)


def settle_account(state: State, account: Account) -> None:
    """Add up again what one account must have for shorts that nothing covers."""
    grades = {position.instrument.grade.code for position in account.positions.values()}
    for grade in sorted(grades | set(account.uncovered)):
        state.stale.discard((account.id, grade))
        refresh(state, account, grade)


def withdraw_unfunded(state: State, account: Account) -> None:
    """Withdraw orders that need money until the account has what it needs, newest first."""
    if account.cash >= account.required:
        return
    if account.committed:
        commitments.withdraw_unfunded(state, account)
    for order in sorted(account.orders.values(), key=lambda order: -order.id):
        if order.is_of_clearing:
            continue
        for grade in [grade for number, grade in sorted(state.stale) if number == account.id]:
            state.stale.discard((account.id, grade))
            refresh(state, account, grade)
        if account.cash >= account.required:
            return
        position = order.position
        without = position.required_with(order.side, order.price, -order.left, -order.fee_reserve)
        if without < position.required or (order.side < 0 and account.uncovered):
            withdrawals.withdraw(state, order, Close.UNFUNDED)


def withdraw_uncovered(state: State, account: Account, grade: str) -> None:
    """Withdraw sales of hours inside the prepaid window that nothing covers, newest first."""
    late = [
        position
        for position in account.positions.values()
        if position.instrument.is_energy
        and position.instrument.grade.code == grade
        and position.instrument.contract.starts_at <= state.prepaid_until
    ]
    for position in sorted(late, key=lambda position: position.instrument.id):
        sales = [o for o in account.orders.values() if o.position is position and o.side < 0]
        for order in sorted(sales, key=lambda order: -order.id):
            if not _is_late(state, position):
                break
            withdrawals.withdraw(state, order, Close.COVERAGE_LOST)


def _is_late(state: State, position: Position) -> bool:
    """Whether a position with its sales is uncovered in hours inside the prepaid window."""
    terms = position.instrument.contract
    spans = exposure(position.account, terms.grade, terms.starts_at, terms.ends_at)
    return any(span.lots > 0 and span.starts_at <= state.prepaid_until for span in spans)
