"""A market in memory: the real machine, a clock of five-minute steps, delivery, and what it tells.

The machine is the engine's, and gets the engine's commands and instructions; there is no database.
In every step the calendar is brought up to date, the interval that has ended is delivered and
settled a minute later, and those traders act whose turn it is. What a cluster can serve follows
from its outages; what a holder asks for, from its client's shape. Demand that is missed is judged
by the same arithmetic as the gateway's (`admission.shortfall`), except that every request is its
own. Whatever a holder uses beyond what it was given is paid as it goes.

Everything random has a seed of its own by trader, so that a run with a cheat and one without it
differ by the cheat alone.
"""

import random
import time
from collections import Counter, defaultdict
from typing import Any, Protocol

from admission import shortfall
from benchmarks.market_data import Data
from exchange import commands, default_events, events
from exchange.machine import Machine
from marketplace import contract
from marketplace.contract import DAY, HOUR, INTERVAL, INTERVALS_PER_HOUR, MNTU_PER_LOT_INTERVAL
from settlement import instructions
from settlement.instructions import DeliveryLine
from settlement.ledger import EXCHANGE, Code, Kind

GRADE = "GLM"
SECOND = 1_000_000
FAR = 4_000_000_000_000_000
PROBES = 10
USD = 1_000_000


class Trader(Protocol):
    """What acts in the market: an organization, or one of a group."""

    id: int
    group: int
    role: str
    cash: int
    lots: int
    client: int
    turn: int

    def act(self, world: "World") -> None:
        """Do what there is to do in this hour."""


