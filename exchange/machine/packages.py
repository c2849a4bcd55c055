"""Packages: hourly lots bought directly of who has the capacity (RULEBOOK 4.7).

A package is bought at its listing's terms, whole: its price goes from the holder's cash into
escrow, the seller's certified lots are pledged hour by hour, and a margin of 5 % is reserved. It is
never marked: its price is what the seller is paid for delivery, whatever the hour trades at. Each
hour's lots become an entitlement and an obligation when the gate of the hour closes (`delivery`),
and leave pledge and package.

A slice of a package is sold on for cash: it becomes a package of its own, with its part of the
escrow, and its seller goes on owing it, to another holder. What the new holder pays beyond (or
less than) that escrow is between the two holders.

A listing whose term costs over 10 % more on the curve than its list price is suspended; that is
asked when somebody buys, so it cannot be out of date.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from exchange import package_events
from exchange.machine import coverage, limits, pledges, slot_rooms, waterfall
from exchange.machine.promises import NO_PLEDGE, Package, Pledge
from exchange.machine.state import Account, State
from exchange.reasons import Refuse
from marketplace import contract
from marketplace.contract import HOUR, PRICE_TICKS_MAX
from settlement import delivery, instructions, packages
from settlement.ledger import EXCHANGE, Code, Kind
from settlement.packages import HourLots, Stretch

LISTING_MAX = 2**62


def buy(state: State, order: instructions.BuyPackage, cause: str) -> Refuse | None:
    """Buy a package, or say why not."""
    seller, buyer = state.accounts.get(order.seller), state.accounts.get(order.buyer)
    if seller is None or buyer is None:
        return Refuse.UNKNOWN_ACCOUNT
    stretch = Stretch(order.starts_at, order.ends_at, order.lots, order.p1_lots)
    refused = _refuse_terms(state, order, seller, buyer)
    if refused is not None:
        return refused
    hours = list(packages.hours([stretch]))
    lots = sum(hour.lots for hour in hours)
    if not lots:
        return Refuse.INVALID_TERMS
    if packages.is_suspended(
        curve_ticks=_value(state, order.grade, hours),
        lot_hours=lots,
        list_price_ticks=order.list_price_ticks,
    ):
        return Refuse.LISTING_SUSPENDED
    if not (_is_covered(seller, order.grade, hours) and _leaves_slots(seller, order.grade, hours)):
        return Refuse.INSUFFICIENT_COVERAGE
    if _is_too_long(state, buyer, order.grade, hours):
        return Refuse.POSITION_LIMIT
    amount = packages.price_micros(price_ticks=order.price_ticks, lot_hours=lots)
    margin = packages.margin_micros(price_ticks=order.price_ticks, lots=lots)
    if margin > seller.available:
        return Refuse.SELLER_UNAVAILABLE
    if amount > buyer.available:
        return Refuse.INSUFFICIENT_FUNDS
    number = state.number("package")
    package = Package(
        number,
        cause,
        order.listing,
        0,
        seller.id,
        buyer.id,
        order.grade,
        order.starts_at,
        order.ends_at,
        [stretch],
        order.price_ticks,
        order.list_price_ticks,
        amount,
        margin,
        state.at,
    )
    state.transfer(
        (buyer.id, Kind.CASH), (buyer.id, Kind.ESCROW), amount, Code.PACKAGE_ESCROW, cause
    )
    pledges.take_up(state, package)
    state.touched_accounts.add(seller)
    _tell(state, package)
    return None


def _refuse_terms(
    state: State, order: instructions.BuyPackage, seller: Account, buyer: Account
) -> Refuse | None:
    """Return what is wrong with a purchase before its hours are looked at."""
    if order.grade not in state.grades:
        return Refuse.UNKNOWN_GRADE
    if buyer.killed:
        return Refuse.KILLED
    if (
        not packages.is_term(order.starts_at, order.ends_at)
        or not packages.is_schedule(order.lots, order.p1_lots)
        or not 1 <= order.price_ticks <= order.list_price_ticks <= PRICE_TICKS_MAX
        or not 0 <= order.listing <= LISTING_MAX
    ):
        return Refuse.INVALID_TERMS
    if seller.group == buyer.group:
        return Refuse.OWN_GROUP
    if packages.sold_until(order.starts_at) <= state.at:
        return Refuse.DEADLINE_PASSED
    if buyer.debt:
        return Refuse.ACCOUNT_IN_DEBT
    if seller.killed or seller.debt:
        return Refuse.SELLER_UNAVAILABLE
    return None


def _value(state: State, grade: str, hours: list[HourLots]) -> int:
    """Return lots times the curve's price, added up over hours, in ticks."""
    drawn = coverage.curve(state, grade)
    reference = state.grades[grade].reference
    total = 0
    for hour in hours:
        cell = bisect_right(drawn.starts, hour.starts_at) - 1
        is_drawn = 0 <= cell < len(drawn.prices)
        total += hour.lots * (drawn.prices[cell] if is_drawn else reference)
    return total


