"""What one participant may do at most: lots held, orders open, orders entered for what they trade.

Nobody may corner an hour: what a beneficial-owner group is long of it, were all its resting buys
filled, is at most a quarter of what is certified of the grade to the end of that hour, or 100 lots
(RULEBOOK 3.6). Each account of the group counts by itself, for a short of one delivers nothing to
another. An order that adds nothing to the sum is never refused, so a holding that has come to stand
above the limit may shrink. The supply is added up when it is first asked for and forgotten whenever
a certification changes; while one account alone holds no more than everybody may, it is not asked.

Orders and amendments are counted as they are accepted, trades as they happen, both by clock hour.
"""

from collections.abc import Collection

from exchange.machine.state import UNKNOWN, Account, Instrument, Position, State

LONG_LOTS_FREE = 100
"""Lots that a group may be long in an hour, whatever the supply."""
SUPPLY_DIVISOR = 4
BOOK_ORDERS_MAX = 1_000
"""Live orders of one account in one instrument."""
ACCOUNT_ORDERS_MAX = 10_000
"""Live orders of one account in all."""
ENTERED_FREE = 10_000
"""Orders and amendments of a clock hour that need no trades."""
ENTERED_PER_TRADE = 500


def is_too_long(state: State, position: Position, lots: int) -> bool:
    """Whether buying `lots` more could leave the account's group above its limit."""
    after = total = position.net + position.buy_lots + lots
    if lots <= 0 or after <= 0:
        return False
    instrument = position.instrument
    peers = position.account.peers
    if len(peers) > 1:
        for peer in peers:
            held = instrument.positions.get(peer.id) if peer is not position.account else None
            if held is not None:
                total += max(0, held.net + held.buy_lots)
    return total > LONG_LOTS_FREE and total > long_max(state, instrument)


def long_max(state: State, instrument: Instrument) -> int:
    """Return how many lots one group may be long in an hour."""
    if instrument.long_max == UNKNOWN:
        supply = sum(
            cluster.lots
            for cluster in state.clusters.values()
            if cluster.grade == instrument.grade.code
            and cluster.valid_until >= instrument.contract.ends_at
        )
        instrument.long_max = long_lots_max(supply)
    return instrument.long_max


def long_lots_max(supply: int) -> int:
    """Return how many lots one group may be long where so many are certified."""
    return max(LONG_LOTS_FREE, supply // SUPPLY_DIVISOR)


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
