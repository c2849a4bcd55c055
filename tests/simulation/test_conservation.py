"""Laws of conservation, whatever happens: everything a market does, in any order.

Hypothesis trades windows of every length, slots and insurance, pools purchases, certifies and
takes away, lets intervals be delivered, missed, suspended and corrected, moves prices until
somebody cannot pay, pays out and charges. After every step the machine checks its own state, and
what is kept here from the events alone has to come to the same: cash by account and kind, escrow
of what is undelivered, lots that are entitled and owed, intervals that are paid once and wholly.
In the end a replay of the commands gives the same state. What chance seldom brings together comes
in a story told before, so that over all examples every verb is seen to do something.

`BASELOAD_DEEP=N` plays N times as much, from new seeds.
"""

import os
from collections import Counter, defaultdict
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Hunt
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from exchange import commands, default_events, events, insurance_events
from exchange.machine import Machine
from marketplace import contract
from marketplace.contract import DAY, HOUR, MICROS_PER_SECOND, MNTU_PER_LOT_INTERVAL
from settlement import instructions
from settlement.ledger import EXCHANGE, Code, Kind, Phase
from tests import floor
from tests.floor import GRADE

DEEP = int(os.environ.get("BASELOAD_DEEP", "0"))
PROVIDERS = {1: 300, 2: 40}
WRITER = 8
ACCOUNTS = range(1, 9)
CASH = {2: 150_000_000, 3: 40_000_000}
"""Two who will not have enough, one of them a provider; everybody else is rich."""
MINUTE = 60 * MICROS_PER_SECOND
accounts = st.sampled_from(ACCOUNTS)
sides = st.sampled_from((1, -1))
few, many = st.integers(1, 8), st.integers(1, 60)
picks = st.integers(0, 10**6)

seen: Counter[str] = Counter()
"""Events, transfers by code and instructions taken, over all examples."""

EVERY_VERB = {
    "Traded", "Marked", "Cascaded", "GateClosed", "EntitlementGranted", "ObligationIncurred",
    "IntervalSettled", "CoverSettled", "CertificationChanged", "DeliveryCorrected", "SlotsSettled",
    "CommitmentChanged", "InsurancePaid", "MarginCalled", "LiquidationStarted", "Defaulted",
    "VARIATION", "ESCROW", "RELEASE", "REFUND", "COMPENSATION", "PREMIUM", "CAP_PAYMENT", "SLOT",
    "FUND_CONTRIBUTION", "LAYER_LOAN", "USAGE_HOLD", "USAGE_CHARGE", "WITHDRAWAL",
    "DELIVERY_CORRECTION",
}  # fmt: skip


class Books:
    """Cash, escrow and delivery as they follow from events and from nothing else."""

    def __init__(self) -> None:
        self.cash: defaultdict[tuple[int, int], int] = defaultdict(int)
        self.held: dict[str, tuple[int, int]] = {}
        """By hold: owner and amount."""
        self.entitled: Counter[tuple[str, int]] = Counter()
        self.owed: Counter[tuple[str, int]] = Counter()
        self.allocations: dict[int, Any] = {}
        self.prices: dict[int, int] = {}
        """By start of the hour."""
        self.settled: set[tuple[int, int]] = set()
        self.covered: Counter[tuple[int, int]] = Counter()
        """From the escrow, by allocation and interval."""

    def take(self, happened: list[events.Event]) -> None:
        for event in happened:
            seen[type(event).__name__] += 1
            match event:
                case events.Transferred():
                    seen[Code(event.code).name] += 1
                    self._move(event)
                case events.Held():
                    seen[Code(event.code).name] += event.phase == Phase.POST
                    self._hold(event)
                case events.EntitlementGranted():
                    self.entitled[event.grade, event.hour_starts_at] += event.lots
                case events.ObligationIncurred():
                    self.owed[event.grade, event.hour_starts_at] += event.lots
                case events.Allocated():
                    self.allocations[event.allocation] = event
                case events.GateClosed():
                    self.prices[event.hour_starts_at] = event.price
                case events.CoverSettled():
                    self.covered[event.allocation, event.interval] += event.released
                    assert 0 <= event.excess <= event.excess_due, "no more is paid than is due"
                case events.IntervalSettled():
                    self._settle(event)

    def _move(self, event: Any) -> None:
        assert event.amount > 0
        self.cash[event.debit_owner, event.debit_kind] -= event.amount
        self.cash[event.credit_owner, event.credit_kind] += event.amount

    def _hold(self, event: Any) -> None:
        if event.phase == Phase.HOLD:
            assert event.id not in self.held, "a hold is placed once"
            self.held[event.id] = event.debit_owner, event.amount
            return
        _, amount = self.held.pop(event.hold)
        if event.phase == Phase.POST:
            assert event.amount <= amount, "no more is posted than was held"
            self._move(event)

    def _settle(self, event: Any) -> None:
        key = event.allocation, event.interval
        assert key not in self.settled, "an interval is settled once"
        self.settled.add(key)
        allocation = self.allocations[event.allocation]
        paid = 5 * self.prices[allocation.hour_starts_at] * allocation.lots
        assert event.released + event.refunded + self.covered[key] == paid, "escrow goes somewhere"
        assert 0 <= event.compensated <= event.compensation_due, "no more is paid than is due"


