"""Orders that the clearing house places for an account, to bring its positions nearer to flat.

They are the account's own orders in everything but who may end them: their owner can neither amend
nor cancel them, they are not judged, and neither a lack of money nor a switch withdraws them. No
participant can choose an id like theirs, for it is not ASCII.
"""

from exchange import commands
from exchange.book import Order
from exchange.machine import books, entering, orders, stops
from exchange.machine.state import Account, Instrument, State

_MARK = "\N{SECTION SIGN}"
"""How their client order ids begin."""
_REDUCE_ONLY = commands.Terms(reduce_only=True)


def place(
    state: State,
    account: Account,
    instrument: Instrument,
    side: int,
    lots: int,
    *,
    what: str,
    reduces: bool = False,
) -> None:
    """Buy at the top of the band or sell at its bottom; what is not traded at once rests.

    One that `reduces` leaves when it could do more than that, as any reduce-only order does.
    """
    price = instrument.band_high if side > 0 else instrument.band_low
    number = state.next_order
    state.next_order = number + 1
    command = commands.PlaceOrder(
        account=account.id,
        instrument=instrument.symbol,
        side=side,
        price=price,
        lots=lots,
        time_in_force=commands.GTC,
        client_order_id=f"{_MARK}{what}:{number}",
        fingerprint=b"",
        terms=_REDUCE_ONLY if reduces else None,
    )
    order = orders.accept(state, state.position(account, instrument), command, number, price)
    last = instrument.last
    fills = entering.enter(state, instrument, order)
    if fills and instrument.stops:
        stops.follow(state, instrument, fills, last)
    state.dirty[instrument.id] = instrument
    books.flush(state)


def live(account: Account, instrument: Instrument) -> list[Order]:
    """Return the clearing house's live orders for an account in an instrument, oldest first."""
    found = [
        order
        for order in account.orders.values()
        if order.position.instrument is instrument and order.is_of_clearing
    ]
    return sorted(found, key=lambda order: order.id)
