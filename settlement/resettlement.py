"""What a day's delivery should have paid by everything known now, and how far that is from what it
has paid. *Core*: integers in, integers out.

A settled interval is never edited. A run computes every interval of a day anew and posts, for each
allocation, two signed differences to what all before it have posted:

*Delivery.* Of what an allocation pays, only the refund depends on anything: the holder has paid its
own price (variation and escrow together do that, whatever the delivery price) and gets back
`5F` of each lot and interval that was not available, or missed. So the difference in refunds is
the whole of it, of a corrected index too: variation to the new `F` and an escrow of the new `F`
cancel to the micro-USD, and an hour that was delivered in full owes nothing.

*Damages.* `due` is what RULEBOOK 6.5 asks for, `paid` what the seller's means reached. A claim that
was not reached has ended, so a later run adds what is due *more*, and takes back only what was
paid beyond what is due.

Runs compare by hash: equal inputs have equal bytes, and equal results too.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from settlement import delivery

REFUND_TICK_MICROS = 60
"""Micro-USD of a tick of one lot over an hour: the most that is refunded."""
DAMAGES_TICK_MICROS = 255
"""The most that is due: `4F` to replace and a quarter of `F`, of every token of the hour."""

DIFFERENCE_PER_MILLE = 10
DIFFERENCE_MNTU_MIN = 100_000
"""Figures that are further apart than 1 %, and than 100 NTU, are a difference."""


class Interval(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one interval of an allocation, in mNTU; `next_mark` in ticks, 0 for none."""

    number: int
    available_mntu: int
    short_mntu: int
    delivered_mntu: int
    next_mark: int
    is_suspended: bool
    covers: tuple[tuple[int, int], ...] = ()
    """(price in ticks, mNTU) of the cover that was paid; a later run never changes it."""


class Delivered(msgspec.Struct, frozen=True, array_like=True):
    """An allocation and everything that its hour is settled by; `price` is the index in force."""

    allocation: int
    holder: int
    seller: int
    lots: int
    price: int
    is_one_group: bool
    intervals: tuple[Interval, ...]


class Amounts(NamedTuple):
    """What goes to an allocation's holder, in micro-USD."""

    refunded: int
    due: int
    paid: int


class Difference(NamedTuple):
    """What a run adds to the posted amounts of an allocation; signed, micro-USD to the holder."""

    delivery: int
    due: int
    damages: int


NOTHING = Difference(0, 0, 0)


def owed(delivered: Delivered) -> tuple[int, int]:
    """Return what is refunded and what is due as damages over the hour, by all that is known."""
    refunded = due = 0
    for interval in delivered.intervals:
        covers = [delivery.Cover(*cover) for cover in interval.covers]
        legs = delivery.interval_legs(
            price=delivered.price,
            lots=delivered.lots,
            available_mntu=0 if interval.is_suspended else interval.available_mntu,
            short_mntu=0 if interval.is_suspended else interval.short_mntu,
            replacement_price=delivery.replacement_price(
                price=delivered.price, next_mark=interval.next_mark, covers=covers
            ),
            covers=covers,
        )
        refunded += legs.refunded
        due += legs.compensation_due
    return refunded, 0 if delivered.is_one_group else due


def difference(*, refunded: int, due: int, posted: Amounts) -> Difference:
    """Return what is to be posted so that an allocation has paid what it owes."""
    more = due - posted.due
    damages = more if more > 0 else min(0, due - posted.paid)
    return Difference(refunded - posted.refunded, more, damages)


def bounds(*, price: int, lots: int) -> tuple[int, int]:
    """Return the most that the two differences of an allocation can be, in micro-USD."""
    return REFUND_TICK_MICROS * price * lots, DAMAGES_TICK_MICROS * price * lots


def is_difference(figure_mntu: int, metered_mntu: int) -> bool:
    """Whether a party's figure and the gateway's are further apart than counting can explain."""
    apart = abs(figure_mntu - metered_mntu)
    return apart > DIFFERENCE_MNTU_MIN and apart * 1_000 > DIFFERENCE_PER_MILLE * metered_mntu


def inputs_digest(delivered: Sequence[Delivered], insured: Sequence[object]) -> bytes:
    """Return the hash of everything that a run computes from: deliveries, and insured hours."""
    return hashlib.sha256(msgspec.json.encode([list(delivered), list(insured)])).digest()


def result_digest(
    results: Sequence[tuple[int, int, int]], insured: Sequence[tuple[int, str, int, int]]
) -> bytes:
    """Return the hash of what a run found: (allocation, refunded, due) of each delivery.

    And of each insured hour (start, option, account, micro-USD).
    """
    return hashlib.sha256(msgspec.json.encode([list(results), list(insured)])).digest()
