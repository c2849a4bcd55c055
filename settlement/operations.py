"""What may be written to the clearing house, and by whom.

Cash moves in the engine's transaction and nowhere else (`posting.post_cash`); everybody else asks
the machine by an instruction. Capacity is moved here, by the metering worker: granted at gate
closure, consumed as tokens are metered, expired when the hour is over. Each of these locks the
head of the capacity chain first, so that writers of it stand in line, and each finds what it has
already done in the rows, so that it may be repeated.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from django.db import connection, transaction

from marketplace import clock, contract
from marketplace.errors import KeyReuse
from settlement import doorbell, instructions, leases, ledger, models, posting, slots
from settlement.posting import CapacityTransfer, post_capacity, post_cash

__all__ = [
    "Consumed",
    "Consumption",
    "Delivery",
    "consume",
    "expire_capacity",
    "grant_capacity",
    "instruct",
    "open_hours",
    "post_capacity",
    "post_cash",
    "record_clock_jump",
    "report_delivery",
    "revise_delivery",
    "ring",
    "settle_interval",
]

INSTRUCTION_ID_CHARACTERS_MAX = 320


class ReportMissing(Exception):
    """An interval cannot be settled before admission has reported on every allocation."""


def instruct(
    *,
    id: str,  # noqa: A002 - the row's own name for it
    command: instructions.AnyInstruction,
) -> models.Instruction:
    """Write an instruction in the caller's transaction and ring for the engine after commit.

    The same id with the same command returns the row that is there, whatever became of it.

    :raises KeyReuse: when the id stands for another command.
    """
    assert 0 < len(id) <= INSTRUCTION_ID_CHARACTERS_MAX, "an instruction has an id that fits"
    body = instructions.encode(command)
    now = clock.now()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO settlement_instruction (id, number, body, state, reason, created_at)
            VALUES (%s, nextval('settlement_instruction_number'), %s, 'PENDING', '', %s)
            ON CONFLICT (id) DO NOTHING RETURNING number
            """,
            [id, body, now],
        )
        written = cursor.fetchone()
    if written is not None:
        transaction.on_commit(ring)
        return models.Instruction(
            id=id,
            number=written[0],
            body=body,
            state=models.Instruction.State.PENDING,
            created_at=now,
        )
    row = models.Instruction.objects.get(id=id)
    if bytes(row.body) != body:
        raise KeyReuse(f"instruction {id} was given before with other terms")
    return row


def ring() -> None:
    """Tell the engine that an instruction waits; call it after commit. Never fails."""
    doorbell.ring()


# Capacity


