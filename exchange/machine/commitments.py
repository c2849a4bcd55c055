"""What members of a pool keep reserved until its purchase, and how a commitment ends.

It stands apart from `purchases`, which buys, because whatever takes an account's money away ends
commitments that are not funded any more.
"""

from exchange import events
from exchange.machine import bids
from exchange.machine.promises import Commitment, Purchase
from exchange.machine.state import Account, State
from exchange.reasons import Close

COMMITTED, WITHDRAWN, FILLED, UNFILLED = "COMMITTED", "WITHDRAWN", "FILLED", "UNFILLED"


def withdraw_unfunded(state: State, account: Account) -> None:
    """Let commitments go that an account cannot pay for any more, the newest first, then bids."""
    own = [
        (commitment.id, purchase)
        for purchase in state.purchases.values()
        for commitment in purchase.commitments.values()
        if commitment.account == account.id
    ]
    for number, purchase in sorted(own, key=lambda pair: -pair[0]):
        if account.cash >= account.required:
            return
        commitment = purchase.commitments[number]
        end(state, purchase, commitment, WITHDRAWN, reason=str(Close.UNFUNDED))
    bids.withdraw_unfunded(state, account)


def withdraw_all(state: State, account: Account, reason: Close) -> None:
    """Let every commitment and bid of an account go, earliest first."""
    bids.withdraw_all(state, account, reason)
    for number in sorted(state.purchases):
        purchase = state.purchases[number]
        for each in sorted(purchase.commitments):
            commitment = purchase.commitments[each]
            if commitment.account == account.id:
                end(state, purchase, commitment, WITHDRAWN, reason=str(reason))


def drop(state: State, number: int) -> None:
    """Let a pool go whose purchase cannot be carried out."""
    purchase = state.purchases.pop(number)
    for each in sorted(purchase.commitments):
        commitment = purchase.commitments[each]
        end(state, purchase, commitment, UNFILLED, reason=str(Close.IOC_REMAINDER))


def end(
    state: State, purchase: Purchase, commitment: Commitment, outcome: str, *, reason: str
) -> None:
    """Drop a commitment that has bought nothing, and say why."""
    account = state.accounts[commitment.account]
    release(account, commitment)
    state.touched_accounts.add(account)
    del purchase.commitments[commitment.id]
    tell(state, purchase, commitment, outcome, reason=reason)


def release(account: Account, commitment: Commitment) -> None:
    """Give back what a commitment reserved."""
    account.committed -= commitment.reserve
    account.required -= commitment.reserve


def tell(
    state: State,
    purchase: Purchase,
    commitment: Commitment,
    outcome: str,
    lots: int = 0,
    price: int = 0,
    evened: int = 0,
    order: int = 0,
    reason: str = "",
) -> None:
    """Say what became of a commitment."""
    state.events.append(
        events.CommitmentChanged(
            commitment.id,
            purchase.id,
            commitment.account,
            outcome,
            lots,
            price,
            evened,
            order,
            reason,
            state.at,
        )
    )
