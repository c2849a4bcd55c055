"""Slices of packages: what a holder sells on, to everybody or to one organization (RULEBOOK 4.7).

Nobody is sold anything against its will: an offer is a row, and the buyer, whose money it is, takes
it. Each taking is an instruction of its own; one that the machine refuses puts the offer back,
unless what is refused is the slice itself. The fee is the grade's at the time of the offer.
"""

from django.db import connection
from django.db.models import Q, QuerySet

from marketplace import clock, contract, errors, models, operations, package_terms, packages
from settlement import instructions
from settlement import models as settlement_models
from settlement import operations as settlement_operations
from settlement import packages as rules

State = models.PackageSlice.State
FAULTS_OF_THE_SLICE = frozenset(
    {"package_unknown", "exceeds_package", "deadline_passed", "invalid_terms"}
)
"""Refusals after which nobody else can buy it either."""


class ExceedsPackage(errors.Refusal):
    """The slice has more than the package."""

    code, status, title = "exceeds_package", 422, "The slice exceeds the package"


class SliceGone(errors.Refusal):
    """The slice cannot be bought or withdrawn any more."""

    code, status, title = "slice_gone", 422, "The slice is gone"


def offer(
    *,
    organization_id: int,
    package_id: int,
    starts_at: int,
    ends_at: int,
    lots: rules.Pattern,
    p1_lots: rules.Pattern,
    price_ticks: int,
    buyer_id: int | None,
    now: int,
) -> models.PackageSlice:
    """Offer a slice of a package in the caller's transaction.

    :raises NotFound: when the organization holds no such package, or there is no such buyer.
    :raises InvalidPackage: when it is no range of full hours, or no schedule.
    :raises TermPassed: when the gate of its first hour is closed.
    :raises ExceedsPackage: when it has more than the package in some hour.
    """
    assert connection.in_atomic_block, "an offer is noted with its idempotency record"
    package = packages.package_of(organization_id=organization_id, package_id=package_id)
    if buyer_id is not None and not models.Organization.objects.filter(pk=buyer_id).exists():
        raise errors.NotFound()
    if starts_at % contract.HOUR or ends_at % contract.HOUR or starts_at >= ends_at:
        raise package_terms.InvalidPackage("a slice is a range of full hours")
    if ends_at - starts_at > rules.TERM_DAYS_MAX * contract.DAY:
        raise package_terms.InvalidPackage(f"a slice is at most {rules.TERM_DAYS_MAX} days")
    package_terms.check_lots(lots, p1_lots)
    if starts_at < packages.first_open_hour(now):
        raise package_terms.TermPassed("the gate of its first hour is closed")
    slice_of = rules.Stretch(starts_at, ends_at, lots, p1_lots)
    if not packages.lot_hours([slice_of]):
        raise package_terms.InvalidPackage("no hour of the slice has lots")
    if rules.cut(packages.remaining(package, now=now), slice_of) is None:
        raise ExceedsPackage("the package has fewer lots in one of the hours")
    fee_bp = models.Grade.objects.get(pk=package.grade).resale_fee_bp
    return models.PackageSlice.objects.create(
        organization_id=organization_id,
        package=package_id,
        grade_id=package.grade,
        starts_at=clock.to_datetime(starts_at),
        ends_at=clock.to_datetime(ends_at),
        lots=list(lots),
        p1_lots=list(p1_lots),
        price_ticks=price_ticks,
        fee_bp=fee_bp,
        buyer_id=buyer_id,
        state=State.OFFERED,
        created_at=clock.to_datetime(now),
    )


def offered_to(organization_id: int, *, now: int, grade: str = "") -> QuerySet[models.PackageSlice]:
    """Return the slices that an organization can buy now, the newest first."""
    rows = models.PackageSlice.objects.filter(
        Q(buyer=None) | Q(buyer=organization_id),
        state=State.OFFERED,
        starts_at__gte=clock.to_datetime(packages.first_open_hour(now)),
    ).exclude(organization_id=organization_id)
    if grade:
        rows = rows.filter(grade_id=grade)
    return rows.select_related("organization", "buyer").order_by("-id")


def own(organization_id: int) -> QuerySet[models.PackageSlice]:
    """Return the slices that an organization has offered, the newest first."""
    return (
        models.PackageSlice.objects.filter(organization_id=organization_id)
        .select_related("organization", "buyer")
        .order_by("-id")
    )


