"""What holders asked for, from the rows: what was missed, what was served, and how it was before.

A request is missed in profile alone, and once, whichever clusters refused it (RULEBOOK 6.3). What
a holder is presumed to have asked for while it was told to wait is its flow's mean of the 15
minutes before, to the instant: of the whole intervals in them what their reports say, and of the
interval that they begin in what was asked for after they began.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from admission import shortfall, simulator
from admission.decisions import ServiceClass
from admission.shortfall import Fate, Miss
from marketplace import clock, contract

PAST_INTERVALS_READ = 24
"""Of the reports before an interval, what its debt and its believable demand are taken from."""
OLDEST = shortfall.PRESUMED_BY // contract.INTERVAL
"""So many intervals back begin the 15 minutes before any instant of an interval."""

Flow = tuple[int, int]
"""(holder, cluster)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One interval of a grade."""

    grade: str
    hour_starts_at: int
    number: int

    @property
    def starts_at(self) -> int:
        """Its first instant."""
        return self.hour_starts_at + (self.number - 1) * contract.INTERVAL

    @property
    def ends_at(self) -> int:
        """The first instant after it."""
        return self.starts_at + contract.INTERVAL


def span(interval: Interval) -> dict[str, Any]:
    """Return an interval as the parameters of a query."""
    return {
        "starts_at": clock.to_datetime(interval.starts_at),
        "ends_at": clock.to_datetime(interval.ends_at),
        "grade": interval.grade,
    }


def misses(interval: Interval) -> list[Miss]:
    """Return the requests in profile that a cluster did not serve as it should, each once.

    Those of the minute before the interval are among them.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT request.organization_id, request.cluster, request.body_digest,
                   request.charge_mntu, request.arrived_at, request.outcome, request.is_retry,
                   request.retry_after_ms, request.queue_ms,
                   coalesce(nullif(request.class_served, ''), request.class_requested),
                   last.state, last.mntu, last.prompt_tokens - last.cached_tokens,
                   last.first_token_ms, last.per_token_us, last.at,
                   EXISTS (SELECT 1 FROM admission_request cover
                           JOIN admission_usageevent used ON used.request_id = cover.id
                           WHERE cover.cover_offer <> 0 AND used.state IN ('COMPLETED', 'ABORTED')
                             AND cover.organization_id = request.organization_id
                             AND cover.arrived_at = request.arrived_at
                             AND cover.body_digest = request.body_digest)
            FROM admission_request request
            LEFT JOIN LATERAL (
                SELECT * FROM admission_usageevent event
                WHERE event.request_id = request.id ORDER BY sequence DESC LIMIT 1) last ON true
            WHERE request.arrived_at >= %(starts_at)s - interval '1 minute'
              AND request.arrived_at < %(ends_at)s AND request.grade = %(grade)s
              AND NOT request.is_probe AND request.class_requested <> 'P3'
              AND request.cover_offer = 0
              AND (request.outcome = 'SHED' AND request.reason = 'NO_CAPACITY'
                   OR request.outcome = 'ABORTED' AND request.is_in_profile
                   OR request.outcome = 'ADMITTED' AND request.class_served <> 'P3'
                      AND (last.state = 'FAILED'
                           OR request.is_in_profile AND last.state IN ('COMPLETED', 'ABORTED')))
            ORDER BY request.arrived_at, request.id
            """,
            span(interval),
        )
        found = [_miss(Decided(*row)) for row in cursor.fetchall()]
    # Once over all clusters: a request that two of them refused is one request.
    return shortfall.once_each([miss for miss in found if miss is not None])


class Decided(NamedTuple):
    """A request that may have been missed, and how it ended if it ran."""

    holder: int
    cluster: int
    body_digest: memoryview
    charge_mntu: int
    arrived_at: datetime
    outcome: str
    is_retry: bool
    retry_after_ms: int
    queue_ms: int
    service_class: str
    state: str | None
    mntu: int | None
    uncached_tokens: int | None
    first_token_ms: int | None
    per_token_us: int | None
    ended_at: datetime | None
    is_covered: bool


def _miss(row: Decided) -> Miss | None:
    """Return how a request was missed, or None where it was served within its targets.

    Of one that failed, what it had generated was delivered. One that came too late was missed
    whole, and so was one whose caller gave up on a first token that was late. One that was covered
    says that its cluster had no capacity, and no demand was missed by it.
    """
    charge, waited_us, target_us = row.charge_mntu, 0, 0
    targets = simulator.TARGETS[ServiceClass[row.service_class]]
    if row.outcome == "SHED":
        fate = Fate.REFUSED if row.retry_after_ms else Fate.SPILLED
    elif row.outcome == "ABORTED":
        fate, waited_us = Fate.HUNG_UP, 1_000 * row.queue_ms
        # Its prompt is not known better than by its charge.
        target_us = targets.first_token_us_for(charge // 1_000)
    elif row.state == "FAILED":
        fate, charge = Fate.FAILED, max(0, charge - (row.mntu or 0))
    else:
        target_us = targets.first_token_us_for(max(0, row.uncached_tokens or 0))
        is_late = row.first_token_ms is None or 1_000 * row.first_token_ms > target_us
        if row.state == "ABORTED":
            if not is_late:
                return None
            assert row.ended_at is not None, "what has ended has done so at an instant"
            fate = Fate.HUNG_UP
            waited_us = clock.to_micros(row.ended_at) - clock.to_micros(row.arrived_at)
        elif is_late or (row.per_token_us or 0) > targets.per_token_us:
            fate, charge = Fate.LATE, row.mntu or 0
        else:
            return None
    if row.is_covered:
        charge = 0
    return Miss(
        holder=row.holder,
        cluster=row.cluster,
        body_digest=bytes(row.body_digest),
        charge_mntu=charge,
        arrived_at=clock.to_micros(row.arrived_at),
        fate=fate,
        is_retry=row.is_retry,
        waited_us=waited_us,
        target_us=target_us,
        retry_after_us=1_000 * row.retry_after_ms,
    )


def served(interval: Interval) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return (instant of arrival, mNTU) of what each holder was served of its lots, by cluster."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT request.organization_id,
                   CASE request.cover_offer WHEN 0 THEN request.cluster
                                            ELSE request.covered_cluster END,
                   request.arrived_at, coalesce(max(event.mntu), 0)::bigint
            FROM admission_request request
            JOIN admission_usageevent event ON event.request_id = request.id
            WHERE request.arrived_at >= %(starts_at)s AND request.arrived_at < %(ends_at)s
              AND request.grade = %(grade)s AND NOT request.is_probe
              AND request.outcome = 'ADMITTED' AND request.class_served <> 'P3'
            GROUP BY request.id ORDER BY request.arrived_at, request.id
            """,
            span(interval),
        )
        found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for holder, cluster, arrived_at, mntu in cursor.fetchall():
            found[holder, cluster].append((clock.to_micros(arrived_at), mntu))
    return found


