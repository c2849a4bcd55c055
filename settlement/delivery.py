"""Net positions become delivery: obligations, allocations, and what each interval pays.

At gate closure a seller's obligation is split over its clusters by certified lots, and every
entitled lot is assigned to a named cluster (RULEBOOK 4.3; slots are not traded yet). Lots that no
cluster stands behind fail: they are assigned to cluster 0 and deliver nothing.

Each five-minute interval is then settled alone (RULEBOOK 6.4, 6.5): what was available and not
missed is released to the seller, the rest of the interval's escrow returns to the holder, and on
what was missed the seller pays the cost of replacement and a quarter of the price. Rounding is down
and in favor of the holder for the release, in favor of the seller for the compensation.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from marketplace import contract

NO_CLUSTER = 0
"""What serves a failed lot."""
DAMAGE_PRICE_MULTIPLE_MAX = 5
DAMAGE_SHARE = 4
"""The seller pays one part in this many of the delivery price on what was missed."""
USAGE_PRICE_PERCENT = 110
_MILLION = 1_000_000


class Share(NamedTuple):
    """Lots of an obligation behind a cluster, or of an obligation that nothing is behind."""

    obligation: int
    cluster: int
    lots: int


class Assignment(NamedTuple):
    """Lots of a holder on a cluster, owed by an obligation."""

    holder: int
    obligation: int
    cluster: int
    lots: int


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Return whole parts of a total in proportion to the weights; ties go to the first."""
    whole = sum(weights)
    assert whole > 0, "something to share over"
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def split_obligation(
    *, obligation: int, lots: int, certified_lots: Mapping[int, int]
) -> list[Share]:
    """Return an obligation's lots by cluster, lowest id first, failed lots last.

    No cluster is given more than is certified, so what exceeds the sum fails.
    """
    clusters = sorted(cluster for cluster, certified in certified_lots.items() if certified > 0)
    behind = min(lots, sum(certified_lots[cluster] for cluster in clusters))
    shares = []
    if behind:
        parts = largest_remainder(behind, [certified_lots[cluster] for cluster in clusters])
        shares = [
            Share(obligation, cluster, part)
            for cluster, part in zip(clusters, parts, strict=True)
            if part
        ]
    if lots > behind:
        shares.append(Share(obligation, NO_CLUSTER, lots - behind))
    return shares


def assign(
    holders: Mapping[int, int],
    shares: Sequence[Share],
    served_before: Mapping[int, Sequence[int]],
) -> list[Assignment]:
    """Return which cluster serves each holder's lots, holder by holder.

    Larger holders choose first, then the lowest id. A holder takes from the clusters that served it
    in the hour before, most lots first as `served_before` gives them, then from the one with most
    unassigned lots, lowest id first; failed lots are what is left at the end.
    """
    assert sum(holders.values()) == sum(share.lots for share in shares), "a short for every long"
    free = {(share.cluster, share.obligation): share.lots for share in shares}
    assignments = []
    for holder in sorted(holders, key=lambda h: (-holders[h], h)):
        wanted = holders[holder]
        preferred = list(served_before.get(holder, ()))
        while wanted:
            cluster, obligation = _choose(free, preferred)
            lots = min(wanted, free[cluster, obligation])
            assignments.append(Assignment(holder, obligation, cluster, lots))
            wanted -= lots
            free[cluster, obligation] -= lots
            if not free[cluster, obligation]:
                del free[cluster, obligation]
    return assignments


def _choose(free: Mapping[tuple[int, int], int], preferred: Sequence[int]) -> tuple[int, int]:
    """Return the (cluster, obligation) a holder takes its next lots from."""
    for cluster in preferred:
        for key in sorted(free):
            if key[0] == cluster and cluster != NO_CLUSTER:
                return key
    return min(free, key=lambda key: (key[0] == NO_CLUSTER, -free[key], key))


class Legs(NamedTuple):
    """What one interval of one allocation pays, in micro-USD."""

    released: int
    refunded: int
    compensation_due: int


def interval_legs(
    *, price: int, lots: int, available_mntu: int, short_mntu: int, replacement_price: int
) -> Legs:
    """Return the legs of an interval; prices are ticks.

    Released and refunded add up to the interval's escrow, `5 x price x lots`, exactly.
    """
    escrow = contract.TICK_MICROS_PER_LOT_INTERVAL * price * lots
    price_micros = contract.TICK_MICROS_PER_MILLION * price
    replacement_micros = contract.TICK_MICROS_PER_MILLION * replacement_price
    served = max(0, available_mntu - short_mntu) // 1_000
    released = price_micros * served // _MILLION
    assert released <= escrow, "no more is available than was bought"
    short = short_mntu // 1_000
    due = (replacement_micros - price_micros) * short // _MILLION
    due += price_micros * short // (DAMAGE_SHARE * _MILLION)
    return Legs(released, escrow - released, due)


def replacement_price(*, price: int, next_mark: int) -> int:
    """Return what a missed token costs elsewhere: `min(5F, max(F, next open hour's mark))`."""
    return min(DAMAGE_PRICE_MULTIPLE_MAX * price, max(price, next_mark))


def usage_price(index: int) -> int:
    """Return the pay-as-you-go price in ticks: 110 % of the index, rounded up (RULEBOOK 6.10)."""
    return -(-index * USAGE_PRICE_PERCENT // 100)


def usage_charge(*, price: int, mntu: int) -> int:
    """Return the micro-USD of pay-as-you-go tokens, rounded up to the seller's favor."""
    return -(-price * contract.TICK_MICROS_PER_MILLION * mntu // 1_000_000_000)


def delivery_margin(*, price: int, lots: int) -> int:
    """Return the 5 % of an obligation that stays reserved until its hour is settled."""
    return 3 * price * lots