def _is_covered(seller: Account, grade: str, hours: list[HourLots]) -> bool:
    """Whether a seller's clusters are certified for hours beside all that it has sold and pledged.

    Lots that it has bought do not help: they are not its clusters' to deliver.
    """
    sold = _offered(seller, grade, hours)
    pledged = seller.pledges.get(grade, {})
    is_plain = not (seller.backs or seller.backed)
    ends = sorted(c.valid_until for c in seller.clusters.values() if c.grade == grade)
    known: dict[int, Pledge] = {}
    for hour in hours:
        ends_at = hour.starts_at + HOUR
        # With nobody else's shorts behind them, clusters change only where a certificate ends.
        key = bisect_left(ends, ends_at) if is_plain else ends_at
        if key not in known:
            known[key] = seller.pledgeable(grade, ends_at)
        most, before = known[key], pledged.get(hour.starts_at, NO_PLEDGE)
        free = most.lots - before.lots
        if hour.lots > free or hour.p1_lots > most.p1_lots - before.p1_lots:
            return False
        if not is_plain:
            free = seller.free_lots(grade, ends_at)
        if hour.lots + max(0, sold[hour.starts_at]) > free:
            return False
    return True


def _offered(account: Account, grade: str, hours: list[HourLots]) -> dict[int, int]:
    """Return by how many lots an account would be short of each hour, were its sales filled."""
    return _by_hour(
        hours,
        (
            (p.instrument.contract.starts_at, p.instrument.contract.ends_at, p.sell_lots - p.net)
            for p in account.positions.values()
            if p.instrument.is_energy and p.instrument.grade.code == grade
        ),
    )


def _wanted(account: Account, grade: str, hours: list[HourLots]) -> dict[int, int]:
    """Return how many lots an account would be long of each hour, were its buys filled."""
    found = _by_hour(
        hours,
        (
            (p.instrument.contract.starts_at, p.instrument.contract.ends_at, p.net + p.buy_lots)
            for p in account.positions.values()
            if p.instrument.is_energy and p.instrument.grade.code == grade
        ),
    )
    held = account.holdings.get(grade, {})
    return {starts_at: lots + held.get(starts_at, 0) for starts_at, lots in found.items()}


def _by_hour(hours: list[HourLots], windows: Iterator[tuple[int, int, int]]) -> dict[int, int]:
    """Return the lots of windows added up, of each hour."""
    steps: dict[int, int] = {}
    for starts_at, ends_at, lots in windows:
        steps[starts_at] = steps.get(starts_at, 0) + lots
        steps[ends_at] = steps.get(ends_at, 0) - lots
    edges = sorted(steps)
    found, level, number = {}, 0, 0
    for hour in hours:
        while number < len(edges) and edges[number] <= hour.starts_at:
            level += steps[edges[number]]
            number += 1
        found[hour.starts_at] = level
    return found


def _leaves_slots(seller: Account, grade: str, hours: list[HourLots]) -> bool:
    """Whether the slots that a seller has sold, or offers, fit beside a package."""
    books = [
        position
        for position in seller.positions.values()
        if position.instrument.sibling
        and position.instrument.grade.code == grade
        and hours[0].starts_at <= position.instrument.contract.starts_at <= hours[-1].starts_at
        and slot_rooms.short(position)
    ]
    if not books:
        return True
    pledges.add(seller, grade, hours)
    fits = all(slot_rooms.may_offer(position, 0) for position in books)
    pledges.release(seller, grade, hours)
    return fits


