"""What is true of the state after every command.

Written from the definitions, not from the code that keeps the sums: everything that is kept
incrementally is added up again here.
"""

import itertools

from exchange import commands
from exchange.book import Order
from exchange.machine import package_checks, proceeds, stops, terms
from exchange.machine.capacity import Capacity
from exchange.machine.entries import Entry
from exchange.machine.state import UNKNOWN, Account, Instrument, Position, State
from exchange.reasons import OrderStatus
from marketplace import contract
from marketplace.contract import HOUR, InstrumentState
from settlement import margin
from settlement.ledger import Kind

NOTHING = margin.Resting()


def check(state: State) -> None:
    """Assert every invariant."""
    _check_cash(state)
    _check_index_of_orders(state)
    orders: dict[Position, list[Order]] = {}
    for order in state.orders.values():
        orders.setdefault(order.position, []).append(order)
    for instrument in state.by_id.values():
        _check_instrument(state, instrument, orders)
    for account in state.accounts.values():
        _check_account(state, account)
    _check_delivery(state)
    _check_coverage(state)
    _check_slots(state)
    _check_insurance(state)
    _check_limits(state)
    _check_switches(state)
    package_checks.check(state)


def _check_cash(state: State) -> None:
    """Assert that no cash appears or vanishes."""
    owned = sum(a.cash + a.held + a.escrow + a.usage_hold + a.fund for a in state.accounts.values())
    assert owned + sum(state.exchange.values()) == 0, "cash is conserved"
    assert state.exchange[Kind.CLEARING] == 0, "clearing nets to zero"
    debt = sum(account.debt for account in state.accounts.values())
    shared = sum(sum(account.owed.values()) for account in state.accounts.values())
    assert state.exchange[Kind.LAYER] == shared - debt, "every debt was lent by somebody"
    waiting: dict[int, int] = {}
    for payout in state.payouts.values():
        waiting[payout.account] = waiting.get(payout.account, 0) + payout.amount
    held: dict[int, int] = {}
    for (owner, _, _), hold in state.holds.items():
        held[owner] = held.get(owner, 0) + hold.amount
    for account in state.accounts.values():
        assert account.usage_hold == held.get(account.id, 0), "holds add up"
        assert account.held == waiting.get(account.id, 0), "withdrawals that wait add up"
        assert account.cash >= 0, "cash is not overdrawn"
        assert account.debt >= sum(account.owed.values()), "a debt is not negative"
        assert account.fund >= 0, "a share of the fund is not negative"
        if account.call_due:
            entry = (account.call_due, int(Entry.MARGIN_CALL), account.id)
            assert entry in state.calendar, "a margin call is enforced in time"


def _check_index_of_orders(state: State) -> None:
    """Assert that the shared index holds the live orders and nothing else."""
    live = [order.id for i in state.by_id.values() for order in i.live_orders()]
    assert len(live) == len(set(live)), "an order rests or waits, in one place"
    assert set(live) == set(state.orders), "the index is the union of the books and what waits"
    of_accounts = {o.id for a in state.accounts.values() for o in a.orders.values()}
    assert set(live) == of_accounts, "every live order is its account's"
    assert set(state.instruments) == {i.symbol for i in state.by_id.values()}, "one by symbol"
    energy = [i for i in state.by_id.values() if i.is_energy]
    assert len(state.by_window) == len(energy), "energy is one by window"
    assert not state.repriced, "uncovered shorts are priced by the curve as it is"
    assert not state.stale, "what stands behind shorts was added up"
    assert not state.dirty, "every change of a book was announced"


def _check_instrument(
    state: State, instrument: Instrument, orders: dict[Position, list[Order]]
) -> None:
    """Assert what holds inside an instrument."""
    is_open = state.state_of(instrument) is InstrumentState.CONTINUOUS
    assert instrument.is_open == is_open, "an instrument knows whether it trades"
    in_call = instrument.phase is InstrumentState.CALL
    instrument.book.check(may_cross=in_call)
    _check_session(state, instrument)
    _check_terms(state, instrument)
    positions = instrument.positions.values()
    assert sum(position.net for position in positions) == 0, "a long for every short"
    assert sum(position.cost for position in positions) == 0, "costs add up to zero"
    longs = sum(position.net for position in positions if position.net > 0)
    assert instrument.open_interest == longs, "open interest is the long lots"
    if instrument.phase in (InstrumentState.SCHEDULED, InstrumentState.CLOSED):
        assert not list(instrument.live_orders()), "no orders outside trading"
    for position in positions:
        _check_position(position, orders.get(position, []))


