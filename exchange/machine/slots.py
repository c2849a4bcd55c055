"""What becomes of priority slots at gate closure (RULEBOOK 4.3, 4.4).

Their books end with the hour they belong to, before its positions become delivery: orders expire,
the final mark is set and paid. A seller then delivers as many slots as it owes lots that clusters
stand behind, within their shares of each class; what it sold beyond that fails. The buyers pay the
final mark of what is delivered to those who deliver it. Failed slots are shared by their holders,
who do not pay for them and are owed a quarter of the price by the sellers, from these sellers' own
cash and nobody else's; nothing is owed inside a group.

A holder uses as many slots as it has lots. Those left over order its pay-as-you-go requests.
"""

from typing import NamedTuple

from exchange import events
from exchange.machine import listing, marks, proceeds, sessions, waterfall, withdrawals
from exchange.machine.records import Hour
from exchange.machine.state import Account, Instrument, Position, State
from exchange.reasons import Close
from marketplace import contract
from marketplace.contract import InstrumentState
from settlement import delivery
from settlement.delivery import NO_SLOTS, Slots
from settlement.ledger import Code


class Closed(NamedTuple):
    """What is known of an hour's slots once their books have ended."""

    books: list[Instrument]
    """Of the classes that are listed."""
    sold: dict[int, Slots]
    """By account, of those who are short of any."""
    bought: dict[int, Slots]
    delivered: dict[int, Slots]
    """What each seller delivers of what it sold."""
    failed: dict[int, Slots]
    """Which of its slots each holder does not get."""

    def usable(self) -> dict[int, Slots]:
        """Return the slots that each holder gets."""
        return {
            holder: Slots(slots.p0 - self.failed[holder].p0, slots.p1 - self.failed[holder].p1)
            for holder, slots in self.bought.items()
        }


class Damage(NamedTuple):
    """What a seller owes a holder for failed slots of a class."""

    seller: int
    holder: int
    slot_class: int
    amount: int
    cause: str


def end_trading(state: State, instrument: Instrument) -> None:
    """End a book whose hour has not ended; it waits for that."""
    if instrument.phase in (InstrumentState.CLOSED, InstrumentState.SETTLED):
        return
    instrument.phase = InstrumentState.CLOSED
    instrument.call = None
    sessions.change(state, instrument)
    for order in sorted(instrument.live_orders(), key=lambda order: order.id):
        withdrawals.withdraw(state, order, Close.EXPIRED)


def close(state: State, hour: Instrument) -> Closed:
    """End the books of an hour's slots, pay their last variation, and see who delivers what."""
    terms = hour.contract
    found = [
        state.instruments.get(contract.slot_contract(terms.grade, each, terms.starts_at).symbol)
        for each in contract.SLOT_CLASSES
    ]
    books = [book for book in found if book is not None]
    for book in books:
        end_trading(state, book)
        price, method = marks.price_of(book, state.at, {})
        state.events.append(events.Marked(book.symbol, price, method, state.at))
        payments: dict[int, int] = {}
        marks.settle(state, book, price, payments)
        waterfall.settle(state, payments, Code.VARIATION, f"gate:{book.symbol}")
    bought = _net(books, 1)
    sold = _net(books, -1)
    delivered = {}
    for number, slots in sold.items():
        account = state.accounts[number]
        position = hour.positions.get(number)
        owed = max(0, -position.net) if position is not None else 0
        behind = min(owed, sum(account.certified_lots(terms.grade, terms.ends_at).values()))
        rooms = account.slot_rooms(terms.grade, terms.ends_at)
        delivered[number] = delivery.deliverable(slots, behind, rooms.values())
    failed = [
        delivery.share_failed(
            sum(sold[number][each] - delivered[number][each] for number in sold),
            {number: slots[each] for number, slots in bought.items()},
        )
        for each in range(len(contract.SLOT_CLASSES))
    ]
    return Closed(
        books,
        sold,
        bought,
        delivered,
        {number: Slots(*(of[number] for of in failed)) for number in bought},
    )


