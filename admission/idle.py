"""Whose unused rate pay-as-you-go requests were served on (RULEBOOK 6.10). *Core*.

What a cluster serves at P3 in an interval is served first on the rate that it has not sold. Beyond
that it is served on rate that is sold and was not used: on every holder's in proportion to what it
left, and for every payer in proportion to what it used.
"""

from collections.abc import Mapping

from marketplace import contract
from settlement import delivery


def served_on(
    shared: Mapping[int, int],
    *,
    certified_lots: int,
    lots: Mapping[int, int],
    used: Mapping[int, int],
) -> dict[int, dict[int, int]]:
    """Return by payer how many mNTU of each holder's idle rate its requests were served on.

    `shared` is what each payer used at P3, `used` what each holder used of its `lots`; all of them
    of one cluster and interval, in mNTU.
    """
    idle = {
        holder: max(0, lots[holder] * contract.MNTU_PER_LOT_INTERVAL - used.get(holder, 0))
        for holder in sorted(lots)
    }
    unsold = max(0, certified_lots - sum(lots.values())) * contract.MNTU_PER_LOT_INTERVAL
    beyond = min(max(0, sum(shared.values()) - unsold), sum(idle.values()))
    if not beyond:
        return {}
    payers = sorted(shared)
    found = {}
    parts = delivery.largest_remainder(beyond, [shared[payer] for payer in payers])
    for payer, part in zip(payers, parts, strict=True):
        shares = delivery.largest_remainder(part, list(idle.values()))
        found[payer] = {holder: share for holder, share in zip(idle, shares, strict=True) if share}
    return found
