"""What parties say of a delivery that is over: figures of their own, and objections.

*Figures.* The seller and the holder may each say how much an allocation delivered in its hour. The
hour is settled at the gateway's own count whatever they say; the day's final run raises a
`DeliveryDifference` for every allocation on which somebody differs (FAULTS 92).

*Disputes.* Either party may object to intervals of an allocation, from their settlement until two
days before the day's last run (D+14). An operator decides; where the decision moves more than
`DECIDED_ALONE_MICROS_MAX` a second operator, of another organization, has to name the same figures.
A decision moves no money: it writes what the intervals were (`DeliveryRevision`), and the next run
posts the difference. What nobody decided lapses with the last run.
"""

from collections.abc import Sequence
from datetime import datetime

from django.db import connection, transaction
from django.db.models import F, Sum

from marketplace import clock, contract, errors
from settlement import models, planning, runs
from settlement import resettlement as rules

DISPUTED_UNTIL = 2 * contract.DAY
"""How long before the last run disputes end, so that somebody can decide them."""
DECIDED_ALONE_MICROS_MAX = 100_000_000
"""What one operator may decide on, in money moved and in what cover was paid: 100 USD."""
FIGURES_MAX = 20
"""How often a party may correct its figure of an allocation."""
FIGURE_MNTU_MAX = 10**15
REASON_CHARACTERS_MAX = 240

_State = models.Dispute.State
_UNDECIDED = (_State.OPEN, _State.PROPOSED)


class TooLate(errors.Refusal):
    """The time for it is over."""

    code, status, title = "dispute_too_late", 422, "Too late"


class IntervalNotSettled(errors.Refusal):
    """There is nothing to object to yet."""

    code, status, title = "interval_not_settled", 422, "Interval is not settled yet"


class AlreadyDisputed(errors.Refusal):
    """One of the intervals is under a dispute that nobody has decided."""

    code, status, title = "already_disputed", 422, "Already disputed"


class DisputeClosed(errors.Refusal):
    """It was decided, withdrawn or lapsed."""

    code, status, title = "dispute_closed", 422, "Dispute is closed"


class OwnDispute(errors.Refusal):
    """A party does not decide."""

    code, status, title = "own_dispute", 422, "Parties do not decide"


class SecondOperatorRequired(errors.Refusal):
    """Whoever proposes cannot confirm."""

    code, status, title = "second_operator_required", 422, "Second operator required"


class FiguresClosed(errors.Refusal):
    """The hour is not over, its day is settled, or there were too many."""

    code, status, title = "figures_closed", 422, "Figures are not taken"


def disputed_until(hour_starts_at: datetime) -> int:
    """Return the instant from which deliveries of an hour's day are not disputed any more."""
    return planning.run_due_at(runs.day_of(hour_starts_at), runs.REVISION) - DISPUTED_UNTIL


def figures_until(hour_starts_at: datetime) -> int:
    """Return the instant from which no figure of an hour is taken: its day's final run."""
    return planning.run_due_at(runs.day_of(hour_starts_at), runs.FINAL)


# Figures


def report_figure(
    *, organization_id: int, allocation_id: int, mntu: int, at: int
) -> models.DeliveryFigure:
    """Note what a party says an allocation delivered; the latest before the final run stands.

    :raises NotFound: when the organization is no party to it.
    :raises FiguresClosed: before the hour is over, after its day is settled, or too often.
    """
    assert 0 <= mntu <= FIGURE_MNTU_MAX, "a figure is checked at the door"
    with transaction.atomic():
        allocation = _allocation(organization_id, allocation_id)
        party = models.DeliveryFigure.Party
        role = party.HOLDER if allocation.holder == organization_id else party.SELLER
        starts_at = clock.to_micros(allocation.starts_at)
        if not starts_at + contract.HOUR <= at < figures_until(allocation.starts_at):
            raise FiguresClosed("figures are taken from the hour's end until 02:00 on the next day")
        said = models.DeliveryFigure.objects.filter(allocation=allocation, party=role)
        if said.count() >= FIGURES_MAX:
            raise FiguresClosed(f"a party corrects its figure at most {FIGURES_MAX} times")
        return models.DeliveryFigure.objects.create(
            allocation=allocation, party=role, mntu=mntu, at=clock.to_datetime(at)
        )


