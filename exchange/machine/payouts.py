"""Cash that leaves: at once, or held until an operator has seen it paid.

A withdrawal that waits is a *hold* of the ledger: its amount is no longer the account's to use, so
that neither an order nor a loss can reach for it, and it is not gone either. The operator's word
posts it, all or a part (the rest is free again), or voids it. What is free again repays a debt that
was made meanwhile, as all that comes in does. Each hold ends once; its id is the instruction that
placed it.

`Account.cash` is always what is not held. In the ledger, where what is held still stands on the
account, it is the balance less `held`.
"""

from exchange import events
from exchange.machine import proceeds, waterfall
from exchange.machine.records import Payout
from exchange.machine.state import Account, State
from exchange.reasons import Refuse
from settlement import instructions
from settlement.ledger import EXCHANGE, Code, Kind, Phase

AMOUNT_MAX = 10**15
"""Micro-USD of one deposit or withdrawal."""


def withdraw(state: State, order: instructions.Withdraw, cause: str) -> Refuse | None:
    """Pay out at once, or say why not."""
    refused = _refuse(state.accounts.get(order.account), order.amount_micros)
    if refused is None:
        state.transfer(
            (order.account, Kind.CASH),
            (EXCHANGE, Kind.OUTSIDE),
            order.amount_micros,
            Code.WITHDRAWAL,
            cause,
        )
    return refused


def hold(state: State, order: instructions.HoldWithdrawal, cause: str) -> Refuse | None:
    """Hold what is to be paid out, or say why not."""
    account = state.accounts.get(order.account)
    refused = _refuse(account, order.amount_micros)
    if refused is None:
        assert account is not None, "nobody's withdrawal is refused"
        assert cause not in state.payouts, "an instruction is carried out once"
        state.payouts[cause] = Payout(order.account, order.amount_micros)
        account.cash -= order.amount_micros
        account.held += order.amount_micros
        assert account.cash >= 0, "cash is not overdrawn"
        _tell(state, account, order.amount_micros, cause, Phase.HOLD, name=cause)
    return refused


def post(state: State, order: instructions.PostWithdrawal, cause: str) -> Refuse | None:
    """Pay out what is held, or a part and free the rest; or say why not."""
    payout = state.payouts.get(order.hold)
    if payout is None or payout.account != order.account:
        return Refuse.HOLD_UNKNOWN
    if order.amount_micros < 1:
        return Refuse.INVALID_AMOUNT
    if order.amount_micros > payout.amount:
        return Refuse.EXCEEDS_HOLD
    account = _end(state, order.hold, payout)
    account.cash += payout.amount - order.amount_micros
    state.exchange[Kind.OUTSIDE] += order.amount_micros
    _tell(state, account, order.amount_micros, cause, Phase.POST, ended=order.hold)
    waterfall.repay(state, account, payout.amount - order.amount_micros, cause)
    return None


def void(state: State, order: instructions.VoidWithdrawal, cause: str) -> Refuse | None:
    """Give back what is held, or say why not."""
    payout = state.payouts.get(order.hold)
    if payout is None or payout.account != order.account:
        return Refuse.HOLD_UNKNOWN
    account = _end(state, order.hold, payout)
    account.cash += payout.amount
    _tell(state, account, payout.amount, cause, Phase.VOID, ended=order.hold)
    waterfall.repay(state, account, payout.amount, cause)
    return None


def _refuse(account: Account | None, amount: int) -> Refuse | None:
    """Return why an account may not take out an amount."""
    if account is None:
        return Refuse.UNKNOWN_ACCOUNT
    if not 1 <= amount <= AMOUNT_MAX:
        return Refuse.INVALID_AMOUNT
    if account.debt:
        return Refuse.ACCOUNT_IN_DEBT
    if amount > proceeds.withdrawable(account):
        return Refuse.INSUFFICIENT_FUNDS
    return None


def _end(state: State, name: str, payout: Payout) -> Account:
    """Forget a hold; return the account that it was on."""
    del state.payouts[name]
    account = state.accounts[payout.account]
    account.held -= payout.amount
    assert account.held >= 0, "no more is freed than was held"
    return account


def _tell(
    state: State,
    account: Account,
    amount: int,
    cause: str,
    phase: Phase,
    *,
    name: str = "",
    ended: str = "",
) -> None:
    """Say what became of a hold."""
    state.touched_accounts.add(account)
    state.events.append(
        events.Held(
            account.id,
            int(Kind.CASH),
            EXCHANGE,
            int(Kind.OUTSIDE),
            amount,
            int(Code.WITHDRAWAL),
            cause,
            int(phase),
            name,
            ended,
        )
    )
