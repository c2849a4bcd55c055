"""Covered shorts of who does not meet a margin call find another obligor (RULEBOOK 3.5).

Such a short is good: a cluster stands behind it, so it is not bought in at the market but offered
with that cluster's rate. For 55 minutes anybody of another group bids for lots at a price, at most
the band's top: the price at which it would be short of them. The capacity comes with the lots for
all their hours, so that delivering them costs a bidder nothing, and a good bid is far below the
mark. At the deadline, in one step, the lowest price is served first, the earlier of equal ones, and
no more lots are moved than the call lacks: the position at the mark, the capacity as a `Backing` of
named clusters, and the way from the mark to the bid in cash, from the bidder or, above the mark,
from what the account has. A bidder that cannot answer for its bid by then is passed over.

What nobody takes stays where it is, and so does the call: nothing can be withdrawn, every round
offers it again. Whoever has taken lots over owes them as any seller does, damages included, and
what the cluster fails to have is the new obligor's to make good.
"""

from exchange import default_events
from exchange.machine import bids, coverage, margin_calls, waterfall, withdrawals
from exchange.machine.entries import Entry
from exchange.machine.records import Backing, Bid, Transfer
from exchange.machine.state import UNKNOWN, Account, Instrument, Position, State
from exchange.reasons import Close, Refuse
from marketplace import contract
from marketplace.contract import HOUR
from settlement import instructions, margin
from settlement.ledger import Code, Kind

LENGTH = 55 * 60 * contract.MICROS_PER_SECOND
"""How long an offer runs; it ends before the call's next round."""
LENGTH_MIN = 10 * 60 * contract.MICROS_PER_SECOND
"""What ends trading sooner than this and five minutes is not offered."""
ENDS_BEFORE = 5 * 60 * contract.MICROS_PER_SECOND
TAKEN_OVER, PARTLY, NO_BIDS = "taken_over", "partly", "no_bids"
CALLED_OFF, OUTBID = "called_off", "outbid"


def transferable(position: Position) -> int:
    """Return how many lots of a short its account's clusters cover in all of its hours."""
    return max(0, min(-position.net, sum(_free(position).values())))


def _free(position: Position) -> dict[int, int]:
    """Return the lots of each own cluster that can go with a position in every hour of it."""
    account, terms = position.account, position.instrument.contract
    free = dict.fromkeys(sorted(account.clusters), contract.LOTS_MAX)
    for ends_at in range(terms.starts_at + HOUR, terms.ends_at + HOUR, HOUR):
        certified = account.certified_lots(terms.grade, ends_at)
        for number in free:
            free[number] = min(free[number], certified.get(number, 0))
        if not any(free.values()):
            break
    return free


def announce(state: State, account: Account) -> None:
    """Offer every short that an account's clusters cover and that is not offered already."""
    offered = {t.symbol for t in state.transfers.values() if t.account == account.id}
    for symbol in sorted(account.positions):
        position = account.positions[symbol]
        instrument = position.instrument
        ends_at = instrument.contract.trading_ends_at - ENDS_BEFORE
        if position.net >= 0 or not instrument.is_energy or symbol in offered:
            continue
        lots = transferable(position)
        if not lots or ends_at < state.at + LENGTH_MIN:
            continue
        number = state.number("transfer")
        due_at = min(state.at + LENGTH, ends_at)
        transfer = Transfer(number, account.id, symbol, lots, instrument.band_high, due_at, {})
        state.transfers[number] = transfer
        state.schedule(due_at, Entry.TRANSFER, number)
        state.events.append(
            default_events.TransferAnnounced(
                number, account.id, symbol, lots, transfer.price_max, due_at, state.at
            )
        )


