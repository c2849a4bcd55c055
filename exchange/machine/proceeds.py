"""What of its cash an account may take out (RULEBOOK 3.8).

Everything it needs stays: for positions, orders and open deliveries, and beyond that what its open
positions, and those that its orders may make, would lose at the worse edge of the day's band,
because the next mark may be there. What
an interval has paid it, as proceeds or as compensation, counts as margin at once, but stays until
two hours into the next day: until then it may be found that it was too much.
"""

from exchange.machine.state import Account, State
from marketplace import contract

FINAL_AFTER = 2 * contract.HOUR
"""A day's proceeds can be withdrawn this long after its end."""


def lock(state: State, account: Account, amount: int, earned_at: int) -> None:
    """Keep what was earned at an instant from being withdrawn before its day is final."""
    until = contract.day_start(earned_at) + contract.DAY + FINAL_AFTER
    if amount > 0 and until > state.at:
        account.locked[until] = account.locked.get(until, 0) + amount


def release(state: State) -> None:
    """Forget what has become free."""
    for account in state.accounts.values():
        for until in [until for until in account.locked if until <= state.at]:
            del account.locked[until]
            state.touched_accounts.add(account)


def withdrawable(account: Account) -> int:
    """Return what an account may withdraw, in micro-USD."""
    if account.debt or account.call_due:
        return 0
    return max(0, account.available - sum(account.locked.values()) - at_risk(account))


def at_risk(account: Account) -> int:
    """Return what open positions lose at the worse edge of the day's band, in micro-USD.

    An order at rest may have traded on the way there, so it counts as if it had; by how much its
    price is worse than the mark is reserved already. What is paid in full is at no risk: at a lower
    price less is due. Nor are options, which no mark is paid for.
    """
    total = 0
    for position in account.positions.values():
        instrument = position.instrument
        if instrument.is_option:
            continue
        mark = instrument.mark
        short = max(0, position.sell_lots - position.net) * max(0, instrument.band_high - mark)
        long = max(0, position.net + position.buy_lots) * max(0, mark - instrument.band_low)
        if not instrument.rates.long_mark:
            long = 0
        total += instrument.unit * max(short, long)
    return total
