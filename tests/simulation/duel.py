"""A machine and a slow market beside it: both are given every command and have to agree.

After each command the trades are the same in the same order, and so are the triggers and the
auctions; the same orders have ended for the same reasons; and the books hold the same orders in the
same order, with as much of them on show. `act` does one thing at random: whoever chooses (a seed,
or Hypothesis) hands over a `random.Random`.
"""

import random
from collections.abc import Callable

from exchange import commands, events
from exchange.book import Order
from exchange.commands import DAY, FOK, GTC, GTD, IOC, LIMIT, MARKET, STOP, STOP_LIMIT
from exchange.machine import Machine
from marketplace import contract
from marketplace.contract import InstrumentState
from settlement import instructions
from tests import floor
from tests.slow_market import CALL, MINUTE, SlowMarket
from tests.slow_order import order_of

CERTIFIED = 100_000
ACCOUNTS = range(1, 7)
REFERENCE = 100
SECOND = 1_000_000

EVERYTHING = frozenset(
    {
        "amend", "day", "decrement", "dynamic", "fok", "gtd", "halt", "iceberg", "market",
        "minimum", "post_only", "reduce_only", "stop", "switch",
    }
)  # fmt: skip
"""What a duel can be about beyond plain orders."""


def group_of(account: int) -> int:
    """Two accounts make a group."""
    return (account + 1) // 2


