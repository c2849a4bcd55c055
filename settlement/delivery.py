"""Net positions become delivery: obligations, allocations, and what each interval pays.

At gate closure a seller's obligation is split over its clusters by certified lots, and every
entitled lot is assigned to a named cluster (RULEBOOK 4.3). Lots that no cluster stands behind fail:
they are assigned to cluster 0 and deliver nothing.

A slot is delivered where a lot of its seller is: on its clusters, within what each may sell of the
class. So a seller delivers no more slots than it owes lots, and what it sold beyond that fails. Its
obligation says cluster by cluster how many lots are kept for holders of each class; those choose
before anybody chooses for lots without slots, so that every slotted lot has its place.

Each five-minute interval is then settled alone (RULEBOOK 6.4, 6.5): what was available and not
missed is released to the seller, the rest of the interval's escrow returns to the holder, and on
what was missed the seller pays the cost of replacement and a quarter of the price. Rounding is down
and in favor of the holder for the release, in favor of the seller for the compensation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from marketplace import contract

NO_CLUSTER = 0
"""What serves a failed lot."""
DAMAGE_PRICE_MULTIPLE_MAX = 5
DAMAGE_SHARE = 4
"""The seller pays one part in this many of the delivery price on what was missed."""
USAGE_PRICE_PERCENT = 110
IDLE_HOLDERS_PERCENT = 80
"""Of what is earned on rate that is sold but idle, what goes to those who bought it."""
P0_PERCENT_MAX = 30
TIMED_PERCENT_MAX = 60
"""Of a cluster's certified lots, how many may be sold as P0, and as P0 and P1 together."""
SLOT_DAMAGE_SHARE = 4
"""On a failed slot the seller pays one part in this many of its price."""
_MILLION = 1_000_000


class Slots(NamedTuple):
    """Slots by class, as bought, sold or delivered."""

    p0: int = 0
    p1: int = 0


NO_SLOTS = Slots()


class Room(NamedTuple):
    """How many slots a cluster may be behind: of P0, and of P0 and P1 together."""

    p0_lots: int
    timed_lots: int


NO_ROOM = Room(0, 0)


class Share(NamedTuple):
    """Lots of an obligation behind a cluster, or of an obligation that nothing is behind.

    `p0_lots` and `p1_lots` of them are kept for those who hold slots.
    """

    obligation: int
    cluster: int
    lots: int
    p0_lots: int = 0
    p1_lots: int = 0


