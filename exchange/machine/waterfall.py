"""Who bears what an account owes the clearing house and does not have (RULEBOOK 3.7).

What is owed is paid from the account's own cash, which is its margin and what is free; then against
its receivables, which the exchange advances and takes back first as they come in; then from its own
share of the default fund; then by the exchange's layer, up to what that holds; then from the shares
of all others, pro rata by largest remainder. What even that does not reach is not paid to those it
is owed to, pro rata too: nothing is ever paid out that nobody has paid in. Whoever others have paid
for is in default until it has repaid them, the last layer first.

Each member's share of the fund is 2 % of its highest short notional of the last 30 days, taken and
given back at 00:00. Compensation (RULEBOOK section 6) never comes this way.
"""

from exchange import default_events
from exchange.machine.state import Account, State
from exchange.reasons import Refuse
from marketplace import contract
from settlement import delivery
from settlement.ledger import EXCHANGE, Code, Kind

FUND_BASIS_POINTS = 200
PEAK_DAYS = 30
LAYER_LIMIT_MAX = 10**17
"""Micro-USD; what an operator may set the layer's limit to."""


def cover(state: State, account: Account, amount: int, cause: str, *, must: bool = False) -> int:
    """Bring an account's cash up to what it has to pay; return what is still missing.

    With `must` the exchange's layer bears whatever is left.
    """
    own = account.cash
    missing = amount - own
    if missing <= 0:
        return 0
    receivable = lend(state, account, min(missing, receivables(state, account)), cause)
    missing -= receivable
    share = use_own_share(state, account, missing, cause)
    missing -= share
    layer = others = 0
    if missing:
        if not account.in_default:
            account.in_default = True
            state.events.append(default_events.Defaulted(account.id, missing, cause, state.at))
        room = missing if must else max(0, state.layer_max + state.exchange[Kind.LAYER])
        layer = lend(state, account, min(missing, room), cause)
        others = _use_other_shares(state, account, missing - layer, cause)
        missing -= layer + others
    state.events.append(
        default_events.Drawn(
            account.id, amount, own, receivable, share, layer, others, missing, cause, state.at
        )
    )
    return missing


def receivables(state: State, account: Account) -> int:
    """Return what the account may still be released for open hours, beyond what it owes already."""
    coming = 0
    for key in sorted(state.hours):
        hour = state.hours[key]
        intervals = contract.INTERVALS_PER_HOUR - hour.settled.bit_count()
        for allocation in hour.allocations.values():
            if allocation.seller == account.id and allocation.cluster != delivery.NO_CLUSTER:
                value = allocation.price * allocation.lots
                coming += contract.TICK_MICROS_PER_LOT_INTERVAL * value * intervals
    return max(0, coming - account.debt)


def lend(state: State, account: Account, amount: int, cause: str) -> int:
    """Have the exchange's layer pay an amount into an account's cash; return it."""
    if amount > 0:
        layer = (EXCHANGE, Kind.LAYER)
        state.transfer(layer, (account.id, Kind.CASH), amount, Code.LAYER_LOAN, cause)
        account.debt += amount
        return amount
    return 0


def use_own_share(state: State, account: Account, missing: int, cause: str) -> int:
    """Add to an account's cash from its own share of the fund; return how much."""
    amount = min(missing, account.fund)
    state.transfer((account.id, Kind.FUND), (account.id, Kind.CASH), amount, Code.FUND_USE, cause)
    return amount


def _use_other_shares(state: State, account: Account, missing: int, cause: str) -> int:
    others = [
        other
        for number, other in sorted(state.accounts.items())
        if other is not account and other.fund
    ]
    amount = min(missing, sum(other.fund for other in others))
    if not amount:
        return 0
    parts = delivery.largest_remainder(amount, [other.fund for other in others])
    for other, part in zip(others, parts, strict=True):
        if part:
            state.transfer(
                (other.id, Kind.FUND), (account.id, Kind.CASH), part, Code.FUND_SHARE, cause
            )
            account.owed[other.id] = account.owed.get(other.id, 0) + part
            account.debt += part
    return amount


