"""From the end of trading to the last settled interval of an hour.

When trading ends (RULEBOOK 4.2) everything happens at one instant and in this order: what rests
expires, the index is published, every position is paid the difference between its cost and the
delivery price (the payments sum to exactly zero), the buyers' price goes into escrow, and net
positions become entitlements, obligations and allocations to named clusters, with the lots of
packages, which have a price of their own and have it in escrow. The hour's slots end
with it (`slots`): they say on which clusters their holders' lots are. Orders elsewhere that are no
longer funded leave last.

Each interval then releases, refunds and compensates (RULEBOOK 6.4, 6.5), once. What is released
repays a debt first. Compensation is the seller's own to pay (`damages`).
"""

from collections.abc import Iterable

from exchange import events
from exchange.machine import (
    coverage,
    covers,
    damages,
    insurance,
    listing,
    marks,
    packages,
    proceeds,
    sessions,
    slots,
    waterfall,
    withdrawals,
)
from exchange.machine.promises import Package
from exchange.machine.records import Allocation, Entitlement, Hour, Obligation
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import Close, Refuse
from marketplace import contract
from marketplace.contract import InstrumentState
from settlement import delivery, index, instructions
from settlement.ledger import Code, Kind
from settlement.packages import HourLots

ALL_SETTLED = (1 << contract.INTERVALS_PER_HOUR) - 1
_LOOKAHEAD_HOURS = 48
_DELIVERED_MAX = 10**15
Promised = tuple[Package, HourLots]
"""A package, and what it has in an hour."""


def end_trading(state: State, instrument: Instrument) -> None:
    """Close the gate of an hour."""
    instrument.phase = InstrumentState.CLOSED
    instrument.call = None
    sessions.change(state, instrument)
    for order in sorted(instrument.live_orders(), key=lambda order: order.id):
        withdrawals.withdraw(state, order, Close.EXPIRED)
    closed = slots.close(state, instrument)
    positions = [instrument.positions[number] for number in sorted(instrument.positions)]
    price = _publish_index(state, instrument, positions)
    state.events.append(events.Marked(instrument.symbol, price, "index", state.at))
    payments: dict[int, int] = {}
    marks.settle(state, instrument, price, payments)
    waterfall.settle(state, payments, Code.VARIATION, f"gate:{instrument.symbol}")
    lots = sum(position.net for position in positions if position.net > 0)
    state.events.append(
        events.GateClosed(
            instrument.symbol,
            instrument.grade.code,
            instrument.contract.starts_at,
            price,
            lots,
            state.at,
        )
    )
    promised = packages.due(state, instrument.grade.code, instrument.contract.starts_at)
    if lots or promised:
        _deliver(state, instrument, positions, price, closed, promised)
        packages.deliver(state, promised)
    concerned = {position.account.id: position.account for position in positions}
    concerned |= _settle_slots(state, instrument, closed)
    for position in positions:
        _settle_position(state, position)
    for number in sorted(concerned):
        coverage.settle_account(state, concerned[number])
        coverage.withdraw_unfunded(state, concerned[number])
    instrument.positions.clear()
    instrument.trades.clear()
    instrument.open_interest = 0
    instrument.mid_since = instrument.mid_value = 0
    if not lots and not promised:
        listing.unlist(state, instrument)


def _publish_index(state: State, instrument: Instrument, positions: list[Position]) -> int:
    """Compute the hour's index and publish it with its inputs; return its price."""
    grade = instrument.grade
    inputs = index.Inputs(
        grade=grade.code,
        hour_starts_at=instrument.contract.starts_at,
        trades=index.number_groups(instrument.trades),
        obligation_lots=sum(-position.net for position in positions if position.net < 0),
        auction=instrument.opening_price,
        mid_area=instrument.mid_area,
        mid_time=instrument.mid_time,
        last=grade.sound_price,
        last_age=state.at - grade.sound_at if grade.sound_price else 0,
        parent=instrument.parent_mark,
        mark=instrument.mark,
    )
    price, method = index.compute(inputs)
    grade.index[instrument.contract.starts_at] = price
    if method in index.SOUND:
        grade.sound_price = price
        grade.sound_at = state.at
        grade.sound_hour = instrument.contract.starts_at
    body = index.encode(inputs)
    grade.published += 1
    state.events.append(
        events.IndexPublished(
            grade.code,
            instrument.contract.starts_at,
            price,
            str(method),
            body,
            index.digest(body),
            state.at,
            grade.published,
        )
    )
    return price


