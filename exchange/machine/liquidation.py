"""What is done about a margin call that was not met (RULEBOOK 3.5).

The account's orders leave and its positions are reduced, only as far as is needed and only ever
towards flat: first shorts that nothing covers are bought back, then what it is long of is sold, at
any price inside the band. Shorts that are covered are not bought in at the market: they are good,
and what they need is the capacity behind them. What could not be done is tried again in an hour.
"""

from exchange import events
from exchange.machine import clearing_orders, commitments, coverage, margin_calls, withdrawals
from exchange.machine.entries import Entry
from exchange.machine.state import Account, Position, State
from exchange.reasons import Close

LIQUIDATION = "liquidation"


def enforce(state: State, account: Account) -> None:
    """Reduce what an account holds whose call has not been met, until it has its margin."""
    if not account.call_due or account.call_due > state.at:
        return
    margin_calls.look(state, account)
    if not account.call_due:
        return
    state.events.append(
        events.LiquidationStarted(
            account.id, margin_calls.initial_margin(account) - account.cash, state.at
        )
    )
    withdrawals.withdraw_free(state, account, Close.UNFUNDED)
    commitments.withdraw_all(state, account, Close.UNFUNDED)
    for position in _uncovered(state, account):
        _reduce(state, account, position)
    for position in _longs(account):
        _reduce(state, account, position)
    coverage.settle_account(state, account)
    if account.cash >= margin_calls.initial_margin(account):
        margin_calls.look(state, account)
    else:
        account.call_due = state.at + margin_calls.DEADLINE
        state.touched_accounts.add(account)
        state.schedule(account.call_due, Entry.MARGIN_CALL, account.id)


def _uncovered(state: State, account: Account) -> list[Position]:
    """Return shorts that nothing covers in some hour, those that end trading first in front."""
    bare = [
        (grade, span)
        for grade in sorted(account.uncovered)
        for span in coverage.uncovered(account, grade)
    ]
    return sorted(
        (
            position
            for position in account.positions.values()
            if position.net < 0
            and any(
                position.instrument.is_energy
                and position.instrument.grade.code == grade
                and position.instrument.contract.starts_at < span.ends_at
                and position.instrument.contract.ends_at > span.starts_at
                for grade, span in bare
            )
        ),
        key=_by_end,
    )


def _longs(account: Account) -> list[Position]:
    """Return what an account is long of, what ends trading first in front."""
    return sorted((p for p in account.positions.values() if p.net > 0), key=_by_end)


def _by_end(position: Position) -> tuple[int, int]:
    return position.instrument.contract.trading_ends_at, position.instrument.id


def _reduce(state: State, account: Account, position: Position) -> None:
    """Trade as much of a position away as the account's margin lacks."""
    coverage.settle_account(state, account)
    lacking = margin_calls.initial_margin(account) - account.cash
    if lacking <= 0 or not position.net:
        return
    instrument = position.instrument
    held = abs(position.net)
    if position.net < 0:
        spans = coverage.exposure(
            account,
            instrument.grade.code,
            instrument.contract.starts_at,
            instrument.contract.ends_at,
        )
        lots = min(held, max(span.lots for span in spans))
    elif instrument.is_option:
        lots = min(held, -(-lacking // (instrument.unit * instrument.band_low)))
    else:
        # What a lot frees when it is sold at the worst price of the band.
        each = position.initial_margin // held
        lost = instrument.unit * max(0, instrument.mark - instrument.band_low)
        lots = held if each <= lost else min(held, -(-lacking // (each - lost)))
    if lots > 0 and instrument.is_open:
        side = 1 if position.net < 0 else -1
        clearing_orders.trade(state, account, instrument, side, lots, what=LIQUIDATION)
