"""Cover: another cluster delivered in the stead of one that failed (RULEBOOK 6.6).

Its seller had a standing offer, a price at which it takes requests over from others' clusters. It
is paid that price: up to the delivery price from the holder's escrow, where it stands in the place
of the release, and what is beyond it from the seller that failed. That excess is the failing
seller's own to pay, as damages are: from its means and no one else's, before them, and counted in
its month without being cut by it. No group stands in for itself, nor sells cover to itself: a
report that says so is refused.
"""

from collections.abc import Iterable
from typing import NamedTuple

from exchange import events
from exchange.machine import damages, proceeds, waterfall
from exchange.machine.records import Allocation, Hour
from exchange.machine.state import State
from marketplace import contract
from settlement import delivery, instructions
from settlement.ledger import Code, Kind


class Covered(NamedTuple):
    """A cover of an allocation, and what its escrow has paid for it."""

    allocation: Allocation
    line: instructions.CoverLine
    released: int
    excess_due: int


def of(line: instructions.DeliveryLine) -> list[delivery.Cover]:
    """Return the covers of a report's line, as its legs are computed from."""
    return [delivery.Cover(cover.price_ticks, cover.mntu) for cover in line.covers]


def is_possible(state: State, allocation: Allocation, line: instructions.DeliveryLine) -> bool:
    """Whether a line's covers can have been: of other groups, each offer once, within the lots."""
    parties = [state.accounts[number].group for number in (allocation.seller, allocation.holder)]
    offers = [cover.offer for cover in line.covers]
    covered = sum(cover.mntu for cover in line.covers)
    return (
        len(set(offers)) == len(offers)
        and covered <= allocation.lots * contract.MNTU_PER_LOT_INTERVAL
        and all(
            cover.mntu > 0
            and 1 <= cover.price_ticks <= contract.PRICE_TICKS_MAX
            and cover.seller in state.accounts
            and state.accounts[cover.seller].group not in parties
            for cover in line.covers
        )
    )


def release(
    state: State,
    hour: Hour,
    allocation: Allocation,
    interval: int,
    line: instructions.DeliveryLine,
    legs: delivery.Legs,
) -> list[Covered]:
    """Pay covers from the escrow of an interval; return them with what is due beyond it."""
    done = []
    for cover, amount in zip(line.covers, legs.covered, strict=True):
        seller = state.accounts[cover.seller]
        cause = _cause(allocation, interval, cover)
        state.transfer(
            (allocation.holder, Kind.ESCROW),
            (seller.id, Kind.CASH),
            amount,
            Code.COVER_RELEASE,
            cause,
        )
        waterfall.repay(state, seller, amount, cause)
        proceeds.lock(state, seller, amount, hour.starts_at)
        due = delivery.cover_excess(
            delivery.Cover(cover.price_ticks, cover.mntu), price=allocation.price
        )
        done.append(Covered(allocation, cover, amount, due))
    return done


def settle(state: State, month: damages.MonthOf, interval: int, covered: Iterable[Covered]) -> None:
    """Have failing sellers pay what is due beyond the delivery price, and say what was paid."""
    known = list(covered)
    paid: dict[tuple[int, int], int] = {}
    for number in sorted({each.allocation.seller for each in known if each.excess_due}):
        own = [each for each in known if each.allocation.seller == number and each.excess_due]
        failing = state.accounts[number]
        amounts = damages.pay(
            state,
            failing,
            [
                (each.line.seller, each.excess_due, _cause(each.allocation, interval, each.line))
                for each in own
            ],
            Code.COVER_EXCESS,
        )
        damages.note_paid(failing, month, sum(amounts))
        for each, amount in zip(own, amounts, strict=True):
            proceeds.lock(state, state.accounts[each.line.seller], amount, month.hour_starts_at)
            paid[each.allocation.id, each.line.offer] = amount
    for each in known:
        cover = each.line
        state.events.append(
            events.CoverSettled(
                each.allocation.id,
                interval,
                cover.offer,
                cover.cluster,
                cover.seller,
                cover.price_ticks,
                cover.mntu,
                each.released,
                paid.get((each.allocation.id, cover.offer), 0),
                each.excess_due,
                state.at,
            )
        )


def _cause(allocation: Allocation, interval: int, cover: instructions.CoverLine) -> str:
    return f"cover:{allocation.id}:{interval}:{cover.offer}"
