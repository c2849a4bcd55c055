"""What is done about a margin call that was not met (RULEBOOK 3.5).

The account's orders leave and its positions are reduced, only as far as is needed and only ever
towards flat. In this order: shorts that nothing covers are bought back; what it is long of beyond
what covers its shorts is sold; shorts that only its own longs cover are bought back, which frees
these longs, and they are sold; slots and options it is short of are bought back. Shorts that its
clusters cover are never bought in at the market: they are good, and what they need is the capacity
behind them, so they are offered with it (`transfers`).

The orders stand at the edge of the band and rest: where the dynamic band stops them an auction
begins, and they take part in it. They are reduce-only, and leave when the call is met. An hour
later a round puts them in anew. Three rounds that have reduced nothing are enough: it is said why,
and the next is at 00:00, when the bands have moved.
"""

from collections.abc import Iterator

from exchange import default_events
from exchange.machine import (
    clearing_orders,
    commitments,
    coverage,
    margin_calls,
    transfers,
    withdrawals,
)
from exchange.machine.entries import Entry
from exchange.machine.state import Account, Position, State
from exchange.reasons import Close
from marketplace import contract
from marketplace.contract import InstrumentState

LIQUIDATION = "liquidation"
IDLE_ROUNDS_MAX = 3
"""Rounds that reduce nothing, after which there is one a day."""
NO_COUNTERPARTY, NOT_TAKEN_OVER = "no_counterparty", "not_taken_over"
NOTHING_LEFT = "nothing_left"
_OPEN = (InstrumentState.CALL, InstrumentState.CONTINUOUS)


def enforce(state: State, account: Account) -> None:
    """Reduce what an account holds whose call has not been met, until it has its margin."""
    if not account.call_due or account.call_due > state.at:
        return
    margin_calls.look(state, account)
    if not account.call_due:
        return
    before = account.reduced_to
    lacking = margin_calls.lacking(account)
    state.events.append(default_events.LiquidationStarted(account.id, lacking, state.at))
    withdrawals.withdraw_free(state, account, Close.UNFUNDED)
    commitments.withdraw_all(state, account, Close.UNFUNDED)
    margin_calls.withdraw_reductions(state, account)
    for position, lots in _in_order(account):
        _reduce(state, position, lots)
    coverage.settle_account(state, account)
    if account.cash >= margin_calls.initial_margin(account):
        margin_calls.look(state, account)
        return
    transfers.announce(state, account)
    account.reduced_to = {
        symbol: abs(position.net) for symbol, position in sorted(account.positions.items())
    }
    if not before or any(
        account.reduced_to.get(name, lots) < lots for name, lots in before.items()
    ):
        account.idle_rounds = 0
    else:
        account.idle_rounds += 1
    account.call_due = state.at + margin_calls.DEADLINE
    if account.idle_rounds >= IDLE_ROUNDS_MAX:
        account.call_due = contract.day_start(state.at) + contract.DAY
        state.events.append(
            default_events.LiquidationStopped(
                account.id,
                margin_calls.lacking(account),
                _why_not(account),
                account.call_due,
                state.at,
            )
        )
    state.touched_accounts.add(account)
    state.schedule(account.call_due, Entry.MARGIN_CALL, account.id)


def _why_not(account: Account) -> str:
    """Return why nothing more could be reduced."""
    if any(withdrawals.is_reduction(order) for order in account.orders.values()):
        return NO_COUNTERPARTY
    if any(position.net < 0 for position in account.positions.values()):
        return NOT_TAKEN_OVER
    return NOTHING_LEFT


def _in_order(account: Account) -> Iterator[tuple[Position, int]]:
    """Yield what may be reduced at the market and by how many lots, first what goes first.

    Each is looked at when its turn comes, for what was done before has changed what covers what.
    """
    held = sorted(account.positions.values(), key=_by_end)
    shorts = [position for position in held if position.net < 0]
    energy = [position for position in shorts if position.instrument.is_energy]
    longs = [position for position in held if position.net > 0]
    yield from ((position, _bare(position)) for position in energy)
    yield from ((position, _spare(position)) for position in longs)
    yield from ((position, _paired(position)) for position in energy)
    yield from ((position, _spare(position)) for position in longs)
    yield from ((p, -p.net) for p in shorts if not p.instrument.is_energy)


def _by_end(position: Position) -> tuple[int, int]:
    return position.instrument.contract.trading_ends_at, position.instrument.id


def _level(position: Position) -> int:
    """Return by how many lots its account is short of too much in some hour of a position."""
    terms = position.instrument.contract
    spans = coverage.exposure(position.account, terms.grade, terms.starts_at, terms.ends_at)
    return max(span.lots for span in spans)


def _bare(position: Position) -> int:
    """Return how many lots of a short nothing covers in some of its hours."""
    return max(0, min(-position.net, _level(position)))


def _spare(position: Position) -> int:
    """Return how many lots of a long cover no short."""
    if not position.instrument.is_energy:
        return position.net
    return max(0, min(position.net, -_level(position)))


def _paired(position: Position) -> int:
    """Return how many lots of a short its clusters do not cover, but longs do."""
    return max(0, -position.net - transfers.transferable(position))


def _reduce(state: State, position: Position, most: int) -> None:
    """Trade as much of a position away as may go and as the account's margin lacks."""
    account = position.account
    coverage.settle_account(state, account)
    lacking = margin_calls.lacking(account)
    held = abs(position.net)
    if lacking <= 0 or not held:
        return
    instrument = position.instrument
    each = position.initial_margin // held
    if position.net < 0:
        each -= instrument.unit * max(
            0, instrument.band_high - (0 if instrument.is_option else instrument.mark)
        )
    elif instrument.is_option:
        each = instrument.unit * instrument.band_low
    else:
        each -= instrument.unit * max(0, instrument.mark - instrument.band_low)
    if each > 0:
        most = min(most, -(-lacking // each))
    elif instrument.is_option:
        return  # It would cost more than what it frees.
    most = min(most, held - (position.buy_lots if position.net < 0 else position.sell_lots))
    if most > 0 and state.state_of(instrument) in _OPEN:
        side = 1 if position.net < 0 else -1
        clearing_orders.place(
            state, account, instrument, side, most, what=LIQUIDATION, reduces=True
        )