class Conservation(RuleBasedStateMachine):
    """A market, and its books kept apart."""

    @initialize(is_january=st.booleans(), holder=accounts)
    def open(self, is_january: bool, holder: int) -> None:
        """Begin before the month is cascaded, with some insurance sold, or when it is delivered."""
        self.floor = floor.Floor(
            "25 10:05", checked=False, premium_percents=(5, 3), slot_reference_ticks=(50, 20)
        )
        self.books = Books()
        self.told = 0
        self.withdrawals: list[tuple[int, str]] = []
        self.metered: set[tuple[int, int, int]] = set()
        self.corrected = 0
        self.commitments = 0
        for account in ACCOUNTS:
            self.floor.account(
                account, cash=CASH.get(account, floor.RICH), certified=PROVIDERS.get(account, 0)
            )
        for symbol in self._symbols(*contract.OPTIONS)[:3]:
            self._trade(symbol, holder, WRITER, 3, 0)
        if is_january:
            self.floor.to("27 02:07")

    # What may be done

    def _symbols(self, *products: contract.Product) -> list[str]:
        """The instruments of some products that trade, those that end first in front."""
        open_books = [
            book
            for book in self.floor.machine.state.by_id.values()
            if book.contract.product in products and self.floor.at < book.contract.trading_ends_at
        ]
        open_books.sort(key=lambda book: (book.contract.trading_ends_at, book.id))
        return [book.symbol for book in open_books]

    def _trade(self, symbol: str, buyer: int, seller: int, lots: int, step: int) -> None:
        """Have two meet at a price near the last one, where they may."""
        book = self.floor.machine.state.instruments.get(symbol)
        if book is None:
            return
        around = book.last or book.mark
        low, high = max(1, book.band_low), book.band_high
        price = min(max(around + around * step // 100, low), high)
        self.floor.place(seller, -1, lots, price, instrument=symbol)
        self._tell()
        self.floor.place(buyer, 1, lots, price, instrument=symbol)

    @rule(pick=picks, buyer=accounts, seller=accounts, lots=many, step=st.integers(-4, 4))
    def trade_tokens(self, pick: int, buyer: int, seller: int, lots: int, step: int) -> None:
        product = contract.Product
        kind = (product.HOUR, product.DAY, product.WEEK, product.MONTH)[pick % 4]
        names = self._symbols(kind)[:6]
        if names:
            self._trade(names[pick // 4 % len(names)], buyer, seller, lots, step)

    @rule(pick=picks, buyer=accounts, lots=many)
    def sell_what_is_certified(self, pick: int, buyer: int, lots: int) -> None:
        product = contract.Product
        names = self._symbols((product.HOUR, product.DAY)[pick % 2])[:4]
        if names:
            self._trade(names[pick // 2 % len(names)], buyer, 1 + pick // 8 % 2, lots, 0)

    @rule(pick=picks, buyer=accounts, seller=st.sampled_from((1, 2, 5)), lots=few)
    def trade_slots(self, pick: int, buyer: int, seller: int, lots: int) -> None:
        names = self._symbols(contract.Product.SLOT)[:8]
        if names:
            self._trade(names[pick % len(names)], buyer, seller, lots, 0)

    @rule(pick=picks, buyer=accounts, lots=few)
    def insure(self, pick: int, buyer: int, lots: int) -> None:
        names = self._symbols(*contract.OPTIONS)[:6]
        if names:
            self._trade(names[pick % len(names)], buyer, WRITER, lots, 0)

    @rule(pick=picks, account=accounts, lots=many, minutes=st.integers(1, 90))
    def pool(self, pick: int, account: int, lots: int, minutes: int) -> None:
        names = self._symbols(contract.Product.HOUR, contract.Product.DAY)[:4]
        if not names:
            return
        book = self.floor.machine.state.instruments[names[pick % len(names)]]
        self.commitments += 1
        deadline = (self.floor.at // (5 * MINUTE) + 1 + minutes // 5) * 5 * MINUTE
        self.floor.instruct(
            instructions.CommitPurchase(
                commitment=self.commitments, account=account, instrument=book.symbol,
                deadline=deadline, lots=lots, price_ticks=book.band_high,
            )
        )  # fmt: skip

    @rule(account=accounts)
    def leave_the_pool(self, account: int) -> None:
        if self.commitments:
            self.floor.instruct(
                instructions.WithdrawCommitment(commitment=self.commitments, account=account)
            )

    @rule(pick=picks, pushes=st.integers(3, 9), side=sides)
    def run_away(self, pick: int, pushes: int, side: int) -> None:
        """Let one who has little be short or long, and the price move away from it."""
        is_covered = bool(pick % 2)
        product = contract.Product.MONTH if is_covered else contract.Product.DAY
        poor, lots = (2, 40) if is_covered else (3, 80)
        names = self._symbols(product)[:3]
        if not names:
            return
        symbol = names[pick // 2 % len(names)]
        buyer, seller = (5, poor) if side > 0 or is_covered else (poor, 1)
        self._trade(symbol, buyer, seller, lots, 0)
        self._tell()
        for _ in range(pushes):
            self._trade(symbol, 6, 1, 1, 4 if is_covered else 4 * side)
            self._tell()
            self.floor.at += 12 * MINUTE
            self.floor.apply(commands.Tick())
            self._tell()

    @rule(number=st.sampled_from((1, 2)), lots=st.sampled_from((0, 0, 10, 100)), back=st.booleans())
    def lose_or_gain_capacity(self, number: int, lots: int, back: bool) -> None:
        self.floor.certify(number, PROVIDERS[number] if back else lots)

    @rule(share=st.integers(0, 4), missed=st.booleans(), is_suspended=st.booleans(), times=many)
    def deliver(self, share: int, missed: bool, is_suspended: bool, times: int) -> None:
        """Settle intervals that are over, with what was available and what of it was missed."""
        for hour in list(self.floor.machine.state.hours.values()):
            for number in range(1, contract.INTERVALS_PER_HOUR + 1):
                due = hour.starts_at + number * contract.INTERVAL + contract.SETTLEMENT_LAG
                if hour.settled >> (number - 1) & 1 or due > self.floor.at or not times:
                    continue
                times -= 1
                self._settle(hour, number, share, missed, is_suspended)

    def _settle(self, hour: Any, number: int, share: int, missed: bool, is_suspended: bool) -> None:
        lines = []
        for allocation in hour.allocations.values():
            whole = allocation.lots * MNTU_PER_LOT_INTERVAL
            there = whole * share // 4 if allocation.cluster else 0
            short = (whole - there) // 2 if missed else 0
            rest = (whole - there - short) // 2 if missed else 0
            parties = (allocation.seller, allocation.holder)
            helpers = [account for account in ACCOUNTS if account not in parties][:2]
            covers = tuple(
                instructions.CoverLine(offer, offer, seller, 400 * offer, rest // len(helpers))
                for offer, seller in enumerate(helpers, start=1)
                if rest
            )
            lines.append(instructions.DeliveryLine(allocation.id, there, short, there // 2, covers))
        refused = self.floor.instruct(
            instructions.SettleInterval(
                grade=GRADE, hour_starts_at=hour.starts_at, interval=number,
                lines=() if is_suspended else tuple(lines), suspended=is_suspended,
            )
        )  # fmt: skip
        assert refused is None, refused
        self._tell()

    @rule(buyer=accounts, lots=many, share=st.integers(1, 4), missed=st.booleans(), dear=sides)
    def live_through_an_hour(
        self, buyer: int, lots: int, share: int, missed: bool, dear: int
    ) -> None:
        """Buy the next hour, use it, and have its caps paid, by an index that may be corrected."""
        names = self._symbols(contract.Product.HOUR)[:1]
        if not names:
            return
        terms = contract.parse_symbol(names[0])
        assert terms is not None
        self._trade(names[0], buyer, 1, lots, 0)
        self._tell()
        self.floor.at = max(self.floor.at, terms.ends_at + contract.SETTLEMENT_LAG)
        self.floor.apply(commands.Tick())
        self._tell()
        if dear > 0:
            self.floor.instruct(
                instructions.OverrideIndex(
                    grade=GRADE, hour_starts_at=terms.starts_at, version=2, price_ticks=2_000,
                    reason="dear", proposed_by=6, confirmed_by=7,
                )
            )  # fmt: skip
            self._tell()
        self.deliver(share=share, missed=missed, is_suspended=False, times=-1)
        self.pay_insurance(ntu=60_000)

    @rule(pick=picks, parts=st.integers(-4, 4))
    def correct(self, pick: int, parts: int) -> None:
        """Post what a later run might find of an allocation whose hour is settled."""
        open_hours = {starts_at for _, starts_at in self.floor.machine.state.hours}
        past = [
            one
            for one in self.books.allocations.values()
            if one.hour_starts_at not in open_hours and one.cluster
        ]
        if not past:
            return
        one = past[pick % len(past)]
        price = self.books.prices[one.hour_starts_at]
        moved = parts * 5 * price * one.lots // 4
        self.corrected += 1
        refused = self.floor.instruct(
            instructions.CorrectDelivery(
                run=f"run-{self.corrected}", grade=GRADE, hour_starts_at=one.hour_starts_at,
                lines=(
                    instructions.CorrectionLine(
                        one.allocation, one.holder, one.seller, one.lots, price, moved, 0, 0
                    ),
                ),
            )
        )  # fmt: skip
        assert refused is None or not moved, refused

    @rule(ntu=st.integers(0, 200_000))
    def pay_insurance(self, ntu: int) -> None:
        now = contract.hour_start(self.floor.at)
        metered = tuple((account, ntu * 1_000) for account in ACCOUNTS)
        for starts_at in range(now - 30 * HOUR, now, HOUR):
            if self.floor.at >= starts_at + HOUR + contract.SETTLEMENT_LAG:
                self.floor.instruct(
                    instructions.PayInsurance(
                        grade=GRADE, hour_starts_at=starts_at, metered=metered
                    )
                )
                self._tell()

    @rule(account=accounts, ntu=st.integers(0, 2_000_000), is_last=st.booleans())
    def use_as_one_goes(self, account: int, ntu: int, is_last: bool) -> None:
        starts_at = contract.hour_start(self.floor.at)
        self.floor.instruct(
            instructions.ReserveUsage(
                account=account, grade=GRADE, hour_starts_at=starts_at, amount_micros=5_000_000
            )
        )
        self._tell()
        interval = (self.floor.at - starts_at) // contract.INTERVAL
        if interval and (account, starts_at, interval) not in self.metered:
            self.metered.add((account, starts_at, interval))
            self.floor.instruct(
                instructions.ChargeUsage(
                    account=account, seller=1, grade=GRADE, hour_starts_at=starts_at,
                    interval=interval, mntu=ntu * 1_000, release=is_last,
                )
            )  # fmt: skip

    @rule(account=accounts, percent=st.integers(1, 100), way=st.integers(0, 3))
    def move_money(self, account: int, percent: int, way: int) -> None:
        amount = self.floor.view(account).withdrawable * percent // 100
        if way == 0:
            self.floor.deposit(account, 1_000_000 * percent)
        elif way == 1 and amount:
            assert self.floor.withdraw(account, amount) is None
        elif way == 2 and amount:
            hold = instructions.HoldWithdrawal(account=account, amount_micros=amount)
            assert self.floor.instruct(hold) is None
            self.withdrawals += [(account, e.id) for e in self.floor.of(events.Held)]
        elif self.withdrawals:
            account, name = self.withdrawals.pop()
            _, held = self.books.held[name]
            end: Any = instructions.VoidWithdrawal(account=account, hold=name)
            if percent > 30:
                part = max(1, held * percent // 100)
                end = instructions.PostWithdrawal(account=account, hold=name, amount_micros=part)
            assert self.floor.instruct(end) is None

    @rule(time=st.sampled_from((MINUTE, 7 * MINUTE, 50 * MINUTE, 3 * HOUR, 11 * HOUR, DAY)))
    def wait(self, time: int) -> None:
        self.floor.at += time
        self.floor.apply(commands.Tick())

    @rule()
    def restart(self) -> None:
        data = self.floor.machine.snapshot()
        self.floor.machine = Machine.restore(data)
        assert self.floor.machine.snapshot() == data

    # What holds

    def _tell(self) -> None:
        self.books.take(self.floor.events[self.told :])
        self.told = len(self.floor.events)

    @invariant()
    def the_books_are_the_machines(self) -> None:
        if not hasattr(self, "floor"):
            return
        self._tell()
        state = self.floor.machine.state
        kept = self.books.cash
        held: Counter[int] = Counter()
        for owner, amount in self.books.held.values():
            held[owner] += amount
        for number, account in state.accounts.items():
            assert kept[number, Kind.CASH] == account.cash + account.held, "cash"
            assert kept[number, Kind.ESCROW] == account.escrow, "escrow"
            assert kept[number, Kind.FUND] == account.fund, "the fund"
            assert kept[number, Kind.USAGE_HOLD] == account.usage_hold, "what is held for usage"
            assert account.held == held[number], "withdrawals that wait"
        for (owner, kind), balance in kept.items():
            assert owner == EXCHANGE or balance >= 0, "nobody's account is overdrawn"
            if owner == EXCHANGE:
                assert state.exchange[Kind(kind)] == balance, Kind(kind).name
        assert sum(kept.values()) == 0, "cash is conserved"

    @invariant()
    def what_is_entitled_is_owed(self) -> None:
        if not hasattr(self, "floor"):
            return
        assert self.books.entitled == self.books.owed
        lots: Counter[tuple[str, int]] = Counter()
        for one in self.books.allocations.values():
            lots[one.grade, one.hour_starts_at] += one.lots
        assert lots == self.books.entitled, "every entitled lot is somebody's to deliver"

    @invariant()
    def the_machine_holds_its_own(self) -> None:
        if hasattr(self, "floor"):
            self.floor.machine.check()

    def teardown(self) -> None:
        if not hasattr(self, "floor"):
            return
        again = Machine()
        for entry in self.floor.log:
            again.apply(entry.command, entry.sequence, entry.at)
        assert again.digest() == self.floor.machine.digest()


STORY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("trade_tokens", {"pick": 3, "buyer": 4, "seller": 1, "lots": 5, "step": 0}),
    ("pool", {"pick": 1, "account": 6, "lots": 20, "minutes": 30}),
    ("move_money", {"account": 6, "percent": 10, "way": 2}),
    ("move_money", {"account": 6, "percent": 50, "way": 3}),
    ("use_as_one_goes", {"account": 4, "ntu": 0, "is_last": False}),
    ("wait", {"time": 7 * MINUTE}),
    ("use_as_one_goes", {"account": 4, "ntu": 50_000, "is_last": True}),
    ("wait", {"time": 50 * MINUTE}),
    ("trade_slots", {"pick": 0, "buyer": 4, "seller": 1, "lots": 3}),
    ("live_through_an_hour", {"buyer": 4, "lots": 9, "share": 2, "missed": True, "dear": 1}),
    ("correct", {"pick": 0, "parts": 2}),
    ("restart", {}),
    ("lose_or_gain_capacity", {"number": 1, "lots": 10, "back": False}),
    ("live_through_an_hour", {"buyer": 7, "lots": 40, "share": 4, "missed": False, "dear": -1}),
    ("lose_or_gain_capacity", {"number": 1, "lots": 0, "back": True}),
    ("run_away", {"pick": 0, "pushes": 9, "side": -1}),
    ("run_away", {"pick": 0, "pushes": 9, "side": -1}),
    ("run_away", {"pick": 0, "pushes": 9, "side": 1}),
    ("run_away", {"pick": 0, "pushes": 9, "side": 1}),
    ("wait", {"time": 11 * HOUR}),
    ("wait", {"time": DAY}),
    ("deliver", {"share": 3, "missed": True, "is_suspended": False, "times": 60}),
    ("pay_insurance", {"ntu": 100_000}),
)


def tell_the_story(is_january: bool) -> None:
    """Play it as Hypothesis would, with everything checked after every step."""
    market = Conservation()
    market.open(is_january=is_january, holder=4)
    for name, arguments in STORY:
        getattr(market, name)(**arguments)
        market.the_books_are_the_machines()
        market.what_is_entitled_is_owed()
        market.the_machine_holds_its_own()
    market.teardown()


def test_whatever_a_market_does_nothing_appears_and_nothing_is_lost() -> None:
    seen.clear()
    for is_january in (False, True):
        tell_the_story(is_january)
    run_state_machine_as_test(
        Conservation,
        settings=settings(
            max_examples=40 * max(1, DEEP),
            stateful_step_count=60,
            deadline=None,
            derandomize=not DEEP,
            phases=(Hunt.explicit, Hunt.reuse, Hunt.generate),  # to shrink takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
    missing = sorted(verb for verb in EVERY_VERB if not seen[verb])
    assert not missing, f"never happened: {missing}"


assert default_events.Defaulted.__name__ in EVERY_VERB
assert insurance_events.InsurancePaid.__name__ in EVERY_VERB