class Past(NamedTuple):
    """What was reported of a flow in an interval that is over."""

    starts_at: int
    lots: int
    delivered: int
    short: int

    @property
    def asked(self) -> int:
        """What it asked for of what it was owed."""
        return self.delivered + self.short


def pasts(interval: Interval) -> dict[tuple[int, int], list[Past]]:
    """Return the last reported intervals of every (holder, cluster).

    Oldest first; one query for all who were served in the two hours before.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT allocation.holder, allocation.cluster,
                   allocation.starts_at + (report.interval - 1) * interval '5 minutes',
                   sum(allocation.lots)::bigint,
                   sum(report.delivered_mntu)::bigint, sum(report.short_mntu)::bigint
            FROM settlement_allocation allocation
            JOIN settlement_deliveryreport report ON report.allocation_id = allocation.id
            WHERE allocation.grade = %s
              AND allocation.starts_at >= %s - interval '2 hours'
              AND allocation.starts_at <= %s
              AND allocation.starts_at + (report.interval - 1) * interval '5 minutes' < %s
            GROUP BY allocation.holder, allocation.cluster, allocation.starts_at, report.interval
            ORDER BY allocation.starts_at, report.interval
            """,
            [
                interval.grade,
                clock.to_datetime(interval.hour_starts_at),
                clock.to_datetime(interval.hour_starts_at),
                clock.to_datetime(interval.starts_at),
            ],
        )
        found: dict[tuple[int, int], list[Past]] = defaultdict(list)
        for holder, cluster, starts_at, *counted in cursor.fetchall():
            found[holder, cluster].append(Past(clock.to_micros(starts_at), *counted))
    return {flow: past[-PAST_INTERVALS_READ:] for flow, past in found.items()}


def oldest(interval: Interval) -> dict[Flow, list[tuple[int, int]]]:
    """Return what each flow asked for, by instant, in the interval that its last 15 minutes cut."""
    before = Interval(
        grade=interval.grade,
        hour_starts_at=interval.hour_starts_at,
        number=interval.number - OLDEST,
    )
    found = served(before)
    for miss in misses(before):
        if miss.arrived_at >= before.starts_at and miss.fate is not Fate.LATE:
            found[miss.holder, miss.cluster].append((miss.arrived_at, miss.charge_mntu))
    return found


def recent(
    interval: Interval, past: Sequence[Past], oldest: Sequence[tuple[int, int]]
) -> shortfall.Recent:
    """Return what a flow asked for before an interval, as far as 15 minutes reach back."""
    first = interval.starts_at - OLDEST * contract.INTERVAL
    return shortfall.Recent(
        whole_mntu=sum(each.asked for each in past if each.starts_at > first),
        oldest_mntu=sum(each.asked for each in past if each.starts_at == first),
        oldest=tuple(oldest),
    )
