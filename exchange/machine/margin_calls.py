"""Margin calls (RULEBOOK 3.5): an account that is below its maintenance margin is told so.

It has 60 minutes to bring its cash to its initial margin, by a deposit, by a reduction, or because
the market came back. What happens then is `liquidation`; its orders leave when the call is met.
"""

from exchange import default_events
from exchange.machine import withdrawals
from exchange.machine.entries import Entry
from exchange.machine.state import Account, State
from exchange.reasons import Close
from marketplace.contract import HOUR
from settlement import margin

DEADLINE = HOUR


def initial_margin(account: Account) -> int:
    """Return what positions, open deliveries and uncovered shorts need, in micro-USD."""
    needed = account.delivery_margin + sum(account.uncovered.values())
    return needed + sum(position.initial_margin for position in account.positions.values())


def lacking(account: Account) -> int:
    """Return what an account's cash is short of its initial margin, in micro-USD."""
    return initial_margin(account) - account.cash


def look(state: State, account: Account) -> None:
    """Call an account that is below maintenance, or let it off when it has its margin again."""
    if account.cash >= account.required and not account.call_due:
        return  # What is reserved is never less than the initial margin, and costs no adding up.
    initial = initial_margin(account)
    if account.call_due:
        if account.cash >= initial:
            account.call_due = account.idle_rounds = 0
            account.reduced_to = {}
            withdraw_reductions(state, account)
            state.touched_accounts.add(account)
            state.events.append(default_events.MarginCallMet(account.id, state.at))
    elif account.cash < margin.maintenance(initial):
        account.call_due = state.at + DEADLINE
        state.touched_accounts.add(account)
        state.schedule(account.call_due, Entry.MARGIN_CALL, account.id)
        state.events.append(
            default_events.MarginCalled(
                account.id, initial - account.cash, account.call_due, state.at
            )
        )


def withdraw_reductions(state: State, account: Account) -> None:
    """Withdraw the orders that reduce an account's positions, but those of a frozen auction."""
    for order in sorted(account.orders.values(), key=lambda order: order.id):
        if withdrawals.is_reduction(order) and not withdrawals.is_frozen(state, order):
            withdrawals.withdraw(state, order, Close.COVERED)
