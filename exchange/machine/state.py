"""The state of a clearing group, and the few ways it changes that every part shares.

Cash is mirrored to the micro-dollar as the ledger has it: `transfer` moves it and emits the event
the ledger is written from, so the sum over all accounts is always zero. What an account must have
behind its positions and orders is kept as one number per position (`Position.required`), adjusted
whenever one of its terms moves; nothing is ever summed over accounts on the way of an order.

Whatever is iterated is iterated in the order of an id, so that a restored state behaves alike.
"""

from collections.abc import Iterator
from heapq import heapify, heappush
from typing import Any

from exchange import events
from exchange.book import Book, Order, Stops
from exchange.machine.capacity import Capacity
from exchange.machine.entries import Entry
from exchange.machine.promises import Package, Purchase
from exchange.machine.records import (
    AccountNews,
    Auction,
    Backing,
    Call,
    Cluster,
    Grade,
    Hold,
    Hour,
    InstrumentNews,
    Month,
    Payout,
    Transfer,
)
from marketplace import contract
from marketplace.contract import InstrumentState
from settlement import ledger, margin
from settlement.ledger import Code, Kind


class Account(Capacity):
    """An organization: its cash, what is reserved of it, its live orders and positions."""

    __slots__ = (
        "call_due", "cash", "committed", "crossing", "debt", "delivery_margin", "entered", "escrow",
        "fund", "group", "held", "holdings", "id", "idle_rounds", "in_default", "killed", "locked",
        "months", "news", "orders", "owed", "peaks", "peers", "positions", "reduced_to", "required",
        "stale", "switch_due", "switches", "traded", "uncovered", "usage_hold",
    )  # fmt: skip

    def __init__(
        self, number: int, group: int, peers: "list[Account]", stale: set[tuple[int, str]]
    ) -> None:
        self.id = number
        self.group = group
        self.peers = peers
        """Every account of the group, this one among them."""
        self.cash = 0
        self.held = 0
        """Cash of withdrawals that wait to be paid out; no part of `cash`."""
        self.escrow = 0
        self.usage_hold = 0
        self.debt = 0
        """What the exchange and others have paid for the account."""
        self.owed: dict[int, int] = {}
        """What of that other members have paid, by account."""
        self.in_default = False
        """Whether it had others pay for more than its receivables and its share."""
        self.fund = 0
        """Its share of the default fund."""
        self.peaks: dict[int, int] = {}
        """Its highest short notional by day, of the last 30."""
        self.months: dict[tuple[str, int], Month] = {}
        """What it has delivered and paid in damages, by grade and month (`damages`)."""
        self.locked: dict[int, int] = {}
        """Proceeds that count as margin but cannot be withdrawn before an instant, by that."""
        self.call_due = 0
        """When the margin call that runs is enforced; 0 while none does."""
        self.reduced_to: dict[str, int] = {}
        """Lots by symbol that the last round of its liquidation left; none before the first."""
        self.idle_rounds = 0
        """Rounds, the last among them, that have reduced nothing."""
        self.killed = False
        self.delivery_margin = 0
        self.committed = 0
        """What is reserved for purchases in a pool."""
        self.required = 0
        """Everything reserved of the cash: positions with their orders, and open deliveries."""
        self.orders: dict[str, Order] = {}
        """Live orders by client order id."""
        self.news = AccountNews()
        self.positions: dict[str, Position] = {}
        self.crossing = 0
        """Positions in energy of more than an hour: these cover, or use up, many hours at once."""
        self.uncovered: dict[str, int] = {}
        """What shorts that nothing stands behind need beyond their margin, by grade."""
        self.stale = stale
        """Whose `uncovered` has to be added up again, by grade; shared by all."""
        self.stand_alone()
        self.holdings: dict[str, dict[int, int]] = {}
        """Lots of the packages that it holds, by grade and hour."""
        self.entered = self.traded = 0
        """Orders and amendments accepted, and trades made, in the running clock hour."""
        self.switches: dict[str, int] = {}
        """When each dead-man's switch fires, by name."""
        self.switch_due = 0
        """When the calendar next looks at the switches; 0 while it does not."""

    @property
    def available(self) -> int:
        """Cash that nothing reserves; negative when a mark moved against the account."""
        return self.cash - self.required


