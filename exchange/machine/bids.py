"""What bidders for a position keep reserved until the offer's deadline, and how a bid ends.

It stands apart from `transfers`, which moves positions, because whatever takes an account's money
away ends bids that are not funded any more.
"""

from exchange import default_events
from exchange.machine.records import Bid, Transfer
from exchange.machine.state import Account, State
from exchange.reasons import Close

PLACED, WITHDRAWN, LOST, TAKEN = "PLACED", "WITHDRAWN", "LOST", "TAKEN"


def withdraw_unfunded(state: State, account: Account) -> None:
    """Let bids go that an account cannot answer for any more, the newest first."""
    for bid, transfer in sorted(_own(state, account), key=lambda pair: -pair[0].id):
        if account.cash >= account.required:
            return
        end(state, transfer, bid, WITHDRAWN, str(Close.UNFUNDED))


def withdraw_all(state: State, account: Account, reason: Close) -> None:
    """Let every bid of an account go, the earliest first."""
    for bid, transfer in sorted(_own(state, account), key=lambda pair: pair[0].id):
        end(state, transfer, bid, WITHDRAWN, str(reason))


def _own(state: State, account: Account) -> list[tuple[Bid, Transfer]]:
    return [
        (bid, transfer)
        for transfer in state.transfers.values()
        for bid in transfer.bids.values()
        if bid.account == account.id
    ]


def end(
    state: State,
    transfer: Transfer,
    bid: Bid,
    outcome: str,
    reason: str = "",
    moved: int = 0,
    mark: int = 0,
    received: int = 0,
) -> None:
    """Release what a bid reserved, and say what became of it."""
    del transfer.bids[bid.id]
    account = state.accounts[bid.account]
    account.committed -= bid.reserve
    account.required -= bid.reserve
    tell(state, transfer, bid, outcome, reason, moved, mark, received)


def tell(
    state: State,
    transfer: Transfer,
    bid: Bid,
    outcome: str,
    reason: str = "",
    moved: int = 0,
    mark: int = 0,
    received: int = 0,
) -> None:
    """Say what became of a bid."""
    state.touched_accounts.add(state.accounts[bid.account])
    state.events.append(
        default_events.TransferBidChanged(
            bid.id,
            transfer.id,
            bid.account,
            bid.lots,
            bid.price,
            outcome,
            reason,
            moved,
            mark,
            received,
            state.at,
        )
    )


def drop(state: State, number: int) -> None:
    """Let an offer go that cannot be carried out."""
    transfer = state.transfers.pop(number)
    for each in sorted(transfer.bids):
        end(state, transfer, transfer.bids[each], LOST, "called_off")
