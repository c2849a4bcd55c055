"""Clusters that are down: what they may not sell, and how they come back (RULEBOOK 6.7).

A cluster that had nothing in twelve intervals one after the other is down: an `Outage` keeps the
certificate it had, and the machine is told that nothing is certified, so that nothing new is sold
on it and hours that are still open are treated as any that lost their coverage (RULEBOOK 3.2, 3.3).
Intervals that nobody watched, or in which it owed nothing, say nothing either way. Hours whose gate
has closed stay where they were allocated.

It is probed on as if it served somebody. Twelve good probes later the outage ends, and what it was
certified for is certified again, as long as that certificate holds. A certification that ends
meanwhile takes the place of the one before it. An outage is written in the transaction that tells
the machine, once per cluster, so that finding it again changes nothing.
"""

from collections import defaultdict

from django.db import connection

from admission import models, shortfall
from marketplace import clock, contract
from marketplace import models as catalog
from settlement import delivery, instructions, operations

LOOK_BACK = contract.DAY
"""Intervals longer ago than this say nothing of a cluster's present."""


def find(*, grade: str, interval_ends_at: int) -> int:
    """Suspend the clusters that are down after an interval; return how many are so newly."""
    found = 0
    for cluster_id, available in sorted(_available(grade, interval_ends_at).items()):
        if shortfall.is_down(available):
            found += _suspend(cluster_id, interval_ends_at)
    return found


def down() -> list[int]:
    """Return the clusters that are down now, by id."""
    rows = models.Outage.objects.filter(ended_at=None).order_by("cluster")
    return list(rows.values_list("cluster", flat=True))


def end(at: int) -> int:
    """End the outages of clusters that are back; return how many."""
    ended = 0
    for outage in models.Outage.objects.filter(ended_at=None).order_by("id"):
        probes = models.Probe.objects.filter(
            cluster=outage.cluster, slot_at__gte=outage.began_at, slot_at__lte=clock.to_datetime(at)
        ).order_by("-slot_at")
        latest = list(probes.values_list("passed", flat=True)[: shortfall.BACK_PROBES])
        if shortfall.is_back(latest):
            ended += _restore(outage.pk, at)
    return ended


def hold_back(*, cluster: catalog.Cluster, lots: int, valid_until: int) -> int:
    """Return what of newly certified lots is in force: none while the cluster is down.

    What is held back is certified when the cluster is back.
    """
    catalog.Cluster.objects.select_for_update(no_key=True).get(pk=cluster.pk)
    kept = models.Outage.objects.filter(cluster=cluster.pk, ended_at=None).update(
        lots=lots, valid_until=clock.to_datetime(valid_until)
    )
    return 0 if kept else lots


def _available(grade: str, until: int) -> dict[int, list[int]]:
    """Return what each cluster had in its last watched intervals until then, the latest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT allocation.cluster, sum(report.available_mntu)::bigint
            FROM settlement_allocation allocation
            JOIN settlement_deliveryreport report ON report.allocation_id = allocation.id
            WHERE allocation.grade = %(grade)s AND NOT report.is_suspended
              AND allocation.cluster <> 0
              AND allocation.starts_at >= %(since)s AND allocation.starts_at < %(until)s
              AND allocation.starts_at + report.interval * interval '5 minutes' <= %(until)s
            GROUP BY allocation.cluster, allocation.starts_at, report.interval
            ORDER BY allocation.cluster, allocation.starts_at DESC, report.interval DESC
            """,
            {
                "grade": grade,
                "since": clock.to_datetime(until - LOOK_BACK),
                "until": clock.to_datetime(until),
            },
        )
        found: dict[int, list[int]] = defaultdict(list)
        for cluster_id, available in cursor.fetchall():
            found[cluster_id].append(available)
    return found


def _suspend(cluster_id: int, at: int) -> bool:
    """Have nothing of a cluster certified any more; return whether it was until now."""
    cluster = catalog.Cluster.objects.select_for_update(no_key=True).get(pk=cluster_id)
    if cluster.state != catalog.Cluster.State.CERTIFIED:
        return False
    came_back = models.Outage.objects.filter(
        cluster=cluster_id, ended_at__gte=clock.to_datetime(at)
    )
    if came_back.exists():
        return False
    outage = models.Outage.objects.create(
        cluster=cluster_id,
        began_at=clock.to_datetime(at),
        lots=cluster.certified_lots,
        valid_until=cluster.certified_until,
    )
    cluster.state = catalog.Cluster.State.DOWN
    cluster.save(update_fields=["state"])
    _certify(f"down:{outage.pk}", cluster, 0, _micros(outage))
    return True


def _restore(outage_id: int, at: int) -> bool:
    """End an outage, and certify again what was, where that still holds; return whether it did."""
    row = models.Outage.objects.get(pk=outage_id)
    cluster = catalog.Cluster.objects.select_for_update(no_key=True).get(pk=row.cluster)
    outage = models.Outage.objects.select_for_update().get(pk=outage_id)
    if outage.ended_at is not None:
        return False
    outage.ended_at = clock.to_datetime(at)
    outage.save(update_fields=["ended_at"])
    if cluster.state == catalog.Cluster.State.DOWN:
        cluster.state = catalog.Cluster.State.REGISTERED
        cluster.save(update_fields=["state"])
        if outage.lots and _micros(outage) > at:
            _certify(f"back:{outage_id}", cluster, outage.lots, _micros(outage))
    return True


def _micros(outage: models.Outage) -> int:
    """Return until when the certificate holds; 0 where there is none."""
    return 0 if outage.valid_until is None else clock.to_micros(outage.valid_until)


def _certify(instruction_id: str, cluster: catalog.Cluster, lots: int, valid_until: int) -> None:
    """Instruct the machine to set what is certified."""
    timed = delivery.timed_lots(lots, cluster.replicas)
    operations.instruct(
        id=instruction_id,
        command=instructions.Certify(
            cluster=cluster.pk,
            account=cluster.organization_id,
            grade=cluster.grade_id,
            lots=lots,
            valid_until=valid_until,
            p0_lots=timed,
            timed_lots=timed,
        ),
    )
