"""A slow and obvious market of one instrument, to compare the machine against.

Nothing here is shared with the code it checks but the vocabulary of commands; it is written from
the rulebook alone. The market is one list of orders in the order of their time, looked through from
the start for every fill; a look-ahead trades on a copy of everything; an auction tries every tick.
It knows neither money nor coverage: who trades in it has plenty.
"""

import copy
from collections import defaultdict

from exchange.commands import (
    CANCEL_BOTH,
    CANCEL_NEWEST,
    CANCEL_OLDEST,
    DAY,
    FOK,
    GTD,
    IOC,
    LIMIT,
    MARKET,
    STOP,
    STOP_LIMIT,
)
from tests.slow_order import SlowOrder

MINUTE = 60_000_000
HOUR = 60 * MINUTE

SCHEDULED, CALL, CONTINUOUS, HALTED, CLOSED = "scheduled", "call", "continuous", "halted", "closed"

ANY_PRICE = range(1, 2**40)

Fact = tuple
"""("fill", taker, maker, lots, price), ("closed", order, reason), ("triggered", order),
("amended", order), ("call", kind, frozen_at, ends_at) or ("uncrossed", price, lots)."""


class SlowMarket:
    """One instrument: its orders in the order of their time, and the rules."""

    def __init__(self, reference: int, ends_at: int, at: int) -> None:
        self.at = at
        self.ends_at = ends_at
        self.state = CONTINUOUS
        self.kind = ""
        self.call_ends_at = self.frozen_at = 0
        self.opens_at = 0
        """When the opening auction is to be, until it has been."""
        self.center = reference
        self.moved_at = -HOUR
        self.last = 0
        self.resting: list[SlowOrder] = []
        """In the book, the earliest first."""
        self.waiting: list[SlowOrder] = []
        """Stops that have not triggered."""
        self.reached: list[SlowOrder] = []
        """Those of them that a trade has reached and that have not had their turn."""
        self.net: dict[int, int] = defaultdict(int)
        self.switches: dict[int, int] = {}
        self.facts: list[Fact] = []

    # What may happen

    def band(self) -> tuple[int, int]:
        """Return the static band."""
        width = max(self.center * 15 // 100, 10)
        return max(1, self.center - width), self.center + width

    def dynamic(self, anchor: int) -> range:
        """Return the prices at which a command may trade that found this last price."""
        if not anchor:
            return ANY_PRICE
        width = max(anchor * 5 // 100, 1)
        return range(anchor - width, anchor + width + 1)

    def would_leave(self, order: SlowOrder, anchor: int) -> bool:
        """Whether an order would trade outside the dynamic band if it could."""
        trial = copy.deepcopy(self)
        trial.facts = []
        trial.trade(copy.deepcopy(order), ANY_PRICE)
        allowed = self.dynamic(anchor)
        return any(fact[0] == "fill" and fact[4] not in allowed for fact in trial.facts)

    def refusal(self, order: SlowOrder) -> str | None:
        """Return the first rule that an order breaks."""
        if self.state == SCHEDULED:
            return "not_open"
        if self.state in (HALTED, CLOSED):
            return self.state
        immediate = order.time_in_force in (IOC, FOK) or order.type != LIMIT or order.minimum
        if self.state == CALL and immediate:
            return "not_in_call"
        if not order.reduce_only and self.unseats(order):
            return "frozen"
        if order.time_in_force == GTD and order.expires_at <= self.at:
            return "already_expired"
        low, high = self.band()
        if order.price and not low <= order.price <= high:
            return "outside_band"
        if order.display and order.display * 100 < order.lots:
            return "display_quantity_too_small"
        if order.reduce_only and order.lots + self.committed(order) > self.room(order):
            return "reduce_only"
        return self.entry_refusal(order)

    def entry_refusal(self, order: SlowOrder) -> str | None:
        """Return the rule that an order breaks by what it would meet."""
        if order.type in (STOP, STOP_LIMIT) and not self.is_passed(order):
            return None
        if self.state != CONTINUOUS:
            return None
        tried = copy.deepcopy(order)
        if tried.type in (MARKET, STOP):
            tried.price = self.protection(tried.side, self.last)
        if order.post_only:
            trial = copy.deepcopy(self)
            trial.facts = []
            trial.trade(copy.deepcopy(tried), ANY_PRICE)
            if any(fact[0] == "fill" for fact in trial.facts):
                return "post_only_would_trade"
        if self.is_late() and self.would_leave(tried, self.last):
            return "volatility"
        return None

    def is_late(self) -> bool:
        """Whether trading ends too soon for an auction."""
        return self.ends_at - self.at <= 10 * MINUTE

    def protection(self, side: int, anchor: int) -> int:
        """Return the worst price at which an order without a limit may trade."""
        low, high = self.band()
        allowed = self.dynamic(anchor)
        return min(high, allowed[-1]) if side > 0 else max(low, allowed[0])

    def committed(self, order: SlowOrder) -> int:
        """Return the lots of the other orders of an order's account on its side."""
        return sum(
            other.left
            for other in self.resting + self.waiting
            if (other.account, other.side) == (order.account, order.side) and other.id != order.id
        )

    def room(self, order: SlowOrder) -> int:
        """Return by how much an order's account can reduce its position with such orders."""
        return max(0, -order.side * self.net[order.account])

    def unseats(self, order: SlowOrder) -> bool:
        """Whether an order has frozen reduce-only orders of its account leave."""
        frozen = [one for one in self.resting if one.reduce_only and one.id != order.id]
        own = [one for one in frozen if (one.account, one.side) == (order.account, order.side)]
        too_many = order.left + self.committed(order) > self.room(order)
        return self.is_frozen() and bool(own) and too_many

    def is_passed(self, order: SlowOrder) -> bool:
        """Whether the last trade is at or beyond an order's stop price."""
        return bool(self.last) and (self.last - order.stop) * order.side >= 0

    def opposite(self, order: SlowOrder, limit: int) -> list[SlowOrder]:
        """Return what an order could meet within a limit, in the order it would meet it."""
        others = [
            other
            for other in self.resting
            if other.side == -order.side and (other.price - limit) * order.side <= 0
        ]
        return sorted(others, key=lambda other: other.price * order.side)

    # Commands

    def place(self, order: SlowOrder) -> str | None:
        """Carry out an order; return the rule that it broke, if any."""
        if order.time_in_force == DAY:
            order.expires_at = (self.at // _MIDNIGHT + 1) * _MIDNIGHT
        reason = self.refusal(order)
        if reason is None:
            anchor = self.last
            if order.type in (STOP, STOP_LIMIT) and not self.is_passed(order):
                self.waiting.append(order)
                self.keep_reduce_only()
            else:
                self.activate(order, anchor)
            self.follow(anchor)
        return reason

    def activate(self, order: SlowOrder, anchor: int) -> None:
        """Let an order into the market; a stop is triggered by that."""
        if order.type in (STOP, STOP_LIMIT):
            order.type = MARKET if order.type == STOP else LIMIT
            self.facts.append(("triggered", order.id))
        self.enter(order, anchor)
        self.keep_reduce_only()

    def follow(self, anchor: int) -> None:
        """Work off the stops that trades have reached, in the order they were reached."""
        while self.reached and self.state == CONTINUOUS:
            order = self.reached.pop(0)
            if order in self.waiting:
                self.waiting.remove(order)
                self.activate(order, anchor)
        self.reached = []

    def reach_stops(self) -> None:
        """Note the stops that the last price has reached: nearest first, then oldest."""
        found = [one for one in self.waiting if self.is_passed(one) and one not in self.reached]
        self.reached += sorted(found, key=lambda one: (-one.side, one.side * one.stop, one.id))

    def enter(self, order: SlowOrder, anchor: int) -> None:
        """Trade an order as far as it may and rest, cancel or auction what is left."""
        if self.state == CALL:
            self.join(order)
            return
        if order.type == MARKET:
            order.price = self.protection(order.side, anchor)
        is_beyond = self.would_leave(order, anchor)
        allowed = self.dynamic(anchor) if is_beyond else ANY_PRICE
        needed = order.lots if order.time_in_force == FOK else order.minimum
        if needed and not order.filled:
            trial = copy.deepcopy(self)
            tried = copy.deepcopy(order)
            trial.trade(tried, allowed)
            if tried.filled < needed:
                is_fok = order.time_in_force == FOK
                self.close(order, "fill_or_kill" if is_fok else "min_quantity")
                return
        is_open = self.trade(order, allowed)
        if is_beyond and order.type != MARKET and not self.is_late():
            self.open_call("volatility")
        if not is_open:
            return
        if order.type == MARKET:
            self.close(order, "protection_band")
        elif order.time_in_force == IOC:
            self.close(order, "ioc_remainder")
        elif is_beyond and self.state != CALL:
            self.close(order, "protection_band")
        elif is_beyond:
            self.join(order)
        else:
            order.show()
            self.resting.append(order)

    def trade(self, order: SlowOrder, allowed: range) -> bool:
        """Meet the other side, one at a time; return whether something is left to rest."""
        while order.left:
            others = self.opposite(order, order.price)
            if not others or others[0].price not in allowed:
                return True
            maker = others[0]
            if maker.group == order.group:
                if self.prevent(order, maker):
                    return False
                continue
            self.fill(order, maker, min(order.left, maker.shown), maker.price)
        self.facts.append(("closed", order.id, ""))
        return False

    def prevent(self, order: SlowOrder, maker: SlowOrder) -> bool:
        """Keep an order from meeting its own group; return whether the order is gone."""
        if order.mode == CANCEL_NEWEST or self.is_frozen():
            self.close(order, "self_trade")
            return True
        if order.mode == CANCEL_OLDEST:
            self.close(maker, "self_trade")
            return False
        if order.mode == CANCEL_BOTH:
            self.close(maker, "self_trade")
            self.close(order, "self_trade")
            return True
        lots = min(order.left, maker.left)
        for one in (maker, order):
            one.lots -= lots
            if one.left:
                one.shown = min(one.shown, one.left)
                self.facts.append(("amended", one.id))
            else:
                self.close(one, "self_trade")
        return not order.left

    def fill(
        self,
        taker: SlowOrder,
        maker: SlowOrder,
        lots: int,
        price: int,
        *,
        is_auction: bool = False,
    ) -> None:
        """Let two orders trade; in an auction both of them rest."""
        self.facts.append(("fill", taker.id, maker.id, lots, price))
        taker.filled += lots
        maker.filled += lots
        maker.shown -= lots
        self.net[taker.account] += taker.side * lots
        self.net[maker.account] += maker.side * lots
        self.last = price
        if not maker.left:
            self.close(maker, "")
        if is_auction:
            taker.shown -= lots
            if not taker.left:
                self.close(taker, "")
            return
        self.reach_stops()
        if maker.left and not maker.shown:
            maker.show()
            self.resting.remove(maker)
            self.resting.append(maker)

    def close(self, order: SlowOrder, reason: str) -> None:
        """Take an order out of the market."""
        self.facts.append(("closed", order.id, reason))
        for orders in (self.resting, self.waiting):
            if order in orders:
                orders.remove(order)

    def keep_reduce_only(self) -> None:
        """Cancel reduce-only orders, newest first, where orders exceed a position."""
        for order in sorted(self.resting + self.waiting, key=lambda order: -order.id):
            if order.reduce_only and order.left + self.committed(order) > self.room(order):
                self.close(order, "reduce_only")

    def cancel(self, number: int, account: int) -> str | None:
        """Withdraw an order; return why not, if so."""
        order = self.find(number)
        if order is None or order.account != account:
            return "unknown_order"
        if self.is_frozen() and order in self.resting:
            return "frozen"
        self.close(order, "requested")
        return None

    def cancel_all(self, account: int, reason: str, side: int = 0) -> None:
        """Withdraw all orders of an account; those frozen in a call stay."""
        for order in self.resting + self.waiting:
            is_frozen = self.is_frozen() and order in self.resting
            if order.account == account and side in (0, order.side) and not is_frozen:
                self.close(order, reason)

    def find(self, number: int) -> SlowOrder | None:
        """Return a live order."""
        return next((one for one in self.resting + self.waiting if one.id == number), None)

    def is_frozen(self) -> bool:
        """Whether nothing can be withdrawn from the call any more."""
        return self.state == CALL and self.at >= self.frozen_at

    def amend(self, number: int, account: int, price: int, lots: int, stop: int) -> str | None:
        """Change an order; return the rule that this breaks, if any."""
        order = self.find(number)
        if order is None or order.account != account:
            return "unknown_order"
        changed = copy.deepcopy(order)
        changed.price, changed.stop = price or order.price, stop or order.stop
        changed.lots = lots or order.lots
        reason = self.amend_refusal(order, changed)
        if reason is not None:
            return reason
        if (changed.price, changed.stop, changed.lots) == (order.price, order.stop, order.lots):
            return None
        if changed.left <= 0:
            self.close(order, "amended")
            return None
        self.facts.append(("amended", order.id))
        if (changed.price, changed.stop) == (order.price, order.stop) and changed.lots < order.lots:
            order.lots = changed.lots
            order.shown = min(order.shown, order.left)
            return None
        for orders in (self.resting, self.waiting):
            if order in orders:
                orders.remove(order)
        anchor = self.last
        if changed.type in (STOP, STOP_LIMIT) and not self.is_passed(changed):
            self.waiting.append(changed)
            self.keep_reduce_only()
        else:
            self.activate(changed, anchor)
        self.follow(anchor)
        return None

    def amend_refusal(self, order: SlowOrder, changed: SlowOrder) -> str | None:
        """Return the first rule that an amendment breaks."""
        if self.state in (HALTED, CLOSED):
            return self.state
        if self.state == CALL and order in self.waiting:
            return "not_in_call"
        is_worse = (changed.price - order.price) * order.side < 0 or changed.lots < order.lots
        meets_own = any(one.group == order.group for one in self.opposite(changed, changed.price))
        unseats = not order.reduce_only and self.unseats(changed)
        if self.is_frozen() and (is_worse or meets_own or unseats):
            return "frozen"
        is_smaller = (changed.price, changed.stop) == (order.price, order.stop)
        if is_smaller and changed.lots <= order.lots:
            return None
        if changed.left <= 0:
            return None
        low, high = self.band()
        if changed.price and not low <= changed.price <= high:
            return "outside_band"
        if changed.display and changed.display * 100 < changed.lots:
            return "display_quantity_too_small"
        if changed.reduce_only and changed.left + self.committed(changed) > self.room(changed):
            return "reduce_only"
        without = copy.deepcopy(self)
        without.resting = [one for one in without.resting if one.id != order.id]
        return without.entry_refusal(changed)

    # Calls

    def open_first(self, opens_at: int) -> None:
        """Be in the opening call until an instant, the last five minutes of it frozen."""
        self.opens_at = opens_at
        if self.at < opens_at - 5 * MINUTE:
            self.state, self.kind = CALL, "opening"
            self.frozen_at, self.call_ends_at = opens_at - 5 * MINUTE, opens_at
            self.facts.append(("call", self.kind, self.frozen_at, self.call_ends_at))
        else:
            self.open_call("opening")

    def open_call(self, kind: str, minutes: int = 5) -> None:
        """Begin an auction, its last minute frozen."""
        self.state, self.kind = CALL, kind
        self.call_ends_at = self.at + minutes * MINUTE
        self.frozen_at = self.call_ends_at - MINUTE
        self.facts.append(("call", kind, self.frozen_at, self.call_ends_at))

    def join(self, order: SlowOrder) -> None:
        """Rest an order in a call, where it must not cross one of its own group."""
        while True:
            own = [
                other for other in self.opposite(order, order.price) if other.group == order.group
            ]
            if not own:
                break
            if self.prevent(order, own[0]):
                return
        order.show()
        self.resting.append(order)

    def uncross(self) -> None:
        """End the call: trade what can be traded at the one price that is best for it."""
        anchor = self.last
        price, lots = self.clearing()
        self.state = CONTINUOUS
        if lots:
            self.pair(price, lots)
            anchor = self.last
        self.facts.append(("uncrossed", self.kind, price, lots))
        self.kind, self.opens_at = "", 0
        self.reach_stops()
        if lots and self.at - self.moved_at >= HOUR:
            self.moved_at, self.center = self.at, price
            self.leave_outside()
        self.follow(anchor)

    def leave_outside(self) -> None:
        """Cancel the orders that the static band does not hold any more."""
        low, high = self.band()
        for order in self.resting + self.waiting:
            if order.price and not low <= order.price <= high:
                self.close(order, "band_moved")

    def volumes(self, price: int) -> tuple[int, int]:
        """Return what would be bought and sold at a price."""
        buys = sum(o.left for o in self.resting if o.side > 0 and o.price >= price)
        sells = sum(o.left for o in self.resting if o.side < 0 and o.price <= price)
        return buys, sells

    def clearing(self) -> tuple[int, int]:
        """Return price and lots of the auction if it ended now; zeros where nothing crosses."""
        low, high = self.band()

        def rank(price: int) -> tuple[int, int, int, int]:
            buys, sells = self.volumes(price)
            return -min(buys, sells), abs(buys - sells), abs(price - self.center), price

        price = min(range(max(1, low - 1), high + 2), key=rank)
        lots = min(self.volumes(price))
        return (price, lots) if lots else (0, 0)

    def pair(self, price: int, lots: int) -> None:
        """Let the best and earliest of both sides trade at one price."""
        buys = sorted((o for o in self.resting if o.side > 0), key=lambda o: -o.price)
        sells = sorted((o for o in self.resting if o.side < 0), key=lambda o: o.price)
        while lots:
            traded = min(lots, buys[0].left, sells[0].left)
            maker, taker = sorted((buys[0], sells[0]), key=lambda o: o.id)
            self.fill(taker, maker, traded, price, is_auction=True)
            lots -= traded
            buys = [order for order in buys if order.left]
            sells = [order for order in sells if order.left]
        for order in list(self.resting):
            if order.shown <= 0:
                order.show()
                self.resting.remove(order)
                self.resting.append(order)

    # What others do to the market

    def halt(self) -> None:
        """Stop trading; a call in progress is over, and its orders stay."""
        if self.state == CONTINUOUS:
            self.kind = ""
        self.state = HALTED

    def resume(self) -> None:
        """Open the book again, by a call where there is time for one."""
        if self.is_late():
            if self.kind:
                self.kind = "opening" if self.opens_at else "reopening"
                self.uncross()
            else:
                self.state = CONTINUOUS
                self.reach_stops()
                self.follow(self.last)
        elif self.opens_at:
            self.open_first(self.opens_at)
        else:
            self.open_call("reopening")

    def start_day(self, mark: int) -> None:
        """Put the static band around the mark of 00:00."""
        self.center = mark
        self.leave_outside()

    def next_due(self) -> tuple[int, int, int]:
        """Return when what happens next, and to whom."""
        due = [(self.ends_at, _TRADING_ENDS, 0)] if self.state != CLOSED else [(_NEVER, 0, 0)]
        if self.state == CALL:
            due.append((self.call_ends_at, _UNCROSS, 0))
        for order in self.resting + self.waiting:
            if order.time_in_force == DAY and not order.is_late:
                due.append((order.expires_at, _EXPIRE_DAY, order.id))
            if order.time_in_force == GTD or order.is_late:
                due.append((order.expires_at, _EXPIRE, order.id))
        due += [(at, _SWITCH, account) for account, at in self.switches.items() if at]
        return min(due)

    def advance(self, at: int) -> None:
        """Let time pass, and happen what is due."""
        while True:
            due_at, what, number = self.next_due()
            if due_at > at:
                break
            self.at = due_at
            if what == _TRADING_ENDS:
                for order in self.resting + self.waiting:
                    self.close(order, "expired")
                self.state = CLOSED
            elif what == _UNCROSS:
                self.uncross()
            elif what == _SWITCH:
                del self.switches[number]
                self.cancel_all(number, "cancel_all_after")
            else:
                order = self.find(number)
                assert order is not None, "what expires is live"
                if self.is_frozen() and order in self.resting:
                    order.expires_at, order.is_late = self.call_ends_at, True
                else:
                    self.close(order, "expired")
        self.at = at

    def queue(self, side: int) -> list[tuple[int, int, int, int]]:
        """Return (order, price, shown, left) of a side, first served first."""
        orders = sorted(
            (order for order in self.resting if order.side == side),
            key=lambda order: -order.price * side,
        )
        return [(order.id, order.price, order.shown, order.left) for order in orders]


_TRADING_ENDS, _UNCROSS, _EXPIRE_DAY, _EXPIRE, _SWITCH = range(5)
_MIDNIGHT = 24 * HOUR
_NEVER = 2**62
