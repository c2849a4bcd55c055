"""Margin calls (RULEBOOK 3.5): an account that is below its maintenance margin is told so.

It has 60 minutes to bring its cash to its initial margin, by a deposit, by a reduction, or because
the market came back. What happens then is `liquidation`.
"""

from exchange import events
from exchange.machine.entries import Entry
from exchange.machine.state import Account, State
from marketplace.contract import HOUR
from settlement import margin

DEADLINE = HOUR


def initial_margin(account: Account) -> int:
    """Return what positions, open deliveries and uncovered shorts need, in micro-USD."""
    needed = account.delivery_margin + sum(account.uncovered.values())
    return needed + sum(position.initial_margin for position in account.positions.values())


def look(state: State, account: Account) -> None:
    """Call an account that is below maintenance, or let it off when it has its margin again."""
    if account.cash >= account.required and not account.call_due:
        return  # What is reserved is never less than the initial margin, and costs no adding up.
    initial = initial_margin(account)
    if account.call_due:
        if account.cash >= initial:
            account.call_due = 0
            state.touched_accounts.add(account)
            state.events.append(events.MarginCallMet(account.id, state.at))
    elif account.cash < margin.maintenance(initial):
        account.call_due = state.at + DEADLINE
        state.touched_accounts.add(account)
        state.schedule(account.call_due, Entry.MARGIN_CALL, account.id)
        state.events.append(
            events.MarginCalled(account.id, initial - account.cash, account.call_due, state.at)
        )