def bid(state: State, order: instructions.BidTransfer) -> Refuse | None:
    """Take a bid, in place of the account's last one, or say why not."""
    account = state.accounts.get(order.account)
    if account is None:
        return Refuse.UNKNOWN_ACCOUNT
    if account.killed:
        return Refuse.KILLED
    transfer = state.transfers.get(order.transfer)
    if transfer is None or state.at >= transfer.due_at:
        return Refuse.TRANSFER_ENDED
    if account.group == state.accounts[transfer.account].group:
        return Refuse.OWN_GROUP
    if (
        not 1 <= order.lots <= transfer.lots
        or not 1 <= order.price_ticks <= transfer.price_max
        or not 1 <= order.bid <= contract.LOTS_MAX**3
        or any(order.bid in each.bids for each in state.transfers.values())
    ):
        return Refuse.INVALID_TERMS
    if account.debt:
        return Refuse.ACCOUNT_IN_DEBT
    old = next((each for each in transfer.bids.values() if each.account == account.id), None)
    reserve = reserve_of(state.instruments[transfer.symbol], order.price_ticks, order.lots)
    if reserve > account.available + (old.reserve if old is not None else 0):
        return Refuse.INSUFFICIENT_FUNDS
    if old is not None:
        bids.end(state, transfer, old, bids.WITHDRAWN, str(Close.AMENDED))
    placed = Bid(order.bid, account.id, order.lots, order.price_ticks, reserve)
    transfer.bids[placed.id] = placed
    account.committed += reserve
    account.required += reserve
    bids.tell(state, transfer, placed, bids.PLACED)
    return None


