"""What an order may ask for, and at which prices.

An order says what it is by its type, its time in force and its terms; most combinations mean
something, and what means nothing is invalid here, before any rule of the market is asked. A market
order has a price too, the *protection price*: the nearer edge of the two bands (RULEBOOK 2.4).
A stop order that still waits may meet any price of the static band.
"""

from exchange import commands
from exchange.machine.state import Instrument
from marketplace import contract

DISPLAY_DIVISOR = 100
"""An iceberg shows at least this part of its lots."""

_STOPS = frozenset({commands.STOP, commands.STOP_LIMIT})
_UNPRICED = frozenset({commands.MARKET, commands.STOP})
_RESTING = frozenset({commands.GTC, commands.GTD, commands.DAY})


def are_valid(command: commands.PlaceOrder, terms: commands.Terms) -> bool:
    """Whether what an order asks for by its terms means something."""
    return (
        command.lots >= 1
        and command.side in (1, -1)
        and terms.type in commands.TYPES
        and command.time_in_force in commands.TIMES_IN_FORCE
        and terms.prevention in commands.PREVENTIONS
        and _has_its_prices(command, terms)
        and _has_its_time(command, terms)
        and _has_its_lots(command, terms)
    )


def _has_its_prices(command: commands.PlaceOrder, terms: commands.Terms) -> bool:
    """Whether the type has the prices it needs, and no other."""
    priced = terms.type not in _UNPRICED
    stops = terms.type in _STOPS
    return (1 <= command.price <= contract.PRICE_TICKS_MAX if priced else command.price == 0) and (
        1 <= terms.stop_price <= contract.PRICE_TICKS_MAX if stops else terms.stop_price == 0
    )


def _has_its_time(command: commands.PlaceOrder, terms: commands.Terms) -> bool:
    """Whether the time in force suits the type, and has an end just where it needs one."""
    dated = command.time_in_force == commands.GTD
    if dated != (terms.expires_at > 0) or terms.expires_at < 0:
        return False
    if terms.post_only:
        rests = command.time_in_force in _RESTING
        return rests and terms.type == commands.LIMIT and not terms.min_lots
    undated = command.time_in_force not in (commands.GTD, commands.DAY)
    return undated or terms.type != commands.MARKET


def _has_its_lots(command: commands.PlaceOrder, terms: commands.Terms) -> bool:
    """Whether what is shown and what has to trade at once are parts of the order."""
    if not 0 <= terms.min_lots <= command.lots:
        return False
    if not terms.display_lots:
        return True
    return (
        0 < terms.display_lots < command.lots
        and terms.type not in _UNPRICED
        and command.time_in_force in _RESTING
    )


def may_rest(command: commands.PlaceOrder) -> bool:
    """Whether what is left of an order after it met the book rests there."""
    return command.time_in_force in _RESTING and command.price > 0


def may_stay(command: commands.PlaceOrder) -> bool:
    """Whether an order can be live for a while, in the book or waiting for its stop price."""
    return may_rest(command) or is_stop(command)


def shows_too_little(display_lots: int, lots: int) -> bool:
    """Whether an iceberg of so many lots has to show more."""
    return display_lots > 0 and display_lots * DISPLAY_DIVISOR < lots


def is_stop(command: commands.PlaceOrder) -> bool:
    """Whether an order waits for a stop price before it is an order like others."""
    return command.terms is not None and command.terms.type in _STOPS


def worst_price(instrument: Instrument, command: commands.PlaceOrder) -> int:
    """Return the worst price an arriving order may trade at, in ticks: what it is reserved at."""
    if command.price:
        return command.price
    if is_stop(command):
        return band_edge(instrument, command.side)
    return protection_price(instrument, command.side)


def band_edge(instrument: Instrument, side: int) -> int:
    """Return the worst price of the static band for a side."""
    return instrument.band_high if side > 0 else instrument.band_low


def protection_price(instrument: Instrument, side: int) -> int:
    """Return the worst price of both bands for a side."""
    if side > 0:
        return min(instrument.band_high, instrument.dynamic_high)
    return max(instrument.band_low, instrument.dynamic_low)
