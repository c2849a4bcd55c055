"""The report on an interval: what every allocation was owed, had, missed and used, from the rows.

It is written a minute after the interval's end, once, in the transaction of its job, from what
the gateways recorded: requests, usage, probes, heartbeats. With it go what pay-as-you-go owes
for the interval, as instructions to the machine, and what is published of each pool.
"""

from collections import defaultdict
from collections.abc import Sequence

from django.db import connection

from admission import cover, demand, idle, models, queries, shortfall
from admission.demand import Interval
from admission.observation import reserve_prefix
from admission.shortfall import Fate, Jump, Miss
from marketplace import clock, contract
from marketplace import models as catalog
from settlement import instructions, operations, slots
from settlement import models as clearing
from settlement import queries as settlement_queries
from settlement.delivery import NO_CLUSTER
from settlement.queries import AllocationRow

SHARED = "P3"
REFUSALS = frozenset({Fate.REFUSED, Fate.FAILED, Fate.SPILLED})
"""What says that a cluster had no capacity, as a probe that fails does."""


Delivered = dict[tuple[int, int, str], int]
"""mNTU by (organization, cluster, class served)."""


def report(interval: Interval, at: int) -> None:
    """Write everything that is reported of an interval; the same again changes nothing."""
    allocations = settlement_queries.entitlements_snapshot(
        starts_at=clock.to_datetime(interval.hour_starts_at), grade=interval.grade
    )
    delivered = _delivered(interval)
    misses = demand.misses(interval)
    deliveries = _deliveries(interval, allocations, delivered, misses)
    operations.report_delivery(deliveries=deliveries, at=at)
    _charge_usage(interval, delivered, allocations)
    _publish(interval, allocations, delivered)


def review(interval: Interval, at: int) -> int:
    """Look at an interval again, by rows that came late too; return how much is known better.

    Tokens that were charged as pay-as-you-go stay charged as they were.
    """
    allocations = settlement_queries.entitlements_snapshot(
        starts_at=clock.to_datetime(interval.hour_starts_at), grade=interval.grade
    )
    if not allocations:
        return 0
    deliveries = _deliveries(interval, allocations, _delivered(interval), demand.misses(interval))
    return operations.revise_delivery(deliveries=deliveries, at=at)


# What the rows say


def metered(grade: str, hour_starts_at: int) -> dict[int, int]:
    """Return what each organization used of a grade in an hour, in mNTU, of every class."""
    used: dict[int, int] = {}
    for number in range(1, contract.INTERVALS_PER_HOUR + 1):
        interval = Interval(grade=grade, hour_starts_at=hour_starts_at, number=number)
        for (organization, _, _), mntu in _delivered(interval).items():
            used[organization] = used.get(organization, 0) + mntu
    return used


def _delivered(interval: Interval) -> Delivered:
    """Return what was used in the interval: how far each request's totals grew in it.

    What cover has delivered counts where its holder is entitled.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT request.organization_id,
                   CASE request.cover_offer WHEN 0 THEN request.cluster
                                            ELSE request.covered_cluster END,
                   request.class_served, sum(now.mntu - coalesce(before.mntu, 0))::bigint
            FROM (SELECT request_id, max(mntu) AS mntu FROM admission_usageevent
                  WHERE at >= %(starts_at)s AND at < %(ends_at)s GROUP BY request_id) now
            JOIN admission_request request ON request.id = now.request_id
            LEFT JOIN LATERAL (
                SELECT max(mntu) AS mntu FROM admission_usageevent event
                WHERE event.request_id = now.request_id AND event.at < %(starts_at)s) before
              ON true
            WHERE request.grade = %(grade)s AND NOT request.is_probe
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            """,
            demand.span(interval),
        )
        return {(row[0], row[1], row[2]): row[3] for row in cursor.fetchall() if row[3]}


def _probes(interval: Interval) -> dict[int, dict[int, bool]]:
    """Return the probes that were made, by cluster and half minute."""
    made: dict[int, dict[int, bool]] = defaultdict(dict)
    rows = models.Probe.objects.filter(
        slot_at__gte=clock.to_datetime(interval.starts_at),
        slot_at__lt=clock.to_datetime(interval.ends_at),
    )
    for cluster, slot_at, passed in rows.values_list("cluster", "slot_at", "passed"):
        made[cluster][clock.to_micros(slot_at)] = passed
    return made