def _settle_slots(state: State, instrument: Instrument, closed: slots.Closed) -> dict[int, Account]:
    """Pay for the slots of an hour and for those that fail; return the accounts that had any."""
    due = slots.pay(state, closed)
    settled: list[tuple[slots.Damage, int]] = []
    for seller in sorted({damage.seller for damage in due}):
        own = [damage for damage in due if damage.seller == seller]
        amounts = damages.pay(
            state,
            state.accounts[seller],
            [(damage.holder, damage.amount, damage.cause) for damage in own],
            Code.SLOT_DAMAGES,
        )
        settled += zip(own, amounts, strict=True)
    hour = state.hours.get((instrument.grade.code, instrument.contract.starts_at))
    concerned = slots.settle(state, closed, hour, settled)
    return {account.id: account for account in concerned}


def _deliver(
    state: State,
    instrument: Instrument,
    positions: list[Position],
    price: int,
    closed: slots.Closed,
    promised: list[Promised],
) -> None:
    """Turn net positions and packages into escrow, entitlements, obligations and allocations."""
    grade = instrument.grade.code
    starts_at = instrument.contract.starts_at
    hour = Hour(grade, starts_at, instrument.symbol, price, {}, {}, {})
    state.hours[grade, starts_at] = hour
    before = _served_before(state, grade, starts_at)
    bought = {position.account.id: position.net for position in positions if position.net > 0}
    sold = {position.account.id: -position.net for position in positions if position.net < 0}
    of_holder = _by_account((package.holder, package, of) for package, of in promised)
    of_seller = _by_account((package.seller, package, of) for package, of in promised)
    entitlements = {
        number: _grant(state, hour, number, bought.get(number, 0), of_holder.get(number, []))
        for number in sorted(bought | of_holder)
    }
    shares: list[delivery.Share] = []
    served: list[tuple[Package | None, delivery.Assignment]] = []
    for number in sorted(sold | of_seller):
        account, due = state.accounts[number], of_seller.get(number, [])
        obligation = state.number("obligation")
        own = _split(account, hour, obligation, sold.get(number, 0), closed)
        packed = packages.assign(account, obligation, due, before) if due else []
        _oblige(state, hour, account, obligation, own, packed, due)
        shares += own
        of = {package.id: package for package, _ in due}
        served += [(of[chosen.holder], chosen) for chosen in packed]
    served[:0] = [
        (None, chosen) for chosen in delivery.assign(bought, shares, before, closed.usable())
    ]
    for package, chosen in served:
        _allocate(state, hour, entitlements, package, chosen)


def _by_account(
    found: Iterable[tuple[int, Package, HourLots]],
) -> dict[int, list[Promised]]:
    """Return packages by whose they are."""
    of: dict[int, list[Promised]] = {}
    for number, package, lots in found:
        of.setdefault(number, []).append((package, lots))
    return of


def _grant(state: State, hour: Hour, account_id: int, bought: int, due: list[Promised]) -> int:
    """Put a buyer's price into escrow and entitle it; return the entitlement's number.

    That of its packages is there already.
    """
    account = state.accounts[account_id]
    number = state.number("entitlement")
    escrow = contract.notional_micros(price_ticks=hour.price, lots=bought)
    cause = f"entitlement:{number}"
    waterfall.cover(state, account, escrow, cause, must=True)
    state.transfer((account.id, Kind.CASH), (account.id, Kind.ESCROW), escrow, Code.ESCROW, cause)
    lots = bought + sum(of.lots for _, of in due)
    escrow += sum(packages.worth(package, of)[0] for package, of in due)
    hour.entitlements[number] = Entitlement(number, account.id, lots, escrow)
    state.events.append(
        events.EntitlementGranted(
            number, account.id, hour.grade, hour.starts_at, lots, hour.price, escrow
        )
    )
    return number


def _split(
    account: Account, hour: Hour, obligation: int, lots: int, closed: slots.Closed
) -> list[delivery.Share]:
    """Return which clusters the lots and slots are on that a seller has sold in the market."""
    ends_at = hour.starts_at + contract.HOUR
    return delivery.split_obligation(
        obligation=obligation,
        lots=lots,
        certified_lots=account.certified_lots(hour.grade, ends_at),
        slots=closed.delivered.get(account.id, delivery.NO_SLOTS),
        rooms=account.slot_rooms(hour.grade, ends_at),
    )


def _oblige(
    state: State,
    hour: Hour,
    account: Account,
    number: int,
    shares: list[delivery.Share],
    packed: list[delivery.Assignment],
    due: list[Promised],
) -> None:
    """Oblige a seller to what it sold, and keep its margin; that of its packages is kept."""
    lots = sum(share.lots for share in shares)
    worth = contract.notional_micros(price_ticks=hour.price, lots=lots)
    margin = delivery.delivery_margin(price=hour.price, lots=lots)
    account.delivery_margin += margin
    account.required += margin
    for package, of in due:
        lots += of.lots
        worth += packages.worth(package, of)[0]
        margin += packages.worth(package, of)[1]
    parts = [(share.cluster, share.lots) for share in shares]
    parts += [(chosen.cluster, chosen.lots) for chosen in packed]
    failed = sum(part for cluster, part in parts if cluster == delivery.NO_CLUSTER)
    damages.note_sale(state, account, hour.grade, hour.starts_at, worth)
    hour.obligations[number] = Obligation(number, account.id, lots, failed, margin)
    state.events.append(
        events.ObligationIncurred(
            number, account.id, hour.grade, hour.starts_at, lots, failed, hour.price
        )
    )