def reserve_of(instrument: Instrument, price: int, lots: int) -> int:
    """Return what a bid keeps reserved: payment and margin, were the mark at the band's top."""
    top = instrument.unit * instrument.band_high
    behind = -(-top * margin.SHORT_PERCENT // 100)
    return lots * (max(0, top - instrument.unit * price) + behind)


def take_back(state: State, order: instructions.WithdrawBid) -> Refuse | None:
    """Let a bid go before the deadline, or say why not."""
    for transfer in state.transfers.values():
        placed = transfer.bids.get(order.bid)
        if placed is not None and placed.account == order.account:
            bids.end(state, transfer, placed, bids.WITHDRAWN, str(Close.REQUESTED))
            return None
    return Refuse.TRANSFER_ENDED


def award(state: State, number: int) -> None:
    """End an offer: move to the best bids what the call still lacks."""
    transfer = state.transfers.pop(number)
    account = state.accounts[transfer.account]
    position = account.positions.get(transfer.symbol)
    left = transfer.lots
    for placed in sorted(transfer.bids.values(), key=lambda each: (each.price, each.id)):
        if position is None or position.net >= 0 or not account.call_due:
            bids.end(state, transfer, placed, bids.LOST, CALLED_OFF)
            continue
        coverage.settle_account(state, account)
        instrument = position.instrument
        lots = min(placed.lots, left, _wanted(position, placed.price))
        paid = instrument.unit * (instrument.mark - placed.price) * lots
        taker = state.accounts[placed.account]
        if not lots:
            bids.end(state, transfer, placed, bids.LOST, OUTBID)
        elif not _can_take(placed, taker, instrument, lots, paid):
            bids.end(state, transfer, placed, bids.LOST, str(Refuse.INSUFFICIENT_FUNDS))
        else:
            bids.end(state, transfer, placed, bids.TAKEN, "", lots, instrument.mark, -paid)
            _move(state, transfer, position, taker, lots, paid)
            left -= lots
    moved = transfer.lots - left
    if moved:
        outcome = PARTLY if left else TAKEN_OVER
    else:
        outcome = NO_BIDS if account.call_due else CALLED_OFF
    state.events.append(default_events.TransferEnded(number, account.id, moved, outcome, state.at))
    margin_calls.look(state, account)


def _wanted(position: Position, price: int) -> int:
    """Return how many lots to move at a price: what the call lacks, as far as it can be done."""
    account, instrument = position.account, position.instrument
    lacking = margin_calls.lacking(account)
    most = transferable(position)
    if lacking <= 0 or not most:
        return 0
    gain = instrument.unit * (instrument.mark - price)
    if gain < 0:  # Above the mark the account pays, with what it has and nobody else's money.
        most = min(most, account.cash // -gain)
    each = position.initial_margin // -position.net + gain
    return min(most, -(-lacking // each)) if each > 0 else most


def _can_take(bid: Bid, taker: Account, instrument: Instrument, lots: int, paid: int) -> bool:
    """Whether a bidder has what it pays and what the lots then need, its reserve included."""
    if taker.killed or taker.debt or taker.cash < paid:
        return False
    held = instrument.positions.get(taker.id) or Position(taker, instrument)
    needed = margin.required(
        instrument.rates,
        held.net - lots,
        held.cost - lots * instrument.mark,
        held.buy_lots,
        held.sell_lots,
        held.long_excess,
        held.short_excess,
        held.buy_fees,
        held.sell_fees,
    )
    return taker.available + bid.reserve >= paid + needed - held.required


def _move(
    state: State, transfer: Transfer, position: Position, taker: Account, lots: int, paid: int
) -> None:
    """Move lots at the mark with the clusters behind them, and pay the way to the bid's price."""
    account, instrument = position.account, position.instrument
    terms = instrument.contract
    free = _free(position)
    left = lots
    for cluster in sorted(free):
        part = min(left, free[cluster])
        if part:
            stand(
                state,
                Backing(
                    state.number("backing"),
                    cluster,
                    account.id,
                    taker.id,
                    terms.grade,
                    terms.starts_at,
                    terms.ends_at,
                    part,
                ),
            )
            left -= part
    assert not left, "what is moved has clusters behind it"
    held = state.position(taker, instrument)
    before = max(0, held.net)
    for moving, by in ((position, lots), (held, -lots)):
        moving.net += by
        moving.cost += by * instrument.mark
        moving.refresh()
        state.touched_positions.add(moving)
        if moving.reducing:
            withdrawals.withdraw_not_reducing(state, moving)
    instrument.open_interest += max(0, held.net) - before
    state.touched_instruments.add(instrument)
    cause = f"transfer:{transfer.id}"
    payer, payee = (taker, account) if paid > 0 else (account, taker)
    state.transfer(
        (payer.id, Kind.CASH), (payee.id, Kind.CASH), abs(paid), Code.POSITION_TRANSFER, cause
    )
    waterfall.repay(state, payee, abs(paid), cause)
    for each in (account, taker):
        _look_again(state, each, terms.grade)
        coverage.settle_account(state, each)


def stand(state: State, backing: Backing) -> None:
    """Have a cluster stand behind another account's shorts."""
    owner, beneficiary = state.accounts[backing.owner], state.accounts[backing.beneficiary]
    state.backings[backing.id] = owner.backs[backing.id] = backing
    beneficiary.backed[backing.id] = owner, backing


def _look_again(state: State, account: Account, grade: str) -> None:
    """Forget what was known to stand behind an account's positions of a grade."""
    for position in account.positions.values():
        position.certified = UNKNOWN
    state.stale.add((account.id, grade))


def forget_old(state: State) -> None:
    """Forget capacity whose hours are over."""
    for number in [n for n, one in state.backings.items() if one.ends_at <= state.at]:
        backing = state.backings.pop(number)
        owner = state.accounts[backing.owner]
        del owner.backs[number]
        beneficiary = state.accounts[backing.beneficiary]
        del beneficiary.backed[number]
        for account in (owner, beneficiary):
            _look_again(state, account, backing.grade)


def beneficiaries(state: State, account: Account) -> list[Account]:
    """Return whose shorts an account's clusters stand behind, having all of them looked at anew."""
    found = sorted({backing.beneficiary for backing in account.backs.values()})
    for number in found:
        for grade in sorted({b.grade for b in account.backs.values() if b.beneficiary == number}):
            _look_again(state, state.accounts[number], grade)
    return [state.accounts[number] for number in found]