def _jumps(interval: Interval) -> list[Jump]:
    return [
        Jump(
            from_at=clock.to_micros(row.from_at),
            to_at=clock.to_micros(row.to_at),
            probes={int(key): (value[0], value[1]) for key, value in row.probes.items()},
        )
        for row in queries.clock_jumps(interval.starts_at, interval.ends_at)
    ]


# What follows from it


def _is_watched(interval: Interval, jumps: Sequence[Jump]) -> bool:
    """Whether a gateway served in an interval, or the clock leapt over it with probes made."""
    beats = models.Heartbeat.objects.filter(
        interval_starts_at=clock.to_datetime(interval.starts_at)
    )
    return beats.exists() or any(jump.probes for jump in jumps)


def _deliveries(
    interval: Interval,
    allocations: Sequence[AllocationRow],
    delivered: Delivered,
    misses: Sequence[Miss],
) -> list[operations.Delivery]:
    """Return the report of every allocation; what no cluster is behind is nothing available."""
    jumps = _jumps(interval)
    probes = _probes(interval)
    is_suspended = not _is_watched(interval, jumps)
    refusals = _refusals(interval, misses)
    missed: dict[tuple[int, int], list[Miss]] = defaultdict(list)
    for miss in misses:
        missed[miss.holder, miss.cluster].append(miss)
    flows: dict[tuple[int, int], list[AllocationRow]] = defaultdict(list)
    for row in allocations:
        flows[row.holder, row.cluster].append(row)
    pasts = demand.pasts(interval)
    is_told_to_wait = any(miss.retry_after_us for miss in misses)
    served = demand.served(interval) if is_told_to_wait else {}
    oldest = demand.oldest(interval) if is_told_to_wait else {}
    covered = cover.delivered(demand.span(interval))
    deliveries = []
    for (holder, cluster), rows in sorted(flows.items()):
        made, passed = shortfall.probe_slots(
            cluster, interval.starts_at, made=probes.get(cluster, {}), jumps=jumps
        )
        past = pasts.get((holder, cluster), ())
        lots = [row.lots for row in rows]
        owed = shortfall.owed_mntu(
            lots=sum(lots), debt=shortfall.debt_mntu((each.lots, each.delivered) for each in past)
        )
        used = _used(delivered, holder, cluster)
        all_missed = shortfall.missed_mntu(
            missed[holder, cluster],
            starts_at=interval.starts_at,
            delivered_mntu=used,
            recent=demand.recent(interval, past, oldest.get((holder, cluster), ())),
            served=served.get((holder, cluster), ()),
        )
        short = shortfall.short_mntu(
            missed=all_missed, owed=owed, past_demand=[each.asked for each in past]
        )
        for row, owed_part, short_part, used_part, covers in zip(
            rows,
            shortfall.parts(owed, lots),
            shortfall.parts(short, lots),
            shortfall.parts(used, lots),
            cover.parts(covered.get((holder, cluster), ()), lots),
            strict=True,
        ):
            deliveries.append(
                operations.Delivery(
                    allocation=row.allocation,
                    interval=interval.number,
                    owed_mntu=owed_part,
                    available_mntu=shortfall.available_mntu(
                        lots=row.lots, probes=made, passed=passed, refusals=refusals[cluster]
                    )
                    if cluster != NO_CLUSTER
                    else 0,
                    short_mntu=short_part,
                    delivered_mntu=used_part,
                    probes=made,
                    probes_passed=passed,
                    is_suspended=is_suspended,
                    covers=covers,
                )
            )
    return deliveries


def _refusals(interval: Interval, misses: Sequence[Miss]) -> dict[int, int]:
    """Return how often each cluster had no capacity in an interval."""
    found: dict[int, int] = defaultdict(int)
    for miss in misses:
        if miss.fate in REFUSALS:
            found[miss.cluster] += miss.arrived_at >= interval.starts_at
    return found


def _used(delivered: Delivered, holder: int, cluster: int) -> int:
    """Return what a holder used of its lots on a cluster, in mNTU."""
    return sum(
        mntu
        for (who, where, as_class), mntu in delivered.items()
        if who == holder and where == cluster and as_class != SHARED
    )