def _net(books: list[Instrument], side: int) -> dict[int, Slots]:
    """Return the slots of each account that is long (or short) of any, in order of id."""
    found: dict[int, list[int]] = {}
    for book in books:
        for number, position in book.positions.items():
            if side * position.net > 0:
                found.setdefault(number, [0, 0])[_class_of(book)] = side * position.net
    return {number: Slots(*found[number]) for number in sorted(found)}


def _class_of(book: Instrument) -> int:
    return contract.SLOT_CLASSES.index(book.contract.service_class)


def pay(state: State, closed: Closed) -> list[Damage]:
    """Pay for the slots that are delivered; return what is owed for those that are not."""
    due: list[Damage] = []
    for book in closed.books:
        each = _class_of(book)
        payments = {number: amount for number, (amount, _) in _paid(closed, book).items() if amount}
        cause = f"slots:{book.symbol}"
        waterfall.settle(state, payments, Code.SLOT, cause)
        for number in sorted(payments):
            if payments[number] > 0:
                seller = state.accounts[number]
                proceeds.lock(state, seller, payments[number], book.contract.starts_at)
        failed_by = {
            number: closed.sold[number][each] - closed.delivered[number][each]
            for number in closed.sold
        }
        borne_by = {number: closed.failed[number][each] for number in closed.bought}
        for seller_id, holder_id, slots in delivery.pair_failed(failed_by, borne_by):
            if state.accounts[seller_id].group != state.accounts[holder_id].group:
                amount = book.unit * book.mark * slots // delivery.SLOT_DAMAGE_SHARE
                due.append(Damage(seller_id, holder_id, each, amount, cause))
    return due


def _paid(closed: Closed, book: Instrument) -> dict[int, tuple[int, int]]:
    """Return (micro-USD, failed slots) of every account that has slots of a book."""
    each = _class_of(book)
    price = book.unit * book.mark
    found: dict[int, tuple[int, int]] = {}
    for number, slots in closed.bought.items():
        if slots[each]:
            failed = closed.failed[number][each]
            found[number] = -price * (slots[each] - failed), failed
    for number, slots in closed.sold.items():
        if slots[each]:
            delivered = closed.delivered[number][each]
            found[number] = price * delivered, slots[each] - delivered
    return found


def settle(
    state: State, closed: Closed, hour: Hour | None, damages: list[tuple[Damage, int]]
) -> list[Account]:
    """Say what became of everybody's slots and take them out of the books; return whose they were.

    `damages` are what was owed, and what was paid of it; `hour` is what of it is delivered.
    """
    used: dict[int, list[int]] = {}
    for allocation in hour.allocations.values() if hour is not None else ():
        if allocation.package:
            continue
        of = used.setdefault(allocation.holder, [0, 0])
        of[0] += allocation.p0_lots
        of[1] += allocation.p1_lots
    concerned: dict[int, Account] = {}
    for book in closed.books:
        each = _class_of(book)
        for number, (amount, failed) in sorted(_paid(closed, book).items()):
            position = book.positions[number]
            backed = used.get(number, NO_SLOTS)[each]
            if position.net < 0:
                backed = closed.delivered[number][each]
            owed = [d for d in damages if number in d[0][:2] and d[0].slot_class == each]
            side = 1 if position.net > 0 else -1
            state.events.append(
                events.SlotsSettled(
                    number,
                    book.grade.code,
                    book.contract.starts_at,
                    book.contract.service_class,
                    position.net,
                    failed,
                    backed,
                    book.mark,
                    amount,
                    side * sum(paid for _, paid in owed),
                    side * sum(damage.amount for damage, _ in owed),
                    state.at,
                )
            )
        for number in sorted(book.positions):
            concerned[number] = _drop(state, book.positions[number])
        book.positions.clear()
        book.trades.clear()
        book.open_interest = 0
        listing.unlist(state, book)
    return [concerned[number] for number in sorted(concerned)]


def _drop(state: State, position: Position) -> Account:
    """Take a position that is settled out of the books; return whose it was."""
    position.net = position.cost = 0
    position.refresh()
    state.drop_position(position)
    return position.account
