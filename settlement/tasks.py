"""Settlement's background work, and the two messages that wake it.

A message names a queue and nothing else; what there is to do stands in `Job` rows. Both tasks may
run twice, at once or never: the next sweep finds what is due.
"""

from typing import Any

from celery import shared_task
from django.db import connection, transaction

from marketplace import clock, contract
from settlement import (
    audit,
    heartbeats,
    jobs,
    kinds,
    operations,
    posting,
    queries,
    runs,
    seals,
    slots,
)
from settlement.kinds import Claim, Kind

SEAL_EVERY = contract.INTERVAL
SEAL_WINDOW = contract.HOUR
"""How far back is verified, at least, before a head is signed."""
PARTITIONS_AHEAD = 13
"""Months whose partitions are made ahead; the audit says when the next month's is missing."""
RECONCILE_EVERY = contract.HOUR
RECONCILE_WINDOW = 3 * contract.HOUR
"""How far back an hourly reconciliation looks; the one at 02:00 looks at everything."""
RECONCILE_FULL_HOUR = 2
SETTLE_DAY_LEASE_S = 300.0


@shared_task(name="settlement.sweep", ignore_result=True, bind=True)
def sweep(self: Any, /, **_: object) -> None:
    """Plan what has become due and wake workers; whoever sent this is alive."""
    heartbeats.heard(process=str(self.request.origin or ""), role=heartbeats.BEAT)
    jobs.sweep()


@shared_task(name=jobs.DOORBELL, ignore_result=True)
def work(*, queue: str = kinds.NORMAL, **_: object) -> None:
    """Do the due jobs of a queue."""
    kinds.load()
    if queue in kinds.queues():
        jobs.work(queue)


def grant_capacity(slot: str, at: int) -> None:
    """Issue what an hour's allocations entitle to."""
    grade, hour_starts_at = slots.read_hour(slot)
    operations.grant_capacity(grade=grade, hour_starts_at=hour_starts_at, at=at)


def settle_interval(slot: str, _at: int) -> None:
    """Instruct the machine to settle an interval that admission has reported on."""
    grade, hour_starts_at, interval = slots.read_interval(slot)
    operations.settle_interval(grade=grade, hour_starts_at=hour_starts_at, interval=interval)


def expire_capacity(slot: str, at: int) -> None:
    """Expire what nobody used of an hour."""
    grade, hour_starts_at = slots.read_hour(slot)
    operations.expire_capacity(grade=grade, hour_starts_at=hour_starts_at, at=at)


def settle_day(claim: Claim) -> None:
    """Settle a whole day again, by everything known now."""
    runs.settle(slot=claim.slot, at=claim.at, fence=lambda: jobs.fence(claim))


def open_insured_hour(slot: str, _at: int) -> None:
    """Have the hour that begins now paid by caps and cover, be anybody entitled in it or not."""
    hour_starts_at = slots.read_instant(slot)
    grades = queries.insured_hours(hour_starts_at)
    operations.open_hours((grade, hour_starts_at) for grade in grades)
    operations.open_days((grade, hour_starts_at) for grade in grades)


def seal(claim: Claim) -> None:
    """Sign the heads of the chains, once everything since the last seal verifies."""
    since = min(claim.at - SEAL_WINDOW, seals.last_at())
    with audit.one_moment():
        found = [
            finding for finding in audit.sealed(clock.to_datetime(since)) if finding.violations
        ]
    assert not found, "; ".join(str(finding) for finding in found)
    with transaction.atomic():
        jobs.fence(claim)
        seals.seal(claim.at)


def make_partitions(_slot: str, at: int) -> None:
    """Make the ledger's partitions of a year to come."""
    with connection.cursor() as cursor:
        posting.make_partitions(cursor, at=at, months=PARTITIONS_AHEAD)


def reconcile(claim: Claim) -> None:
    """Audit the ledger; a violation parks the job, where it is seen."""
    is_full = claim.at % contract.DAY // contract.HOUR == RECONCILE_FULL_HOUR
    since = None if is_full else clock.to_datetime(claim.at - RECONCILE_WINDOW)
    with audit.one_moment():
        found = [finding for finding in audit.run(since=since) if finding.violations]
    assert not found, "; ".join(str(finding) for finding in found)


def prune_jobs(_slot: str, at: int) -> None:
    """Forget old finished jobs of periodic kinds."""
    jobs.prune(at)


kinds.register(
    Kind(
        name="grant_capacity",
        queue=kinds.URGENT,
        schedule=kinds.AtGateClosure(),
        handler=grant_capacity,
    )
)
kinds.register(
    Kind(
        name=kinds.SETTLE_INTERVAL,
        queue=kinds.URGENT,
        schedule=kinds.PerInterval(),
        handler=settle_interval,
        after=kinds.REPORT_INTERVAL,
    )
)
kinds.register(
    Kind(
        name="expire_capacity",
        queue=kinds.URGENT,
        schedule=kinds.AfterHour(),
        handler=expire_capacity,
        after=kinds.REPORT_INTERVAL,
    )
)
kinds.register(
    Kind(
        name=kinds.SETTLE_DAY,
        queue=kinds.URGENT,
        schedule=kinds.AfterDay(),
        long_handler=settle_day,
        after=kinds.REVIEW_DAY,
        lease_s=SETTLE_DAY_LEASE_S,
    )
)
kinds.register(
    Kind(
        name="open_insured_hour",
        queue=kinds.URGENT,
        schedule=kinds.Every(period=contract.HOUR, catch_up=True),
        handler=open_insured_hour,
    )
)
kinds.register(Kind(name="seal", schedule=kinds.Every(period=SEAL_EVERY), long_handler=seal))
kinds.register(
    Kind(
        name="make_partitions",
        schedule=kinds.Every(period=contract.DAY),
        handler=make_partitions,
        is_awaited=False,
    )
)
kinds.register(
    Kind(
        name="reconcile",
        schedule=kinds.Every(period=RECONCILE_EVERY),
        long_handler=reconcile,
        is_awaited=False,
    )
)
kinds.register(
    Kind(
        name="prune_jobs",
        schedule=kinds.Every(period=contract.DAY),
        handler=prune_jobs,
        is_awaited=False,
    )
)
