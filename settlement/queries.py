"""What the clearing house shows: money, positions, ledger, entitlements, settlements, open work.

Amounts are micro-USD, tokens mNTU, instants datetimes; text forms are the edge's. An organization
without rows yet has zeros, not nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import BigIntegerField, Exists, F, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from marketplace import clock, contract
from marketplace.errors import NotFound, OutcomeUnknown
from marketplace.models import Instrument
from settlement import backlog, models

INSTRUCTION_POLL_S = 0.015
INSTRUCTION_TIMEOUT_S = 5.0
INSTRUCTION_LONG_WAIT_S = 0.25
"""How long the engine takes when nothing is wrong, and to spare."""
INSTRUCTION_LONG_POLL_S = 0.1
CONTIGUOUS_HOURS_MAX = 48


def account(organization_id: int) -> models.MarginAccount:
    """Return what the machine last said of an organization's money."""
    row = models.MarginAccount.objects.filter(organization_id=organization_id).first()
    return row or models.MarginAccount(organization_id=organization_id, updated_at=clock.now())


def lacking(row: models.MarginAccount) -> int:
    """Return how much cash an account lacks of its initial margin, which is what meets a call."""
    return max(0, row.initial_margin_micros - row.cash_micros)


def positions(organization_id: int) -> QuerySet[models.Position]:
    """Return the open positions of an organization in order of symbol."""
    return (
        models.Position.objects.filter(organization_id=organization_id)
        .exclude(net_lots=0)
        .order_by("symbol", "id")
    )


def margined_positions(organization_id: int) -> QuerySet[models.Position]:
    """Return the positions that have margin behind them or are open, in order of symbol."""
    return (
        models.Position.objects.filter(organization_id=organization_id)
        .exclude(net_lots=0, initial_margin_micros=0)
        .order_by("symbol", "id")
    )


def open_obligations(organization_id: int) -> QuerySet[models.Obligation]:
    """Return what an organization owes in hours that are not settled to the end, in their order."""
    delivering = Instrument.objects.filter(
        product=contract.Product.HOUR, state=contract.InstrumentState.CLOSED
    )
    return models.Obligation.objects.filter(
        Exists(delivering.filter(grade_id=OuterRef("grade"), starts_at=OuterRef("starts_at"))),
        organization_id=organization_id,
        starts_at__in=delivering.values("starts_at"),
    ).order_by("starts_at", "id")


# Instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an instruction; `reason` says why it was refused."""

    id: str
    state: str
    reason: str
    sequence: int | None
    applied_at: datetime | None

    @property
    def is_applied(self) -> bool:
        """Whether it was carried out."""
        return self.state == models.Instruction.State.APPLIED


def instruction(id: str) -> Outcome:  # noqa: A002 - the row's own name for it
    """Return where an instruction stands.

    :raises NotFound: when there is none.
    """
    row = (
        models.Instruction.objects.filter(id=id)
        .values_list("id", "state", "reason", "sequence", "applied_at")
        .first()
    )
    if row is None:
        raise NotFound(f"there is no instruction {id}")
    return Outcome(id=row[0], state=row[1], reason=row[2], sequence=row[3], applied_at=row[4])


def wait_for_instruction(
    id: str,  # noqa: A002 - the row's own name for it
    timeout_s: float = INSTRUCTION_TIMEOUT_S,
) -> Outcome:
    """Return what became of a committed instruction, waiting for the engine.

    :raises NotFound: when there is none.
    :raises OutcomeUnknown: when the engine has not taken it in time; it will be carried out once.
    """
    began_ns = clock.monotonic_ns()
    while True:
        outcome = instruction(id)
        if outcome.state != models.Instruction.State.PENDING:
            return outcome
        waited_s = (clock.monotonic_ns() - began_ns) / 1e9
        if waited_s >= timeout_s:
            raise OutcomeUnknown(f"instruction {id} waits for the engine")
        if waited_s < INSTRUCTION_LONG_WAIT_S or connection.in_atomic_block:
            time.sleep(INSTRUCTION_POLL_S)
        else:
            # The engine is away. A process has few connections: its other requests need them.
            connection.close()
            time.sleep(INSTRUCTION_LONG_POLL_S)