class Consumption(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens metered of one request since it was last consumed, in mNTU.

    `shared` is P3; `hour_starts_at` an instant in microseconds; `seller` owns the cluster.
    """

    holder: int
    seller: int
    grade: str
    hour_starts_at: int
    mntu: int
    cause: str
    shared: bool = False


class Consumed(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumption was taken from; the three add up to its mNTU."""

    entitled_mntu: int = 0
    overrun_mntu: int = 0
    shared_mntu: int = 0


def consume(
    *, usages: Sequence[Consumption], at: int, held: leases.Held | None = None
) -> list[Consumed]:
    """Post metered tokens to the capacity chain, in order, and say what each was taken from.

    The caller holds the transaction in which it marks the same events as consumed. Entitled tokens
    come out of what the holder has left of the hour; beyond that they are overrun.

    :raises LeaseLost: when `held` is given and no longer the caller's.
    """
    assert connection.in_atomic_block, "tokens are consumed with the mark that says so"
    if held is not None:
        leases.fence(held)
    with connection.cursor() as cursor:
        sequence = posting.lock_chain(cursor, posting.CAPACITY)
        hours = sorted({(usage.grade, usage.hour_starts_at) for usage in usages})
        open_hours(hours)
        for grade, hour_starts_at in hours:
            sequence = _grant(cursor, grade, hour_starts_at, at, sequence)
        left = _entitled_left(cursor, usages)
        transfers: list[CapacityTransfer] = []
        consumed = [_split(usage, left, transfers) for usage in usages]
        post_capacity(cursor, transfers, at=at, expected_sequence=sequence)
        _add_delivered(cursor, usages, consumed)
    return consumed


def _split(
    usage: Consumption, left: dict[tuple[int, str], int], transfers: list[CapacityTransfer]
) -> Consumed:
    """Take a usage from what is left, adding its transfers."""
    unit = _unit(usage.grade, usage.hour_starts_at)
    assert usage.mntu >= 0, "metered totals never fall"
    if usage.shared:
        parts = Consumed(shared_mntu=usage.mntu)
    else:
        entitled = min(usage.mntu, left.get((usage.holder, unit), 0))
        left[usage.holder, unit] = left.get((usage.holder, unit), 0) - entitled
        parts = Consumed(entitled_mntu=entitled, overrun_mntu=usage.mntu - entitled)
    kind, code = ledger.Kind, ledger.Code
    for amount, debit_owner, debit_kind, credit_kind, why in (
        (parts.entitled_mntu, usage.holder, kind.ENTITLED, kind.CONSUMED, code.CONSUME),
        (parts.overrun_mntu, usage.seller, kind.ISSUED, kind.OVERRUN, code.OVERRUN),
        (parts.shared_mntu, usage.seller, kind.ISSUED, kind.SHARED, code.SHARED_USE),
    ):
        if amount:
            transfers.append(
                CapacityTransfer(
                    unit=unit,
                    debit_owner=debit_owner,
                    debit_kind=debit_kind,
                    credit_owner=usage.holder,
                    credit_kind=credit_kind,
                    amount=amount,
                    code=why,
                    cause=usage.cause,
                )
            )
    return parts


def grant_capacity(*, grade: str, hour_starts_at: int, at: int) -> None:
    """Issue what the hour's allocations entitle to; what is already granted stays as it is."""
    with transaction.atomic(), connection.cursor() as cursor:
        sequence = posting.lock_chain(cursor, posting.CAPACITY)
        open_hours([(grade, hour_starts_at)])
        _grant(cursor, grade, hour_starts_at, at, sequence)


def expire_capacity(*, grade: str, hour_starts_at: int, at: int) -> None:
    """Expire what nobody used of an hour that is over (take-or-pay, RULEBOOK 4.6)."""
    assert at >= hour_starts_at + contract.HOUR, "an hour expires when it is over"
    with transaction.atomic(), connection.cursor() as cursor:
        sequence = posting.lock_chain(cursor, posting.CAPACITY)
        sequence = _grant(cursor, grade, hour_starts_at, at, sequence)
        unit = _unit(grade, hour_starts_at)
        cursor.execute(
            "SELECT owner, credits - debits FROM settlement_account"
            " WHERE unit = %s AND kind = %s AND credits > debits ORDER BY owner",
            [unit, int(ledger.Kind.ENTITLED)],
        )
        transfers = [
            CapacityTransfer(
                unit=unit,
                debit_owner=owner,
                debit_kind=ledger.Kind.ENTITLED,
                credit_owner=owner,
                credit_kind=ledger.Kind.EXPIRED,
                amount=left,
                code=ledger.Code.EXPIRE,
                cause=f"expire:{unit}",
            )
            for owner, left in cursor.fetchall()
        ]
        post_capacity(cursor, transfers, at=at, expected_sequence=sequence)
        cursor.execute(
            "UPDATE settlement_deliveryhour SET expired_at = coalesce(expired_at, %s)"
            " WHERE grade = %s AND starts_at = %s",
            [clock.to_datetime(at), grade, clock.to_datetime(hour_starts_at)],
        )


def _grant(cursor: Any, grade: str, hour_starts_at: int, at: int, sequence: int) -> int:
    """Issue the allocations of an hour that have not been; return the chain's new sequence."""
    starts_at = clock.to_datetime(hour_starts_at)
    cursor.execute(
        """
        SELECT allocation.id, allocation.seller, allocation.holder, allocation.lots
        FROM settlement_allocation allocation
        JOIN settlement_deliveryhour hour USING (grade, starts_at)
        WHERE grade = %s AND starts_at = %s AND hour.granted_at IS NULL
          AND NOT EXISTS (
            SELECT 1 FROM settlement_transfer
            WHERE cause = 'allocation:' || allocation.id AND code = %s)
        ORDER BY allocation.id
        """,
        [grade, starts_at, int(ledger.Code.GRANT)],
    )
    unit = _unit(grade, hour_starts_at)
    transfers = [
        CapacityTransfer(
            unit=unit,
            debit_owner=seller,
            debit_kind=ledger.Kind.ISSUED,
            credit_owner=holder,
            credit_kind=ledger.Kind.ENTITLED,
            amount=lots * contract.MNTU_PER_LOT_HOUR,
            code=ledger.Code.GRANT,
            cause=f"allocation:{allocation}",
        )
        for allocation, seller, holder, lots in cursor.fetchall()
    ]
    if transfers:
        sequence = post_capacity(cursor, transfers, at=at, expected_sequence=sequence)
        # All allocations of an hour are made by one gate closure, so this is all of them.
        cursor.execute(
            "UPDATE settlement_deliveryhour SET granted_at = %s"
            " WHERE grade = %s AND starts_at = %s",
            [clock.to_datetime(at), grade, starts_at],
        )
    return sequence


def _entitled_left(cursor: Any, usages: Iterable[Consumption]) -> dict[tuple[int, str], int]:
    """Return what each holder has left of each unit."""
    keys = sorted({(usage.holder, _unit(usage.grade, usage.hour_starts_at)) for usage in usages})
    cursor.execute(
        """
        SELECT owner, unit, credits - debits FROM settlement_account
        JOIN unnest(%s::bigint[], %s::text[]) AS wanted (owner, unit) USING (owner, unit)
        WHERE kind = %s
        """,
        [[owner for owner, _ in keys], [unit for _, unit in keys], int(ledger.Kind.ENTITLED)],
    )
    return {(owner, unit): left for owner, unit, left in cursor.fetchall()}


def _add_delivered(
    cursor: Any, usages: Sequence[Consumption], consumed: Sequence[Consumed]
) -> None:
    """Keep the running total on the entitlements."""
    totals: dict[tuple[int, str, int], int] = {}
    for usage, parts in zip(usages, consumed, strict=True):
        if parts.entitled_mntu:
            key = (usage.holder, usage.grade, usage.hour_starts_at)
            totals[key] = totals.get(key, 0) + parts.entitled_mntu
    if not totals:
        return
    keys = sorted(totals)
    cursor.execute(
        """
        UPDATE settlement_entitlement entitlement
        SET delivered_mntu = delivered_mntu + added.mntu
        FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[], %s::bigint[])
            AS added (holder, grade, starts_at, mntu)
        WHERE entitlement.organization_id = added.holder
          AND entitlement.grade = added.grade AND entitlement.starts_at = added.starts_at
        """,
        [
            [holder for holder, _, _ in keys],
            [grade for _, grade, _ in keys],
            [clock.to_datetime(hour) for _, _, hour in keys],
            [totals[key] for key in keys],
        ],
    )


def open_hours(hours: Iterable[tuple[str, int]]) -> None:
    """Have the intervals of these hours, (grade, start), reported and settled in their time."""
    models.DeliveryHour.objects.bulk_create(
        [
            models.DeliveryHour(grade=grade, starts_at=clock.to_datetime(hour_starts_at))
            for grade, hour_starts_at in hours
        ],
        ignore_conflicts=True,
    )


def open_days(hours: Iterable[tuple[str, int]]) -> None:
    """Have the days of these hours, (grade, start), settled again by later runs."""
    models.DeliveryDay.objects.bulk_create(
        [
            models.DeliveryDay(
                grade=grade, delivery_date=clock.to_datetime(hour_starts_at).date(), planned_runs=0
            )
            for grade, hour_starts_at in hours
        ],
        ignore_conflicts=True,
    )


def _unit(grade: str, hour_starts_at: int) -> str:
    """Return the unit of an hour's capacity."""
    return ledger.capacity_unit(grade, slots.hour_text(hour_starts_at))


# Intervals


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What admission saw of one allocation in one interval, in mNTU."""

    allocation: int
    interval: int
    owed_mntu: int
    available_mntu: int
    short_mntu: int
    delivered_mntu: int
    probes: int
    probes_passed: int
    is_suspended: bool = False
    covers: tuple[instructions.CoverLine, ...] = ()


def report_delivery(*, deliveries: Sequence[Delivery], at: int) -> None:
    """Store what admission saw; the first report of an allocation's interval stands."""
    helped = [delivery for delivery in deliveries if delivery.covers]
    known = set(
        models.DeliveryReport.objects.filter(
            allocation__in=[delivery.allocation for delivery in helped]
        ).values_list("allocation_id", "interval")
    )
    models.DeliveryReport.objects.bulk_create(
        [
            models.DeliveryReport(
                allocation_id=delivery.allocation,
                interval=delivery.interval,
                owed_mntu=delivery.owed_mntu,
                available_mntu=delivery.available_mntu,
                short_mntu=delivery.short_mntu,
                delivered_mntu=delivery.delivered_mntu,
                probes=delivery.probes,
                probes_passed=delivery.probes_passed,
                is_suspended=delivery.is_suspended,
                at=clock.to_datetime(at),
            )
            for delivery in deliveries
        ],
        ignore_conflicts=True,
    )
    models.DeliveryCover.objects.bulk_create(
        [
            models.DeliveryCover(
                allocation_id=delivery.allocation,
                interval=delivery.interval,
                **msgspec.structs.asdict(cover),
            )
            for delivery in helped
            if (delivery.allocation, delivery.interval) not in known
            for cover in delivery.covers
        ]
    )


def revise_delivery(*, deliveries: Sequence[Delivery], at: int) -> int:
    """Store where a second look differs from the report; a dispute's word is not looked at again.

    Return how many intervals of allocations are known better now.
    """
    known = {
        (row.allocation_id, row.interval): row
        for row in models.DeliveryReport.objects.filter(
            allocation_id__in={delivery.allocation for delivery in deliveries}
        )
    }
    revised = set(
        models.DeliveryRevision.objects.filter(
            allocation_id__in={delivery.allocation for delivery in deliveries}
        ).values_list("allocation_id", "interval")
    )
    rows = [
        models.DeliveryRevision(
            allocation_id=delivery.allocation,
            interval=delivery.interval,
            source=models.DeliveryRevision.Source.REVIEW,
            available_mntu=delivery.available_mntu,
            short_mntu=delivery.short_mntu,
            delivered_mntu=delivery.delivered_mntu,
            is_suspended=delivery.is_suspended,
            at=clock.to_datetime(at),
        )
        for delivery in deliveries
        if (delivery.allocation, delivery.interval) not in revised
        and _is_other(known.get((delivery.allocation, delivery.interval)), delivery)
    ]
    models.DeliveryRevision.objects.bulk_create(rows)
    return len(rows)


def _is_other(report: models.DeliveryReport | None, delivery: Delivery) -> bool:
    """Whether a second look sees something else than was reported; nothing without a report."""
    return report is not None and (
        report.available_mntu,
        report.short_mntu,
        report.delivered_mntu,
        report.is_suspended,
    ) != (
        delivery.available_mntu,
        delivery.short_mntu,
        delivery.delivered_mntu,
        delivery.is_suspended,
    )


def settle_interval(*, grade: str, hour_starts_at: int, interval: int) -> None:
    """Instruct the machine to settle an interval by admission's reports.

    An interval in which nobody was entitled has nothing to settle. Lots that no cluster stands
    behind are never reported on: nothing of them was available.

    :raises ReportMissing: when an allocation to a cluster has no report yet.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT allocation.id, allocation.cluster, report.available_mntu, report.short_mntu,
                   report.delivered_mntu, report.is_suspended,
                   (SELECT json_agg(json_build_array(offer, known.cluster, seller, price_ticks,
                                                     mntu) ORDER BY offer)
                    FROM settlement_deliverycover known
                    WHERE known.allocation_id = allocation.id
                      AND known.interval = report.interval)
            FROM settlement_allocation allocation
            LEFT JOIN settlement_deliveryreport report
              ON report.allocation_id = allocation.id AND report.interval = %s
            WHERE allocation.grade = %s AND allocation.starts_at = %s
            ORDER BY allocation.id
            """,
            [interval, grade, clock.to_datetime(hour_starts_at)],
        )
        rows = cursor.fetchall()
    if not rows:
        return
    is_suspended = any(row[5] for row in rows)
    lines: list[instructions.DeliveryLine] = []
    for allocation, cluster, available, short, delivered, _, covers in rows:
        if available is None and cluster != 0 and not is_suspended:
            raise ReportMissing(f"allocation {allocation}, interval {interval}")
        helped = tuple(instructions.CoverLine(*cover) for cover in covers or ())
        lines.append(
            instructions.DeliveryLine(
                allocation, available or 0, short or 0, delivered or 0, helped
            )
        )
    instruct(
        id=f"settle:{grade}:{slots.hour_text(hour_starts_at)}:{interval}",
        command=instructions.SettleInterval(
            grade=grade,
            hour_starts_at=hour_starts_at,
            interval=interval,
            lines=() if is_suspended else tuple(lines),
            suspended=is_suspended,
        ),
    )


