"""What is set aside when an invariant breaks: a command, or an entry of the calendar.

Whatever is set aside is journaled instead of being performed, with what broke, and the instrument
it was about halts; everything else of the market goes on. An entry matters as much as a command:
one that breaks is due before whatever comes next, so without this no command would ever be carried
out again.
"""

from exchange import commands
from exchange.machine import Machine

ASSERTION_MAX = 500
ENTRIES_MAX = 100
"""Entries of the calendar set aside for one batch; beyond it something is wrong with them all."""


def of_command(
    machine: Machine, command: commands.Command, error: Exception
) -> commands.Quarantine:
    """Return what is journaled instead of a command that broke an invariant."""
    symbol = ""
    if isinstance(command, commands.PlaceOrder):
        symbol = command.instrument
    elif isinstance(command, commands.CancelOrder | commands.AmendOrder):
        view = machine.order_view(command.order)
        symbol = view.symbol if view is not None else ""
    return commands.Quarantine(commands.encode(command), _said(error), symbol)


def of_entry(machine: Machine, entry: commands.Entry, error: Exception) -> commands.Quarantine:
    """Return what is journaled instead of an entry of the calendar that broke an invariant."""
    return commands.Quarantine(b"", _said(error), machine.symbol_of(entry), entry)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:ASSERTION_MAX]