# Ledger


def chain_sequence(chain: str) -> int:
    """Return the sequence of the last transfer of a chain; where its writer goes on."""
    head = models.ChainHead.objects.filter(chain=chain).values_list("sequence", flat=True).first()
    return head or 0


# Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitlementRow:
    """An entitlement as its holder sees it; tokens in mNTU, rates in lots."""

    id: int
    grade: str
    starts_at: datetime
    ends_at: datetime
    lots: int
    p0_lots: int
    p1_lots: int
    p2_lots: int
    price_ticks: int
    escrow_micros: int
    clusters: tuple[int, ...]
    owed_mntu: int
    delivered_mntu: int
    remaining_mntu: int
    state: str
    """`scheduled`, `active`, `ended` or `settled`."""


def entitlements(
    organization_id: int,
    *,
    now: datetime,
    since: datetime | None = None,
    before: tuple[datetime, int] | None = None,
    limit: int = 100,
) -> list[EntitlementRow]:
    """Return entitlements of an organization, the latest hour first.

    `since` drops hours that ended before it; `before` is (starts_at, id) of the last row of the
    page before.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT entitlement.id, entitlement.grade, entitlement.starts_at, entitlement.lots,
                   entitlement.price_ticks, entitlement.escrow_micros, entitlement.delivered_mntu,
                   array(SELECT DISTINCT cluster FROM settlement_allocation
                         WHERE entitlement_id = entitlement.id AND cluster <> 0 ORDER BY cluster),
                   (SELECT coalesce(sum(p0_lots), 0)::bigint FROM settlement_allocation
                    WHERE entitlement_id = entitlement.id),
                   (SELECT coalesce(sum(p1_lots), 0)::bigint FROM settlement_allocation
                    WHERE entitlement_id = entitlement.id),
                   (SELECT count(*) FROM settlement_allocation allocation
                    WHERE entitlement_id = entitlement.id) * 12
                 - (SELECT count(*) FROM settlement_allocation allocation
                    JOIN settlement_intervalsettlement settled
                      ON settled.allocation_id = allocation.id
                    WHERE entitlement_id = entitlement.id)
            FROM settlement_entitlement entitlement
            WHERE entitlement.organization_id = %(organization)s
              AND (%(since)s::timestamptz IS NULL
                   OR starts_at > %(since)s::timestamptz - interval '1 hour')
              AND (%(before_at)s::timestamptz IS NULL
                   OR (starts_at, id) < (%(before_at)s, %(before_id)s))
            ORDER BY starts_at DESC, id DESC LIMIT %(limit)s
            """,
            {
                "organization": organization_id,
                "since": since,
                "before_at": before[0] if before else None,
                "before_id": before[1] if before else None,
                "limit": limit,
            },
        )
        return [_entitlement_row(row, now) for row in cursor.fetchall()]