def _check_session(state: State, instrument: Instrument) -> None:
    """Assert that a call runs where its session says so, and what may be matched without a look."""
    call = instrument.call
    runs = state.state_of(instrument) is InstrumentState.CALL
    assert (call is not None) == runs, "a call runs in its session, and under no halt"
    if call is not None:
        assert state.at <= call.ends_at, "a call ends in time"
        entry = (call.ends_at, int(Entry.UNCROSS), instrument.id)
        assert entry in state.calendar, "the calendar knows when a call ends"
        _check_crossing_groups(instrument)
    if instrument.calm_low <= instrument.calm_high:
        assert instrument.is_open, "orders are matched in continuous trading"
        low, high = instrument.dynamic_low, instrument.dynamic_high
        assert (instrument.calm_low, instrument.calm_high) == (low, high), "inside the band"
        bid, ask = instrument.book.best()
        assert bid <= high, "no bid rests above the band unnoticed"
        assert not ask or ask >= low, "no ask rests below the band unnoticed"


def _check_terms(state: State, instrument: Instrument) -> None:
    """Assert that every live order is where its terms want it, and shows what they say."""
    instrument.stops.check()
    resting = {order.id for order in instrument.book}
    for order in instrument.live_orders():
        request = order.request
        wants = request.terms or commands.PLAIN
        waits = order.status is OrderStatus.UNTRIGGERED
        assert waits != (order.id in resting), "what does not rest waits for its stop price"
        assert waits or order.status is OrderStatus.OPEN, "a live order is open"
        assert waits or terms.may_rest(request), "nothing rests that may not"
        assert waits or wants.type in (commands.LIMIT, commands.STOP_LIMIT), "and has a limit"
        assert 0 < order.left <= order.lots, "a live order has something left"
        if waits:
            reached = stops.is_reached(instrument, order.side, order.stop_price)
            assert not reached or not instrument.is_open, "what was reached was triggered"
            assert terms.is_stop(request), "only stop orders wait"
            assert not order.hidden, "what waits hides nothing yet"
        elif order.hidden:
            assert wants.display_lots, "only an iceberg hides something"
        elif wants.display_lots:
            assert order.remaining <= wants.display_lots, "an iceberg shows no more than its tip"
        if not request.price:
            edge = terms.band_edge(instrument, order.side)
            assert order.price == edge, "a stop order reserves the edge of the band"
        assert instrument.band_low <= order.price <= instrument.band_high, "inside the band"
        if request.time_in_force == commands.GTD:
            _check_date(state, order)


def _check_date(state: State, order: Order) -> None:
    """Assert that the calendar knows when an order with a date leaves: then, or after a call."""
    expires_at = order.request.terms.expires_at
    due = [at for at, kind, number in state.calendar if (kind, number) == (Entry.EXPIRE, order.id)]
    if expires_at <= state.at:
        assert len(due) == 1, "what has expired leaves after its call"
    elif expires_at < order.position.instrument.contract.trading_ends_at:
        assert due == [expires_at], "the calendar knows when an order leaves"


def _check_reducing(position: Position, orders: list[Order]) -> None:
    """Assert that reduce-only orders, with all that rests beside them, could only reduce."""
    own = {o.id for o in orders if o.request.terms is not None and o.request.terms.reduce_only}
    assert own == set(position.reducing), "a position knows its reduce-only orders"
    for order in position.reducing.values():
        resting = position.buy_lots if order.side > 0 else position.sell_lots
        assert resting <= -order.side * position.net, "reduce-only orders only reduce"


def _check_crossing_groups(instrument: Instrument) -> None:
    """Assert that an auction could not pair a group with itself."""
    lowest: dict[int, int] = {}
    for order in instrument.book.asks:
        lowest.setdefault(order.group, order.price)
    for order in instrument.book.bids:
        ask = lowest.get(order.group)
        assert ask is None or order.price < ask, "orders of a group do not cross"


def _check_position(position: Position, orders: list[Order]) -> None:
    """Assert that a position's sums are those of its orders."""
    instrument = position.instrument
    _check_reducing(position, orders)
    assert position.order_count == len(orders), "orders are counted"
    kept = margin.Resting(
        position.buy_lots,
        position.sell_lots,
        position.long_excess,
        position.short_excess,
        position.buy_fees,
        position.sell_fees,
    )
    resting = _resting(instrument, orders) if orders else NOTHING
    assert kept == resting, "sums over resting orders add up"
    needed = margin.requirement(instrument.rates, position.net, position.cost, resting)
    assert position.required == needed, "what is reserved is what is required"
    assert needed >= position.initial_margin, "orders never lower the margin"