def _is_too_long(state: State, buyer: Account, grade: str, hours: list[HourLots]) -> bool:
    """Whether a buyer's group would hold more of some hour than it may (RULEBOOK 3.6)."""
    held = [_wanted(peer, grade, hours) for peer in buyer.peers]
    own = buyer.peers.index(buyer)
    for hour in hours:
        after = held[own][hour.starts_at] + hour.lots
        others = (of[hour.starts_at] for n, of in enumerate(held) if n != own)
        total = max(0, after) + sum(max(0, lots) for lots in others)
        if total > limits.LOTS_FREE and total > limits.lots_max(
            limits.supply(state, grade, hour.starts_at + HOUR)
        ):
            return True
    return False


def resell(state: State, order: instructions.ResellPackage, cause: str) -> Refuse | None:
    """Sell a slice of a package on, or say why not."""
    holder, buyer = state.accounts.get(order.holder), state.accounts.get(order.buyer)
    if holder is None or buyer is None:
        return Refuse.UNKNOWN_ACCOUNT
    package = state.packages.get(order.package)
    if package is None or package.holder != holder.id:
        return Refuse.PACKAGE_UNKNOWN
    refused = _refuse_slice(state, order, package, holder, buyer)
    if refused is not None:
        return refused
    piece = Stretch(order.starts_at, order.ends_at, order.lots, order.p1_lots)
    left = packages.cut(package.stretches, piece)
    if left is None or len(left) > packages.STRETCHES_MAX:
        return Refuse.EXCEEDS_PACKAGE
    hours = list(packages.hours([piece]))
    if not hours:
        return Refuse.INVALID_TERMS
    if _is_too_long(state, buyer, package.grade, hours):
        return Refuse.POSITION_LIMIT
    lots = sum(hour.lots for hour in hours)
    amount = packages.price_micros(price_ticks=order.price_ticks, lot_hours=lots)
    if amount > buyer.available:
        return Refuse.INSUFFICIENT_FUNDS
    child = _split(state, package, piece, left, buyer, cause)
    fee = packages.resale_fee(amount_micros=amount, fee_bp=order.fee_bp)
    cash = (holder.id, Kind.CASH)
    state.transfer((buyer.id, Kind.CASH), cash, amount, Code.PACKAGE_RESALE, cause)
    state.transfer(cash, (EXCHANGE, Kind.FEES), fee, Code.PACKAGE_FEE, cause)
    waterfall.repay(state, holder, amount - fee, cause)
    pledges.give_up(holder, package.grade, hours)
    pledges.hold(buyer, package.grade, hours)
    _tell(state, package)
    _tell(state, child)
    state.events.append(
        package_events.PackageResold(
            child.id,
            package.id,
            holder.id,
            buyer.id,
            order.starts_at,
            order.ends_at,
            lots,
            order.price_ticks,
            amount,
            fee,
            state.at,
        )
    )
    return None


def _refuse_slice(
    state: State,
    order: instructions.ResellPackage,
    package: Package,
    holder: Account,
    buyer: Account,
) -> Refuse | None:
    """Return what is wrong with a resale before its hours are looked at."""
    if holder.killed or buyer.killed:
        return Refuse.KILLED
    if (
        order.starts_at % HOUR
        or order.ends_at % HOUR
        or not 0 < order.ends_at - order.starts_at <= packages.TERM_DAYS_MAX * contract.DAY
        or not packages.is_schedule(order.lots, order.p1_lots)
        or not 1 <= order.price_ticks <= PRICE_TICKS_MAX
        or not 0 <= order.fee_bp <= packages.RESALE_FEE_BP_MAX
    ):
        return Refuse.INVALID_TERMS
    if buyer.group in (holder.group, state.accounts[package.seller].group):
        return Refuse.OWN_GROUP
    if buyer.debt:
        return Refuse.ACCOUNT_IN_DEBT
    if order.starts_at - contract.GATE_CLOSURE_LEAD <= state.at:
        return Refuse.DEADLINE_PASSED
    return None