class Duel:
    """Both markets, and what was done to them."""

    def __init__(
        self, at: str = "13:00", hours: tuple[str, ...] = ("20",), *, checked: bool = True
    ) -> None:
        self.floor = floor.Floor(at, reference=REFERENCE, checked=checked)
        for account in ACCOUNTS:
            self.floor.account(account, group=group_of(account), certified=CERTIFIED)
        self.machine = self.floor.machine
        self.symbols = [
            f"{floor.GRADE}.{name}" if "." in name else floor.symbol(name) for name in hours
        ]
        self.slow = {}
        for symbol in self.symbols:
            terms = self.machine.state.instruments[symbol].contract
            slow = self.slow[symbol] = SlowMarket(REFERENCE, terms.trading_ends_at, self.floor.at)
            is_hour = terms.product is contract.Product.HOUR
            opens_at = floor.instant("12:00")
            if is_hour and terms.starts_at >= floor.hour("+1 00") and self.floor.at < opens_at:
                slow.open_first(opens_at)
                slow.facts = []
        self.market_of: dict[int, str] = {}
        self.trades = 0

    def restart(self, machine: Machine) -> None:
        """Go on with another machine of the same state."""
        self.machine = self.floor.machine = machine

    # One command for both

    def place(self, command: commands.PlaceOrder) -> str | None:
        """Place an order; return why it was refused."""
        happened = self._apply(command)
        first = next(
            e for e in happened if isinstance(e, events.OrderPlaced | events.OrderRejected)
        )
        self.market_of[first.order] = command.instrument
        order = order_of(first.order, group_of(command.account), command)
        reason = self.slow[command.instrument].place(order)
        refused = self.floor.rejected()
        assert refused == reason, f"refused for {refused}, by the rules for {reason}"
        self.compare()
        return reason

    def cancel(self, account: int, order: int) -> None:
        """Withdraw an order."""
        happened = self._apply(commands.CancelOrder(account, order))
        reason = self._market(order).cancel(order, account)
        assert _refusal(happened, events.CancelRefused) == reason
        self.compare()

    def cancel_all(self, account: int, symbol: str = "", side: int = 0) -> None:
        """Withdraw all orders of an account that match."""
        self._apply(commands.CancelOrders(account, symbol, side=side))
        for name, slow in self.slow.items():
            if symbol in ("", name):
                slow.cancel_all(account, "requested", side)
        self.compare()

    def amend(self, account: int, order: int, price: int = 0, lots: int = 0, stop: int = 0) -> None:
        """Change an order."""
        happened = self._apply(commands.AmendOrder(account, order, price, lots, stop))
        reason = self._market(order).amend(order, account, price, lots, stop)
        refused = _refusal(happened, events.AmendRefused)
        assert refused == reason, f"refused for {refused}, by the rules for {reason}"
        self.compare()

    def switch(self, account: int, timeout: int) -> None:
        """Set or unset a dead-man's switch."""
        self._apply(commands.CancelAllAfter(account, timeout))
        for slow in self.slow.values():
            slow.switches[account] = self.floor.at + timeout if timeout else 0
        self.compare()

    def halt(self, symbol: str) -> None:
        """Stop an instrument."""
        self._instruct(instructions.Halt(instrument=symbol))
        self.slow[symbol].halt()
        self.compare()

    def resume(self, symbol: str) -> None:
        """Open an instrument again."""
        self._instruct(instructions.Resume(instrument=symbol))
        self.slow[symbol].resume()
        self.compare()

    def wait(self, micros: int) -> None:
        """Let time pass; at midnight the band moves to the mark, which is told."""
        midnight = contract.day_start(self.floor.at) + contract.DAY
        is_new_day = self.floor.at + micros >= midnight
        self.floor.at = midnight if is_new_day else self.floor.at + micros
        self._apply(commands.Tick())
        for symbol, slow in self.slow.items():
            instrument = self.machine.state.instruments.get(symbol)
            if is_new_day and instrument is not None:
                slow.start_day(instrument.mark)
        self.compare()

    def _apply(self, command: commands.Command) -> list[events.Event]:
        for slow in self.slow.values():
            slow.advance(self.floor.at)
        return self.floor.apply(command)

    def _instruct(self, instruction: instructions.AnyInstruction) -> None:
        for slow in self.slow.values():
            slow.advance(self.floor.at)
        assert self.floor.instruct(instruction) is None

    def _market(self, order: int) -> SlowMarket:
        return self.slow[self.market_of[order]]

    # What has to be the same

    def compare(self) -> None:
        """Assert that the last command did the same to both."""
        for symbol, slow in self.slow.items():
            expected, slow.facts = slow.facts, []
            happened = self._facts(symbol)
            for kinds in (("fill", "triggered"), ("call", "uncrossed")):
                _same(
                    [fact for fact in happened if fact[0] in kinds],
                    [fact for fact in expected if fact[0] in kinds],
                )
            _same(
                sorted(fact for fact in happened if fact[0] == "closed"),
                sorted(fact for fact in expected if fact[0] == "closed"),
            )
            self._compare_state(symbol, slow)
        self._check_what_always_holds()

    def _facts(self, symbol: str) -> list[tuple]:
        facts: list[tuple] = []
        for event in self.floor.last:
            match event:
                case events.Traded(instrument=name) if name == symbol:
                    facts.append(
                        ("fill", event.taker_order, event.maker_order, event.lots, event.price)
                    )
                    self.trades += 1
                case events.OrderClosed(order=order) if self.market_of[order] == symbol:
                    facts.append(("closed", order, event.reason))
                case events.OrderTriggered(order=order) if self.market_of[order] == symbol:
                    facts.append(("triggered", order))
                case events.CallOpened(instrument=name) if name == symbol:
                    facts.append(("call", event.kind.lower(), event.frozen_at, event.ends_at))
                case events.Uncrossed(instrument=name) if name == symbol:
                    facts.append(("uncrossed", event.kind.lower(), event.price, event.lots))
        return facts

    def _compare_state(self, symbol: str, slow: SlowMarket) -> None:
        instrument = self.machine.state.instruments.get(symbol)
        if instrument is None:
            return
        state = self.machine.state.state_of(instrument)
        if slow.state != "closed":
            assert state.lower() == slow.state, f"{state}, by the rules {slow.state}"
            assert (instrument.band_low, instrument.band_high) == slow.band(), "the same band"
        for side in (1, -1):
            ours = [
                (order.id, order.price, order.remaining, order.left)
                for order in instrument.book.ladder(side)
            ]
            _same(ours, slow.queue(side))
        waiting = sorted(order.id for order in slow.waiting)
        live = [o for a in self.machine.state.accounts.values() for o in a.orders.values()]
        ours = [o.id for o in live if not o.rests and self.market_of[o.id] == symbol]
        _same(sorted(ours), waiting)
        if slow.state != "closed":
            for account in ACCOUNTS:
                position = instrument.positions.get(account)
                net = position.net if position is not None else 0
                assert net == slow.net[account], "the same positions"

    def _check_what_always_holds(self) -> None:
        for trade in self.floor.of(events.Traded):
            assert group_of(trade.maker) != group_of(trade.taker), "nobody trades with its own"
        for symbol in self.symbols:
            instrument = self.machine.state.instruments.get(symbol)
            if instrument is None:
                continue
            bid, ask = instrument.book.best()
            if self.machine.state.state_of(instrument) is InstrumentState.CONTINUOUS:
                assert not bid or not ask or bid < ask, "crossed only in a call"
        for account in ACCOUNTS:
            if not self.machine.state.accounts[account].orders:
                held = self.machine.account_view(account).order_margin
                assert held == 0, "nothing is held for orders that are finished"

    def live(self) -> list[Order]:
        """Return every live order, by id."""
        accounts = self.machine.state.accounts.values()
        orders = [order for account in accounts for order in account.orders.values()]
        return sorted(orders, key=lambda order: order.id)