def _idle(
    interval: Interval, delivered: Delivered, allocations: Sequence[AllocationRow]
) -> dict[tuple[int, int], dict[int, int]]:
    """Return by (payer, seller) on whose idle rate how much of its P3 was served, in mNTU."""
    found: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    clusters = catalog.Cluster.objects.filter(
        id__in={cluster for _, cluster, served in delivered if served == SHARED}
    )
    for cluster, seller, certified in clusters.values_list(
        "id", "organization_id", "certified_lots"
    ):
        own = {key: mntu for key, mntu in delivered.items() if key[1] == cluster}
        lots: dict[int, int] = defaultdict(int)
        for row in allocations:
            if row.cluster == cluster:
                lots[row.holder] += row.lots
        used: dict[int, int] = defaultdict(int)
        for (holder, _, served), mntu in own.items():
            if served != SHARED:
                used[holder] += mntu
        shared = {holder: mntu for (holder, _, served), mntu in own.items() if served == SHARED}
        parts = idle.served_on(shared, certified_lots=certified, lots=lots, used=used)
        for payer, of in parts.items():
            for holder, mntu in of.items():
                known = found[payer, seller]
                known[holder] = known.get(holder, 0) + mntu
    return found


def _charge_usage(
    interval: Interval, delivered: Delivered, allocations: Sequence[AllocationRow]
) -> None:
    """Instruct the machine to charge pay-as-you-go, and to give back the holds of an hour's end."""
    sellers = dict(
        catalog.Cluster.objects.filter(
            id__in={cluster for _, cluster, served in delivered if served == SHARED}
        ).values_list("id", "organization_id")
    )
    due: dict[tuple[int, int], int] = defaultdict(int)
    for (organization, cluster, served), mntu in delivered.items():
        if served == SHARED:
            due[organization, sellers[cluster]] += mntu
    to_release: set[int] = set()
    if interval.number == contract.INTERVALS_PER_HOUR:
        to_release = _holders_of_cash(interval)
        for organization in to_release - {organization for organization, _ in due}:
            due[organization, organization] = 0
    last = dict(sorted(due))
    of_idle = _idle(interval, delivered, allocations)
    hour = slots.hour_text(interval.hour_starts_at)
    for (organization, seller), mntu in sorted(due.items()):
        operations.instruct(
            id=f"charge:{interval.grade}:{hour}:{interval.number}:{organization}:{seller}",
            command=instructions.ChargeUsage(
                account=organization,
                seller=seller,
                grade=interval.grade,
                hour_starts_at=interval.hour_starts_at,
                interval=interval.number,
                mntu=mntu,
                release=organization in to_release and last[organization] == seller,
                idle=tuple(sorted(of_idle.get((organization, seller), {}).items())),
            ),
        )


def _holders_of_cash(interval: Interval) -> set[int]:
    """Return whose cash is held for pay-as-you-go in the hour."""
    prefix = reserve_prefix(interval.grade, interval.hour_starts_at)
    ids = clearing.Instruction.objects.filter(id__startswith=prefix).exclude(
        state=clearing.Instruction.State.REFUSED
    )
    return {int(each[len(prefix) :].split(":")[0]) for each in ids.values_list("id", flat=True)}


# What is published


