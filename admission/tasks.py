"""Admission's background work, registered with settlement's queue of record.

`meter_usage` posts what the gateways metered; `report_interval` tells settlement what every
allocation had; `probe` asks every cluster that serves somebody whether it does; `certify`
searches for the rate a cluster may sell. All of them find in the rows what they have already
done.
"""

from django.db import transaction

from admission import (
    certification,
    consumption,
    demand,
    models,
    operations,
    outages,
    reporting,
    shortfall,
    simulator,
    transparency_log,
)
from marketplace import clock, contract
from marketplace import models as catalog
from settlement import jobs, kinds, slots
from settlement import models as clearing
from settlement import operations as clearing_operations
from settlement import queries as settlement_queries
from settlement.kinds import Claim, Kind

METER_EVERY = 2 * contract.MICROS_PER_SECOND
CERTIFY_LEASE_S = 120.0
REVIEW_DAY_LEASE_S = 300.0
GROW_LOG_LEASE_S = 120.0
CERTIFY_WAIT_S = 20.0
"""How long a certification waits for the machine to take its result."""


class NotTaken(Exception):
    """The machine has not taken an instruction yet; the job is tried again."""


def meter_usage(_slot: str, at: int) -> None:
    """Post what was metered, until nothing new is there."""
    while consumption.consume(at) == consumption.EVENTS_MAX:
        pass


def report_interval(slot: str, at: int) -> None:
    """Report on an interval that ended a minute ago."""
    grade, hour_starts_at, number = slots.read_interval(slot)
    interval = demand.Interval(grade=grade, hour_starts_at=hour_starts_at, number=number)
    reporting.report(interval, at)


def pay_insurance(slot: str, _at: int) -> None:
    """Have an hour's price caps paid, on what their holders have used in it."""
    grade, hour_starts_at = slots.read_hour(slot)
    if grade not in settlement_queries.insured_hours(hour_starts_at):
        return
    holders = settlement_queries.cap_holders(grade, hour_starts_at)
    used = reporting.metered(grade, hour_starts_at) if holders else {}
    clearing_operations.pay_insurance(
        grade=grade,
        hour_starts_at=hour_starts_at,
        metered={holder: used[holder] for holder in holders if used.get(holder)},
    )


def review_day(claim: Claim) -> None:
    """Look again at every interval of a day, before it is settled finally: an hour at a time."""
    grade, day_starts_at, _ = slots.read_run(claim.slot)
    for hour_starts_at in range(day_starts_at, day_starts_at + contract.DAY, contract.HOUR):
        with transaction.atomic():
            jobs.fence(claim)
            for number in range(1, contract.INTERVALS_PER_HOUR + 1):
                interval = demand.Interval(
                    grade=grade, hour_starts_at=hour_starts_at, number=number
                )
                reporting.review(interval, claim.at)
            holders = settlement_queries.insured_by_caps(grade, hour_starts_at)
            if holders:
                used = reporting.metered(grade, hour_starts_at)
                clearing_operations.note_insured_usage(
                    grade=grade,
                    hour_starts_at=hour_starts_at,
                    metered={holder: used.get(holder, 0) for holder in holders},
                )


def probe(claim: Claim) -> None:
    """Probe every cluster that serves somebody now, or is down; what was probed stays as it is."""
    slot_at = slots.read_instant(claim.slot)
    hour = clock.to_datetime(contract.hour_start(slot_at))
    rows = settlement_queries.entitlements_snapshot(starts_at=hour)
    for cluster_id in sorted({row.cluster for row in rows} - {0} | set(outages.down())):
        found = models.Probe.objects.filter(cluster=cluster_id, slot_at=clock.to_datetime(slot_at))
        if found.exists():
            continue
        outcome = operations.probe(cluster_id)
        if outcome is None:
            continue
        with transaction.atomic():
            jobs.fence(claim)
            models.Probe.objects.bulk_create(
                [
                    models.Probe(
                        cluster=cluster_id,
                        slot_at=clock.to_datetime(slot_at),
                        passed=outcome[0],
                        reason=outcome[1],
                    )
                ],
                ignore_conflicts=True,
            )
    with transaction.atomic():
        jobs.fence(claim)
        outages.end(slot_at)


