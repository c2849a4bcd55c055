"""What follows when a book has changed: its public deltas, and the mid that the index may use.

The mid is integrated exactly and lazily over the last 60 minutes of trading (RULEBOOK 5.2): only a
change of the book moves it. It counts while each side shows ten lots, from at least two groups
together, at prices within 10 %; the price of a side is the one at which its tenth lot stands, so
that one lot in front of the book moves nothing.
"""

from exchange import events
from exchange.book import Book, Ladder
from exchange.machine.state import Instrument, State
from settlement import index

SPREAD_PERCENT_MAX = 10


def flush(state: State) -> None:
    """Announce every book that changed, in order of id."""
    if len(state.dirty) == 1:
        announce(state, state.dirty.popitem()[1])
    elif state.dirty:
        for number in sorted(state.dirty):
            announce(state, state.dirty[number])
        state.dirty.clear()


def announce_with(state: State, instrument: Instrument) -> None:
    """Announce what an order changed: hardly ever another book than the one it came to."""
    if not state.dirty:
        if instrument.dirty:
            announce(state, instrument)
        return
    if instrument.dirty:
        state.dirty[instrument.id] = instrument
    flush(state)


def announce(state: State, instrument: Instrument) -> None:
    """Emit the levels of a book that changed, asks from the highest, then bids from the lowest."""
    book = instrument.book
    dirty = instrument.dirty
    levels: tuple[tuple[int, int, int], ...]
    if len(dirty) == 1:  # Most orders touch one level, which needs no list and no order.
        levels = (_level(book, dirty.pop()),)
    else:
        levels = tuple([_level(book, key) for key in sorted(dirty)])
        dirty.clear()
    instrument.book_sequence = number = instrument.book_sequence + 1
    state.touched_instruments.add(instrument)
    state.events.append(events.BookChanged(instrument.symbol, number, levels))
    if instrument.call is not None:
        state.touched_auctions.add(instrument)
    if instrument.mid_since:
        advance_mid(instrument, state.at)


def _level(book: Book, key: int) -> tuple[int, int, int]:
    """Return side, price and lots of the level with this signed key."""
    if key > 0:
        level = book.bids.levels.get(key)
        return 1, key, level.lots if level is not None else 0
    level = book.asks.levels.get(key)
    return -1, -key, level.lots if level is not None else 0


def advance_mid(instrument: Instrument, at: int) -> None:
    """Integrate the mid up to an instant and take its value from the book as it now is."""
    if instrument.mid_value:
        elapsed = at - instrument.mid_since
        instrument.mid_area += instrument.mid_value * elapsed
        instrument.mid_time += elapsed
    instrument.mid_since = at
    instrument.mid_value = deep_mid(instrument)


def deep_mid(instrument: Instrument) -> int:
    """Return bid plus ask at the tenth lot, or 0 while the book does not trade or qualify."""
    if not instrument.is_open:
        return 0
    groups: set[int] = set()
    bid = _price_of_depth(instrument.book.bids, groups)
    ask = _price_of_depth(instrument.book.asks, groups)
    if not bid or not ask or len(groups) < index.MID_GROUPS_MIN or not is_tight(bid, ask):
        return 0
    return bid + ask


def is_tight(bid: int, ask: int) -> bool:
    """Whether the spread is at most 10 % of the mid."""
    return (ask - bid) * 200 <= (ask + bid) * SPREAD_PERCENT_MAX


def _price_of_depth(ladder: Ladder, groups: set[int]) -> int:
    """Return the price at which a side's tenth lot stands, noting the groups up to it."""
    wanted = index.MID_LOTS_MIN
    for order in ladder:
        groups.add(order.group)
        wanted -= order.remaining
        if wanted <= 0:
            return order.price
    return 0
