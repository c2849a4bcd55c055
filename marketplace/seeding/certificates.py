"""The demo's clusters, and the rates they are certified for.

Each rate is found by the same search that certifies anybody's cluster. Clusters of one make are
the same to the search, so it runs once for each make, on two processors at a time.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import django
from django.db import transaction

from admission import certification, simulator
from admission import models as admission_models
from admission import operations as admission_operations
from marketplace import clock, models
from marketplace.seeding import catalog

PROCESSES = 2


def certify(
    made: catalog.Catalog, *, progress: Callable[[str], object]
) -> dict[tuple[int, str], int]:
    """Register every cluster of the seed and certify it; return lots by (account, grade)."""
    clusters = [
        admission_operations.register_cluster(
            organization_id=made.organizations[owner].pk,
            grade=grade.code,
            name=f"{grade.code} {accelerator} x{tensor_parallel * replicas}",
            accelerator=accelerator,
            tensor_parallel=tensor_parallel,
            replicas=replicas,
        )
        for grade in catalog.GRADES
        for owner, accelerator, tensor_parallel, replicas in grade.clusters
    ]
    plans = {cluster.pk: certification.plan(cluster) for cluster in clusters}
    distinct = list({repr(plan): plan for plan in plans.values()}.values())
    progress(f"certifying {len(clusters)} clusters of {len(distinct)} makes")
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), django.setup) as pool:
        found = pool.map(certification.search, distinct)
        reports = {repr(plan): report for plan, report in zip(distinct, found, strict=True)}
    lots: dict[tuple[int, str], int] = {}
    for cluster in clusters:
        report = reports[repr(plans[cluster.pk])]
        _record(cluster, report)
        key = cluster.organization_id, cluster.grade_id
        lots[key] = lots.get(key, 0) + report.certified_lots
    return lots


def _record(cluster: models.Cluster, report: simulator.Report) -> None:
    """Write the certification as the job that searches does, and instruct the machine."""
    with transaction.atomic():
        row = admission_models.Certification.objects.create(
            cluster=cluster.pk,
            state=admission_models.Certification.State.CERTIFIED,
            progress=100,
            lots=report.certified_lots,
            report=certification.shown(report),
            created_at=clock.now(),
            finished_at=clock.now(),
        )
        admission_operations.certify(
            cluster=cluster, certification_id=row.pk, lots=report.certified_lots
        )