def repay(state: State, account: Account, received: int, cause: str) -> None:
    """Pay a debt back from what was just received: other members first, then the exchange."""
    amount = min(account.debt, received, account.cash)
    if amount <= 0:
        return
    account.debt -= amount
    to_others = min(amount, sum(account.owed.values()))
    if to_others:
        owed = sorted(account.owed)
        parts = delivery.largest_remainder(to_others, [account.owed[number] for number in owed])
        for number, part in zip(owed, parts, strict=True):
            state.transfer(
                (account.id, Kind.CASH), (number, Kind.FUND), part, Code.FUND_REPAYMENT, cause
            )
            account.owed[number] -= part
            if not account.owed[number]:
                del account.owed[number]
    state.transfer(
        (account.id, Kind.CASH),
        (EXCHANGE, Kind.LAYER),
        amount - to_others,
        Code.LAYER_REPAYMENT,
        cause,
    )
    if not account.debt:
        account.in_default = False


def settle(state: State, payments: dict[int, int], code: Code, cause: str) -> None:
    """Carry payments that add up to zero through clearing, in micro-USD, those who owe first.

    Where somebody who owes has not got it, and the waterfall does not reach, those who are owed
    receive that much less, pro rata by largest remainder.
    """
    assert sum(payments.values()) == 0, "what is paid adds up to zero"
    missing = 0
    for number in sorted(payments):
        amount = -payments[number]
        if amount > 0:
            short = cover(state, state.accounts[number], amount, cause)
            missing += short
            clearing = (EXCHANGE, Kind.CLEARING)
            state.transfer((number, Kind.CASH), clearing, amount - short, code, cause)
    due = [(number, payments[number]) for number in sorted(payments) if payments[number] > 0]
    amounts = [amount for _, amount in due]
    if missing:
        amounts = delivery.largest_remainder(sum(amounts) - missing, amounts)
    for (number, owed), amount in zip(due, amounts, strict=True):
        state.transfer((EXCHANGE, Kind.CLEARING), (number, Kind.CASH), amount, code, cause)
        if amount < owed:
            state.events.append(default_events.HaircutTaken(number, owed - amount, cause, state.at))
        repay(state, state.accounts[number], amount, cause)


def set_layer(state: State, limit: int) -> Refuse | None:
    """Set what the exchange's own layer bears at most; what it has borne is not asked back."""
    if not 0 <= limit <= LAYER_LIMIT_MAX:
        return Refuse.INVALID_AMOUNT
    state.layer_max = limit
    state.events.append(default_events.LayerSet(limit, state.at))
    return None


def note_peaks(state: State) -> None:
    """Remember each member's highest short notional of the day."""
    day = contract.day_start(state.at)
    for account in state.accounts.values():
        short = sum(
            -position.net * position.instrument.unit * position.instrument.mark
            for position in account.positions.values()
            if position.net < 0
        )
        if short > account.peaks.get(day, 0):
            account.peaks[day] = short


def set_shares(state: State) -> None:
    """Bring every member's share of the fund to what its peak asks for, as far as cash is free."""
    for number in sorted(state.accounts):
        account = state.accounts[number]
        for day in [day for day in account.peaks if day < state.at - PEAK_DAYS * contract.DAY]:
            del account.peaks[day]
        target = -(-max(account.peaks.values(), default=0) * FUND_BASIS_POINTS // 10_000)
        cause = f"fund:{state.at}"
        own = (number, Kind.CASH), (number, Kind.FUND)
        if target > account.fund:
            amount = min(target - account.fund, max(0, account.available))
            state.transfer(*own, amount, Code.FUND_CONTRIBUTION, cause)
        elif account.fund > target:
            back = account.fund - target
            state.transfer(*own[::-1], back, Code.FUND_RETURN, cause)
            repay(state, account, back, cause)