# Disputes


def open_dispute(
    *, organization_id: int, allocation_id: int, intervals: Sequence[int], reason: str, at: int
) -> models.Dispute:
    """Object to intervals of an allocation.

    :raises NotFound: when the organization is no party to it.
    :raises TooLate: when the time for it is over.
    :raises IntervalNotSettled: when one of them is not settled yet.
    :raises AlreadyDisputed: when one of them is disputed already.
    """
    wanted = sorted(set(intervals))
    assert wanted, "something is disputed"
    with transaction.atomic():
        allocation = _allocation(organization_id, allocation_id)
        if at >= disputed_until(allocation.starts_at):
            raise TooLate("a delivery is disputed until 02:00 on D+12")
        settled = models.IntervalSettlement.objects.filter(
            allocation=allocation, interval__in=wanted
        ).count()
        if settled < len(wanted):
            raise IntervalNotSettled("an interval is disputed once it is settled")
        open_ones = models.Dispute.objects.filter(allocation=allocation, state__in=_UNDECIDED)
        if any(set(one.intervals) & set(wanted) for one in open_ones):
            raise AlreadyDisputed("an open dispute has one of the intervals")
        return models.Dispute.objects.create(
            allocation=allocation,
            intervals=wanted,
            opened_by=organization_id,
            reason=reason,
            state=_State.OPEN,
            opened_at=clock.to_datetime(at),
        )


def withdraw_dispute(*, organization_id: int, dispute_id: int, at: int) -> models.Dispute:
    """Take an objection back; only whoever opened it can.

    :raises NotFound: when the organization has opened no such dispute.
    :raises DisputeClosed: when it is over.
    """
    with transaction.atomic():
        dispute = _lock(dispute_id)
        if dispute.opened_by != organization_id:
            raise errors.NotFound()
        if dispute.state not in _UNDECIDED:
            raise DisputeClosed("the dispute is over")
        dispute.state, dispute.decided_at = _State.WITHDRAWN, clock.to_datetime(at)
        dispute.save(update_fields=["state", "decided_at"])
    return dispute


def reject(*, dispute_id: int, operator_id: int, reason: str, at: int) -> models.Dispute:
    """Decide against a dispute: what was settled stands.

    :raises NotFound: when there is no such dispute.
    :raises DisputeClosed: when it is over.
    :raises OwnDispute: when the operator is a party.
    """
    assert connection.in_atomic_block, "a decision stands or falls with its audit entry"
    dispute = _to_decide(dispute_id, operator_id)
    dispute.state = _State.REJECTED
    dispute.decision = reason
    dispute.proposed_by = None if dispute.proposed_by == operator_id else dispute.proposed_by
    dispute.decided_by, dispute.decided_at = operator_id, clock.to_datetime(at)
    dispute.save()
    return dispute


def uphold(
    *,
    dispute_id: int,
    operator_id: int,
    available_mntu: int,
    short_mntu: int,
    reason: str,
    at: int,
) -> models.Dispute:
    """Decide for a dispute: each of its intervals had this available, and this was missed.

    It is decided where little moves, or where another operator has named the same figures; else it
    is proposed, in place of what was proposed before.

    :raises NotFound: when there is no such dispute.
    :raises DisputeClosed: when it is over.
    :raises OwnDispute: when the operator is a party.
    :raises SecondOperatorRequired: when the operator has proposed this already.
    :raises Malformed: when an interval cannot have had as much.
    """
    assert connection.in_atomic_block, "a decision stands or falls with its audit entry"
    dispute = _to_decide(dispute_id, operator_id)
    most = dispute.allocation.lots * contract.MNTU_PER_LOT_INTERVAL
    for name, mntu in (("available_ntu", available_mntu), ("short_ntu", short_mntu)):
        if not 0 <= mntu <= most:
            raise errors.Malformed(
                "an interval has at most what its lots are",
                errors=[errors.FieldError(field=name, code="out_of_range")],
            )
    moves = _moved(dispute, available_mntu, short_mntu)
    moment = clock.to_datetime(at)
    named = (dispute.available_mntu, dispute.short_mntu) == (available_mntu, short_mntu)
    is_second = dispute.state == _State.PROPOSED and named
    if moves > DECIDED_ALONE_MICROS_MAX and is_second and dispute.proposed_by == operator_id:
        raise SecondOperatorRequired("another operator has to name the same figures")
    dispute.available_mntu, dispute.short_mntu = available_mntu, short_mntu
    dispute.moves_micros, dispute.decision = moves, reason
    if moves > DECIDED_ALONE_MICROS_MAX and not is_second:
        dispute.state = _State.PROPOSED
        dispute.proposed_by, dispute.proposed_at = operator_id, moment
        dispute.save()
        return dispute
    if not is_second:
        dispute.proposed_by = dispute.proposed_at = None
    dispute.state = _State.UPHELD
    dispute.decided_by, dispute.decided_at = operator_id, moment
    dispute.save()
    _revise(dispute, moment)
    return dispute


