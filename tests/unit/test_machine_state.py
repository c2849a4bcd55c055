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
        self.floor = Floor("12:20", reference=100)
        self.twin: Machine | None = None
        self.replayed = 0

    @initialize(
        seller=st.sampled_from((20_000, 60_000, 10**8)), buyer=st.sampled_from((10**6, 10**8))
    )
    def open_accounts(self, seller: int, buyer: int) -> None:
        for account in ACCOUNTS:
            cash = buyer if account in (3, 4) else seller
            self.floor.account(account, cash=cash, group=GROUPS[account])
        for account, lots in ((1, 60), (2, 25), (5, 9)):
            self.floor.certify(account, lots)

    @rule(
        seller=st.sampled_from((1, 2, 5)),
        buyer=accounts,
        lots=st.integers(1, 40),
        price=st.integers(85, 115),
        at=hours,
        data=st.data(),
    )
    def deal(self, seller, buyer, lots, price, at, data) -> None:
        self.floor.sell(seller, lots, price, at=at)
        self.floor.buy(buyer, data.draw(st.integers(1, 2 * lots)), price, at=at)

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
        state = self.floor.machine.state
        order = data.draw(st.sampled_from(sorted(state.orders)))
        found = state.orders[order]
        stays = found.is_of_clearing or state.is_frozen(found.position.instrument)
        self.floor.cancel(found.account.id, order)
        assert (order in state.orders) == stays

    @rule(account=accounts, at=hours, side=st.sampled_from((0, 1, -1)))
    def cancel_many(self, account, at, side) -> None:
        self.floor.apply(commands.CancelOrders(account, symbol(at), side=side))

    @rule()
    def wait_for_the_next_gate(self) -> None:
        gates = [entry[0] for entry in self.floor.machine.state.calendar if entry[1] == 1]
        if gates and min(gates) < hour("17"):
            self.floor.at = min(gates)
            self.floor.apply(commands.Tick())

    @rule(minutes=st.sampled_from((1, 4, 5, 17)))
    def wait(self, minutes: int) -> None:
        self.floor.at += minutes * 60_000_000
        self.floor.apply(commands.Tick())

    @rule(
        account=accounts,
        side=st.sampled_from((1, -1)),
        lots=st.integers(1, 20),
        price=st.integers(90, 112),
        min_share=st.sampled_from((0, 40, 100)),
        count=st.integers(1, 3),
    )
    def strip(self, account, side, lots, price, min_share, count) -> None:
        self.floor.strip(account, side, lots, price, start="13", hours=count, min_share=min_share)

    @rule(
        account=accounts, seconds=st.sampled_from((0, 1, 50, 70, 300)), name=st.sampled_from("ab")
    )
    def set_a_switch(self, account, seconds, name) -> None:
        self.floor.switch(account, seconds * 1_000_000, name.strip("a"))

    @rule(account=accounts, side=st.sampled_from((1, -1)), lots=st.integers(1, 40), at=hours)
    def ask(self, account, side, lots, at) -> None:
        self.floor.preview(account, side, lots, 100, at=at)

    @rule(account=accounts, amount=st.integers(1, 20_000))
    def deposit(self, account, amount) -> None:
        self.floor.deposit(account, amount)

    @rule(account=accounts, amount=st.integers(1, 2_000_000))
    def withdraw(self, account, amount) -> None:
        before = self.floor.view(account)
        refused = self.floor.withdraw(account, amount)
        assert (refused is None) == (amount <= before.withdrawable)

    @rule(account=accounts, lots=st.sampled_from((0, 3, 30)), cluster=st.integers(0, 1))
    def certify(self, account, lots, cluster) -> None:
        self.floor.certify(account, lots, cluster=account + 10 * cluster)

    @rule(account=accounts, until=st.sampled_from(("14", "15")))
    def let_certification_end(self, account, until) -> None:
        self.floor.certify(account, 30, cluster=account + 20, until=hour(until))

    @rule(account=accounts, order=st.booleans())
    def kill_for_a_moment(self, account, order) -> None:
        self.floor.instruct(instructions.KillSwitch(account=account, enabled=True))
        if order:
            self.floor.buy(account, 1, 100, at="15")
            assert self.floor.rejected() == "killed"
        self.floor.instruct(instructions.KillSwitch(account=account, enabled=False))

    @rule(at=hours, account=accounts)
    def halt_for_a_moment(self, at, account) -> None:
        refused = self.floor.instruct(instructions.Halt(instrument=symbol(at)))
        self.floor.buy(account, 1, 100, at=at)
        assert self.floor.rejected() is not None
        assert self.floor.instruct(instructions.Resume(instrument=symbol(at))) == refused

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
    @rule(data=st.data(), count=st.integers(1, 12), suspended=st.sampled_from((False, False, True)))
    def settle(self, data, count, suspended) -> None:
        open_hours = self.floor.machine.state.hours
        closed = open_hours[data.draw(st.sampled_from(sorted(open_hours)))]
        intervals = [k for k in range(1, 13) if not closed.settled >> (k - 1) & 1]
        for interval in intervals[:count]:
            over_at = closed.starts_at + interval * contract.INTERVAL
            self.floor.at = max(self.floor.at, over_at)
            refused = self.floor.instruct(
                instructions.SettleInterval(
                    grade=GRADE,
                    hour_starts_at=closed.starts_at,
                    interval=interval,
                    lines=() if suspended else tuple(self._lines(closed, data)),
                    suspended=suspended,
                )
            )
            assert refused is None

    def _lines(self, closed, data):
        for number, allocation in closed.allocations.items():
            most = allocation.lots * contract.MNTU_PER_LOT_INTERVAL
            if allocation.cluster == delivery.NO_CLUSTER and data.draw(st.booleans()):
                continue
            part = data.draw(st.sampled_from((0, 1, 499, 500, 999, 1_000)))
            short = data.draw(st.sampled_from((0, 0, 1, 333, 1_000)))
            yield instructions.DeliveryLine(
                number, most * part // 1_000, most * short // 1_000, most * part // 1_000
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