def _resting(instrument: Instrument, orders: list[Order]) -> margin.Resting:
    """Return the sums over a position's orders, whose fees are rounded up once each."""
    for order in orders:
        sale_waits = order.side < 0 and order.status is OrderStatus.UNTRIGGERED
        points = order.fee_points + margin.fee_points(
            unit=instrument.unit,
            price=instrument.band_high if sale_waits else order.price,
            lots=order.left,
            basis_points=instrument.fee_bp_max,
        )
        assert order.fee == margin.fee_charged(order.fee_points), "fees are rounded up once"
        assert order.fee_reserve == margin.fee_charged(points) - order.fee, "fees are reserved"
    excess = [
        margin.order_excess(instrument.rates, side=order.side, price=order.price, lots=order.left)
        for order in orders
    ]
    buys = [order for order in orders if order.side > 0]
    sells = [order for order in orders if order.side < 0]
    return margin.Resting(
        buy_lots=sum(order.left for order in buys),
        sell_lots=sum(order.left for order in sells),
        long_excess=sum(long for long, _ in excess),
        short_excess=sum(short for _, short in excess),
        buy_fees=sum(order.fee_reserve for order in buys),
        sell_fees=sum(order.fee_reserve for order in sells),
    )


def _check_account(state: State, account: Account) -> None:
    """Assert that reservations and escrow of an account add up."""
    positions = [i.positions[account.id] for i in state.by_id.values() if account.id in i.positions]
    assert {p.instrument.symbol for p in positions} == set(account.positions), "both sides agree"
    behind = sum(
        obligation.margin
        for hour in state.hours.values()
        for obligation in hour.obligations.values()
        if obligation.account == account.id
    )
    packages = state.packages.values()
    behind += sum(package.margin for package in packages if package.seller == account.id)
    assert account.delivery_margin == behind, "delivery margins add up"
    pools = [purchase.commitments.values() for purchase in state.purchases.values()]
    reserves = [one.reserve for pool in pools for one in pool if one.account == account.id]
    bids = [transfer.bids.values() for transfer in state.transfers.values()]
    reserves += [one.reserve for each in bids for one in each if one.account == account.id]
    assert account.committed == sum(reserves), "commitments add up"
    required = behind + account.committed + sum(position.required for position in positions)
    required += sum(account.uncovered.values())
    longer = [p for p in positions if p.instrument.is_energy and p.instrument.contract.hours > 1]
    assert account.crossing == len(longer), "an account knows its longer positions"
    assert account.required == required, "reservations add up"
    escrow = sum(
        entitlement.escrow
        for hour in state.hours.values()
        for entitlement in hour.entitlements.values()
        if entitlement.account == account.id
    )
    escrow += sum(package.escrow for package in packages if package.holder == account.id)
    assert account.escrow == escrow, "escrow adds up"
    clusters = {c.id for c in state.clusters.values() if c.account == account.id}
    assert clusters == set(account.clusters), "an account knows its clusters"
    own = [order for order in account.orders.values() if not order.is_of_clearing]
    assert not account.killed or not own, "a killed account has no orders"
    _check_locked(state, account)


def _check_locked(state: State, account: Account) -> None:
    """Assert that what an account earned stays until its day is final, and no longer."""
    locked = account.locked
    assert all(amount > 0 for amount in locked.values()), "nothing locked is nothing"
    days = [until - proceeds.FINAL_AFTER for until in locked]
    assert all(day % contract.DAY == 0 for day in days), "what is locked is so by whole days"
    assert all(until > state.at for until in locked), "what is final is free"
    gone = max(0, account.available - sum(locked.values()))
    assert proceeds.withdrawable(account) <= gone, "what is locked is not withdrawn"