class Instrument:
    """A contract that is listed: its book and what the index and the marks are made of."""

    __slots__ = (
        "auction", "awaits_opening", "band_high", "band_low", "band_moved_at", "band_percent",
        "book", "book_sequence", "call", "calm_high", "calm_low", "contract", "dirty",
        "dynamic_high", "dynamic_low", "dynamic_percent", "fee_bp_max", "grade", "halted", "id",
        "is_energy", "is_open", "is_option", "last", "long_max", "look_due", "maker_fee_bp", "mark",
        "mid_area", "mid_since", "mid_time", "mid_value", "news", "open_interest", "opening_price",
        "paid_hours", "parent_mark", "parents", "pay_ticks", "phase", "positions", "rates",
        "reference", "sibling", "stops", "symbol", "taker_fee_bp", "trades", "unit", "volume",
        "watch_high", "watch_low",
    )  # fmt: skip

    def __init__(
        self, number: int, terms: contract.Contract, grade: "Grade", orders: dict[int, Order]
    ) -> None:
        self.id = number
        self.contract = terms
        self.symbol = terms.symbol
        self.unit = terms.tick_micros
        """Micro-USD of a tick of one lot."""
        self.is_energy = terms.is_energy
        self.is_option = terms.product in contract.OPTIONS
        """Whether its price is a premium, paid when it is traded, and nothing is marked."""
        self.pay_ticks = 0
        """What shortage cover pays: its month's mark when it was listed."""
        self.paid_hours = 0
        """Of an option, the hours of its window that are paid; a bit set."""
        self.sibling = contract.sibling(terms)
        """The symbol of the other class of slots in the same hour; empty for all but slots."""
        self.parents: tuple[Instrument, ...] = ()
        """Longer energy that is listed and has this window in it, shortest first."""
        self.parent_mark = 0
        """The final mark of the one that cascaded into it last; 0 before."""
        self.rates = margin.rates(unit=self.unit, long_micros=self.unit, short_micros=0, mark=0)
        """What its lots ask for; of the mark, and of how near delivery is."""
        self.grade = grade
        self.set_fees(grade.maker_fee_bp, grade.taker_fee_bp)
        self.band_percent = grade.band_percent
        self.dynamic_percent = (
            grade.dynamic_percent if terms.is_energy else contract.WIDE_BAND_PERCENT
        )
        self.phase = InstrumentState.SCHEDULED
        self.halted = False
        self.is_open = False
        """Whether it trades: in continuous trading and under no halt; kept by `announce`."""
        self.call: Call | None = None
        """The call that runs; None while a halt has stopped it, though the phase stays."""
        self.awaits_opening = False
        """Whether its opening auction is still to come."""
        self.auction = Auction(0, 0, 0)
        self.opening_price = 0
        """The opening auction's price, which the index may use; 0 where it found none."""
        self.band_moved_at = 0
        """When an auction last moved the static band."""
        self.dynamic_low, self.dynamic_high = 1, contract.PRICE_TICKS_MAX
        """Prices at which the next command may trade; everything before the first trade."""
        self.calm_low, self.calm_high = 1, 0
        """Limits with which a plain order may simply be matched; none outside continuous trading,
        and none while an order rests where the dynamic band would not let it trade."""
        self.reference = self.mark = self.band_low = self.band_high = self.last = 0
        self.look_due = 0
        """When the calendar looks whether its price needs a mark; 0 while it does not."""
        self.watch_low = self.watch_high = 0
        """Last prices outside of these may need a mark before the hour is full."""
        self.volume = self.open_interest = self.book_sequence = 0
        self.book = Book(orders)
        self.stops = Stops()
        """Live orders whose stop price was not reached yet."""
        self.dirty: set[int] = set()
        """Signed keys of the levels that the running command touched."""
        self.long_max = UNKNOWN
        """Lots that one group may be long, once somebody asked; forgotten when supply changes."""
        self.positions: dict[int, Position] = {}
        self.trades: list[tuple[int, int, int, int, int]] = []
        """(at, lots, price, buyer's group, seller's group) of every trade."""
        self.news = InstrumentNews()
        self.mid_since = self.mid_value = self.mid_area = self.mid_time = 0
        """The running integral of bid + ask; `mid_since` is 0 outside its window."""

    def live_orders(self) -> Iterator[Order]:
        """Yield every order, those of the book first, then those that wait for their stop price."""
        yield from self.book
        yield from self.stops

    def set_last(self, price: int) -> None:
        """Note the last trade's price and put the dynamic band around it (RULEBOOK 2.4)."""
        self.last = price
        self.band_around(price)

    def band_around(self, price: int) -> None:
        """Put the dynamic band around a price; 0 is none, and leaves everything open."""
        width = max(1, price * self.dynamic_percent // 100) if price else contract.PRICE_TICKS_MAX
        self.dynamic_low = self.calm_low = max(1, price - width)
        self.dynamic_high = self.calm_high = min(contract.PRICE_TICKS_MAX, price + width)

    def set_fees(self, maker_fee_bp: int, taker_fee_bp: int) -> None:
        """Set what makers and takers are charged, and with it the most an order can be."""
        self.maker_fee_bp = maker_fee_bp
        self.taker_fee_bp = taker_fee_bp
        self.fee_bp_max = max(maker_fee_bp, taker_fee_bp)


class Position:
    """Net lots and cost of an account in an instrument, with the sums over its resting orders."""

    __slots__ = (
        "account", "buy_fees", "buy_lots", "certified", "cost", "instrument", "long_excess", "net",
        "order_count", "received", "reducing", "required", "sell_fees", "sell_lots", "short_excess",
    )  # fmt: skip

    def __init__(self, account: Account, instrument: Instrument) -> None:
        self.account = account
        self.instrument = instrument
        self.net = self.cost = 0
        self.received = 0
        """Ticks that marks have paid (or, below zero, taken) since the position was opened."""
        self.buy_lots = self.sell_lots = self.long_excess = self.short_excess = 0
        self.buy_fees = self.sell_fees = self.order_count = 0
        self.reducing: dict[int, Order] = {}
        """Live reduce-only orders by id."""
        self.required = 0
        self.certified = UNKNOWN
        """Lots that clusters stand behind in every hour of the window, once somebody asked;
        forgotten when they change."""

    def refresh(self) -> None:
        """Bring the account's reservation up to date with this position."""
        required = margin.required(
            self.instrument.rates,
            self.net,
            self.cost,
            self.buy_lots,
            self.sell_lots,
            self.long_excess,
            self.short_excess,
            self.buy_fees,
            self.sell_fees,
        )
        account = self.account
        if required != self.required:
            account.required += required - self.required
            self.required = required
        if account.uncovered:
            account.stale.add((account.id, self.instrument.grade.code))

    def add_resting(self, order: Order, lots: int, fees: int) -> None:
        """Count `lots` more (or fewer) of an order at rest, and `fees` more to be reserved."""
        unit, long_floor, _, _, short_cap = self.instrument.rates
        value = unit * order.price
        if order.side > 0:
            self.buy_lots += lots
            self.buy_fees += fees
            if value > long_floor:
                self.long_excess += (value - long_floor) * lots
            if value > short_cap:
                self.short_excess += (value - short_cap) * lots
        else:
            self.sell_lots += lots
            self.sell_fees += fees
            if value < short_cap:
                self.short_excess += (short_cap - value) * lots
                if value < long_floor:
                    self.long_excess += (long_floor - value) * lots

    def required_with(self, side: int, price: int, lots: int, fees: int) -> int:
        """Return what would be required with lots added to (or taken from) the orders."""
        of = self.instrument.rates
        long, short = margin.order_excess(of, side=side, price=price, lots=lots)
        buying = side > 0
        return margin.required(
            of,
            self.net,
            self.cost,
            self.buy_lots + lots if buying else self.buy_lots,
            self.sell_lots if buying else self.sell_lots + lots,
            self.long_excess + long,
            self.short_excess + short,
            self.buy_fees + fees if buying else self.buy_fees,
            self.sell_fees if buying else self.sell_fees + fees,
        )

    def certified_lots(self) -> int:
        """Return what the account's clusters stand behind in every hour of the window."""
        if self.certified == UNKNOWN:
            terms, account = self.instrument.contract, self.account
            ends_at = terms.ends_at
            self.certified = account.free_lots(terms.grade, ends_at)
            if terms.grade in account.pledges or account.backs or account.backed:
                for at in range(terms.starts_at + contract.HOUR, ends_at, contract.HOUR):
                    self.certified = min(self.certified, account.free_lots(terms.grade, at))
        return self.certified

    @property
    def initial_margin(self) -> int:
        """What the position needs by itself."""
        return margin.position_margin(
            self.instrument.rates, net_lots=self.net, cost_ticks=self.cost
        )


class State:
    """Everything the machine knows. `at` is the instant of what is being performed."""

    __slots__ = (
        "accounts", "anchored", "at", "backings", "by_id", "by_window", "calendar", "clusters",
        "counters", "curves", "dirty", "events", "exchange", "grades", "groups", "halted", "holds",
        "hours", "idle_entries", "instruments", "layer_max", "next_order", "next_trade", "orders",
        "packages", "payouts", "performing", "prepaid_until", "purchases", "repriced", "rules",
        "sequence", "stale", "touched_accounts", "touched_auctions", "touched_instruments",
        "touched_orders", "touched_positions", "transfers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sequence = 0
        self.at = 0
        self.rules = 0
        self.anchored = (0, "")
        """Leaves and root of the last head of the log of receipts."""
        self.halted = False
        self.accounts: dict[int, Account] = {}
        self.groups: dict[int, list[Account]] = {}
        self.grades: dict[str, Grade] = {}
        self.clusters: dict[int, Cluster] = {}
        self.instruments: dict[str, Instrument] = {}
        self.by_id: dict[int, Instrument] = {}
        self.by_window: dict[tuple[str, contract.Product, int], Instrument] = {}
        """Energy by grade, product and start."""
        self.prepaid_until = 0
        """Hours that start at or before this instant are paid in full: the last full hour's 24."""
        self.repriced: set[str] = set()
        """Grades of which the curve has moved since uncovered shorts were added up by it."""
        self.curves: dict[str, Any] = {}
        """Of each grade what `coverage` made of its marks; forgotten when one changes."""
        self.stale: set[tuple[int, str]] = set()
        """(account, grade) of which shorts may be covered otherwise than when that was added up."""
        self.orders: dict[int, Order] = {}
        """Every live order, at rest or waiting for its stop price; the index all books share."""
        self.hours: dict[tuple[str, int], Hour] = {}
        self.holds: dict[tuple[int, str, int], Hold] = {}
        self.payouts: dict[str, Payout] = {}
        """Withdrawals that wait, by the id of their hold."""
        self.purchases: dict[int, Purchase] = {}
        """Pools whose deadline is to come, by number."""
        self.packages: dict[int, Package] = {}
        """Of which something is still to be delivered, by number."""
        self.transfers: dict[int, Transfer] = {}
        """Covered shorts that are offered to other obligors, by number."""
        self.backings: dict[int, Backing] = {}
        self.layer_max = ledger.LAYER_LIMIT_MICROS
        """What the exchange's own layer bears at most."""
        self.exchange: dict[int, int] = dict.fromkeys(_EXCHANGE_KINDS, 0)
        self.calendar: list[tuple[int, int, int]] = []
        """A heap of (due at, kind, id)."""
        self.performing: tuple[int, int, int] | None = None
        """The entry that is being performed; it stays when that breaks an assertion."""
        self.idle_entries = 0
        """Dated orders that have left since their entries were last cleared away."""
        self.next_order = 1
        self.next_trade = 1
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.events: list[events.Event] = []
        self.dirty: dict[int, Instrument] = {}
        """Instruments whose book changed in the running command, by id."""
        self.touched_accounts: set[Account] = set()
        self.touched_positions: set[Position] = set()
        self.touched_orders: dict[int, Order] = {}
        self.touched_instruments: set[Instrument] = set()
        self.touched_auctions: set[Instrument] = set()
        """Instruments whose call or indication changed."""

    def hour(self, grade: str, starts_at: int) -> Instrument | None:
        """Return the instrument of an hour, while it is listed."""
        return self.by_window.get((grade, contract.Product.HOUR, starts_at))

    # Cash

    def transfer(
        self,
        debit: tuple[int, Kind],
        credit: tuple[int, Kind],
        amount: int,
        code: Code,
        cause: str,
    ) -> None:
        """Move cash between two accounts of the ledger; nothing happens for an amount of zero."""
        if amount == 0:
            return
        assert amount > 0, "an amount is not negative"
        self._add(debit, -amount)
        self._add(credit, amount)
        self.events.append(
            events.Transferred(
                debit[0], int(debit[1]), credit[0], int(credit[1]), amount, int(code), cause
            )
        )

    def _add(self, where: tuple[int, Kind], amount: int) -> None:
        owner, kind = where
        if owner == ledger.EXCHANGE:
            self.exchange[kind] += amount
            assert kind in ledger.MAY_GO_NEGATIVE or self.exchange[kind] >= 0, "not overdrawn"
            return
        account = self.accounts[owner]
        self.touched_accounts.add(account)
        if kind == Kind.CASH:
            account.cash += amount
            assert account.cash >= 0, "cash is not overdrawn"
        elif kind == Kind.ESCROW:
            account.escrow += amount
            assert account.escrow >= 0, "escrow is not overdrawn"
        elif kind == Kind.FUND:
            account.fund += amount
            assert account.fund >= 0, "a share is not overdrawn"
        else:
            assert kind == Kind.USAGE_HOLD, "an organization has four cash accounts"
            account.usage_hold += amount
            assert account.usage_hold >= 0, "a hold is not overdrawn"

    # Accounts, identifiers, calendar

    def open_account(self, number: int, group: int) -> Account:
        """Make an account and its group's newest member."""
        peers = self.groups.setdefault(group, [])
        account = self.accounts[number] = Account(number, group, peers, self.stale)
        peers.append(account)
        return account

    def number(self, counter: str) -> int:
        """Return the next number of a counter."""
        self.counters[counter] += 1
        return self.counters[counter]

    def schedule(self, due_at: int, kind: int, number: int) -> None:
        """Enter something into the calendar."""
        assert due_at >= self.at, "the calendar holds what is to come"
        heappush(self.calendar, (due_at, kind, number))

    def clear_calendar(self) -> None:
        """Drop entries of dated orders that are gone, before they are the most."""
        if self.idle_entries > IDLE_ENTRIES_MAX and 2 * self.idle_entries > len(self.calendar):
            self.calendar[:] = self.useful_entries()
            heapify(self.calendar)
            self.idle_entries = 0

    def useful_entries(self) -> list[tuple[int, int, int]]:
        """Return the entries of the calendar that still have something to do."""
        return [
            entry for entry in self.calendar if entry[1] != Entry.EXPIRE or entry[2] in self.orders
        ]

    def position(self, account: Account, instrument: Instrument) -> Position:
        """Return the position of an account, a flat new one where there is none."""
        position = instrument.positions.get(account.id)
        if position is None:
            position = Position(account, instrument)
            instrument.positions[account.id] = position
            account.positions[instrument.symbol] = position
            if instrument.is_energy and instrument.contract.product is not contract.Product.HOUR:
                account.crossing += 1
        return position

    def drop_position(self, position: Position) -> None:
        """Forget a position that is flat and has no orders."""
        account, instrument = position.account, position.instrument
        assert not position.net, "a position is over"
        assert not position.order_count, "nothing of it rests"
        assert position.required == 0, "nothing is reserved for it"
        position.received = 0
        del account.positions[instrument.symbol]
        if instrument.is_energy and instrument.contract.product is not contract.Product.HOUR:
            account.crossing -= 1
        self.touched_positions.add(position)

    def state_of(self, instrument: Instrument) -> InstrumentState:
        """Return the public state: its phase, unless a halt is in force."""
        phase = instrument.phase
        if (instrument.halted or instrument.grade.halted or self.halted) and (
            phase is InstrumentState.CONTINUOUS or phase is InstrumentState.CALL
        ):
            return InstrumentState.HALTED
        return phase

    def is_frozen(self, instrument: Instrument) -> bool:
        """Whether orders may not leave: the last minutes of a call."""
        call = instrument.call
        return call is not None and self.at >= call.frozen_at

    def announce(self, instrument: Instrument) -> None:
        """Emit the terms and the state of an instrument as they now are."""
        instrument.is_open = self.state_of(instrument) is InstrumentState.CONTINUOUS
        self.touched_instruments.add(instrument)
        self.events.append(
            events.InstrumentChanged(
                instrument.symbol,
                str(self.state_of(instrument)),
                instrument.reference,
                instrument.band_low,
                instrument.band_high,
                self.at,
            )
        )

    # What the engine has not seen yet

    def forget_touched(self) -> None:
        """Start a new set of changes."""
        self.touched_accounts.clear()
        self.touched_positions.clear()
        self.touched_orders.clear()
        self.touched_instruments.clear()
        self.touched_auctions.clear()


UNKNOWN = -1
IDLE_ENTRIES_MAX = 1_000
COUNTERS = (
    "allocation",
    "backing",
    "entitlement",
    "grade",
    "instrument",
    "obligation",
    "package",
    "purchase",
    "transfer",
)
_EXCHANGE_KINDS = (Kind.OUTSIDE, Kind.FEES, Kind.CLEARING, Kind.LAYER)
