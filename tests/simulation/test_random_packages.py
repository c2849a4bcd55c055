"""Packages bought, cut and delivered badly at random, in a market that trades at random.

What is followed here is written from the events alone: who has which lots still to come, at which
price, and so what must be in whose escrow; and what was certified when lots were pledged. The
market around it is that of `test_random_futures`, with its own slow clearing house, defaults and
margin calls; the machine checks its invariants beside that.

`BASELOAD_DEEP=N` plays N times as much, from new seeds.
"""

import os
from collections import defaultdict

import pytest

from exchange import commands, events, package_events
from exchange.machine import Machine
from marketplace import contract
from marketplace.contract import DAY, HOUR, INTERVAL
from settlement import instructions, packages
from settlement.ledger import Kind
from tests.floor import GRADE
from tests.simulation import test_random_futures as futures

SEEDS = 6 * max(1, int(os.environ.get("BASELOAD_DEEP", "0")))
STEPS = 220


class Follower:
    """What the events say of packages and of what is delivered of them."""

    def __init__(self) -> None:
        self.coming: dict[int, dict[int, int]] = {}
        """Lots of each package by hour, still to be delivered."""
        self.packages: dict[int, package_events.PackageChanged] = {}
        self.allocations: dict[int, tuple[events.Allocated, int]] = {}
        """Each with how many of its intervals are settled."""
        self.moved: dict[tuple[int, int], int] = defaultdict(int)
        self.certified: dict[int, events.CertificationChanged] = {}
        self.bought = self.resold = self.delivered = self.failed = 0

    def take(self, happened: list[events.Event]) -> None:
        for event in happened:
            match event:
                case events.Transferred():
                    self.moved[event.debit_owner, event.debit_kind] -= event.amount
                    self.moved[event.credit_owner, event.credit_kind] += event.amount
                case events.CertificationChanged():
                    self.certified[event.cluster] = event
                case package_events.PackageChanged():
                    self.change(event)
                case package_events.PackageResold():
                    self.resold += 1
                    assert event.fee == event.amount * 100 // 10_000
                case events.Allocated():
                    self.allocate(event)
                case events.IntervalSettled():
                    allocation, settled = self.allocations[event.allocation]
                    self.allocations[event.allocation] = allocation, settled + 1
                    assert event.released + event.refunded == 5 * allocation.price * allocation.lots

    def change(self, event: package_events.PackageChanged) -> None:
        lots = {
            starts_at: packages.lots_at(pattern, starts_at)
            for since, until, pattern, _ in event.schedule
            for starts_at in range(since, until, HOUR)
            if packages.lots_at(pattern, starts_at)
        }
        is_new = event.package not in self.packages
        self.packages[event.package] = event
        self.coming[event.package] = lots
        assert event.escrow == 60 * event.price * sum(lots.values())
        if is_new and not event.parent:
            self.bought += 1
            for starts_at in lots:
                assert self.pledged(event.seller, starts_at) <= self.behind(event.seller, starts_at)

    def pledged(self, seller: int, starts_at: int) -> int:
        of_seller = [n for n, package in self.packages.items() if package.seller == seller]
        return sum(self.coming[number].get(starts_at, 0) for number in of_seller)

    def behind(self, seller: int, starts_at: int) -> int:
        return sum(
            cluster.lots
            for cluster in self.certified.values()
            if cluster.account == seller and cluster.valid_until >= starts_at + HOUR
        )

    def allocate(self, event: events.Allocated) -> None:
        self.allocations[event.allocation] = event, 0
        if not event.package:
            return
        package = self.packages[event.package]
        assert (event.holder, event.seller) == (package.holder, package.seller)
        assert event.price == package.price
        left = self.coming[event.package].pop(event.hour_starts_at) - event.lots
        assert left >= 0, "no more is delivered than was bought"
        if left:
            self.coming[event.package][event.hour_starts_at] = left
        self.delivered += event.cluster != 0
        self.failed += event.cluster == 0

    def escrow(self, account: int, at: int) -> int:
        """Return what must be in escrow; everything whose gate has closed was allocated."""
        total = 0
        for number, package in self.packages.items():
            if package.holder == account:
                for starts_at, lots in self.coming[number].items():
                    assert starts_at - contract.GATE_CLOSURE_LEAD > at, "it is delivered in time"
                    total += 60 * package.price * lots
        for allocation, settled in self.allocations.values():
            if allocation.holder == account:
                total += 5 * allocation.price * allocation.lots * (12 - settled)
        return total


