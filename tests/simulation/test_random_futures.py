"""Windows of every length, traded at random for weeks by who can and who cannot pay for them.

The machine checks its own invariants; `tests.slow_clearing` follows its trades and marks, and has
to come to the same positions and, to the micro-dollar, to the same variation. At random points the
machine is replaced by what its snapshot restores, and at the end a replay of all commands gives the
same state.

`BASELOAD_DEEP=N` plays N times as much, from new seeds.
"""

import os
import random

import pytest

from exchange import commands, default_events, events
from exchange.machine import Machine
from marketplace import contract
from marketplace.contract import DAY, HOUR, MICROS_PER_SECOND
from settlement import instructions
from tests import floor
from tests.slow_clearing import SlowClearing

SEEDS = 12 * max(1, int(os.environ.get("BASELOAD_DEEP", "0")))
STEPS = 300
ACCOUNTS = range(1, 8)
CERTIFIED = {1: 400, 2: 60, 3: 25}
CASH = {4: 30_000_000, 5: 300_000_000}
"""Two who will not have enough; everybody else is rich."""
MINUTE = 60 * MICROS_PER_SECOND


class Play:
    """A market, the slow clearing house beside it, and who chooses."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.floor = floor.Floor(
            self.chance.choice(("09:00", "11:20", "13:00", "23:50")), checked=False
        )
        for account in ACCOUNTS:
            self.floor.account(
                account, cash=CASH.get(account, floor.RICH), certified=CERTIFIED.get(account, 0)
            )
        self.clearing = SlowClearing()
        self.clearing.take(self.floor.events, self.floor.at)
        self.rejected: dict[str, int] = {}
        self.middle = 1_250

    @property
    def machine(self) -> Machine:
        return self.floor.machine

    def follow(self) -> None:
        """Have the slow clearing house take what the last command did."""
        self.clearing.take(self.floor.last, self.floor.at)

    def trade(self) -> None:
        """Place an order that may trade, in a window that is likely to overlap others."""
        chance = self.chance
        live = [
            name
            for name in self.machine.symbols()
            if contract.parse_symbol(name).is_energy
            and contract.parse_symbol(name).starts_at < self.floor.at + 45 * DAY
        ]
        longer = [name for name in live if ".H." not in name]
        nearest = sorted(longer, key=lambda name: contract.parse_symbol(name).trading_ends_at)[:12]
        symbol = chance.choice(chance.choice((nearest, nearest, longer, live)))
        self.middle = min(1_340, max(1_160, self.middle + chance.randint(-6, 6)))
        side = chance.choice((1, -1))
        self.floor.place(
            chance.choice(ACCOUNTS),
            side,
            chance.randint(1, chance.choice((5, 40))),
            self.middle + side * chance.randint(-8, 12),
            instrument=symbol,
            time_in_force=chance.choice(("GTC", "GTC", "IOC")),
        )
        reason = self.floor.rejected()
        self.rejected[reason or ""] = self.rejected.get(reason or "", 0) + 1

    def certify(self) -> None:
        """Give somebody another certificate, or a shorter one."""
        account = self.chance.choice(list(ACCOUNTS))
        until = self.chance.choice((30, 100, 24 * 400)) * HOUR
        self.floor.certify(account, self.chance.choice((0, 10, 200)), until=self.floor.at + until)

    def wait(self) -> None:
        """Let a second, minutes, hours or a day pass."""
        self.floor.at += self.chance.choice(
            (MICROS_PER_SECOND, 7 * MINUTE, 7 * MINUTE, 50 * MINUTE, 3 * HOUR, DAY)
        )
        self.floor.apply(commands.Tick())

    def money(self) -> None:
        """Put in, or take out what may be taken out."""
        account = self.chance.choice(ACCOUNTS)
        if self.chance.random() < 0.5:
            self.floor.deposit(account, self.chance.randint(1, 50_000_000))
        elif amount := self.floor.view(account).withdrawable:
            assert self.floor.withdraw(account, amount) is None
            self.follow()
            assert self.floor.withdraw(account, 1) is not None, "nothing more than that"

    def take_over(self) -> None:
        """Bid for a short that is offered."""
        running = self.machine.state.transfers
        transfer = running[self.chance.choice(sorted(running))]
        self.floor.instruct(
            instructions.BidTransfer(
                bid=1 + len(self.floor.log),
                account=self.chance.choice(ACCOUNTS),
                transfer=transfer.id,
                lots=self.chance.randint(1, transfer.lots),
                price_ticks=self.chance.randint(1, transfer.price_max),
            )
        )

    def restart(self) -> None:
        """Go on with a machine that was restored."""
        self.floor.machine = Machine.restore(self.machine.snapshot())

    def step(self) -> None:
        acts = (self.trade, self.wait, self.certify, self.money, self.restart)
        self.floor.last = []
        (act,) = self.chance.choices(acts, (60, 14, 2, 2, 1))
        if self.machine.state.transfers and self.chance.random() < 0.4:
            act = self.take_over
        act()
        self.follow()

    def compare(self) -> None:
        """Assert that both have the same positions, and that marks paid what they moved."""
        for name in self.machine.symbols():
            if not contract.parse_symbol(name).is_energy:
                continue
            slow = self.clearing.lots.get(name, {})
            for account in ACCOUNTS:
                held = self.machine.position(account, name)
                assert held.net_lots == slow.get(account, 0), f"lots of {account} in {name}"
                stands = self.clearing.stands[name][account] if slow else 0
                value = held.cost_ticks + held.received_ticks
                assert value == stands, f"what {account} stands at in {name}"
        lost: dict[int, int] = {}
        for event in self.floor.events:
            if isinstance(event, default_events.HaircutTaken):
                lost[event.account] = lost.get(event.account, 0) + event.amount
        if not lost:
            for account in ACCOUNTS:
                assert self.clearing.paid[account] == self.clearing.due[account], account
        assert sum(self.clearing.due.values()) == 0
        self.machine.check()


def play(seed: int) -> Play:
    game = Play(seed)
    for number in range(STEPS):
        try:
            game.step()
            if number % 20 == 19:
                game.compare()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {number}: {error}") from error
    return game


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_futures_are_cleared_as_the_slow_clearing_house_does(seed: int) -> None:
    game = play(seed)
    happened = {type(event) for event in game.floor.events}
    assert {events.Traded, events.Cascaded, events.Marked} <= happened
    again = Machine()
    for entry in game.floor.log:
        again.apply(entry.command, entry.sequence, entry.at)
    assert again.digest() == game.machine.digest()
    for (name, account), lots in game.clearing.delivered.items():
        terms = contract.parse_symbol(name)
        granted = sum(
            event.lots
            for event in game.floor.events
            if isinstance(event, events.EntitlementGranted)
            and (event.account, event.hour_starts_at) == (account, terms.starts_at)
        )
        assert granted == max(0, lots)
