"""What a day's price caps and shortage cover have paid, and what they owe by what is known now.

Rows in, `claims.owed` over them, rows out: the run decides what to do about the difference. Who
was insured is in `InsurancePosition`, what holders of caps used in `InsuredUsage`, what they missed
comes with the run's own look at deliveries, and a payment of nothing says that a holder's cover was
suspended in that interval.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Sum

from marketplace import clock, contract
from settlement import claims, index_queries, models


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an hour's options have paid each (symbol, organization), and what they owe."""

    hour: claims.Hour
    policies: Sequence[claims.Policy]
    owed: Mapping[tuple[str, int], int]
    posted: Mapping[tuple[str, int], int]

    @property
    def differences(self) -> dict[tuple[str, int], int]:
        """What is to be posted, signed to the organization, in micro-USD."""
        keys = sorted(self.owed.keys() | self.posted.keys())
        added = {key: self.owed.get(key, 0) - self.posted.get(key, 0) for key in keys}
        return {key: amount for key, amount in added.items() if amount}

    def results(self, of: Mapping[tuple[str, int], int]) -> list[tuple[int, str, int, int]]:
        """Return (hour, symbol, organization, micro-USD) of what is owed or posted, for a hash."""
        return [(self.hour.starts_at, *key, amount) for key, amount in sorted(of.items()) if amount]


def policies(grade: str, at: datetime) -> list[claims.Policy]:
    """Return the options that insure a grade at an instant, with who holds and who wrote them."""
    month = clock.to_datetime(contract.month_start(clock.to_micros(at)))
    rows = models.InsurancePosition.objects.filter(grade=grade, starts_at=month)
    lots: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for row in rows.order_by("symbol", "organization_id"):
        lots[row.symbol, row.pay_ticks].append((row.organization_id, row.lots))
    return [
        claims.Policy(symbol, pay_ticks, tuple(own)) for (symbol, pay_ticks), own in lots.items()
    ]


def gather(
    grade: str,
    since: datetime,
    until: datetime,
    missed: Mapping[datetime, Mapping[tuple[int, int], tuple[int, int]]],
) -> list[Found]:
    """Return what is known and paid of the insured hours of a day.

    `missed` has, by hour, (mNTU, entitled lots) of each (interval, holder).

    :raises PriceUnresolved: when an hour that pays by its index has none to settle on.
    """
    known = policies(grade, since)
    if not known:
        return []
    used = _used(grade, since, until)
    posted, barred = _posted(known, since, until)
    found = []
    starts_at = since
    while starts_at < until:
        metered = used.get(starts_at, ())
        hour = claims.Hour(
            clock.to_micros(starts_at),
            index_queries.index_price(grade, clock.to_micros(starts_at)).price_ticks
            if metered
            else 0,
            metered,
            tuple(
                claims.Missed(interval, holder, mntu, lots, (starts_at, interval, holder) in barred)
                for (interval, holder), (mntu, lots) in sorted(missed.get(starts_at, {}).items())
                if mntu
            ),
        )
        owed = claims.owed(known, hour)
        found.append(Found(hour=hour, policies=known, owed=owed, posted=posted.get(starts_at, {})))
        starts_at += timedelta(hours=1)
    return found


def _used(
    grade: str, since: datetime, until: datetime
) -> dict[datetime, tuple[tuple[int, int], ...]]:
    """Return what holders of caps used, by hour: (organization, mNTU) in order."""
    rows = (
        models.InsuredUsage.objects.filter(grade=grade, starts_at__gte=since, starts_at__lt=until)
        .order_by("starts_at", "organization_id", "-id")
        .distinct("starts_at", "organization_id")
    )
    found: dict[datetime, tuple[tuple[int, int], ...]] = {}
    for row in rows:
        if row.mntu:
            found[row.starts_at] = (
                *found.get(row.starts_at, ()),
                (row.organization_id, row.mntu),
            )
    return found


def _posted(
    known: Sequence[claims.Policy], since: datetime, until: datetime
) -> tuple[dict[datetime, dict[tuple[str, int], int]], set[tuple[datetime, int, int]]]:
    """Return what hours and earlier runs have paid, and in which intervals whom nothing."""
    posted: dict[datetime, dict[tuple[str, int], int]] = defaultdict(dict)
    barred = set()
    symbols = [policy.symbol for policy in known]
    terms = {"symbol__in": symbols, "hour_starts_at__gte": since, "hour_starts_at__lt": until}
    for row in models.InsurancePayment.objects.filter(**terms):
        key = row.symbol, row.organization_id
        own = posted[row.hour_starts_at]
        own[key] = own.get(key, 0) + row.amount_micros
        if not row.amount_micros:
            barred.add((row.hour_starts_at, row.interval, row.organization_id))
    added = (
        models.InsuranceCorrection.objects.filter(**terms)
        .values_list("hour_starts_at", "symbol", "organization_id")
        .annotate(Sum("amount_micros"))
    )
    for hour, symbol, organization, amount in added:
        own = posted[hour]
        own[symbol, organization] = own.get((symbol, organization), 0) + amount
    return posted, barred