def own_slice(*, organization_id: int, slice_id: int) -> models.PackageSlice:
    """Return a slice that the organization has offered.

    :raises NotFound: when there is none, or it is another organization's.
    """
    found = own(organization_id).filter(pk=slice_id).first()
    if found is None:
        raise errors.NotFound()
    return found


def withdraw(row: models.PackageSlice) -> models.PackageSlice:
    """Take an offer back; one that was withdrawn before stays so. Runs in a transaction.

    :raises SliceGone: when it is sold, or being bought.
    """
    row = _locked(row.pk)
    if row.state in (State.SOLD, State.PENDING):
        raise SliceGone("it was sold, or is being bought")
    if row.state == State.OFFERED:
        row.state, row.reason, row.ended_at = State.WITHDRAWN, "requested", clock.now()
        row.save(update_fields=["state", "reason", "ended_at"])
    return row


def take(*, organization_id: int, slice_id: int) -> models.PackageSlice:
    """Write a purchase of a slice and its instruction in the caller's transaction.

    :raises NotFound: when there is none, or it is for another organization alone.
    :raises SliceGone: when it was sold or withdrawn, or somebody is buying it.
    """
    assert connection.in_atomic_block, "a purchase is noted with its idempotency record"
    row = _locked(slice_id)
    if row.buyer_id not in (None, organization_id) and row.organization_id != organization_id:
        raise errors.NotFound()
    if row.state != State.OFFERED:
        raise SliceGone("it was sold or withdrawn, or is being bought")
    row.takings += 1
    row.taken_by_id = organization_id
    row.state = State.PENDING
    row.save(update_fields=["takings", "taken_by", "state"])
    settlement_operations.instruct(
        id=row.instruction,
        command=instructions.ResellPackage(
            package=row.package,
            holder=row.organization_id,
            buyer=organization_id,
            starts_at=clock.to_micros(row.starts_at),
            ends_at=clock.to_micros(row.ends_at),
            lots=tuple(row.lots),
            p1_lots=tuple(row.p1_lots),
            price_ticks=row.price_ticks,
            fee_bp=row.fee_bp,
        ),
    )
    return row


def finish(instruction_id: str) -> settlement_models.Package:
    """Return the package that a taken slice became, once the machine has taken it.

    :raises Refusal: with the machine's reason as its code.
    :raises OutcomeUnknown: when it did not take it in time; it will.
    """
    try:
        operations.accepted(instruction_id)
    finally:
        _learn(int(instruction_id.split(":")[1]))
    return settlement_models.Package.objects.get(instruction=instruction_id)


def total_micros(row: models.PackageSlice) -> int:
    """Return what the buyer of a slice pays its holder."""
    return rules.price_micros(price_ticks=row.price_ticks, lot_hours=lot_hours(row))


def lot_hours(row: models.PackageSlice) -> int:
    """Return the lots of a slice, summed over its hours."""
    return package_terms.lot_hours(
        row.lots, clock.to_micros(row.starts_at), clock.to_micros(row.ends_at)
    )


def fee_micros(row: models.PackageSlice) -> int:
    """Return what the holder pays when a slice is sold."""
    return rules.resale_fee(amount_micros=total_micros(row), fee_bp=row.fee_bp)


def _locked(slice_id: int) -> models.PackageSlice:
    """Return a slice, its row locked, as the machine has left it.

    :raises NotFound: when there is none.
    """
    _learn(slice_id)
    row = models.PackageSlice.objects.select_for_update().filter(pk=slice_id).first()
    if row is None:
        raise errors.NotFound()
    return row


def _learn(slice_id: int) -> None:
    """Note what the machine has said of the last try to buy a slice."""
    row = models.PackageSlice.objects.filter(pk=slice_id, state=State.PENDING).first()
    if row is None:
        return
    outcome = settlement_models.Instruction.objects.get(pk=row.instruction)
    kinds = settlement_models.Instruction.State
    if outcome.state == kinds.PENDING:
        return
    if outcome.state == kinds.APPLIED:
        state = State.SOLD
    else:
        is_over = outcome.reason in FAULTS_OF_THE_SLICE
        state = State.WITHDRAWN if is_over else State.OFFERED
    models.PackageSlice.objects.filter(pk=row.pk, takings=row.takings, state=State.PENDING).update(
        state=state,
        reason=outcome.reason[:40],
        ended_at=None if state == State.OFFERED else clock.now(),
    )
