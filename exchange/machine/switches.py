"""Dead-man's switches: orders leave when their owner has not been heard of for too long.

An account has one of its own, without a name, and one for each connection that asked to be missed;
the first that is due withdraws every order of the account and is unset. Orders that are frozen in a
call stay (RULEBOOK 2.2), and a killed account has none to withdraw, but its switches work on.

A connection's switch tells a web process that has died from one that lives. Where the machine
itself heard nothing when it was due, because no engine ran or a demo's clock has leapt, it says
nothing of the process, and is given its time once more. An account's own is its owner's word.

A switch is renewed all the time and hardly ever fires, so the calendar holds at most one entry for
each account. A later due is noted in the account alone: the entry looks again when it comes. An
earlier one takes the entry's place.
"""

from heapq import heapify

from exchange import commands, events
from exchange.machine import withdrawals
from exchange.machine.entries import Entry
from exchange.machine.state import Account, State
from exchange.reasons import Close
from marketplace.contract import DAY, MICROS_PER_SECOND

TIMEOUT_MIN = MICROS_PER_SECOND
TIMEOUT_MAX = DAY
SWITCHES_MAX = 1_000
"""Switches of one account."""
LATE = MICROS_PER_SECOND
"""How late after its instant a switch is looked at while the machine runs."""
HEARD_AGAIN_WITHIN = 10 * MICROS_PER_SECOND
"""How long the machine listens for a connection that it could not hear."""


def renew(state: State, command: commands.CancelAllAfter) -> None:
    """Set or unset a switch, and say when it fires from here on; 0: never.

    What cannot be set (a timeout out of range, one switch too many, an account that is unknown)
    changes nothing, and the answer says so.
    """
    account = state.accounts.get(command.account)
    if account is not None:
        _set(state, account, command)
    due_at = account.switches.get(command.name, 0) if account is not None else 0
    state.events.append(events.SwitchSet(command.account, command.name, due_at, state.at))


def _set(state: State, account: Account, command: commands.CancelAllAfter) -> None:
    switches = account.switches
    if not command.timeout:
        switches.pop(command.name, None)
        return
    if not TIMEOUT_MIN <= command.timeout <= TIMEOUT_MAX:
        return
    if command.name not in switches and len(switches) >= SWITCHES_MAX:
        return
    switches[command.name] = state.at + command.timeout
    _watch(state, account, state.at + command.timeout)


def _watch(state: State, account: Account, due_at: int) -> None:
    """Have the calendar look at an account's switches no later than an instant."""
    if account.switch_due:
        if account.switch_due <= due_at:
            return
        state.calendar.remove((account.switch_due, int(Entry.SWITCH), account.id))
        heapify(state.calendar)
    account.switch_due = due_at
    state.schedule(due_at, Entry.SWITCH, account.id)


def fire(state: State, account: Account, now: int) -> None:
    """Withdraw an account's orders where a switch is due, and come back for the next.

    `now` is the instant of the command that found it due.
    """
    account.switch_due = 0
    if now - state.at > LATE:
        _listen_again(state, account, now + HEARD_AGAIN_WITHIN)
    due = _unset_due(state, account)
    if due:
        reason = Close.DISCONNECTED if due[0] else Close.CANCEL_ALL_AFTER
        withdrawals.withdraw_free(state, account, reason)
    if account.switches:
        _watch(state, account, min(account.switches.values()))


def skip(state: State, account: Account) -> None:
    """Unset the switches that are due without their orders leaving, and come back for the next."""
    account.switch_due = 0
    _unset_due(state, account)
    if account.switches:
        _watch(state, account, min(account.switches.values()))


def _unset_due(state: State, account: Account) -> list[str]:
    """Unset the switches that are due; return their names."""
    due = sorted(name for name, due_at in account.switches.items() if due_at <= state.at)
    for name in due:
        del account.switches[name]
        state.events.append(events.SwitchSet(account.id, name, 0, state.at))
    return due


def _listen_again(state: State, account: Account, due_at: int) -> None:
    """Put off the switches of connections that are due, which nobody could have renewed."""
    for name in sorted(account.switches):
        if name and account.switches[name] <= state.at:
            account.switches[name] = due_at
            state.events.append(events.SwitchSet(account.id, name, due_at, state.at))
