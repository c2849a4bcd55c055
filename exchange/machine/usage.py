"""Pay-as-you-go (P3): cash is held before a request is admitted, and charged by interval.

A hold belongs to an organization, a grade and an hour. A charge is idempotent by seller and
interval. What the hold does not reach is taken from cash, and what cash does not reach is lent and
becomes debt, so that the cluster's owner is always paid what was served (RULEBOOK 6.10). What was
served on rate that is sold but idle is shared with those who bought it.
"""

from exchange.machine import waterfall
from exchange.machine.records import Grade, Hold
from exchange.machine.state import State
from exchange.reasons import Refuse
from marketplace import contract
from settlement import delivery, instructions, margin
from settlement.ledger import EXCHANGE, Code, Kind

USAGE_AGE_MAX = 7 * contract.DAY
"""Usage is reserved and charged within this long of the hour it belongs to."""
MNTU_MAX = 10**15
"""mNTU of one charge."""


def reserve(state: State, order: instructions.ReserveUsage) -> Refuse | None:
    """Hold cash, or say why not."""
    account = state.accounts.get(order.account)
    if account is None:
        return Refuse.UNKNOWN_ACCOUNT
    if order.grade not in state.grades:
        return Refuse.UNKNOWN_GRADE
    is_over = state.at >= order.hour_starts_at + contract.HOUR
    if is_over or not _is_near(state, order.hour_starts_at):
        return Refuse.UNKNOWN_HOUR  # nothing would give back what is held after the last charge
    if order.amount_micros < 1:
        return Refuse.INVALID_AMOUNT
    if account.debt:
        return Refuse.ACCOUNT_IN_DEBT
    if order.amount_micros > account.available:
        return Refuse.INSUFFICIENT_FUNDS
    hold = state.holds.setdefault(_key(order), Hold(0))
    hold.amount += order.amount_micros
    state.transfer(
        (account.id, Kind.CASH),
        (account.id, Kind.USAGE_HOLD),
        order.amount_micros,
        Code.USAGE_HOLD,
        _cause(order),
    )
    return None


def charge(state: State, order: instructions.ChargeUsage) -> Refuse | None:
    """Charge what a cluster served in an interval, or say why not."""
    account = state.accounts.get(order.account)
    if account is None or order.seller not in state.accounts:
        return Refuse.UNKNOWN_ACCOUNT
    grade = state.grades.get(order.grade)
    if grade is None:
        return Refuse.UNKNOWN_GRADE
    if not _is_near(state, order.hour_starts_at):
        return Refuse.UNKNOWN_HOUR
    if not 0 <= order.mntu <= MNTU_MAX or not 1 <= order.interval <= contract.INTERVALS_PER_HOUR:
        return Refuse.INVALID_AMOUNT
    holders = [number for number, _ in order.idle]
    if not set(holders) <= state.accounts.keys():
        return Refuse.UNKNOWN_ACCOUNT
    idle = [mntu for _, mntu in order.idle]
    if holders != sorted(set(holders)) or min(idle, default=1) < 1 or sum(idle) > order.mntu:
        return Refuse.INVALID_AMOUNT
    hold = state.holds.setdefault(_key(order), Hold(0))
    mark = (order.seller, order.interval)
    if mark in hold.charged:
        return Refuse.ALREADY_CHARGED
    hold.charged = sorted([*hold.charged, mark])
    price = delivery.usage_price(_index(state, grade, order.hour_starts_at))
    amount = delivery.usage_charge(price=price, mntu=order.mntu)
    cause = f"{_cause(order)}:{order.interval}"
    cash, held = (account.id, Kind.CASH), (account.id, Kind.USAGE_HOLD)
    beyond = amount - hold.amount
    if beyond > 0:
        reach = max(0, min(account.available, beyond))
        if reach < beyond:
            waterfall.lend(state, account, beyond - reach, cause)
        state.transfer(cash, held, beyond, Code.USAGE_HOLD, cause)
        hold.amount += beyond
    points = amount * grade.taker_fee_bp
    fee = min(amount, -(-points // margin.BASIS_POINTS))
    shares = delivery.idle_shares(earned=amount - fee, mntu=order.mntu, idle=idle)
    earned = amount - fee - sum(shares)
    state.transfer(held, (order.seller, Kind.CASH), earned, Code.USAGE_CHARGE, cause)
    for number, share in zip(holders, shares, strict=True):
        state.transfer(held, (number, Kind.CASH), share, Code.USAGE_IDLE, cause)
        waterfall.repay(state, state.accounts[number], share, cause)
    state.transfer(held, (EXCHANGE, Kind.FEES), fee, Code.USAGE_FEE, cause)
    waterfall.repay(state, state.accounts[order.seller], earned, cause)
    hold.amount -= amount
    if order.release:
        state.transfer(held, cash, hold.amount, Code.USAGE_RELEASE, cause)
        hold.amount = 0
    return None


def _key(
    order: instructions.ReserveUsage | instructions.ChargeUsage,
) -> tuple[int, str, int]:
    return order.account, order.grade, order.hour_starts_at


def _is_near(state: State, hour_starts_at: int) -> bool:
    """Whether an instant is a full hour for which usage may still come in, or come soon."""
    is_hour = hour_starts_at % contract.HOUR == 0
    return is_hour and abs(state.at - hour_starts_at) <= USAGE_AGE_MAX


def _cause(order: instructions.ReserveUsage | instructions.ChargeUsage) -> str:
    terms = contract.hour_contract(order.grade, order.hour_starts_at)
    return f"usage:{order.account}:{terms.symbol}"


def _index(state: State, grade: Grade, hour_starts_at: int) -> int:
    """Return the hour's index, else the last one of the grade, else its reference."""
    price = grade.index.get(hour_starts_at)
    if price is not None:
        return price
    return grade.index[max(grade.index)] if grade.index else grade.reference