class World:
    """The market, its traders, and everything that has been noted of it."""

    def __init__(self, data: Data, *, start: int, seed: int) -> None:
        self.data = data
        self.start = start
        self.at = start
        self.seed = seed
        self.machine = Machine()
        self.traders: dict[int, Any] = {}
        self.rng: dict[int, random.Random] = {}
        self.clusters: dict[int, int] = {}
        """The owner of each cluster."""
        self.outages: dict[int, list[tuple[int, int, float]]] = {}
        """Of each cluster (from, until, share that is still served), planned."""
        self.switched: dict[int, int] = {}
        """Until when a cluster is switched off on purpose."""
        self.demand_factor: dict[int, float] = {}
        """What holders ask for over what they need, where they invent it."""
        self.past: dict[int, list[int]] = defaultdict(list)
        self.asked: dict[int, int] = defaultdict(int)
        self.debts: dict[int, int] = defaultdict(int)
        self.usage: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        """By (account, hour): mNTU delivered as entitled, and paid as they went."""
        self.basis: dict[str, dict[int, list[int]]] = defaultdict(dict)
        """By symbol and account: net lots and what they cost by trade, in ticks."""
        self.entry: dict[tuple[int, int], tuple[int, int]] = {}
        """By (account, hour): lots entitled to, and what they were bought for, in ticks."""
        self.ledger: Counter[tuple[int, int]] = Counter()
        """Micro-USD by (account, code), signed."""
        self.counts: Counter[str] = Counter()
        self.halts: Counter[int] = Counter()
        """Volatility auctions by day."""
        self.halts_of: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.index: dict[int, int] = {}
        self.notes: list[tuple[int, str, int, int]] = []
        """(at, what, account, amount) of calls, liquidations, defaults and haircuts."""
        self.bands: Counter[str] = Counter()
        self.margins: list[tuple[int, int, int, int]] = []
        """By hour: at, initial margin of all, cash of all, variation paid in the hour."""
        self.paid: Counter[int] = Counter()
        """Variation that each account has paid in the running hour."""
        self.required: dict[int, int] = {}
        """What was reserved of each account at the last full hour."""
        self.exceeded: list[tuple[int, int, int]] = []
        """(account, paid, reserved) of hours in which somebody paid more than was reserved."""
        self.payers = 0
        """Hours of accounts that paid variation."""
        self.acting = "calendar"
        """The role of who acts: what starts a volatility auction."""
        self.halted_by: Counter[str] = Counter()
        self.sampled: Counter[tuple[str, bool]] = Counter()
        """Books seen at the end of a step, by product and whether they were in such an auction."""
        self.checked = 0
        self.checks_s = 0.0
        self.machine_s = 0.0
        self.orders = 0

    # What the machine is told

    def do(self, command: commands.Command) -> list[Any]:
        """Apply a command now and note what happened."""
        begun = time.perf_counter()
        happened: list[Any] = self.machine.apply(command, self.machine.sequence + 1, self.at)
        self.machine_s += time.perf_counter() - begun
        self._note(happened)
        return happened

    def instruct(self, command: Any) -> None:
        """Apply an instruction; none of a simulation's may be refused."""
        name = f"sim:{self.machine.sequence + 1}"
        for event in self.do(commands.Instruct(name, instructions.encode(command))):
            assert not isinstance(event, events.InstructionRefused), (command, event)

    def order(
        self,
        account: int,
        symbol: str,
        side: int,
        price: float,
        lots: int,
        *,
        now: bool = False,
    ) -> int:
        """Place an order at a price that the band allows; return how many lots traded at once.

        A bid below the band is not placed, nor is an ask above it: those would not be refused by
        a trader's own prices only to be placed at the band's.
        """
        book = self.machine.state.instruments.get(symbol)
        ticks = round(price)
        if book is None or lots < 1:
            return 0
        if (side > 0 and ticks < book.band_low) or (side < 0 and ticks > book.band_high):
            self.bands["out of reach"] += 1
            return 0
        if not book.band_low <= ticks <= book.band_high:
            self.bands["held by the band"] += 1
        ticks = min(max(ticks, book.band_low), book.band_high)
        self.orders += 1
        happened = self.do(
            commands.PlaceOrder(
                account,
                symbol,
                side,
                ticks,
                lots,
                commands.IOC if now and book.is_open else commands.GTC,
                f"{account}-{self.orders}",
                b"",
            )
        )
        return sum(
            event.lots
            for event in happened
            if isinstance(event, events.Traded) and account in (event.maker, event.taker)
        )

    def cancel(self, account: int, symbol: str = "") -> None:
        """Withdraw an account's orders, of one book or of all."""
        if self.machine.state.accounts[account].orders:
            self.do(commands.CancelOrders(account, symbol))

    def join(self, trader: Any) -> None:
        """Open a trader's account and give it its cash."""
        self.traders[trader.id] = trader
        self.rng[trader.id] = random.Random(f"{self.seed}:{trader.id}")
        self.instruct(instructions.OpenAccount(account=trader.id, group=trader.group))
        self.instruct(instructions.Deposit(account=trader.id, amount_micros=trader.cash))

    def certify(self, cluster: int, account: int, lots: int) -> None:
        """Certify a cluster for as long as anybody looks."""
        self.clusters[cluster] = account
        self.instruct(
            instructions.Certify(
                cluster=cluster, account=account, grade=GRADE, lots=lots, valid_until=FAR
            )
        )

    # What traders look at

    @property
    def since(self) -> int:
        """Microseconds since the start."""
        return self.at - self.start

    def fair(self, terms: Any) -> float:
        """Return what a contract is worth, in ticks."""
        return self.data.fair(self.since, terms.starts_at - self.start, terms.ends_at - self.start)

    def books(self, *products: Any) -> list[Any]:
        """Return the books of some products that take orders, those that end first in front."""
        open_books = [
            book
            for book in self.machine.state.by_id.values()
            if book.contract.product in products and book.contract.trading_ends_at > self.at
        ]
        return sorted(open_books, key=lambda book: (book.contract.trading_ends_at, book.id))

    def net(self, account: int, symbol: str) -> int:
        """Return an account's net lots of a book."""
        position = self.machine.state.accounts[account].positions.get(symbol)
        return position.net if position is not None else 0

    def exposure(self, account: int, terms: Any) -> int:
        """Return what an account is long at least in every hour of a window, over all tenors."""
        total = 0
        for position in self.machine.state.accounts[account].positions.values():
            other = position.instrument.contract
            if not position.instrument.is_energy:
                continue
            if other.starts_at <= terms.starts_at and other.ends_at >= terms.ends_at:
                total += position.net
        return total

    def need(self, trader: Any, starts_at: int, ends_at: int) -> float:
        """Return a trader's mean demand over a window, in lots."""
        step = max(600 * SECOND, (ends_at - starts_at) // 48)
        whens = range(starts_at - self.start, ends_at - self.start, step)
        rates = [self.data.demand(trader.client, when) for when in whens]
        return trader.lots * sum(rates) / len(rates)

    def free(self, account: int) -> int:
        """Return an account's cash that nothing reserves."""
        holder = self.machine.state.accounts[account]
        return int(holder.cash - holder.required)

    def wealth(self, account: int) -> int:
        """Return what an account has, positions at their marks, less what it owes."""
        holder = self.machine.state.accounts[account]
        open_value = sum(
            (position.net * position.instrument.mark - position.cost) * position.instrument.unit
            for position in holder.positions.values()
            if not position.instrument.is_option
        )
        owned = holder.cash + holder.escrow + holder.fund + holder.usage_hold
        return int(owned + open_value - holder.debt)

    def served(self, cluster: int, at: int) -> float:
        """Return what share of its lots a cluster serves at an instant."""
        if self.switched.get(cluster, 0) > at:
            return 0.0
        for begins, ends, share in self.outages.get(cluster, ()):
            if begins <= at < ends:
                return share
        return 1.0

    # Time

    def run(self, days: float, *, check_every: int = 1, watch: Any = None) -> None:
        """Let time pass in five-minute steps; `check` every so many of them."""
        until = self.at + int(days * DAY)
        step = 0
        base = self.at
        while base < until:
            self.at = base
            self.do(commands.Tick())
            if base % HOUR == 0:
                self._full_hour()
            self.at = base + 60 * SECOND
            self._deliver(base - INTERVAL)
            if base % HOUR == 0:
                self._charge(base - HOUR)
            turn = base % HOUR // INTERVAL
            for number in sorted(self.traders):
                trader = self.traders[number]
                if trader.turn == turn or trader.turn < 0:
                    self.at += 100_000
                    self.acting = trader.role
                    trader.act(self)
            self.acting = "calendar"
            self._sample()
            self.machine.forget_touched()
            if step % check_every == 0:
                begun = time.perf_counter()
                self.machine.check()
                self.checks_s += time.perf_counter() - begun
                self.checked += 1
            step += 1
            base += INTERVAL
            if watch is not None and base % DAY == 0:
                watch(self)

    def _full_hour(self) -> None:
        """Hold what was paid in an hour against the margin there was for it."""
        state = self.machine.state
        margin = sum(account.required for account in state.accounts.values())
        cash = sum(account.cash for account in state.accounts.values())
        self.margins.append((self.at, margin, cash, sum(self.paid.values())))
        for number, paid in self.paid.items():
            self.payers += 1
            if paid > self.required.get(number, 0):
                self.exceeded.append((number, paid, self.required.get(number, 0)))
        self.required = {number: account.required for number, account in state.accounts.items()}
        self.paid.clear()

    def _sample(self) -> None:
        """Count which books trade and which of them are in a volatility auction."""
        for book in self.machine.state.by_id.values():
            call = book.call
            if book.is_open or (call is not None and call.kind == "VOLATILITY"):
                self.sampled[book.contract.product.value, call is not None] += 1

    # Delivery

    def _deliver(self, begins: int) -> None:
        """Settle the interval that began then, as the gateway and the probes would have it."""
        hour_at = begins - begins % HOUR
        hour = self.machine.state.hours.get((GRADE, hour_at))
        number = (begins - hour_at) // INTERVAL + 1
        lots: dict[int, int] = defaultdict(int)
        by_holder: dict[int, list[Any]] = defaultdict(list)
        for allocation in hour.allocations.values() if hour is not None else ():
            lots[allocation.holder] += allocation.lots
            by_holder[allocation.holder].append(allocation)
        lines: list[DeliveryLine] = []
        for account in sorted(self.traders):
            trader = self.traders[account]
            real = int(
                trader.lots
                * self.data.demand(trader.client, begins - self.start)
                * MNTU_PER_LOT_INTERVAL
            )
            if trader.role == "provider":
                real = 0
            held = lots.get(account, 0)
            got = 0
            if held:
                new, got = self._serve(account, held, by_holder[account], real, begins)
                lines += new
            use = self.usage[account, hour_at]
            use[0] += got
            use[1] += max(0, real - got)
        if hour is not None:
            self.instruct(
                instructions.SettleInterval(
                    grade=GRADE,
                    hour_starts_at=hour_at,
                    interval=number,
                    lines=tuple(sorted(lines, key=lambda line: line.allocation)),
                )
            )

    def _serve(
        self, account: int, held: int, allocations: list[Any], real: int, begins: int
    ) -> tuple[list[DeliveryLine], int]:
        """Return what each allocation of a holder saw, and what the holder got in all."""
        asked = int(real * self.demand_factor.get(account, 1.0))
        entitled = held * MNTU_PER_LOT_INTERVAL
        wanted = min(asked, entitled)
        parts = shortfall.parts(wanted, [allocation.lots for allocation in allocations])
        there = []
        for allocation in allocations:
            share = self.served(allocation.cluster, begins) if allocation.cluster else 0.0
            there.append(
                shortfall.available_mntu(
                    lots=allocation.lots, probes=PROBES, passed=round(PROBES * share), refusals=0
                )
            )
        # A request goes where there is something left, so only what is nowhere is missed.
        got = min(wanted, sum(there))
        past = self.past[account]
        short = shortfall.short_mntu(missed=wanted - got, owed=entitled, past_demand=past)
        lacks = [max(0, part - has) for part, has in zip(parts, there, strict=True)]
        shares = shortfall.parts(short, lacks) if short else [0] * len(lacks)
        served = shortfall.parts(got, there) if got else [0] * len(there)
        lines = [
            DeliveryLine(allocation.id, has, missed, delivered)
            for allocation, has, missed, delivered in zip(
                allocations, there, shares, served, strict=True
            )
        ]
        # What was believed is the past of the intervals to come, not what was asked for.
        past.append(got + short)
        del past[: -shortfall.PAST_INTERVALS]
        return lines, min(got, real)

    def _charge(self, hour_at: int) -> None:
        """Charge what was used in an hour beyond what had been bought, and pay the hour's caps."""
        providers = [number for number in sorted(self.clusters) if number]
        seller = self.clusters[providers[hour_at // HOUR % len(providers)]]
        metered = []
        for account in sorted(self.traders):
            used, more = self.usage.get((account, hour_at), (0, 0))
            if used + more:
                metered.append((account, used + more))
            if more and self.index.get(hour_at):
                self.instruct(
                    instructions.ChargeUsage(
                        account=account,
                        seller=seller,
                        grade=GRADE,
                        hour_starts_at=hour_at,
                        interval=INTERVALS_PER_HOUR,
                        mntu=more,
                        release=True,
                    )
                )
        is_unpaid = any(
            book.is_option
            and str(book.phase) == "CLOSED"
            and book.contract.starts_at <= hour_at < book.contract.ends_at
            for book in self.machine.state.by_id.values()
        )
        if is_unpaid:
            self.instruct(
                instructions.PayInsurance(
                    grade=GRADE, hour_starts_at=hour_at, metered=tuple(metered)
                )
            )

    # What is noted

    def _note(self, happened: list[Any]) -> None:
        for event in happened:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def _transferred(self, event: Any) -> None:
        code = event.code
        if event.debit_owner != EXCHANGE and event.debit_kind == Kind.CASH:
            self.ledger[event.debit_owner, code] -= event.amount
            if code == Code.VARIATION:
                self.paid[event.debit_owner] += event.amount
        if event.credit_owner != EXCHANGE and event.credit_kind == Kind.CASH:
            self.ledger[event.credit_owner, code] += event.amount
        self.counts[f"transfer {Code(code).name}"] += 1
        self.counts[f"micros {Code(code).name}"] += event.amount

    def _traded(self, event: Any) -> None:
        book = self.machine.state.instruments.get(event.instrument)
        kind = event.instrument.split(".")[1]
        self.counts["trades"] += 1
        self.counts[f"trades {kind}"] += 1
        hours = book.contract.hours if book is not None else 1
        self.counts["lot-hours"] += event.lots * hours
        self.counts["notional"] += event.lots * event.price * 60 * hours
        buyer, seller = event.taker, event.maker
        if event.taker_side < 0:
            buyer, seller = seller, buyer
        of = self.basis[event.instrument]
        for account, lots in ((buyer, event.lots), (seller, -event.lots)):
            line = of.setdefault(account, [0, 0])
            line[0] += lots
            line[1] += lots * event.price

    def _cascaded(self, event: Any) -> None:
        self.counts["cascades"] += 1
        terms = contract.parse_symbol(event.instrument)
        assert terms is not None
        make, length = contract.day_contract, DAY
        if terms.product is contract.Product.DAY:
            make, length = contract.hour_contract, HOUR
        parent = self.basis.pop(event.instrument, {})
        for starts_at in range(terms.starts_at, terms.ends_at, length):
            of = self.basis[make(GRADE, starts_at).symbol]
            for account, (lots, cost) in parent.items():
                line = of.setdefault(account, [0, 0])
                line[0] += lots
                line[1] += cost

    def _gate(self, event: Any) -> None:
        for account, (lots, cost) in self.basis.pop(event.instrument, {}).items():
            if lots:
                self.entry[account, event.hour_starts_at] = lots, cost
        self.counts["hours delivered"] += 1
        self.counts["lots delivered"] += event.lots

    def _indexed(self, event: Any) -> None:
        self.index[event.hour_starts_at] = event.price
        self.methods[event.method] += 1

    def _called(self, event: Any) -> None:
        self.counts[f"call {event.kind}"] += 1
        if event.kind == "VOLATILITY":
            self.halts[(event.at - self.start) // DAY] += 1
            self.halts_of[event.instrument.split(".")[1]] += 1
            self.halted_by[self.acting] += 1

    def _interval(self, event: Any) -> None:
        self.counts["allocations settled"] += 1
        self.counts["mntu short"] += event.short_mntu
        self.counts["compensation due"] += event.compensation_due
        self.counts["compensation paid"] += event.compensated
        self.counts["refunded"] += event.refunded

    def _obliged(self, event: Any) -> None:
        self.counts["failed lots"] += event.failed_lots
        if event.failed_lots:
            self.notes.append((self.at, "failed lots", event.account, event.failed_lots))

    def _noted(self, event: Any) -> None:
        what = type(event).__name__
        self.counts[what] += 1
        self.notes.append((event.at, what, event.account, getattr(event, "amount", 0)))

    def _rejected(self, event: Any) -> None:
        self.refusals[event.reason] += 1

    def _placed(self, event: Any) -> None:
        if "buy_in" in event.request.client_order_id:
            self.counts["buy-in orders"] += 1
            self.counts["buy-in lots"] += event.request.lots
        elif "liquidation" in event.request.client_order_id:
            self.counts["liquidation orders"] += 1
            self.counts["liquidation lots"] += event.request.lots


_HANDLERS: dict[type[Any], Any] = {
    events.Transferred: World._transferred,
    events.Traded: World._traded,
    events.Cascaded: World._cascaded,
    events.GateClosed: World._gate,
    events.IndexPublished: World._indexed,
    events.CallOpened: World._called,
    events.IntervalSettled: World._interval,
    events.ObligationIncurred: World._obliged,
    default_events.MarginCalled: World._noted,
    default_events.MarginCallMet: World._noted,
    default_events.LiquidationStarted: World._noted,
    default_events.Defaulted: World._noted,
    default_events.HaircutTaken: World._noted,
    events.OrderRejected: World._rejected,
    events.OrderPlaced: World._placed,
}