def _check_delivery(state: State) -> None:
    """Assert that entitlements, obligations and allocations are one quantity."""
    for hour in state.hours.values():
        allocations = hour.allocations.values()
        entitled = sum(e.lots for e in hour.entitlements.values())
        assert entitled == sum(o.lots for o in hour.obligations.values()), "owed as entitled"
        open_intervals = contract.INTERVALS_PER_HOUR - hour.settled.bit_count()
        for entitlement in hour.entitlements.values():
            own = [a for a in allocations if a.entitlement == entitlement.id]
            lots = sum(a.lots for a in own)
            assert lots == entitlement.lots, "every entitled lot has a cluster"
            undelivered = 5 * sum(a.price * a.lots for a in own) * open_intervals
            assert entitlement.escrow == undelivered, "escrow is the undelivered paid value"
            slotted = sum(a.p0_lots + a.p1_lots for a in allocations if not a.cluster)
            assert not slotted, "no slot goes with a failed lot"
        for allocation in allocations:
            assert allocation.package or allocation.price == hour.price, "one price for all"
            assert allocation.p0_lots + allocation.p1_lots <= allocation.lots, "a slot has a lot"
        for obligation in hour.obligations.values():
            own = [a for a in allocations if a.obligation == obligation.id]
            assert sum(a.lots for a in own) == obligation.lots, "every owed lot is allocated"
            failed = sum(a.lots for a in own if a.cluster == 0)
            assert failed == obligation.failed_lots, "failed lots are those without a cluster"


def _check_coverage(state: State) -> None:
    """Assert, hour by hour, that what nothing covers is paid for, and not offered late."""
    prices: dict[tuple[str, int], int] = {}
    energy = [instrument for instrument in state.by_id.values() if instrument.is_energy]
    energy.sort(key=lambda instrument: instrument.contract.hours)
    for account in state.accounts.values():
        for grade in state.grades:
            needed = 0
            for starts_at, lots in _uncovered_hours(account, grade).items():
                late = starts_at <= state.prepaid_until
                hour = grade, starts_at
                if hour not in prices:
                    prices[hour] = _price_of_hour(energy, grade, starts_at)
                needed += lots * prices[hour] * margin.uncovered_micros(is_late=late)
                if late:
                    offered = sum(
                        p.sell_lots
                        for p in account.positions.values()
                        if p.instrument.is_energy and _has(p.instrument, grade, starts_at)
                    )
                    assert not offered, "no sale inside the prepaid window is uncovered"
            assert account.uncovered.get(grade, 0) == needed, "uncovered shorts are paid for"
        for position in account.positions.values():
            if position.certified == UNKNOWN:
                continue
            terms = position.instrument.contract
            is_plain = not (account.pledges or account.backs or account.backed)
            since = terms.ends_at - HOUR if is_plain else terms.starts_at
            least = min(
                sum(_lots_behind(account, terms.grade, at + HOUR))
                for at in range(since, terms.ends_at, HOUR)
            )
            assert position.certified == least, "coverage is current"


def _check_slots(state: State) -> None:
    """Assert that nobody offers more slots than its clusters may be behind or it has bought."""
    for account in state.accounts.values():
        sold: dict[tuple[str, int], list[Position]] = {}
        for position in account.positions.values():
            terms = position.instrument.contract
            if terms.service_class and position.sell_lots > position.net:
                sold.setdefault((terms.grade, terms.ends_at), []).append(position)
        for (grade, ends_at), positions in sold.items():
            clusters = [c for c in account.clusters.values() if c.grade == grade]
            clusters = [c for c in clusters if c.valid_until >= ends_at]
            short = sum(position.sell_lots - position.net for position in positions)
            if any(position.sell_lots for position in positions):
                assert short <= sum(c.timed_lots for c in clusters), "slots are of certified lots"
            for position in positions:
                if position.sell_lots and position.instrument.contract.service_class == "P0":
                    short = position.sell_lots - position.net
                    assert short <= sum(c.p0_lots for c in clusters), "P0 is of certified lots"
    for cluster in state.clusters.values():
        assert 100 * cluster.p0_lots <= 30 * cluster.lots, "P0 is at most 30 %"
        assert 100 * cluster.timed_lots <= 60 * cluster.lots, "P0 and P1 are at most 60 %"


def _price_of_hour(energy: list[Instrument], grade: str, starts_at: int) -> int:
    """Return the mark of the shortest energy around an hour, of instruments in that order."""
    return next(each.mark for each in energy if _has(each, grade, starts_at))


