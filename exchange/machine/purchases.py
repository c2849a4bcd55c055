"""Pooled purchase: organizations buy together, at one price for all (RULEBOOK 4.8).

A commitment is lots of an instrument, a limit price and a deadline; all with the same instrument
and deadline are one pool. Until then a commitment can be taken back, and keeps its whole price at
the limit, with the fee, reserved: the strictest requirement there is, so that no mark can make it
short. Where the account loses that money all the same, commitments are the first to leave, the
newest in front.

At the deadline, in one step, the pool buys at once what the book has inside its band. Its limit is
the one at which most lots trade, taking only those who would pay it, and the lowest of these: so
more members never make a purchase smaller. The lots are allotted pro rata by largest remainder, and
each member's part is an order of its own, so that trades, fees and positions are like all others.
What each has paid is then evened out: all pay the average price, rounded up to the tick, and the
remainder goes to the fee account. A member of whose group an ask stands in the way buys nothing.
Nothing rests, and a book that does not trade at the deadline sells nothing.
"""

from collections.abc import Sequence

from exchange import commands, matching
from exchange.machine import (
    books,
    commitments,
    entering,
    judging,
    limits,
    orders,
    sessions,
    stops,
    trades,
    withdrawals,
)
from exchange.machine.entries import Entry
from exchange.machine.promises import Commitment, Purchase
from exchange.machine.state import Account, Instrument, State
from exchange.reasons import Close, OrderStatus, Refuse, Reject
from marketplace import contract
from settlement import delivery, instructions, margin
from settlement.ledger import EXCHANGE, Code, Kind

MEMBERS_MAX = 200
"""Commitments of one pool."""
AHEAD_MAX = 31 * contract.DAY
"""A deadline is at most so far ahead."""
NO_GROUP = -1
_MARK = "\N{SECTION SIGN}purchase"
_OPEN_PHASES = (contract.InstrumentState.CALL, contract.InstrumentState.CONTINUOUS)


def commit(state: State, order: instructions.CommitPurchase) -> Refuse | None:
    """Take a commitment into its pool, or say why not."""
    account = state.accounts.get(order.account)
    if account is None:
        return Refuse.UNKNOWN_ACCOUNT
    if account.killed:
        return Refuse.KILLED
    instrument = state.instruments.get(order.instrument)
    if instrument is None or instrument.phase not in _OPEN_PHASES:
        return Refuse.UNKNOWN_INSTRUMENT
    if order.deadline <= state.at:
        return Refuse.DEADLINE_PASSED
    if (
        not instrument.is_energy
        or order.deadline % contract.INTERVAL
        or not order.deadline <= state.at + AHEAD_MAX
        or order.deadline >= instrument.contract.trading_ends_at
        or not 1 <= order.price_ticks <= contract.PRICE_TICKS_MAX
        or not 1 <= order.lots <= judging.QUANTITY_MAX
        or not 1 <= order.commitment <= contract.LOTS_MAX**3
        or any(order.commitment in purchase.commitments for purchase in state.purchases.values())
    ):
        return Refuse.INVALID_TERMS
    if account.debt:
        return Refuse.ACCOUNT_IN_DEBT
    reserve = reserve_of(instrument, order.price_ticks, order.lots)
    if reserve > account.available:
        return Refuse.INSUFFICIENT_FUNDS
    purchase = _pool(state, instrument, order.deadline)
    if len(purchase.commitments) >= MEMBERS_MAX:
        return Refuse.POOL_FULL
    commitment = Commitment(order.commitment, account.id, order.lots, order.price_ticks, reserve)
    purchase.commitments[commitment.id] = commitment
    account.committed += reserve
    account.required += reserve
    state.touched_accounts.add(account)
    commitments.tell(state, purchase, commitment, commitments.COMMITTED)
    return None


def reserve_of(instrument: Instrument, price: int, lots: int) -> int:
    """Return what a commitment keeps reserved: its whole price at the limit, and the fee of it."""
    points = margin.fee_points(
        unit=instrument.unit, price=price, lots=lots, basis_points=instrument.fee_bp_max
    )
    return instrument.unit * price * lots + margin.fee_charged(points)


def _pool(state: State, instrument: Instrument, deadline: int) -> Purchase:
    """Return the pool of an instrument and a deadline; the first commitment opens it."""
    for number in sorted(state.purchases):
        purchase = state.purchases[number]
        if purchase.symbol == instrument.symbol and purchase.due_at == deadline:
            return purchase
    number = state.number("purchase")
    purchase = state.purchases[number] = Purchase(number, instrument.symbol, deadline, {})
    state.schedule(deadline, Entry.PURCHASE, number)
    return purchase


def take_back(state: State, order: instructions.WithdrawCommitment) -> Refuse | None:
    """Let a commitment go before its deadline, or say why not."""
    for purchase in state.purchases.values():
        commitment = purchase.commitments.get(order.commitment)
        if commitment is not None and commitment.account == order.account:
            commitments.end(
                state, purchase, commitment, commitments.WITHDRAWN, reason=str(Close.REQUESTED)
            )
            return None
    return Refuse.COMMITMENT_ENDED


def buy(state: State, number: int) -> None:
    """Carry out the purchase of a pool whose deadline has come."""
    purchase = state.purchases[number]
    instrument = state.instruments.get(purchase.symbol)
    members = [purchase.commitments[each] for each in sorted(purchase.commitments)]
    if instrument is None or not instrument.is_open:
        for commitment in members:
            commitments.end(
                state, purchase, commitment, commitments.UNFILLED, reason=str(Reject.NOT_OPEN)
            )
    elif members:
        _buy(state, instrument, purchase, members)
    del state.purchases[number]