def _to_decide(dispute_id: int, operator_id: int) -> models.Dispute:
    """Return a dispute that the operator may decide, locked."""
    dispute = _lock(dispute_id)
    if operator_id in (dispute.allocation.holder, dispute.allocation.seller):
        raise OwnDispute("a party to the delivery does not decide")
    day = runs.day_of(dispute.allocation.starts_at)
    is_over = models.SettlementRun.objects.filter(
        grade=dispute.allocation.grade,
        delivery_date=clock.to_datetime(day).date(),
        kind=runs.REVISION,
    ).exists()
    if dispute.state not in _UNDECIDED or is_over:
        raise DisputeClosed("the dispute is over")
    return dispute


def _moved(dispute: models.Dispute, available_mntu: int, short_mntu: int) -> int:
    """Return what deciding so moves between the parties, back or forth, in micro-USD.

    What cover was paid in these intervals counts too: it was moved by the figures that are decided
    on, though nothing takes it back.
    """
    (found,) = runs.gather_hour(dispute.allocation)
    owed = runs.owed_with(
        found,
        intervals=dispute.intervals,
        available_mntu=available_mntu,
        short_mntu=short_mntu,
    )
    added = rules.difference(
        refunded=owed[0],
        due=owed[1],
        posted=found.posted,
    )
    covered = models.CoverSettlement.objects.filter(
        allocation=dispute.allocation_id, interval__in=dispute.intervals
    ).aggregate(micros=Sum(F("released_micros") + F("excess_micros"), default=0))
    return abs(added.delivery) + abs(added.damages) + int(covered["micros"])


def _revise(dispute: models.Dispute, moment: datetime) -> None:
    """Write what the disputed intervals were, for the next run."""
    (found,) = runs.gather_hour(dispute.allocation)
    used = {one.number: one.delivered_mntu for one in found.delivered.intervals}
    assert dispute.available_mntu is not None, "it was decided with figures"
    assert dispute.short_mntu is not None, "it was decided with figures"
    models.DeliveryRevision.objects.bulk_create(
        [
            models.DeliveryRevision(
                allocation_id=dispute.allocation_id,
                interval=interval,
                source=models.DeliveryRevision.Source.DISPUTE,
                dispute=dispute,
                available_mntu=dispute.available_mntu,
                short_mntu=dispute.short_mntu,
                delivered_mntu=used[interval],
                at=moment,
            )
            for interval in dispute.intervals
        ]
    )


def _allocation(organization_id: int, allocation_id: int) -> models.Allocation:
    """Return an allocation that the organization is a party to, locked.

    :raises NotFound: when there is none.
    """
    row = models.Allocation.objects.select_for_update(no_key=True).filter(id=allocation_id).first()
    if row is None or organization_id not in (row.holder, row.seller):
        raise errors.NotFound()
    return row


def _lock(dispute_id: int) -> models.Dispute:
    """Return a dispute with its allocation, locked.

    :raises NotFound: when there is none.
    """
    row = (
        models.Dispute.objects.select_for_update(no_key=True, of=("self",))
        .select_related("allocation")
        .filter(id=dispute_id)
        .first()
    )
    if row is None:
        raise errors.NotFound()
    return row