def _check_insurance(state: State) -> None:
    """Assert that options keep no cost, and that writers have set aside what may be paid."""
    for instrument in state.by_id.values():
        terms = instrument.contract
        if not instrument.is_option:
            continue
        assert all(position.cost == 0 for position in instrument.positions.values()), "paid at once"
        most = 5 * terms.strike if terms.strike else instrument.pay_ticks
        assert most > 0, "an option pays something"
        unpaid = terms.hours - instrument.paid_hours.bit_count()
        assert unpaid, "an option ends with its last hour"
        for position in instrument.positions.values():
            aside = most * 60 * unpaid * max(0, -position.net)
            assert position.initial_margin == aside, "what may be paid is set aside"


def _has(instrument: Instrument, grade: str, starts_at: int) -> bool:
    """Whether an hour is in the window of an instrument."""
    terms = instrument.contract
    return terms.grade == grade and terms.starts_at <= starts_at < terms.ends_at


def _uncovered_hours(account: Account, grade: str) -> dict[int, int]:
    """Return by how many lots each hour's shorts and sales exceed what is behind them.

    Windows are hours, whole days or more of these, so lots are added up where windows begin and
    end: between two such instants nothing changes but how long certificates hold.
    """
    steps: dict[int, int] = {}
    for position in account.positions.values():
        lots = position.sell_lots - position.net
        terms = position.instrument.contract
        if lots and position.instrument.is_energy and terms.grade == grade:
            steps[terms.starts_at] = steps.get(terms.starts_at, 0) + lots
            steps[terms.ends_at] = steps.get(terms.ends_at, 0) - lots
    found: dict[int, int] = {}
    certificates = [(c.valid_until, c.lots) for c in account.clusters.values() if c.grade == grade]
    instants = sorted(steps)
    sold = 0
    for since, until in itertools.pairwise(instants):
        sold += steps[since]
        is_plain = not (account.pledges or account.backs or account.backed)
        least = sum(lots for holds, lots in certificates if holds >= until)
        if sold <= 0 or (is_plain and sold <= least):
            continue
        for starts_at in range(since, until, HOUR):
            behind = sum(_lots_behind(account, grade, starts_at + HOUR))
            if sold > behind:
                found[starts_at] = sold - behind
    return found


def _lots_behind(account: Account, grade: str, ends_at: int) -> tuple[int, int]:
    """Return what of its own, and of others' clusters, stands behind an account's shorts."""
    left, _ = _stand(account, grade, ends_at)
    borrowed = 0
    for number, (owner, _backing) in account.backed.items():
        borrowed += _stand(owner, grade, ends_at)[1].get(number, 0)
    pledged = account.pledge(grade, ends_at - HOUR).lots
    return max(0, left - pledged), borrowed


def _stand(account: Capacity, grade: str, ends_at: int) -> tuple[int, dict[int, int]]:
    """Return certified lots that are left to an account, and those behind others by number."""
    own = {
        c.id: c.lots
        for c in account.clusters.values()
        if c.grade == grade and c.valid_until >= ends_at
    }
    behind = {}
    for number, one in sorted(account.backs.items()):
        if one.grade == grade and one.starts_at < ends_at <= one.ends_at and one.cluster in own:
            behind[number] = min(one.lots, own[one.cluster])
            own[one.cluster] -= behind[number]
    return sum(own.values()), behind


def _check_limits(state: State) -> None:
    """Assert that groups are whole and that nobody remembers a supply that has changed."""
    members = [account.id for peers in state.groups.values() for account in peers]
    assert sorted(members) == sorted(state.accounts), "every account is in one group"
    for account in state.accounts.values():
        assert account.peers is state.groups[account.group], "an account knows its group"
    supplies: dict[tuple[str, int], int] = {}
    for instrument in state.by_id.values():
        if instrument.long_max == UNKNOWN:
            continue
        window = instrument.grade.code, instrument.contract.ends_at
        if window not in supplies:
            supplies[window] = sum(
                cluster.lots
                for cluster in state.clusters.values()
                if cluster.grade == window[0] and cluster.valid_until >= window[1]
            )
        assert instrument.long_max == max(100, supplies[window] // 4), "limits are current"


def _check_switches(state: State) -> None:
    """Assert that the calendar looks at an account's switches once, and in time for the first."""
    entered = [(at, number) for at, kind, number in state.calendar if kind == Entry.SWITCH]
    waiting = [(a.switch_due, a.id) for a in state.accounts.values() if a.switch_due]
    assert sorted(entered) == sorted(waiting), "one entry for each account that has one"
    for account in state.accounts.values():
        first = min(account.switches.values(), default=0)
        assert not first or 0 < account.switch_due <= first, "no switch is missed"