class Assignment(NamedTuple):
    """Lots of a holder on a cluster, owed by an obligation; some of them are slotted."""

    holder: int
    obligation: int
    cluster: int
    lots: int
    p0_lots: int = 0
    p1_lots: int = 0


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Return whole parts of a total in proportion to the weights; ties go to the first."""
    whole = sum(weights)
    assert whole > 0, "something to share over"
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def room(lots: int, *, p0_max: int, timed_max: int) -> Room:
    """Return the slots that certified lots may be behind, at most what the certificate allows."""
    return Room(
        min(p0_max, lots * P0_PERCENT_MAX // 100), min(timed_max, lots * TIMED_PERCENT_MAX // 100)
    )


def timed_lots(lots: int, replicas: int) -> int:
    """Return how many lots may be slots: at most 60 %, and what stays when a replica is lost.

    RULEBOOK 7.4.
    """
    return min(lots * TIMED_PERCENT_MAX // 100, lots * (replicas - 1) // replicas)


def deliverable(sold: Slots, behind: int, rooms: Iterable[Room]) -> Slots:
    """Return how many slots a seller delivers of those it sold; P1 fails first.

    `behind` is how many lots it owes that clusters stand behind.
    """
    known = list(rooms)
    timed = min(behind, sum(room.timed_lots for room in known))
    p0 = min(sold.p0, timed, sum(room.p0_lots for room in known))
    return Slots(p0, min(sold.p1, timed - p0))


def share_failed(failed: int, slots: Mapping[int, int]) -> dict[int, int]:
    """Return how many failed slots of a class each holder bears: pro rata, largest remainder."""
    holders = sorted(slots)
    if not failed:
        return dict.fromkeys(holders, 0)
    parts = largest_remainder(failed, [slots[holder] for holder in holders])
    return dict(zip(holders, parts, strict=True))


def pair_failed(
    failed_by: Mapping[int, int], borne_by: Mapping[int, int]
) -> list[tuple[int, int, int]]:
    """Return (seller, holder, slots): whose failed slots are whose, pro rata, seller by seller."""
    left = {holder: slots for holder, slots in sorted(borne_by.items()) if slots}
    pairs = []
    for seller in sorted(failed_by):
        if not failed_by[seller]:
            continue
        parts = largest_remainder(failed_by[seller], list(left.values()))
        for holder, part in zip(list(left), parts, strict=True):
            left[holder] -= part
            if part:
                pairs.append((seller, holder, part))
    return pairs


def split_obligation(
    *,
    obligation: int,
    lots: int,
    certified_lots: Mapping[int, int],
    slots: Slots = NO_SLOTS,
    rooms: Mapping[int, Room] = MappingProxyType({}),
) -> list[Share]:
    """Return an obligation's lots by cluster, lowest id first, failed lots last.

    No cluster is given more than is certified, so what exceeds the sum fails. The slots that go
    with the obligation are split alike, within what each cluster may sell of them; where a cluster
    has more slots than lots by that, the other clusters' lots make up for it.
    """
    clusters = sorted(cluster for cluster, certified in certified_lots.items() if certified > 0)
    behind = min(lots, sum(certified_lots[cluster] for cluster in clusters))
    shares = []
    if behind:
        parts = largest_remainder(behind, [certified_lots[cluster] for cluster in clusters])
        of = [rooms.get(cluster, NO_ROOM) for cluster in clusters]
        p0 = _spread(slots.p0, [each.p0_lots for each in of])
        p1 = _spread(slots.p1, [each.timed_lots - n for each, n in zip(of, p0, strict=True)])
        timed = [first + second for first, second in zip(p0, p1, strict=True)]
        spare = [max(0, part - taken) for part, taken in zip(parts, timed, strict=True)]
        moved = _spread(sum(timed) - sum(parts) + sum(spare), spare)
        shares = [
            Share(obligation, cluster, max(part, taken) - gone, first, second)
            for cluster, part, taken, gone, first, second in zip(
                clusters, parts, timed, moved, p0, p1, strict=True
            )
            if max(part, taken) - gone
        ]
    if lots > behind:
        shares.append(Share(obligation, NO_CLUSTER, lots - behind))
    return shares


def _spread(total: int, weights: Sequence[int]) -> list[int]:
    """Return parts of a total in proportion to the weights, none larger than its weight."""
    return largest_remainder(total, weights) if total else [0] * len(weights)


def assign(
    holders: Mapping[int, int],
    shares: Sequence[Share],
    served_before: Mapping[int, Sequence[int]],
    slots: Mapping[int, Slots] = MappingProxyType({}),
) -> list[Assignment]:
    """Return which cluster serves each holder's lots, holder by holder.

    Lots with P0 slots are placed first, then those with P1, where they are kept for them, and then
    the rest. In each of the three larger holders choose first, then the lowest id. A holder takes
    from the clusters that served it in the hour before, most lots first as `served_before` gives
    them, then from the one with most unassigned lots, lowest id first; failed lots are what is left
    at the end.
    """
    assert sum(holders.values()) == sum(share.lots for share in shares), "a short for every long"
    p0 = {holder: min(slots.get(holder, NO_SLOTS).p0, holders[holder]) for holder in holders}
    p1 = {
        holder: min(slots.get(holder, NO_SLOTS).p1, holders[holder] - p0[holder])
        for holder in holders
    }
    free = {(share.cluster, share.obligation): share.lots for share in shares}
    kept_p0 = {(share.cluster, share.obligation): share.p0_lots for share in shares}
    kept_p1 = {(share.cluster, share.obligation): share.p1_lots for share in shares}
    taken: dict[tuple[int, int, int], list[int]] = {}
    order = sorted(holders, key=lambda h: (-holders[h], h))
    rest = {holder: holders[holder] - p0[holder] - p1[holder] for holder in holders}
    for number, (wanted, room) in enumerate(((p0, kept_p0), (p1, kept_p1), (rest, free))):
        left = {key: lots for key, lots in room.items() if lots}
        for holder in order:
            for key, lots in _take(left, wanted[holder], served_before.get(holder, ())):
                taken.setdefault((holder, *key), [0, 0, 0])[number] += lots
                if room is not free:
                    free[key] -= lots
    rank = {holder: number for number, holder in enumerate(order)}
    return [
        Assignment(holder, obligation, cluster, sum(lots), lots[0], lots[1])
        for (holder, cluster, obligation), lots in sorted(
            taken.items(), key=lambda item: rank[item[0][0]]
        )
    ]


def _take(
    free: dict[tuple[int, int], int], wanted: int, preferred: Sequence[int]
) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield what a holder takes, and take it: ((cluster, obligation), lots)."""
    while wanted:
        key = _choose(free, preferred)
        lots = min(wanted, free[key])
        wanted -= lots
        free[key] -= lots
        if not free[key]:
            del free[key]
        yield key, lots