def grow_log(slot: str, _at: int) -> None:
    """Take receipts and keys into the log, and sign its head."""
    transparency_log.grow(slots.read_instant(slot))


def find_outages(slot: str, _at: int) -> None:
    """Suspend the clusters that are down after an interval that was reported on."""
    grade, hour_starts_at, number = slots.read_interval(slot)
    ends_at = hour_starts_at + number * contract.INTERVAL
    outages.find(grade=grade, interval_ends_at=ends_at)


def certify(claim: Claim) -> None:
    """Search for the rate a cluster may sell, and have the machine take it.

    The search is the same every time, so a worker that died in it is simply replaced; a result that
    is there is not searched for again.
    """
    row = models.Certification.objects.get(pk=int(claim.slot))
    state = models.Certification.State
    if row.state not in (state.PENDING, state.RUNNING):
        return
    cluster = catalog.Cluster.objects.select_related("grade").get(pk=row.cluster)
    if row.lots is None:
        report = _search(claim, row, cluster)
        with transaction.atomic():
            jobs.fence(claim)
            row.lots, row.report, row.progress = (
                report.certified_lots,
                certification.shown(report),
                99,
            )
            row.save(update_fields=["lots", "report", "progress"])
    assert row.lots is not None, "a search has a result"
    with transaction.atomic():
        jobs.fence(claim)
        instruction = operations.certify(cluster=cluster, certification_id=row.pk, lots=row.lots)
    outcome = settlement_queries.wait_for_instruction(instruction, timeout_s=CERTIFY_WAIT_S)
    is_taken = outcome.state == clearing.Instruction.State.APPLIED
    with transaction.atomic():
        jobs.fence(claim)
        row.state = state.CERTIFIED if is_taken and row.lots else state.REFUSED
        row.progress, row.finished_at = 100, clock.now()
        row.save(update_fields=["state", "progress", "finished_at"])


def _search(claim: Claim, row: models.Certification, cluster: catalog.Cluster) -> simulator.Report:
    """Search on the cluster model, showing how far it is."""

    def show(percent: int, found: str) -> None:
        with transaction.atomic():
            jobs.progress(claim, {"percent": percent, "found": found})
            models.Certification.objects.filter(pk=row.pk).update(
                state=models.Certification.State.RUNNING, progress=min(percent, 98)
            )

    return certification.search(certification.plan(cluster), progress=show)


kinds.register(
    Kind(
        name="meter_usage",
        queue=kinds.URGENT,
        schedule=kinds.Repeat(period=METER_EVERY),
        handler=meter_usage,
    )
)
kinds.register(
    Kind(
        name=kinds.REPORT_INTERVAL,
        queue=kinds.URGENT,
        schedule=kinds.PerInterval(),
        handler=report_interval,
    )
)
kinds.register(
    Kind(
        name="pay_insurance",
        queue=kinds.URGENT,
        schedule=kinds.AfterHour(),
        handler=pay_insurance,
        after=kinds.SETTLE_INTERVAL,
    )
)
kinds.register(
    Kind(
        name=kinds.REVIEW_DAY,
        queue=kinds.URGENT,
        schedule=kinds.AfterDay(is_repeated=False),
        long_handler=review_day,
        lease_s=REVIEW_DAY_LEASE_S,
    )
)
kinds.register(
    Kind(
        name="find_outages",
        schedule=kinds.PerInterval(),
        handler=find_outages,
        after=kinds.REPORT_INTERVAL,
    )
)
kinds.register(
    Kind(
        name="grow_log",
        schedule=kinds.Every(period=contract.INTERVAL),
        handler=grow_log,
        lease_s=GROW_LOG_LEASE_S,
    )
)
kinds.register(
    Kind(
        name="probe",
        schedule=kinds.Every(period=shortfall.PROBE_PERIOD),
        long_handler=probe,
        is_awaited=False,
    )
)
kinds.register(
    Kind(
        name=operations.CERTIFY,
        long_handler=certify,
        lease_s=CERTIFY_LEASE_S,
        is_awaited=False,
    )
)