def _same(ours: object, by_the_rules: object) -> None:
    assert ours == by_the_rules, f"{ours}, by the rules {by_the_rules}"


def _refusal(happened: list[events.Event], kind: type) -> str | None:
    return next((event.reason for event in happened if isinstance(event, kind)), None)


# Something at random


def act(duel: Duel, chance: random.Random, features: frozenset[str] = EVERYTHING) -> None:
    """Do one thing."""
    acts: list[tuple[int, Callable[[Duel, random.Random, frozenset[str]], None]]] = [
        (60, place),
        (10, cancel),
        (2, cancel_all),
        (8, wait),
    ]
    if "amend" in features:
        acts.append((16, amend))
    if "switch" in features:
        acts.append((2, switch))
    if "halt" in features:
        is_halted = any(slow.state == "halted" for slow in duel.slow.values())
        acts.append((20 if is_halted else 2, halt))
    weights = [weight for weight, _ in acts]
    (chosen,) = chance.choices([one for _, one in acts], weights)
    chosen(duel, chance, features)


def place(duel: Duel, chance: random.Random, features: frozenset[str]) -> None:
    symbol = chance.choice(duel.symbols)
    slow = duel.slow[symbol]
    side = chance.choice((1, -1))
    account = chance.choice(ACCOUNTS)
    lots = chance.randint(1, chance.choice((4, 30)))
    spread = 12 if "dynamic" in features and chance.random() < 0.15 else 2
    middle = slow.last or REFERENCE
    price = min(116, max(84, middle + chance.randint(-spread, spread)))
    shape = chance.choice(_shapes(features))
    terms: dict = {}
    time_in_force = chance.choice((GTC, GTC, GTC, IOC))
    if shape in (MARKET, STOP):
        price = 0
    if shape in (STOP, STOP_LIMIT):
        terms["stop_price"] = middle + side * chance.randint(-1, 6)
        time_in_force = GTC
    if shape in (MARKET, STOP, STOP_LIMIT):
        terms["type"] = shape
    if shape == FOK:
        time_in_force = FOK
    if shape == GTD:
        time_in_force = GTD
        terms["expires_at"] = duel.floor.at + chance.choice((0, 1, 3, 30, 500)) * MINUTE
    if shape == DAY:
        time_in_force = DAY
    if shape == "iceberg":
        time_in_force = GTC
        terms["display_lots"] = chance.randint(1, lots)
        if terms["display_lots"] == lots:
            lots += 1
    if shape == "minimum":
        terms["min_lots"] = chance.randint(1, lots)
    if shape == "post_only":
        time_in_force = GTC
        terms["post_only"] = True
    if "reduce_only" in features and chance.random() < 0.2:
        terms["reduce_only"] = True
        net = slow.net[account]
        if net and chance.random() < 0.9:
            side, lots = -1 if net > 0 else 1, chance.randint(1, max(1, abs(net) // 3))
            terms.pop("display_lots", 0)
            terms.pop("min_lots", 0)
    if "decrement" in features and chance.random() < 0.6:
        terms["prevention"] = chance.choice(sorted(commands.PREVENTIONS))
    duel.place(
        commands.PlaceOrder(
            account=account,
            instrument=symbol,
            side=side,
            price=price,
            lots=lots,
            time_in_force=time_in_force,
            client_order_id=f"order-{len(duel.floor.log)}",
            fingerprint=b"f" * 32,
            terms=commands.Terms(**terms) if terms or time_in_force not in (GTC, IOC) else None,
        )
    )


def _shapes(features: frozenset[str]) -> list[str]:
    shapes = [LIMIT, LIMIT, LIMIT]
    if "market" in features:
        shapes.append(MARKET)
    if "stop" in features:
        shapes += [STOP, STOP_LIMIT, STOP_LIMIT]
    if "fok" in features:
        shapes.append(FOK)
    if "gtd" in features:
        shapes.append(GTD)
    if "day" in features:
        shapes.append(DAY)
    return shapes + sorted({"iceberg", "minimum", "post_only"} & features)


def cancel(duel: Duel, chance: random.Random, features: frozenset[str]) -> None:
    orders = duel.live()
    if orders:
        order = chance.choice(orders)
        owner = order.account.id if chance.random() < 0.95 else 7 - order.account.id
        duel.cancel(owner, order.id)


def cancel_all(duel: Duel, chance: random.Random, features: frozenset[str]) -> None:
    symbol = chance.choice(("", *duel.symbols))
    duel.cancel_all(chance.choice(ACCOUNTS), symbol, chance.choice((0, 1, -1)))


def wait(duel: Duel, chance: random.Random, features: frozenset[str]) -> None:
    slow = chance.choice(list(duel.slow.values()))
    if slow.state == CALL and chance.random() < 0.7:
        until = slow.frozen_at if duel.floor.at < slow.frozen_at else slow.call_ends_at
        duel.wait(until - duel.floor.at)
    elif 0 < slow.ends_at - 10 * MINUTE - duel.floor.at < 30 * MINUTE and chance.random() < 0.2:
        duel.wait(slow.ends_at - 10 * MINUTE - duel.floor.at)
    else:
        duel.wait(chance.choice((1, SECOND, MINUTE, 7 * MINUTE)))


def amend(duel: Duel, chance: random.Random, features: frozenset[str]) -> None:
    orders = duel.live()
    if not orders:
        return
    order = chance.choice(orders)
    price = order.price + chance.randint(-6, 6) if order.price and chance.random() < 0.5 else 0
    lots = chance.randint(1, order.lots + 8) if chance.random() < 0.7 else 0
    stop = 0
    if order.stop_price and not order.rests and chance.random() < 0.5:
        stop = order.stop_price + chance.randint(-6, 6)
    if not order.rests and not order.request.price:
        price = 0
    duel.amend(order.account.id, order.id, price, lots, stop)


def switch(duel: Duel, chance: random.Random, features: frozenset[str]) -> None:
    duel.switch(chance.choice(ACCOUNTS), chance.choice((0, SECOND, 10 * SECOND, 6 * MINUTE)))


def halt(duel: Duel, chance: random.Random, features: frozenset[str]) -> None:
    symbol = chance.choice(duel.symbols)
    if duel.slow[symbol].state == "halted":
        duel.resume(symbol)
    elif duel.slow[symbol].state != "closed":
        duel.halt(symbol)
