"""How many priority slots an account may offer: a share of its certified lots, hour by hour.

Slots are sold by whoever has capacity for them, or resells what it has bought (RULEBOOK 4.4). In
every hour what an account would be short of P0, were its sales filled, is at most what its clusters
may sell of it, and so is what it would be short of P0 and P1 together (RULEBOOK 4.3). A slot that
was bought makes up for one of the same class that is sold, and for no other: a class is what its
holder gets. When a certificate falls, sales beyond it leave, newest first; what is sold already
stays, and fails at gate closure where nothing is behind it.
"""

from exchange.book import Order
from exchange.machine import withdrawals
from exchange.machine.state import Account, Position, State
from exchange.reasons import Close
from marketplace.contract import SLOT_CLASSES
from settlement import delivery, instructions

P0 = SLOT_CLASSES[0]


def certified(order: instructions.Certify) -> tuple[int, int]:
    """Return how many of a cluster's lots may be sold as P0, and as P0 and P1 together."""
    found = delivery.room(
        order.lots,
        p0_max=order.lots if order.p0_lots < 0 else order.p0_lots,
        timed_max=order.lots if order.timed_lots < 0 else order.timed_lots,
    )
    return min(found), found.timed_lots


def room(account: Account, grade: str, ends_at: int) -> delivery.Room:
    """Return how many slots all clusters of an account together may be behind in an hour."""
    rooms = account.slot_rooms(grade, ends_at).values()
    return delivery.Room(
        sum(each.p0_lots for each in rooms), sum(each.timed_lots for each in rooms)
    )


def short(position: Position | None) -> int:
    """Return how many slots a position would be short of if its sales were filled."""
    return max(0, position.sell_lots - position.net) if position is not None else 0


def may_offer(position: Position, lots: int) -> bool:
    """Whether an account may offer so many more slots of a class."""
    own = position.sell_lots + lots - position.net
    if own <= 0:
        return True
    instrument, account = position.instrument, position.account
    terms = instrument.contract
    most = room(account, terms.grade, terms.ends_at)
    if terms.service_class == P0 and own > most.p0_lots:
        return False
    return own + short(account.positions.get(instrument.sibling)) <= most.timed_lots


def withdraw_beyond(state: State, account: Account, grade: str) -> None:
    """Withdraw sales of slots of a grade that are more than may be offered now, newest first."""
    sales = [
        order
        for order in account.orders.values()
        if order.side < 0
        and order.position.instrument.sibling
        and order.position.instrument.grade.code == grade
    ]
    for order in sorted(sales, key=lambda order: -order.id):
        if _is_beyond(order):
            withdrawals.withdraw(state, order, Close.COVERAGE_LOST)


def _is_beyond(order: Order) -> bool:
    """Whether an order is one of too many."""
    return bool(short(order.position)) and not may_offer(order.position, 0)
