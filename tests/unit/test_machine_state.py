"""Anything in any order: invariants hold, the slow ledger agrees, a restored machine is the same.

Hypothesis drives a small market for a day. After each step the machine checks itself (`Floor`); a
twin, restored from a snapshot at some point, is given every later command and has to answer with
the same events; and the accounts are compared with what the events add up to.
"""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exchange import commands, events
from exchange.machine import Machine
from marketplace import contract
from settlement import delivery, instructions
from settlement.ledger import Kind
from tests import oracle
from tests.floor import FAR, GRADE, Floor, hour, symbol

ACCOUNTS = (1, 2, 3, 4, 5)
GROUPS = {1: 1, 2: 2, 3: 3, 4: 2, 5: 5}
accounts = st.sampled_from(ACCOUNTS)
hours = st.sampled_from(("13", "14", "15"))


class Day(RuleBasedStateMachine):
    """A day of a small market."""

    def __init__(self) -> None:
        super().__init__()
        self.floor = Floor("11:30", reference=100)
        self.twin: Machine | None = None
        self.replayed = 0

    @initialize(cash=st.sampled_from((300_000, 3_000_000, 10**9)))
    def open_accounts(self, cash: int) -> None:
        for account in ACCOUNTS:
            self.floor.account(account, cash=cash, group=GROUPS[account])
        for account, lots in ((1, 60), (2, 25), (5, 9)):
            self.floor.certify(account, lots)

    @rule(
        account=accounts,
        side=st.sampled_from((1, -1)),
        lots=st.integers(1, 40),
        price=st.integers(84, 116),
        at=hours,
        rests=st.booleans(),
    )
    def place(self, account, side, lots, price, at, rests) -> None:
        kind = "GTC" if rests else "IOC"
        self.floor.place(account, side, lots, price, at=at, time_in_force=kind)

    @precondition(lambda self: self.floor.machine.state.orders)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        order = data.draw(st.sampled_from(sorted(self.floor.machine.state.orders)))
        self.floor.cancel(self.floor.machine.state.orders[order].account.id, order)
        assert order not in self.floor.machine.state.orders

    @rule(account=accounts, at=hours, side=st.sampled_from((0, 1, -1)))
    def cancel_many(self, account, at, side) -> None:
        self.floor.apply(commands.CancelOrders(account, symbol(at), side=side))

    @rule(minutes=st.sampled_from((1, 4, 5, 17, 30)))
    def wait(self, minutes: int) -> None:
        self.floor.at += minutes * 60_000_000
        self.floor.apply(commands.Tick())

    @rule(account=accounts, amount=st.integers(1, 2_000_000))
    def deposit(self, account, amount) -> None:
        self.floor.deposit(account, amount)

    @rule(account=accounts, amount=st.integers(1, 2_000_000))
    def withdraw(self, account, amount) -> None:
        before = self.floor.view(account)
        refused = self.floor.withdraw(account, amount)
        assert (refused is None) == (amount <= before.withdrawable)

    @rule(account=accounts, lots=st.integers(0, 80), cluster=st.integers(0, 1))
    def certify(self, account, lots, cluster) -> None:
        self.floor.certify(account, lots, cluster=account + 10 * cluster)

    @rule(account=accounts, until=st.sampled_from(("14", "15")))
    def let_certification_end(self, account, until) -> None:
        self.floor.certify(account, 30, cluster=account + 20, until=hour(until))

    @rule(account=accounts, enabled=st.booleans())
    def switch(self, account, enabled) -> None:
        self.floor.instruct(instructions.KillSwitch(account=account, enabled=enabled))

    @rule(at=hours, halted=st.booleans())
    def halt(self, at, halted) -> None:
        kind = instructions.Halt if halted else instructions.Resume
        self.floor.instruct(kind(instrument=symbol(at)))

    @rule(account=accounts, amount=st.integers(1, 500_000), at=hours)
    def reserve_usage(self, account, amount, at) -> None:
        self.floor.instruct(
            instructions.ReserveUsage(
                account=account, grade=GRADE, hour_starts_at=hour(at), amount_micros=amount
            )
        )

    @rule(
        account=accounts,
        seller=accounts,
        at=hours,
        interval=st.integers(1, 12),
        mntu=st.integers(0, 5 * 10**9),
        release=st.booleans(),
    )
    def charge_usage(self, account, seller, at, interval, mntu, release) -> None:
        self.floor.instruct(
            instructions.ChargeUsage(
                account=account,
                seller=seller,
                grade=GRADE,
                hour_starts_at=hour(at),
                interval=interval,
                mntu=mntu,
                release=release,
            )
        )

    @precondition(lambda self: self.floor.machine.state.hours)
    @rule(data=st.data(), interval=st.integers(1, 12), suspended=st.booleans())
    def settle(self, data, interval, suspended) -> None:
        open_hours = self.floor.machine.state.hours
        closed = open_hours[data.draw(st.sampled_from(sorted(open_hours)))]
        lines = []
        for number, allocation in closed.allocations.items():
            most = allocation.lots * contract.MNTU_PER_LOT_INTERVAL
            if allocation.cluster == delivery.NO_CLUSTER and data.draw(st.booleans()):
                continue
            available = data.draw(st.integers(0, most))
            short = data.draw(st.integers(0, most))
            lines.append(instructions.DeliveryLine(number, available, short, available))
        self.floor.instruct(
            instructions.SettleInterval(
                grade=GRADE,
                hour_starts_at=closed.starts_at,
                interval=interval,
                lines=tuple(lines),
                suspended=suspended,
            )
        )

    @rule()
    def restore_a_twin(self) -> None:
        data = self.floor.machine.snapshot()
        self.twin = Machine.restore(data)
        self.replayed = len(self.floor.log)
        assert self.twin.snapshot() == data
        self.twin.check()

    @invariant()
    def the_twin_answers_alike(self) -> None:
        if self.twin is None:
            return
        answered: list[events.Event] = []
        for item in self.floor.log[self.replayed :]:
            answered = self.twin.apply(item.command, item.sequence, item.at)
        if len(self.floor.log) > self.replayed:
            assert answered == self.floor.last
        self.replayed = len(self.floor.log)

    @invariant()
    def accounts_are_what_the_events_add_up_to(self) -> None:
        state = self.floor.machine.state
        cash = oracle.balances(self.floor.events)
        for account in state.accounts.values():
            assert account.cash == cash[account.id, Kind.CASH]
            assert account.escrow == cash[account.id, Kind.ESCROW]
            assert account.usage_hold == cash[account.id, Kind.USAGE_HOLD]
        held = oracle.positions(self.floor.events)
        for (account, name), (net, cost) in held.items():
            view = self.floor.machine.position(account, name)
            assert (view.net_lots, view.cost_ticks) == (net, cost)

    def teardown(self) -> None:
        if self.twin is not None:
            assert self.twin.snapshot() == self.floor.machine.snapshot()
        again = Machine()
        for item in commands.decode_batch(commands.encode_batch(self.floor.log)):
            again.apply(item.command, item.sequence, item.at)
        assert again.digest() == self.floor.machine.digest()
        assert self.floor.at < FAR


Day.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
test_a_day_of_anything_keeps_every_invariant = Day.TestCase