def _entitlement_row(row: Sequence[Any], now: datetime) -> EntitlementRow:
    """Return a row of `entitlements` with what follows from it."""
    id_, grade, starts_at, lots, price_ticks, escrow, delivered, clusters, p0, p1, unsettled = row
    ends_at = starts_at + timedelta(hours=1)
    owed = lots * contract.MNTU_PER_LOT_HOUR
    if now < starts_at:
        state = "scheduled"
    elif now < ends_at:
        state = "active"
    else:
        state = "ended" if unsettled else "settled"
    return EntitlementRow(
        id=id_,
        grade=grade,
        starts_at=starts_at,
        ends_at=ends_at,
        lots=lots,
        p0_lots=p0,
        p1_lots=p1,
        p2_lots=lots - p0 - p1,
        price_ticks=price_ticks,
        escrow_micros=escrow,
        clusters=tuple(clusters),
        owed_mntu=owed,
        delivered_mntu=delivered,
        remaining_mntu=owed - delivered if now < ends_at else 0,
        state=state,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRow:
    """Lots of a holder that one cluster serves in an hour, for the gateway's snapshot."""

    allocation: int
    entitlement: int
    holder: int
    seller: int
    cluster: int
    """0 for failed lots: no cluster serves them."""
    grade: str
    starts_at: datetime
    lots: int
    price_ticks: int
    p0_lots: int
    p1_lots: int
    """Of its lots, those that slots go with."""


def entitlements_snapshot(*, starts_at: datetime, grade: str | None = None) -> list[AllocationRow]:
    """Return every allocation of an hour in order of id; of one grade, or of all."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, entitlement_id, holder, seller, cluster, grade, starts_at, lots, price_ticks,
                   p0_lots, p1_lots
            FROM settlement_allocation
            WHERE starts_at = %s AND (%s::text IS NULL OR grade = %s) ORDER BY id
            """,
            [starts_at, grade, grade],
        )
        rows = cursor.fetchall()
    return [
        AllocationRow(
            allocation=row[0],
            entitlement=row[1],
            holder=row[2],
            seller=row[3],
            cluster=row[4],
            grade=row[5],
            starts_at=row[6],
            lots=row[7],
            price_ticks=row[8],
            p0_lots=row[9],
            p1_lots=row[10],
        )
        for row in rows
    ]


def idle_slots(*, starts_at: datetime) -> list[tuple[str, int, int]]:
    """Return (grade, holder, slots) of an hour's slots that go with no lot of their holder."""
    rows = models.SlotSettlement.objects.filter(starts_at=starts_at, lots__gt=0)
    return list(
        rows.values_list("grade", "organization_id")
        .annotate(idle=Sum(F("lots") - F("failed_lots") - F("backed_lots")))
        .filter(idle__gt=0)
        .order_by("grade", "organization_id")
    )


