"""A small market for tests of sessions, and short words for what they look at."""

from exchange import events
from exchange.machine import Machine
from marketplace import contract
from tests.floor import Floor, symbol

MINUTE = 60 * contract.MICROS_PER_SECOND
TOMORROW = symbol("+1 14")
TODAY = symbol("20")


def market(at: str = "13:00", **more: int) -> Floor:
    """Two accounts that may sell (1, 2), three to buy (3, 4, 5); reference price 1,250."""
    floor = Floor(at, **more)
    for account in (1, 2):
        floor.account(account, certified=2_000)
    for account in (3, 4, 5):
        floor.account(account)
    return floor


def states(floor: Floor, instrument: str) -> list[str]:
    """Return the states that the last command announced."""
    return [e.state for e in floor.of(events.InstrumentChanged) if e.symbol == instrument]


def state(floor: Floor, instrument: str) -> str:
    return floor.machine.instrument_view(instrument).state


def trades(floor: Floor) -> list[tuple[int, int, int, int, bool]]:
    """Return (taker, maker, lots, price, is auction) of the last command's trades."""
    return [
        (e.taker_order, e.maker_order, e.lots, e.price, e.is_auction)
        for e in floor.of(events.Traded)
    ]


def levels(floor: Floor, instrument: str):
    return floor.machine.book_levels(instrument, 10)


def restored(floor: Floor) -> Floor:
    """Go on with a machine restored from this one's snapshot."""
    before = floor.machine.snapshot()
    floor.machine = Machine.restore(before)
    assert floor.machine.snapshot() == before
    return floor
