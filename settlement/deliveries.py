"""Deliveries as their two parties see them: one row per allocation, with all that was said.

Three figures stand beside each other: the gateway's, by which it is settled, the seller's and the
holder's. What cover has delivered its holder got and its seller did not deliver, so the gateway's
figure is with it for the one and without it for the other; of what was in escrow for it, whoever
covered was paid `covered_micros`. Beside them is what its intervals paid
and what later runs have added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet

from settlement import models


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An allocation in its hour; tokens in mNTU, amounts in micro-USD, corrections signed."""

    id: int
    holder: int
    seller: int
    cluster: int
    grade: str
    starts_at: datetime
    lots: int
    price_ticks: int
    intervals: int
    """How many are settled."""
    available_mntu: int
    short_mntu: int
    covered_mntu: int
    gateway_mntu: int
    seller_mntu: int | None
    holder_mntu: int | None
    is_different: bool
    """Whether a run has found that the figures do not agree."""
    released_micros: int
    covered_micros: int
    refunded_micros: int
    compensated_micros: int
    corrected_delivery_micros: int
    corrected_damages_micros: int
    runs: int

    @property
    def corrected_micros(self) -> int:
        """What later runs have added in all; above zero it went to the holder."""
        return self.corrected_delivery_micros + self.corrected_damages_micros

    @property
    def state(self) -> str:
        """`delivering`, then `provisional` until D+1 02:00, `final`, and `closed` from D+14."""
        if self.runs:
            return "final" if self.runs == 1 else "closed"
        return "provisional" if self.intervals == 12 else "delivering"


_DELIVERIES = """
    WITH chosen AS (
        SELECT * FROM settlement_allocation
        WHERE (holder = %(organization)s OR seller = %(organization)s)
          AND (%(number)s::bigint IS NULL OR id = %(number)s)
          AND (%(before_at)s::timestamptz IS NULL
               OR (starts_at, id) < (%(before_at)s, %(before_id)s))
        ORDER BY starts_at DESC, id DESC LIMIT %(limit)s
    )
    SELECT chosen.id, holder, seller, cluster, chosen.grade, starts_at, lots, price_ticks,
           paid.intervals, paid.available_mntu, paid.short_mntu,
           helped.mntu AS covered_mntu,
           CASE seller WHEN %(organization)s THEN metered.gateway_mntu - helped.mntu
           ELSE metered.gateway_mntu END AS gateway_mntu,
           (SELECT mntu FROM settlement_deliveryfigure said
            WHERE said.allocation_id = chosen.id AND party = 'SELLER'
            ORDER BY said.id DESC LIMIT 1) AS seller_mntu,
           (SELECT mntu FROM settlement_deliveryfigure said
            WHERE said.allocation_id = chosen.id AND party = 'HOLDER'
            ORDER BY said.id DESC LIMIT 1) AS holder_mntu,
           EXISTS (SELECT 1 FROM settlement_deliverydifference found
                   WHERE found.allocation_id = chosen.id) AS is_different,
           paid.released_micros, shared.covered_micros, paid.refunded_micros,
           paid.compensated_micros,
           added.delivery AS corrected_delivery_micros,
           added.damages AS corrected_damages_micros,
           (SELECT count(*) FROM settlement_settlementrun run
            WHERE run.grade = chosen.grade
              AND run.delivery_date = (starts_at AT TIME ZONE 'UTC')::date) AS runs
    FROM chosen,
    LATERAL (
        SELECT count(*) AS intervals,
               coalesce(sum(available_mntu), 0)::bigint AS available_mntu,
               coalesce(sum(short_mntu), 0)::bigint AS short_mntu,
               coalesce(sum(released_micros), 0)::bigint AS released_micros,
               coalesce(sum(refunded_micros), 0)::bigint AS refunded_micros,
               coalesce(sum(compensated_micros), 0)::bigint AS compensated_micros
        FROM settlement_intervalsettlement WHERE allocation_id = chosen.id) paid,
    LATERAL (
        SELECT coalesce(sum(coalesce(known.delivered_mntu, report.delivered_mntu)), 0)
               ::bigint AS gateway_mntu
        FROM settlement_deliveryreport report
        LEFT JOIN LATERAL (
            SELECT delivered_mntu FROM settlement_deliveryrevision revision
            WHERE revision.allocation_id = chosen.id
              AND revision.interval = report.interval
            ORDER BY revision.id DESC LIMIT 1) known ON true
        WHERE report.allocation_id = chosen.id) metered,
    LATERAL (SELECT coalesce(sum(mntu), 0)::bigint AS mntu
             FROM settlement_deliverycover WHERE allocation_id = chosen.id) helped,
    LATERAL (SELECT coalesce(sum(released_micros), 0)::bigint AS covered_micros
             FROM settlement_coversettlement WHERE allocation_id = chosen.id) shared,
    LATERAL (
        SELECT coalesce(sum(delivery_micros), 0)::bigint AS delivery,
               coalesce(sum(damages_micros), 0)::bigint AS damages
        FROM settlement_deliverycorrection WHERE allocation_id = chosen.id) added
    ORDER BY starts_at DESC, chosen.id DESC
"""


def deliveries(
    organization_id: int,
    *,
    before: tuple[datetime, int] | None = None,
    number: int | None = None,
    limit: int = 100,
) -> list[Delivery]:
    """Return deliveries that an organization is a party to, or one, the latest hour first."""
    with connection.cursor() as cursor:
        cursor.execute(
            _DELIVERIES,
            {
                "organization": organization_id,
                "number": number,
                "before_at": before[0] if before else None,
                "before_id": before[1] if before else None,
                "limit": limit,
            },
        )
        names = [column.name for column in cursor.description or ()]
        return [_delivery(names, row) for row in cursor.fetchall()]


def _delivery(names: Sequence[str], row: Sequence[Any]) -> Delivery:
    return Delivery(**dict(zip(names, row, strict=True)))


def corrections(allocation: int) -> QuerySet[models.DeliveryCorrection]:
    """Return what later runs have added to a delivery, in order."""
    return models.DeliveryCorrection.objects.filter(allocation=allocation).order_by("at", "id")


def slots(organization_id: int) -> QuerySet[models.SlotSettlement]:
    """Return what became of an organization's slots, the latest hour first."""
    return models.SlotSettlement.objects.filter(organization_id=organization_id).order_by(
        "-starts_at", "-id"
    )


def insurance_corrections(organization_id: int) -> QuerySet[models.InsuranceCorrection]:
    """Return what runs added to an organization's insured hours, the latest first."""
    return models.InsuranceCorrection.objects.filter(organization_id=organization_id).order_by(
        "-id"
    )


def disputes(organization_id: int | None = None) -> QuerySet[models.Dispute]:
    """Return disputes about deliveries of an organization, or all of them, the newest first."""
    found = models.Dispute.objects.select_related("allocation").order_by("-id")
    if organization_id is None:
        return found
    return found.filter(
        Q(allocation__holder=organization_id) | Q(allocation__seller=organization_id)
    )