def _buy(
    state: State, instrument: Instrument, purchase: Purchase, members: Sequence[Commitment]
) -> None:
    """Buy for the members of a pool, and even out what they pay."""
    willing = []
    for commitment in members:
        reason = _why_not(state, instrument, commitment)
        if reason is None:
            willing.append(commitment)
        else:
            commitments.end(state, purchase, commitment, commitments.UNFILLED, reason=str(reason))
    limit = _limit(instrument, willing)
    buyers = [commitment for commitment in willing if commitment.price >= limit > 0]
    lots = min(_reach(instrument, limit, buyers), sum(buyer.lots for buyer in buyers))
    parts = delivery.largest_remainder(lots, [buyer.lots for buyer in buyers]) if lots else []
    allotted = dict(zip([buyer.id for buyer in buyers], parts, strict=False))
    last = instrument.last
    bought: list[tuple[Commitment, Account, int, int, int]] = []
    every: list[tuple[matching.Fills, int]] = []
    for commitment in willing:
        part = allotted.get(commitment.id, 0)
        account = state.accounts[commitment.account]
        if not part:
            commitments.end(
                state, purchase, commitment, commitments.UNFILLED, reason=str(Close.IOC_REMAINDER)
            )
        elif limits.is_too_long(state, state.position(account, instrument), part):
            commitments.end(
                state, purchase, commitment, commitments.UNFILLED, reason=str(Reject.POSITION_LIMIT)
            )
        else:
            commitments.release(account, commitment)
            order, ticks, fills = _trade(state, instrument, purchase, account, part, limit)
            bought.append((commitment, account, order, part, ticks))
            every.append((fills, last))
    _even_out(state, instrument, purchase, bought)
    sessions.watch_band(instrument)
    for fills, before in every:
        stops.follow(state, instrument, fills, before)
    state.dirty[instrument.id] = instrument
    books.flush(state)


def _why_not(state: State, instrument: Instrument, commitment: Commitment) -> Reject | Close | None:
    """Return what keeps a member from buying at all, if anything does."""
    account = state.accounts[commitment.account]
    assert not account.killed, "whoever is stopped has left every pool"
    if account.debt:
        return Reject.ACCOUNT_IN_DEBT
    for order in instrument.book.asks:
        if order.group == account.group and order.price <= commitment.price:
            return Close.SELF_TRADE
    return None


def _limit(instrument: Instrument, members: Sequence[Commitment]) -> int:
    """Return the limit at which most lots trade, the lowest of these; 0 where none do."""
    best = chosen = 0
    for price in sorted({member.price for member in members}):
        buyers = [member for member in members if member.price >= price]
        lots = min(_reach(instrument, price, buyers), sum(buyer.lots for buyer in buyers))
        if lots > best:
            best, chosen = lots, price
    return chosen


def _reach(instrument: Instrument, price: int, buyers: Sequence[Commitment]) -> int:
    """Return how many lots can be had at a limit, inside both bands."""
    wanted = sum(buyer.lots for buyer in buyers)
    if not price or not wanted:
        return 0
    ladder = entering.look_ahead(
        instrument, 1, min(price, instrument.band_high), wanted, NO_GROUP, commands.CANCEL_NEWEST
    )
    return sum(lots for _, lots in ladder)


def _trade(
    state: State,
    instrument: Instrument,
    purchase: Purchase,
    account: Account,
    lots: int,
    limit: int,
) -> tuple[int, int, matching.Fills]:
    """Buy a member's lots by an order of its own; return its id, cost in ticks and fills."""
    number = state.next_order
    state.next_order = number + 1
    position = state.position(account, instrument)
    command = commands.PlaceOrder(
        account=account.id,
        instrument=instrument.symbol,
        side=1,
        price=min(limit, instrument.band_high),
        lots=lots,
        time_in_force=commands.IOC,
        client_order_id=f"{_MARK}:{purchase.id}:{number}",
        fingerprint=b"",
    )
    order = orders.accept(state, position, command, number, command.price)
    fills, _ = matching.match(instrument.book, order)
    assert not order.remaining, "what was looked at is there"
    trades.book(state, instrument, order, fills)
    position.refresh()
    state.touched_positions.add(position)
    withdrawals.end(state, order, str(OrderStatus.FILLED), "")
    if position.reducing:
        withdrawals.withdraw_not_reducing(state, position)
    return number, sum(maker.price * part for maker, part in fills), fills


def _even_out(
    state: State,
    instrument: Instrument,
    purchase: Purchase,
    bought: Sequence[tuple[Commitment, Account, int, int, int]],
) -> None:
    """Have every buyer pay the average price to the tick; what is over goes to the fees."""
    lots = sum(part for *_, part, _ in bought)
    if not lots:
        return
    average = -(-sum(ticks for *_, ticks in bought) // lots)
    cause = f"purchase:{purchase.id}"
    clearing = (EXCHANGE, Kind.CLEARING)
    due = [
        (account, instrument.unit * (average * part - ticks))
        for _, account, _, part, ticks in bought
    ]
    for account, amount in due:
        if amount > 0:
            state.transfer((account.id, Kind.CASH), clearing, amount, Code.PURCHASE, cause)
    for account, amount in due:
        if amount < 0:
            state.transfer(clearing, (account.id, Kind.CASH), -amount, Code.PURCHASE, cause)
    over = sum(amount for _, amount in due)
    state.transfer(clearing, (EXCHANGE, Kind.FEES), over, Code.PURCHASE, cause)
    for (commitment, _, order, part, _), (_, amount) in zip(bought, due, strict=True):
        del purchase.commitments[commitment.id]
        commitments.tell(
            state, purchase, commitment, commitments.FILLED, part, average, amount, order
        )