def _choose(free: Mapping[tuple[int, int], int], preferred: Sequence[int]) -> tuple[int, int]:
    """Return the (cluster, obligation) a holder takes its next lots from."""
    for cluster in preferred:
        for key in sorted(free):
            if key[0] == cluster and cluster != NO_CLUSTER:
                return key
    return min(free, key=lambda key: (key[0] == NO_CLUSTER, -free[key], key))


class Cover(NamedTuple):
    """What a standing offer delivered of an allocation in an interval; its price is in ticks."""

    price: int
    mntu: int


class Legs(NamedTuple):
    """What one interval of one allocation pays, in micro-USD."""

    released: int
    refunded: int
    compensation_due: int
    covered: tuple[int, ...] = ()
    """What each cover is paid from the escrow."""


def interval_legs(
    *,
    price: int,
    lots: int,
    available_mntu: int,
    short_mntu: int,
    replacement_price: int,
    covers: Sequence[Cover] = (),
) -> Legs:
    """Return the legs of an interval; prices are ticks.

    Released, refunded and what cover is paid add up to the interval's escrow, `5 x price x lots`,
    exactly. What a cover has delivered its seller has not (RULEBOOK 6.6): it is released at most
    the rest of the obligation.
    """
    escrow = contract.TICK_MICROS_PER_LOT_INTERVAL * price * lots
    price_micros = contract.TICK_MICROS_PER_MILLION * price
    replacement_micros = contract.TICK_MICROS_PER_MILLION * replacement_price
    rest = lots * contract.MNTU_PER_LOT_INTERVAL - sum(cover.mntu for cover in covers)
    served = max(0, min(available_mntu - short_mntu, rest)) // 1_000
    released = price_micros * served // _MILLION
    covered = tuple(
        contract.TICK_MICROS_PER_MILLION
        * min(cover.price, price)
        * (cover.mntu // 1_000)
        // _MILLION
        for cover in covers
    )
    assert released + sum(covered) <= escrow, "no more is delivered than was bought"
    short = short_mntu // 1_000
    due = (replacement_micros - price_micros) * short // _MILLION
    due += price_micros * short // (DAMAGE_SHARE * _MILLION)
    return Legs(released, escrow - released - sum(covered), due, covered)


def cover_excess(cover: Cover, *, price: int) -> int:
    """Return what a cover is owed beyond the delivery price, by the seller it stood in for.

    Of a price above `5F` only that much counts: a failure costs its seller no more by it than what
    is missed does.
    """
    above = min(cover.price, DAMAGE_PRICE_MULTIPLE_MAX * price) - price
    return contract.TICK_MICROS_PER_MILLION * max(0, above) * (cover.mntu // 1_000) // _MILLION


def replacement_price(*, price: int, next_mark: int, covers: Sequence[Cover] = ()) -> int:
    """Return what a missed token costs elsewhere, in ticks (RULEBOOK 6.5).

    That is `min(5F, max(F, cover price, next open hour's mark))`, where the price of cover is the
    highest that was paid for the allocation in the interval.
    """
    elsewhere = max([price, next_mark, *(cover.price for cover in covers)])
    return min(DAMAGE_PRICE_MULTIPLE_MAX * price, elsewhere)


def usage_price(index: int) -> int:
    """Return the pay-as-you-go price in ticks: 110 % of the index, rounded up (RULEBOOK 6.10)."""
    return -(-index * USAGE_PRICE_PERCENT // 100)


def usage_charge(*, price: int, mntu: int) -> int:
    """Return the micro-USD of pay-as-you-go tokens, rounded up to the seller's favor."""
    return -(-price * contract.TICK_MICROS_PER_MILLION * mntu // 1_000_000_000)


def idle_shares(*, earned: int, mntu: int, idle: Sequence[int]) -> list[int]:
    """Return what holders get of what was earned on `mntu`, for the `idle` mNTU of each of it.

    80 % of the part that was served on them, rounded down; the rest is the seller's (RULEBOOK
    6.10).
    """
    total = sum(idle)
    if not total:
        return [0] * len(idle)
    part = earned * total // mntu * IDLE_HOLDERS_PERCENT // 100
    return largest_remainder(part, idle)


def delivery_margin(*, price: int, lots: int) -> int:
    """Return the 5 % of an obligation that stays reserved until its hour is settled."""
    return 3 * price * lots