def pay_insurance(*, grade: str, hour_starts_at: int, metered: Mapping[int, int]) -> None:
    """Instruct the machine to pay an hour's caps and to release what was set aside for it.

    `metered` is what each of their holders has used in it, in mNTU.
    """
    note_insured_usage(grade=grade, hour_starts_at=hour_starts_at, metered=metered)
    instruct(
        id=f"insurance:{grade}:{slots.hour_text(hour_starts_at)}",
        command=instructions.PayInsurance(
            grade=grade, hour_starts_at=hour_starts_at, metered=tuple(sorted(metered.items()))
        ),
    )


def note_insured_usage(*, grade: str, hour_starts_at: int, metered: Mapping[int, int]) -> int:
    """Store what holders of caps used in an hour, where that is not what is known already.

    Return of how many it was not.
    """
    starts_at = clock.to_datetime(hour_starts_at)
    rows = models.InsuredUsage.objects.filter(grade=grade, starts_at=starts_at)
    known = dict(rows.order_by("id").values_list("organization_id", "mntu"))
    new = [
        models.InsuredUsage(
            grade=grade, starts_at=starts_at, organization_id=number, mntu=mntu, at=clock.now()
        )
        for number, mntu in sorted(metered.items())
        if known.get(number, 0) != mntu
    ]
    models.InsuredUsage.objects.bulk_create(new)
    return len(new)


def record_clock_jump(*, from_at: int, to_at: int, probes: dict[str, list[int]]) -> None:
    """Remember that a demo's clock was moved; `probes` holds [passed, made] by cluster id."""
    models.ClockJump.objects.create(
        from_at=clock.to_datetime(from_at), to_at=clock.to_datetime(to_at), probes=probes
    )
