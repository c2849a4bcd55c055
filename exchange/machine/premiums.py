"""The premium of an option is paid when it is traded, by its buyer to its writer (RULEBOOK 6.8).

Nothing is marked afterwards, so a position keeps no cost: what it has paid or received in premiums
stands where other positions have what marks have paid them. What its holder may get and its writer
may owe is `insurance`.
"""

from exchange import events
from exchange.machine import waterfall
from exchange.machine.state import Account, Instrument, Position, State
from marketplace.contract import Product
from settlement.ledger import EXCHANGE, Code, Kind


def pay(state: State, instrument: Instrument, first: int) -> None:
    """Pay the premiums of an option's trades from the number `first` on, through clearing."""
    traded = []
    for event in reversed(state.events):
        if isinstance(event, events.Traded):
            if event.trade < first:
                break
            traded.append(event)
    clearing = (EXCHANGE, Kind.CLEARING)
    for event in reversed(traded):
        buyer, seller = event.taker, event.maker
        if event.taker_side < 0:
            buyer, seller = seller, buyer
        amount = instrument.unit * event.price * event.lots
        cause = f"trade:{event.trade}"
        waterfall.cover(state, state.accounts[buyer], amount, cause, must=True)
        state.transfer((buyer, Kind.CASH), clearing, amount, Code.PREMIUM, cause)
        state.transfer(clearing, (seller, Kind.CASH), amount, Code.PREMIUM, cause)
        waterfall.repay(state, state.accounts[seller], amount, cause)
        for number in (buyer, seller):
            position = instrument.positions[number]
            position.received -= position.cost
            position.cost = 0
            position.refresh()


def may_hold(position: Position, lots: int) -> bool:
    """Whether an account may have `lots` more of an option.

    No group with a cluster may be long of its grade's cover: it could make the shortage that it is
    paid for.
    """
    instrument = position.instrument
    if instrument.contract.product is not Product.COVER:
        return True
    if position.net + position.buy_lots + lots <= 0:
        return True
    return not controls_supply(position.account, instrument.grade.code)


def controls_supply(account: Account, grade: str) -> bool:
    """Whether somebody of an account's group has a certified cluster of a grade."""
    return any(
        cluster.grade == grade and cluster.lots
        for peer in account.peers
        for cluster in peer.clusters.values()
    )
