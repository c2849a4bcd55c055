"""How many messages every topic of the market has had, as part of the state.

A reader of a topic is told with each message how many there were before it, so that a loss shows.
The counts live in the state, and are in its snapshots: an engine that takes over goes on where the
last one stopped. A batch gives a topic at most one message (`exchange.feed` composes them), except
the index, whose values count themselves, and the books, which count their changes. So this is done
once per batch, before its views are taken, by the engine and by every replay of the journal alike.
"""

from exchange import events
from exchange.machine.state import Account, State


def number(state: State, facts: events.Facts) -> list[Account]:
    """Count the messages of the batch that ends here; return the accounts it concerns, by id.

    `facts` are the batch's events by type. Whoever has a message of an order or a fill has one of
    the account too, and an instrument that traded or is in an auction has a ticker, so that one row
    holds the counts of each.
    """
    accounts = set(state.touched_accounts)
    accounts.update([position.account for position in state.touched_positions])
    owners = {order.account.id: order.account for order in state.touched_orders.values()}
    for strip in facts.get(events.StripPlaced, ()):
        owners[strip.request.account] = state.accounts[strip.request.account]
    for owner in owners.values():
        owner.news.orders += 1
    accounts.update(owners.values())
    holders: dict[int, None] = {}
    symbols: dict[str, None] = {}
    for trade in facts.get(events.Traded, ()):
        holders[trade.maker] = holders[trade.taker] = None
        symbols[trade.instrument] = None
    for holder in holders:
        account = state.accounts[holder]
        account.news.fills += 1
        accounts.add(account)
    concerned = sorted(accounts, key=lambda account: account.id)
    for account in concerned:
        account.news.account += 1
    for instrument in state.touched_auctions:
        instrument.news.auction += 1
    state.touched_instruments |= state.touched_auctions
    for instrument in state.touched_instruments:
        instrument.news.ticker += 1
        if instrument.symbol in symbols:
            instrument.news.trades += 1
    return concerned