class Play(futures.Play):
    """The market of futures, with packages."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.follower = Follower()
        self.follower.take(self.floor.events)

    def follow(self) -> None:
        super().follow()
        self.follower.take(self.floor.last)

    def buy(self) -> None:
        """Buy a package of somebody, in any of the three forms."""
        chance = self.chance
        length = chance.choice(packages.PATTERN_LENGTHS)
        lots = tuple(chance.randint(0, chance.choice((3, 12))) for _ in range(length))
        list_price = chance.randint(1_080, 1_300)
        starts_at = contract.day_start(self.floor.at) + chance.randint(1, 3) * DAY
        self.floor.instruct(
            instructions.BuyPackage(
                listing=1,
                seller=chance.choice((1, 1, 2, 3, 4)),
                buyer=chance.choice(list(futures.ACCOUNTS)),
                grade=GRADE,
                starts_at=starts_at,
                ends_at=starts_at + chance.choice((1, 2, 9)) * DAY,
                lots=lots,
                p1_lots=chance.choice(((), tuple(each // 3 for each in lots))),
                price_ticks=packages.discounted(list_price, chance.choice((0, 5))),
                list_price_ticks=list_price,
            )
        )

    def resell(self) -> None:
        """Sell a slice on, of one lot or of all there is in some hours."""
        chance = self.chance
        held = [n for n, coming in self.follower.coming.items() if coming]
        if not held:
            return
        package = self.follower.packages[chance.choice(held)]
        hours = sorted(self.follower.coming[package.package])
        starts_at = chance.choice(hours)
        most = self.follower.coming[package.package][starts_at]
        self.floor.instruct(
            instructions.ResellPackage(
                package=package.package,
                holder=package.holder,
                buyer=chance.choice(list(futures.ACCOUNTS)),
                starts_at=starts_at,
                ends_at=starts_at + chance.choice((1, 1, 2, 5)) * HOUR,
                lots=(chance.choice((1, most)),),
                p1_lots=chance.choice(((), (0,), (1,))),
                price_ticks=chance.randint(1, 1_500),
                fee_bp=100,
            )
        )

    def settle(self) -> None:
        """Settle every interval that is over: well, badly, or not at all."""
        state = self.machine.state
        for key in sorted(state.hours):
            hour = state.hours[key]
            for interval in range(1, 13):
                is_over = hour.starts_at + interval * INTERVAL <= self.floor.at
                if hour.settled >> (interval - 1) & 1 or not is_over:
                    continue
                lines = []
                for number, allocation in sorted(hour.allocations.items()):
                    most = allocation.lots * contract.MNTU_PER_LOT_INTERVAL
                    if allocation.cluster:
                        available = self.chance.choice((most, most, most // 3, 0))
                        short = self.chance.choice((0, 0, most - available, most))
                        lines.append(instructions.DeliveryLine(number, available, short, 0))
                self.floor.last = []
                refused = self.floor.instruct(
                    instructions.SettleInterval(
                        grade=hour.grade,
                        hour_starts_at=hour.starts_at,
                        interval=interval,
                        lines=tuple(lines),
                        suspended=self.chance.random() < 0.05,
                    )
                )
                assert refused is None
                self.follow()
        self.floor.last = []

    def step(self) -> None:
        acts = (self.trade, self.wait, self.certify, self.money, self.restart)
        acts += (self.buy, self.resell, self.settle)
        if self.machine.state.transfers and self.chance.random() < 0.5:
            acts = (self.take_over,) * len(acts)
        self.floor.last = []
        (act,) = self.chance.choices(acts, (30, 16, 3, 2, 1, 12, 12, 16))
        act()
        self.follow()

    def compare(self) -> None:
        super().compare()
        for account in futures.ACCOUNTS:
            view = self.floor.view(account)
            assert view.escrow == self.follower.escrow(account, self.floor.at), account
            assert view.escrow == self.follower.moved[account, Kind.ESCROW]
            assert view.cash == self.follower.moved[account, Kind.CASH]
        assert sum(self.follower.moved.values()) == 0


def play(seed: int) -> Play:
    game = Play(seed)
    for number in range(STEPS):
        try:
            game.step()
            if number % 10 == 9:
                game.compare()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {number}: {error}") from error
    for _ in range(4):  # The last that was bought begins in three days.
        game.floor.at += DAY
        game.floor.apply(commands.Tick())
        game.follow()
        game.settle()
        game.compare()
    return game


@pytest.mark.parametrize("seed", range(SEEDS))
def test_escrow_of_random_packages_is_what_was_paid_and_is_not_delivered(seed: int) -> None:
    game = play(10_000 + seed)
    followed = game.follower
    assert followed.bought
    assert followed.resold
    assert followed.delivered + followed.failed
    again = Machine()
    for entry in game.floor.log:
        again.apply(entry.command, entry.sequence, entry.at)
    assert again.snapshot() == game.machine.snapshot()
