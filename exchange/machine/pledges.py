"""Which lots are promised to packages: kept hour by hour, for the seller and for the holder.

It stands apart from `packages`, which sells them, because a restored state begins with it. A pledge
is what the packages of an account's hour add up to; it is not written, for the packages are.
"""

from exchange.machine.promises import NO_PLEDGE, Package, Pledge
from exchange.machine.state import UNKNOWN, Account, State
from settlement import packages
from settlement.packages import HourLots


def take_up(state: State, package: Package) -> None:
    """Make a package part of the state."""
    state.packages[package.id] = package
    seller, holder = state.accounts[package.seller], state.accounts[package.holder]
    hours = list(packages.hours(package.stretches))
    add(seller, package.grade, hours)
    hold(holder, package.grade, hours)
    seller.delivery_margin += package.margin
    seller.required += package.margin


def add(seller: Account, grade: str, hours: list[HourLots]) -> None:
    """Pledge lots of a seller."""
    of_grade = seller.pledges.setdefault(grade, {})
    for hour in hours:
        before = of_grade.get(hour.starts_at, NO_PLEDGE)
        of_grade[hour.starts_at] = Pledge(before.lots + hour.lots, before.p1_lots + hour.p1_lots)
    _forget(seller, grade)


def release(seller: Account, grade: str, hours: list[HourLots]) -> None:
    """Give back what was pledged of these hours."""
    of_grade = seller.pledges[grade]
    for hour in hours:
        before = of_grade.pop(hour.starts_at)
        left = Pledge(before.lots - hour.lots, before.p1_lots - hour.p1_lots)
        assert min(left) >= 0, "no more is released than was pledged"
        if left.lots:
            of_grade[hour.starts_at] = left
    if not of_grade:
        del seller.pledges[grade]
    _forget(seller, grade)


def hold(holder: Account, grade: str, hours: list[HourLots]) -> None:
    """Count lots as the holder's."""
    of_grade = holder.holdings.setdefault(grade, {})
    for hour in hours:
        of_grade[hour.starts_at] = of_grade.get(hour.starts_at, 0) + hour.lots


def give_up(holder: Account, grade: str, hours: list[HourLots]) -> None:
    """Count lots as the holder's no more."""
    of_grade = holder.holdings[grade]
    for hour in hours:
        left = of_grade.pop(hour.starts_at) - hour.lots
        assert left >= 0, "no more is given up than was held"
        if left:
            of_grade[hour.starts_at] = left
    if not of_grade:
        del holder.holdings[grade]


def _forget(seller: Account, grade: str) -> None:
    """Forget what was known to stand behind a seller's positions."""
    for position in seller.positions.values():
        if position.instrument.grade.code == grade:
            position.certified = UNKNOWN
