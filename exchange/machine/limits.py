"""What one participant may do at most: lots held, orders open, orders entered for what they trade.

Nobody may corner an hour: what a beneficial-owner group is long of it over all tenors, were all its
resting buys filled, and what it is short of without cover (`coverage`), is at most a quarter of
what is certified of the grade to the end of that hour, or 100 lots (RULEBOOK 3.6), packages too; so
are its slots of either class. Each account of the group counts by itself, for a short of one
delivers nothing to another. An order that adds nothing to the sum is never refused, so a holding
that has come to stand above the limit may shrink. The supply is added up when it is first asked for
and forgotten whenever a certification changes; while one account alone holds no more than everybody
may, it is not asked.

Orders and amendments are counted as they are accepted, trades as they happen, both by clock hour.
"""

from collections.abc import Collection
from itertools import accumulate

from exchange.machine.state import UNKNOWN, Account, Instrument, Position, State
from marketplace.contract import HOUR, OPTIONS, Product

LOTS_FREE = 100
"""Lots that a group may be long in an hour, or uncovered short, whatever the supply."""
SUPPLY_DIVISOR = 4
BOOK_ORDERS_MAX = 1_000
"""Live orders of one account in one instrument."""
ACCOUNT_ORDERS_MAX = 10_000
"""Live orders of one account in all."""
ENTERED_FREE = 10_000
"""Orders and amendments of a clock hour that need no trades."""
ENTERED_PER_TRADE = 500


def is_too_long(state: State, position: Position, lots: int) -> bool:
    """Whether buying `lots` more could leave the account's group above its limit in some hour."""
    instrument = position.instrument
    if lots <= 0 or instrument.contract.product in OPTIONS:
        return False
    after = total = held(position) + position.net + position.buy_lots + lots
    if after <= 0:
        return False
    peers = position.account.peers
    if len(peers) > 1:
        for peer in peers:
            if peer is not position.account:
                other = instrument.positions.get(peer.id)
                if other is None and (peer.crossing or peer.holdings):
                    other = Position(peer, instrument)
                if other is not None:
                    total += max(0, held(other) + other.net + other.buy_lots)
    return total > LOTS_FREE and total > long_max(state, instrument)


def held(position: Position) -> int:
    """Return what the account is long of by other products and packages, where that is most."""
    account, own = position.account, position.instrument
    if own.contract.product is Product.SLOT:
        return 0
    window = own.contract
    holdings = account.holdings.get(window.grade, {})
    if window.product is Product.HOUR:
        lots = holdings.get(window.starts_at, 0)
        if not account.crossing:
            return lots
        others = [account.positions.get(parent.symbol) for parent in own.parents]
        return lots + sum(other.net + other.buy_lots for other in others if other is not None)
    steps: dict[int, int] = {window.starts_at: 0}
    for starts_at in range(window.starts_at, window.ends_at, HOUR) if holdings else ():
        lots = holdings.get(starts_at, 0)
        steps[starts_at] = steps.get(starts_at, 0) + lots
        steps[starts_at + HOUR] = -lots
    for other in account.positions.values():
        terms = other.instrument.contract
        lots = other.net + other.buy_lots
        if (
            other.instrument is own
            or not lots
            or not other.instrument.is_energy
            or terms.grade != window.grade
            or terms.starts_at >= window.ends_at
            or terms.ends_at <= window.starts_at
        ):
            continue
        begins = max(terms.starts_at, window.starts_at)
        steps[begins] = steps.get(begins, 0) + lots
        steps[terms.ends_at] = steps.get(terms.ends_at, 0) - lots
    return max(accumulate(steps[at] for at in sorted(steps) if at < window.ends_at))


def long_max(state: State, instrument: Instrument) -> int:
    """Return how many lots one group may be long in every hour of an instrument."""
    if instrument.long_max == UNKNOWN:
        terms = instrument.contract
        instrument.long_max = lots_max(supply(state, terms.grade, terms.ends_at))
    return instrument.long_max


def supply(state: State, grade: str, until: int) -> int:
    """Return how many lots of a grade are certified until an instant."""
    return sum(
        cluster.lots
        for cluster in state.clusters.values()
        if cluster.grade == grade and cluster.valid_until >= until
    )


def lots_max(certified: int) -> int:
    """Return how many lots of an hour one group may be long, or short of without cover."""
    return max(LOTS_FREE, certified // SUPPLY_DIVISOR)


def forget_supply(state: State, grades: Collection[str]) -> None:
    """Forget what was added up for these grades, because a certification has changed."""
    for instrument in state.instruments.values():
        if instrument.grade.code in grades:
            instrument.long_max = UNKNOWN


def is_out_of_ratio(account: Account) -> bool:
    """Whether one more order or amendment is more than the trades of this hour allow."""
    entered = account.entered + 1
    return entered > ENTERED_FREE and entered > ENTERED_PER_TRADE * account.traded


def start_hour(state: State) -> None:
    """Count orders and trades anew."""
    for account in state.accounts.values():
        account.entered = account.traded = 0