def _allocate(
    state: State,
    hour: Hour,
    entitlements: dict[int, int],
    package: Package | None,
    chosen: delivery.Assignment,
) -> None:
    """Assign lots of a holder, bought in the market or in a package, to a cluster."""
    number = state.number("allocation")
    holder = chosen.holder if package is None else package.holder
    allocation = Allocation(
        number,
        entitlements[holder],
        chosen.obligation,
        holder,
        hour.obligations[chosen.obligation].account,
        chosen.cluster,
        chosen.lots,
        chosen.p0_lots,
        chosen.p1_lots,
        hour.price if package is None else package.price,
        0 if package is None else package.id,
    )
    hour.allocations[number] = allocation
    state.events.append(
        events.Allocated(
            number,
            allocation.entitlement,
            allocation.obligation,
            holder,
            allocation.seller,
            allocation.cluster,
            hour.grade,
            hour.starts_at,
            allocation.lots,
            allocation.price,
            allocation.p0_lots,
            allocation.p1_lots,
            allocation.package,
        )
    )


def _served_before(state: State, grade: str, starts_at: int) -> dict[int, list[int]]:
    """Return which clusters served each holder in the hour before, most lots first."""
    hour = state.hours.get((grade, starts_at - contract.HOUR))
    lots: dict[int, dict[int, int]] = {}
    for allocation in hour.allocations.values() if hour is not None else ():
        of_holder = lots.setdefault(allocation.holder, {})
        of_holder[allocation.cluster] = of_holder.get(allocation.cluster, 0) + allocation.lots
    return {
        holder: sorted(clusters, key=lambda cluster: (-clusters[cluster], cluster))
        for holder, clusters in lots.items()
    }


def _settle_position(state: State, position: Position) -> None:
    """Take a position that has become delivery out of the books."""
    position.net = position.cost = 0
    position.refresh()
    state.drop_position(position)


def settle_interval(state: State, order: instructions.SettleInterval) -> Refuse | None:
    """Settle one interval of an hour, or say why not."""
    hour = state.hours.get((order.grade, order.hour_starts_at))
    if hour is None:
        return Refuse.UNKNOWN_HOUR
    if not 1 <= order.interval <= contract.INTERVALS_PER_HOUR:
        return Refuse.INVALID_REPORT
    bit = 1 << (order.interval - 1)
    if hour.settled & bit:
        return Refuse.ALREADY_SETTLED
    if state.at < hour.starts_at + order.interval * contract.INTERVAL:
        return Refuse.INTERVAL_NOT_OVER
    lines = {line.allocation: line for line in order.lines}
    refused = None if order.suspended else _refuse_report(state, hour, order, lines)
    if refused is not None:
        return refused
    hour.settled |= bit
    _pay_interval(state, hour, order, lines)
    if hour.settled == ALL_SETTLED:
        _finish_hour(state, hour)
    return None


def _refuse_report(
    state: State,
    hour: Hour,
    order: instructions.SettleInterval,
    lines: dict[int, instructions.DeliveryLine],
) -> Refuse | None:
    """Return what is wrong with a report; failed lots need no line."""
    if len(lines) != len(order.lines) or not lines.keys() <= hour.allocations.keys():
        return Refuse.INVALID_REPORT
    for number, allocation in hour.allocations.items():
        line = lines.get(number)
        if line is None:
            if allocation.cluster != delivery.NO_CLUSTER:
                return Refuse.INCOMPLETE_REPORT
            continue
        most = allocation.lots * contract.MNTU_PER_LOT_INTERVAL
        if not 0 <= line.available_mntu <= most or not 0 <= line.short_mntu <= most:
            return Refuse.INVALID_REPORT
        if not 0 <= line.delivered_mntu <= _DELIVERED_MAX:
            return Refuse.INVALID_REPORT
        if line.covers and not covers.is_possible(state, allocation, line):
            return Refuse.INVALID_REPORT
    return None