def _split(
    state: State, package: Package, piece: Stretch, left: list[Stretch], buyer: Account, cause: str
) -> Package:
    """Make a slice a package of its own, with its part of escrow and margin; return it."""
    lots = packages.lot_hours([piece])
    escrow = packages.price_micros(price_ticks=package.price, lot_hours=lots)
    margin = packages.margin_micros(price_ticks=package.price, lots=lots)
    child = Package(
        state.number("package"),
        cause,
        package.listing,
        package.id,
        package.seller,
        buyer.id,
        package.grade,
        piece.starts_at,
        piece.ends_at,
        [piece],
        package.price,
        package.list_price,
        escrow,
        margin,
        state.at,
    )
    state.packages[child.id] = child
    _take(state, package, left, escrow, margin)
    state.transfer(
        (package.holder, Kind.ESCROW), (buyer.id, Kind.ESCROW), escrow, Code.PACKAGE_ESCROW, cause
    )
    return child


def _take(state: State, package: Package, left: list[Stretch], escrow: int, margin: int) -> None:
    """Leave a package with less; it ends when nothing is left."""
    package.stretches = left
    package.escrow -= escrow
    package.margin -= margin
    if not left:
        assert package.escrow == package.margin == 0, "nothing is kept for nothing"
        del state.packages[package.id]


def due(state: State, grade: str, starts_at: int) -> list[tuple[Package, HourLots]]:
    """Return the packages that have lots in an hour, and what they have, in order of number."""
    found = []
    for number in sorted(state.packages):
        package = state.packages[number]
        if package.grade == grade and package.starts_at <= starts_at < package.ends_at:
            for stretch in package.stretches:
                if stretch.starts_at <= starts_at < stretch.ends_at:
                    piece = Stretch(starts_at, starts_at + HOUR, stretch.lots, stretch.p1_lots)
                    found += [(package, hour) for hour in packages.hours([piece])]
    return found


def deliver(state: State, promised: list[tuple[Package, HourLots]]) -> None:
    """Take an hour that has become delivery out of packages and pledges."""
    for package, hour in promised:
        ends_at = hour.starts_at + HOUR
        piece = Stretch(hour.starts_at, ends_at, (hour.lots,), (hour.p1_lots,))
        left = packages.cut(package.stretches, piece)
        assert left is not None, "a package has what it delivers"
        pledges.release(state.accounts[package.seller], package.grade, [hour])
        pledges.give_up(state.accounts[package.holder], package.grade, [hour])
        _take(state, package, left, *worth(package, hour))


def worth(package: Package, hour: HourLots) -> tuple[int, int]:
    """Return what an hour of a package has in escrow, and of its seller's margin."""
    return (
        contract.notional_micros(price_ticks=package.price, lots=hour.lots),
        packages.margin_micros(price_ticks=package.price, lots=hour.lots),
    )


def assign(
    seller: Account,
    obligation: int,
    promised: list[tuple[Package, HourLots]],
    served_before: dict[int, list[int]],
) -> list[delivery.Assignment]:
    """Return which of a seller's clusters serves which of its packages in an hour."""
    first, hour = promised[0]
    shares = [
        share._replace(obligation=obligation)
        for share in seller.pledged_shares(first.grade, hour.starts_at + HOUR)
    ]
    timed = {package.id: of.p1_lots for package, of in promised}
    failed = delivery.share_failed(
        sum(timed.values()) - sum(share.p1_lots for share in shares), timed
    )
    return delivery.assign(
        {package.id: of.lots for package, of in promised},
        shares,
        {package.id: served_before.get(package.holder, []) for package, _ in promised},
        {number: delivery.Slots(0, lots - failed[number]) for number, lots in timed.items()},
    )


def _tell(state: State, package: Package) -> None:
    """Say what a package is from here on."""
    state.events.append(
        package_events.PackageChanged(
            package.id,
            package.cause,
            package.listing,
            package.parent,
            package.seller,
            package.holder,
            package.grade,
            package.starts_at,
            package.ends_at,
            tuple((s.starts_at, s.ends_at, s.lots, s.p1_lots) for s in package.stretches),
            package.price,
            package.list_price,
            package.escrow,
            package.margin,
            package.bought_at,
            state.at,
        )
    )
