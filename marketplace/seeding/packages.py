"""Packages that the demo's providers have on offer.

Each provider offers a small part of what it is certified for in each grade, by the day, until its
certificates end; a little above the forward curve, so that short terms cost more than the market
and long ones less.
"""

from collections.abc import Mapping

from django.db import transaction

from exchange import curve
from marketplace import clock, contract, models, package_terms, packages
from settlement import index

UNIT_PARTS = 50
"""A unit is so small a part of what is certified."""
UNITS = 5
DAYS_MAX = 21
ABOVE_CURVE_PERCENT = 2
DISCOUNTS = ((3, 2), (7, 5), (14, 9))


def offer(certified: Mapping[tuple[int, str], int], *, now: int) -> int:
    """List a package for every (account, grade) with certified lots; return how many there are."""
    prices = {grade: _mean(curve.of_grade(grade)) for grade in sorted({g for _, g in certified})}
    starts_at = packages.first_day(now)
    listed = 0
    for (account, grade), lots in sorted(certified.items()):
        ends_at = min(_covered_until(account, grade), starts_at + DAYS_MAX * contract.DAY)
        if lots < UNITS or ends_at <= starts_at:
            continue
        terms = package_terms.Terms(
            starts_at=starts_at,
            ends_at=ends_at,
            lots=(max(1, lots // UNIT_PARTS),),
            p1_lots=(),
            list_price_ticks=prices[grade] * (100 + ABOVE_CURVE_PERCENT) // 100,
            discounts=DISCOUNTS,
            units=UNITS,
        )
        with transaction.atomic():
            packages.offer(organization_id=account, grade=grade, terms=terms, now=now)
        listed += 1
    return listed


def _mean(found: curve.Curve) -> int:
    """Return the mean of a curve over its hours, or the list price where there is none."""
    hours = [(one.price, (one.ends_at - one.starts_at) // contract.HOUR) for one in found.segments]
    total = sum(count for _, count in hours)
    if not total:
        return found.list_price
    return index.half_up(sum(price * count for price, count in hours), total)


def _covered_until(account: int, grade: str) -> int:
    """Return the last midnight until which all clusters of a provider's grade are certified."""
    ends = models.Cluster.objects.filter(
        organization_id=account, grade_id=grade, state=models.Cluster.State.CERTIFIED
    ).values_list("certified_until", flat=True)
    return min((contract.day_start(clock.to_micros(end)) for end in ends if end), default=0)