def _pay_interval(
    state: State,
    hour: Hour,
    order: instructions.SettleInterval,
    lines: dict[int, instructions.DeliveryLine],
) -> None:
    """Release and refund every allocation's escrow, then compensate."""
    next_mark = _next_mark(state, hour.grade)
    settled: list[tuple[Allocation, instructions.DeliveryLine, delivery.Legs]] = []
    covered: list[covers.Covered] = []
    for number in sorted(hour.allocations):
        allocation = hour.allocations[number]
        line = lines.get(number, instructions.DeliveryLine(number, 0, 0, 0))
        if allocation.cluster == delivery.NO_CLUSTER or order.suspended:
            short, helped = (0, ()) if order.suspended else (line.short_mntu, line.covers)
            line = instructions.DeliveryLine(number, 0, short, line.delivered_mntu, helped)
        helpers = covers.of(line)
        legs = delivery.interval_legs(
            price=allocation.price,
            lots=allocation.lots,
            available_mntu=line.available_mntu,
            short_mntu=line.short_mntu,
            replacement_price=delivery.replacement_price(
                price=allocation.price, next_mark=next_mark, covers=helpers
            ),
            covers=helpers,
        )
        seller, holder = state.accounts[allocation.seller], state.accounts[allocation.holder]
        if seller.group == holder.group:
            legs = legs._replace(compensation_due=0)
        cause = f"interval:{number}:{order.interval}"
        escrow = (holder.id, Kind.ESCROW)
        state.transfer(escrow, (seller.id, Kind.CASH), legs.released, Code.RELEASE, cause)
        state.transfer(escrow, (holder.id, Kind.CASH), legs.refunded, Code.REFUND, cause)
        waterfall.repay(state, seller, legs.released, cause)
        proceeds.lock(state, seller, legs.released, hour.starts_at)
        waterfall.repay(state, holder, legs.refunded, cause)
        if helpers:
            covered += covers.release(state, hour, allocation, order.interval, line, legs)
        paid_out = legs.released + legs.refunded + sum(legs.covered)
        hour.entitlements[allocation.entitlement].escrow -= paid_out
        settled.append((allocation, line, legs))
    missed: dict[int, int] = {}
    for allocation, line, _ in settled:
        number = allocation.holder
        if state.accounts[number].group != state.accounts[allocation.seller].group:
            missed[number] = missed.get(number, 0) + line.short_mntu
    insurance.pay_cover(state, hour, order.interval, missed)
    month = damages.MonthOf(hour.grade, hour.starts_at)
    covers.settle(state, month, order.interval, covered)
    compensated = _compensate(state, month, order.interval, settled)
    for allocation, line, legs in settled:
        state.events.append(
            events.IntervalSettled(
                allocation.id,
                order.interval,
                line.available_mntu,
                line.short_mntu,
                line.delivered_mntu,
                legs.released,
                legs.refunded,
                compensated.get(allocation.id, 0),
                legs.compensation_due,
                state.at,
                next_mark,
            )
        )


def _compensate(
    state: State,
    month: damages.MonthOf,
    interval: int,
    settled: list[tuple[Allocation, instructions.DeliveryLine, delivery.Legs]],
) -> dict[int, int]:
    """Pay what sellers owe for missed demand; return what was paid by allocation."""
    paid: dict[int, int] = {}
    owing = {item[0].seller for item in settled if item[2].compensation_due}
    for seller_id in sorted(owing):
        own = [
            (allocation, legs.compensation_due)
            for allocation, _, legs in settled
            if allocation.seller == seller_id and legs.compensation_due
        ]
        amounts = damages.pay(
            state,
            state.accounts[seller_id],
            [
                (allocation.holder, due, f"interval:{allocation.id}:{interval}")
                for allocation, due in own
            ],
            Code.COMPENSATION,
            month,
        )
        for (allocation, _), amount in zip(own, amounts, strict=True):
            paid[allocation.id] = amount
            proceeds.lock(state, state.accounts[allocation.holder], amount, month.hour_starts_at)
    return paid


def _next_mark(state: State, grade: str) -> int:
    """Return the mark of the next hour that can still be bought; 0 where there is none."""
    hour = contract.hour_start(state.at)
    for starts_at in range(hour, hour + _LOOKAHEAD_HOURS * contract.HOUR, contract.HOUR):
        instrument = state.hour(grade, starts_at)
        if instrument is not None and instrument.phase is InstrumentState.CONTINUOUS:
            return instrument.mark
    return 0


def _finish_hour(state: State, hour: Hour) -> None:
    """Give the sellers their margin back and forget the hour."""
    for obligation in hour.obligations.values():
        account = state.accounts[obligation.account]
        account.delivery_margin -= obligation.margin
        account.required -= obligation.margin
        state.touched_accounts.add(account)
    assert all(e.escrow == 0 for e in hour.entitlements.values()), "all escrow was paid out"
    del state.hours[hour.grade, hour.starts_at]
    listing.unlist(state, state.instruments[hour.symbol])