def contiguous_hours(
    *, starts_at: datetime, holders: set[tuple[int, str]]
) -> dict[tuple[int, str], int]:
    """Return for how many hours from `starts_at` on each (holder, grade) has lots without a gap.

    The first hour is counted; entitlements and, beyond them, long positions. It is what a debt may
    be drawn on (RULEBOOK 6.1).
    """
    owners = sorted({holder for holder, _ in holders})
    held = {
        (organization, grade, at)
        for organization, grade, at in models.Entitlement.objects.filter(
            organization_id__in=owners,
            starts_at__gt=starts_at,
            starts_at__lte=starts_at + timedelta(hours=CONTIGUOUS_HOURS_MAX),
        ).values_list("organization_id", "grade", "starts_at")
    }
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT position.organization_id, instrument.grade_id, instrument.starts_at
            FROM settlement_position position
            JOIN marketplace_instrument instrument USING (symbol)
            WHERE position.organization_id = ANY(%s) AND position.net_lots > 0
              AND instrument.product = 'HOUR' AND instrument.starts_at > %s
            """,
            [owners, starts_at],
        )
        held.update(cursor.fetchall())
    found = {}
    for holder, grade in holders:
        hours = 1
        while (
            hours < CONTIGUOUS_HOURS_MAX
            and (holder, grade, starts_at + timedelta(hours=hours)) in held
        ):
            hours += 1
        found[holder, grade] = hours
    return found


def settlements(organization_id: int) -> QuerySet[models.IntervalSettlement]:
    """Return settled intervals of an organization, as holder or seller, the latest first.

    Each has `covered_micros`, what was paid to cover from its escrow.
    """
    covered = (
        models.CoverSettlement.objects.filter(
            allocation=OuterRef("allocation"), interval=OuterRef("interval")
        )
        .values("allocation")
        .annotate(micros=Sum("released_micros"))
        .values("micros")
    )
    return (
        models.IntervalSettlement.objects.filter(
            Q(allocation__holder=organization_id) | Q(allocation__seller=organization_id)
        )
        .annotate(covered_micros=Coalesce(Subquery(covered), 0, output_field=BigIntegerField()))
        .select_related("allocation")
        .order_by("-allocation__starts_at", "-interval", "-id")
    )


def insurance_payments(organization_id: int) -> QuerySet[models.InsurancePayment]:
    """Return what caps and cover paid an organization, or it as their writer, latest first."""
    return models.InsurancePayment.objects.filter(organization_id=organization_id).order_by(
        "-hour_starts_at", "-interval", "-id"
    )


def insured_hours(hour_starts_at: int) -> list[str]:
    """Return the grades with caps or cover that somebody holds in an hour, in order."""
    hour = clock.to_datetime(hour_starts_at)
    return list(
        Instrument.objects.filter(
            product__in=contract.OPTIONS,
            state=contract.InstrumentState.CLOSED,
            starts_at__lte=hour,
            ends_at__gt=hour,
        )
        .order_by("grade_id")
        .values_list("grade_id", flat=True)
        .distinct()
    )


def cap_holders(grade: str, hour_starts_at: int) -> set[int]:
    """Return who is long of a cap of a grade in an hour."""
    hour = clock.to_datetime(hour_starts_at)
    caps = Instrument.objects.filter(
        grade=grade,
        product=contract.Product.CAP,
        state=contract.InstrumentState.CLOSED,
        starts_at__lte=hour,
        ends_at__gt=hour,
    )
    return set(
        models.Position.objects.filter(
            net_lots__gt=0, symbol__in=caps.values("symbol")
        ).values_list("organization_id", flat=True)
    )


def insured_by_caps(grade: str, hour_starts_at: int) -> list[int]:
    """Return who held a cap of a grade in an hour, in order, its month being over or not."""
    rows = models.InsurancePosition.objects.filter(
        grade=grade,
        starts_at=clock.to_datetime(contract.month_start(hour_starts_at)),
        pay_ticks=0,
        lots__gt=0,
    )
    return sorted(set(rows.values_list("organization_id", flat=True)))


def figures(allocations: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return what each party last said of allocations, in mNTU, by allocation and party."""
    rows = (
        models.DeliveryFigure.objects.filter(allocation_id__in=allocations)
        .order_by("allocation_id", "party", "-id")
        .distinct("allocation_id", "party")
        .values_list("allocation_id", "party", "mntu")
    )
    found: dict[int, dict[str, int]] = {}
    for allocation, party, mntu in rows:
        found.setdefault(allocation, {})[party] = mntu
    return found


# Work


def work_due_by(at: datetime) -> int:
    """Return how much that is due by `at` is still to be done; zero when settlement is idle.

    Counts instructions the engine has not taken, jobs that a demo's clock waits for, except where
    one that was set aside is in their way, and hours whose next step has no job yet.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH {backlog.BLOCKED}
            SELECT (SELECT count(*) FROM settlement_instruction WHERE state = 'PENDING')
                + (SELECT count(*) FROM settlement_job job
                   WHERE state IN ('DUE', 'RUNNING') AND is_awaited AND due_at <= %(at)s
                     AND NOT EXISTS (SELECT 1 FROM blocked WHERE blocked.id = job.id))
                + (SELECT count(*) FROM settlement_deliveryhour
                   WHERE planned_steps < 14 AND %(at)s >=
                       starts_at + interval '5 minutes' * least(planned_steps, 12)
                       + CASE planned_steps WHEN 0 THEN interval '-5 minutes'
                         ELSE interval '1 minute' END)
                + (SELECT count(*) FROM settlement_deliveryday
                   WHERE planned_runs < 2
                     AND delivery_date + CASE planned_runs WHEN 0 THEN 1 ELSE 14 END
                         <= ((%(at)s - interval '2 hours') AT TIME ZONE 'UTC')::date)
                + (SELECT count(*) FROM settlement_entitlement
                   WHERE id > (SELECT coalesce(max(last_entitlement), 0)
                               FROM settlement_deliveryhour))
            """,  # noqa: S608 - a constant of the module that reads the same rows
            {"at": at},
        )
        return int(cursor.fetchone()[0])
