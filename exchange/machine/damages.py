"""Damages: what a seller pays for what its holders missed, and at most how much (RULEBOOK 6.5).

They are paid from the seller's own cash, without what its purchases are prepaid with, and from its
own share of the default fund. Where these do not reach, all who are owed get as much less, pro rata
by largest remainder. Nobody else ever pays.

They have an end, too: 150 % of *the seller's month*, which is what it gets for a calendar month
(UTC) of a grade: every obligation of the month at its hour's delivery price, and what it is still
short of the month's hours at the mark. So who has sold a month is liable with all of it from its
first interval on, and who sells hour by hour with what it has sold so far. What later runs add
counts, what they take back counts no more; slots that failed are not of this. What the end cuts off
is not owed later, as what the cash does not reach is not.
"""

from typing import NamedTuple

from exchange.machine import coverage, waterfall
from exchange.machine.records import Month
from exchange.machine.state import Account, State
from marketplace import contract
from settlement import delivery
from settlement.ledger import Code, Kind

MONTH_PERCENT_MAX = 150
"""Of the seller's month, what it pays in damages at most."""
KEPT = 92 * contract.DAY
"""How long a month is remembered from its start: past its last run, two weeks after its end."""


class MonthOf(NamedTuple):
    """Which month of delivery damages are for, by an hour in it."""

    grade: str
    hour_starts_at: int

    @property
    def key(self) -> tuple[str, int]:
        """The month's key in an account."""
        return self.grade, contract.month_start(self.hour_starts_at)


def note_sale(state: State, account: Account, grade: str, starts_at: int, amount: int) -> None:
    """Add an obligation, in micro-USD at its delivery price, to its seller's month."""
    month = MonthOf(grade, starts_at).key
    known = account.months.get(month)
    if known is None:
        for old in [key for key in account.months if key[1] < state.at - KEPT]:
            del account.months[old]
        known = account.months[month] = Month()
    known.delivered += amount


def note_paid(account: Account, month: MonthOf, amount: int) -> None:
    """Count damages that were paid for a month, or below zero, taken back."""
    known = account.months.get(month.key)
    if known is not None:
        known.paid = max(0, known.paid + amount)


def left(account: Account, month: MonthOf) -> int:
    """Return what a seller may still have to pay in damages for a month, in micro-USD."""
    known = account.months.get(month.key, Month())
    worth = known.delivered + _open_short(account, *month.key)
    return max(0, worth * MONTH_PERCENT_MAX // 100 - known.paid)


def _open_short(account: Account, grade: str, since: int) -> int:
    """Return what an account is still short of a month's hours, at the marks."""
    until = contract.add_months(since, 1)
    total = 0
    for position in account.positions.values():
        terms = position.instrument.contract
        if position.net >= 0 or not terms.is_energy or terms.grade != grade:
            continue
        hours = (min(until, terms.ends_at) - max(since, terms.starts_at)) // contract.HOUR
        if hours > 0:
            price = position.instrument.mark
            total += contract.notional_micros(price_ticks=price, lots=-position.net) * hours
    return total


def pay(
    state: State,
    seller: Account,
    due: list[tuple[int, int, str]],
    code: Code,
    month: MonthOf | None = None,
) -> list[int]:
    """Pay (holder, amount, cause) as far as the seller's means and its month reach.

    Return what each was paid. What is not for missed demand has no month.
    """
    amounts = [amount for _, amount, _ in due]
    total = sum(amounts)
    if month is not None:
        total = min(total, left(seller, month))
    reach = max(0, seller.cash - _prepaid(seller))
    if due and reach < total:
        reach += waterfall.use_own_share(state, seller, total - reach, due[0][2])
    total = min(total, reach)
    if total < sum(amounts):
        amounts = delivery.largest_remainder(total, amounts)
    for (holder, _, cause), amount in zip(due, amounts, strict=True):
        state.transfer((seller.id, Kind.CASH), (holder, Kind.CASH), amount, code, cause)
        waterfall.repay(state, state.accounts[holder], amount, cause)
    if month is not None:
        note_paid(seller, month, total)
    coverage.withdraw_unfunded(state, seller)
    return amounts


def _prepaid(account: Account) -> int:
    """Return the cash that stands for what was bought and not yet paid, and for insurance."""
    return sum(
        position.initial_margin
        for position in account.positions.values()
        if position.net >= 0 or position.instrument.is_option
    )