def _publish(
    interval: Interval, allocations: Sequence[AllocationRow], delivered: Delivered
) -> None:
    """Write each pool's numbers by class."""
    clusters = list(catalog.Cluster.objects.filter(grade_id=interval.grade).order_by("id"))
    is_used = models.Request.objects.filter(
        grade=interval.grade,
        is_probe=False,
        arrived_at__gte=clock.to_datetime(interval.starts_at),
        arrived_at__lt=clock.to_datetime(interval.ends_at),
    ).exists()
    served = _by_class(interval, "class_served") if is_used else {}
    asked = _by_class(interval, "class_requested") if is_used else {}
    rows = []
    for cluster in clusters:
        lots_by_holder: dict[int, int] = defaultdict(int)
        for row in allocations:
            if row.cluster == cluster.pk:
                lots_by_holder[row.holder] += row.lots
        used = {key: mntu for key, mntu in delivered.items() if key[1] == cluster.pk}
        capacity = cluster.certified_lots * contract.MNTU_PER_LOT_INTERVAL
        for name in ("P0", "P1", "P2", SHARED):
            guaranteed = (
                sum(lots_by_holder.values()) * contract.MNTU_PER_LOT_INTERVAL if name == "P2" else 0
            )
            counts = served.get((cluster.pk, name), {})
            wanted = asked.get((cluster.pk, name), {})
            if not counts and not wanted and not guaranteed:
                continue
            rows.append(
                models.PoolInterval(
                    cluster=cluster.pk,
                    service_class=name,
                    interval_starts_at=clock.to_datetime(interval.starts_at),
                    admitted=counts.get("admitted", 0),
                    queued=counts.get("queued", 0),
                    shed=wanted.get("shed", 0),
                    spilled=wanted.get("spilled", 0),
                    queue_ms_p50=counts.get("queue_ms_p50"),
                    queue_ms_p95=counts.get("queue_ms_p95"),
                    queue_ms_p99=counts.get("queue_ms_p99"),
                    first_token_ms_p50=counts.get("first_token_ms_p50"),
                    first_token_ms_p99=counts.get("first_token_ms_p99"),
                    per_token_us_p50=counts.get("per_token_us_p50"),
                    guaranteed_mntu=guaranteed,
                    delivered_mntu=sum(v for key, v in used.items() if key[2] == name),
                    jain=_jain(used, lots_by_holder) if name == "P2" else None,
                    utilisation=sum(used.values()) / capacity if capacity else None,
                )
            )
    models.PoolInterval.objects.bulk_create(rows, ignore_conflicts=True)


def _by_class(interval: Interval, column: str) -> dict[tuple[int, str], dict[str, int]]:
    """Return the counts and percentiles of the requests of an interval by cluster and class."""
    assert column in ("class_served", "class_requested"), "one of two columns"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT request.cluster, request.{column},
              count(*) FILTER (WHERE outcome = 'ADMITTED') AS admitted,
              count(*) FILTER (WHERE outcome = 'ADMITTED' AND queue_ms > 0) AS queued,
              count(*) FILTER (WHERE outcome = 'SHED') AS shed,
              count(*) FILTER (
                WHERE outcome = 'ADMITTED' AND class_requested <> 'P3' AND class_served = 'P3')
                AS spilled,
              percentile_disc(0.5) WITHIN GROUP (ORDER BY queue_ms)
                FILTER (WHERE outcome = 'ADMITTED') AS queue_ms_p50,
              percentile_disc(0.95) WITHIN GROUP (ORDER BY queue_ms)
                FILTER (WHERE outcome = 'ADMITTED') AS queue_ms_p95,
              percentile_disc(0.99) WITHIN GROUP (ORDER BY queue_ms)
                FILTER (WHERE outcome = 'ADMITTED') AS queue_ms_p99,
              percentile_disc(0.5) WITHIN GROUP (ORDER BY last.first_token_ms)
                AS first_token_ms_p50,
              percentile_disc(0.99) WITHIN GROUP (ORDER BY last.first_token_ms)
                AS first_token_ms_p99,
              percentile_disc(0.5) WITHIN GROUP (ORDER BY last.per_token_us) AS per_token_us_p50
            FROM admission_request request
            LEFT JOIN LATERAL (
                SELECT first_token_ms, per_token_us FROM admission_usageevent event
                WHERE event.request_id = request.id ORDER BY sequence DESC LIMIT 1) last ON true
            WHERE request.arrived_at >= %(starts_at)s AND request.arrived_at < %(ends_at)s
              AND request.grade = %(grade)s AND NOT request.is_probe AND request.{column} <> ''
            GROUP BY 1, 2
            """,  # noqa: S608 - one of two constants
            demand.span(interval),
        )
        assert cursor.description is not None, "a query has columns"
        names = [column.name for column in cursor.description]
        return {
            (row[0], row[1]): dict(zip(names[2:], row[2:], strict=True))
            for row in cursor.fetchall()
        }


def _jain(used: Delivered, lots_by_holder: dict[int, int]) -> float | None:
    """Return Jain's index of what each holder used per lot, over those that used some."""
    by_holder: dict[int, int] = defaultdict(int)
    for (holder, _, served), mntu in used.items():
        if served != SHARED and lots_by_holder.get(holder):
            by_holder[holder] += mntu
    shares = [mntu / lots_by_holder[holder] for holder, mntu in sorted(by_holder.items())]
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if len(shares) > 1 and squares else None
