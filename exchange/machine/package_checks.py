"""What is true of packages after every command, written from their schedules alone."""

from exchange.machine.state import State
from marketplace import contract
from marketplace.contract import HOUR
from settlement import packages


def check(state: State) -> None:
    """Assert that what is kept for packages, and by hour, is what they still have to deliver."""
    pledged: dict[tuple[int, str, int], list[int]] = {}
    held: dict[tuple[int, str, int], int] = {}
    for number, package in state.packages.items():
        assert number == package.id, "a package is found by its number"
        lots = 0
        for stretch in package.stretches:
            for starts_at in range(stretch.starts_at, stretch.ends_at, HOUR):
                hour = (starts_at - contract.week_start(starts_at)) // HOUR
                each = stretch.lots[hour % len(stretch.lots)]
                timed = stretch.p1_lots[hour % len(stretch.p1_lots)] if stretch.p1_lots else 0
                if not each:
                    continue
                assert 0 <= timed <= each, "a P1 lot is a lot"
                lots += each
                total = pledged.setdefault((package.seller, package.grade, starts_at), [0, 0])
                total[0] += each
                total[1] += timed
                key = package.holder, package.grade, starts_at
                held[key] = held.get(key, 0) + each
        assert lots, "a package ends with its last lot"
        assert package.escrow == 60 * package.price * lots, "escrow is the undelivered paid value"
        assert package.margin == 3 * package.price * lots, "5 % of it stay with its seller"
        assert len(package.stretches) <= packages.STRETCHES_MAX + 2, "a package is not in shreds"
        assert state.accounts[package.seller].group != state.accounts[package.holder].group
    known = {
        (account.id, grade, starts_at): list(pledge)
        for account in state.accounts.values()
        for grade, hours in account.pledges.items()
        for starts_at, pledge in hours.items()
    }
    assert known == pledged, "pledges are what packages have to be delivered"
    holdings = {
        (account.id, grade, starts_at): lots
        for account in state.accounts.values()
        for grade, hours in account.holdings.items()
        for starts_at, lots in hours.items()
    }
    assert holdings == held, "holdings are what packages bring"
    for account in state.accounts.values():
        assert all(account.pledges.values()), "nothing is kept of no pledge"
        assert all(account.holdings.values()), "nothing is kept of no holding"
