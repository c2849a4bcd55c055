"""A whole day of a grade settled again, by everything known at the time of the run.

A run gathers its inputs anew: who was allocated what, the reports with what is known better since
(`DeliveryRevision`), the index in force; lots of a package keep the package's own price (RULEBOOK
4.7). It computes every interval by the same rules as the machine did, compares with all that was
posted, and writes an instruction for each hour in which something differs: signed differences,
never an edit. What was gathered and what was found are kept as hashes, so that two runs with equal
inputs are seen to be equal; the second posts nothing.

A run is one transaction, named by what it is about (`LLAMA70B/20261205/final`). Killed before it
commits it has done nothing, and done again it writes the same bytes; afterwards it is found to be
there. It waits for the engine where an interval, an earlier correction or an override of the index
is not posted yet, and refuses a day whose ledger does not verify (FAULTS 128).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import Any

import msgspec
from django.db import connection, transaction

from marketplace import clock, contract, errors
from marketplace import models as catalog
from settlement import (
    audit,
    index_queries,
    instructions,
    insured,
    models,
    operations,
    planning,
    queries,
    slots,
)
from settlement import resettlement as rules

FINAL, REVISION = planning.RUNS


class NotPosted(errors.Unavailable):
    """The machine has not posted yet what the run builds on; it is tried again until it has."""


class LedgerBroken(Exception):
    """A chain or a seal of the day does not verify: nothing of it is settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one allocation has paid, what it owes, and what is added."""

    delivered: rules.Delivered
    starts_at: datetime
    booked_price: int
    refunded: int
    due: int
    posted: rules.Amounts

    @property
    def difference(self) -> rules.Difference:
        """What is to be posted."""
        return rules.difference(refunded=self.refunded, due=self.due, posted=self.posted)


def settle(*, slot: str, at: int, fence: Callable[[], None] = lambda: None) -> models.SettlementRun:
    """Carry out the run of a slot, once; `fence` is called in its transaction.

    :raises NotPosted: when the machine has yet to post what it builds on.
    :raises PriceUnresolved: when an hour has no index to settle on.
    :raises LedgerBroken: when the ledger of the day does not verify.
    """
    grade, day_starts_at, kind = slots.read_run(slot)
    with audit.one_moment():
        _require_whole_ledger(day_starts_at)
    with transaction.atomic():
        fence()
        return settle_day(grade=grade, day_starts_at=day_starts_at, kind=kind, at=at)


def settle_day(*, grade: str, day_starts_at: int, kind: str, at: int) -> models.SettlementRun:
    """Carry out a run in the caller's transaction, once; the one that is there is returned.

    :raises NotPosted: when the machine has yet to post what it builds on.
    :raises PriceUnresolved: when an hour has no index to settle on.
    """
    assert connection.in_atomic_block, "a run is whole or was not"
    name = slots.of_run(grade, day_starts_at, kind)
    done = models.SettlementRun.objects.filter(id=name).first()
    if done is not None:
        return done
    _require_posted(grade, day_starts_at, planning.run_due_at(day_starts_at, kind))
    disputes = _close_disputes(grade, day_starts_at, kind)
    found = list(gather(grade, day_starts_at))
    insured_hours = insured.gather(grade, *_day(day_starts_at), _missed(found))
    moment = clock.to_datetime(at)
    run = models.SettlementRun.objects.create(
        id=name,
        grade=grade,
        delivery_date=_date(day_starts_at),
        kind=kind,
        previous=_previous(grade, day_starts_at) if kind != FINAL else None,
        inputs_digest=rules.inputs_digest(
            [each.delivered for each in found],
            [(each.hour, each.policies) for each in insured_hours],
        ),
        result_digest=rules.result_digest(
            [(each.delivered.allocation, each.refunded, each.due) for each in found],
            [line for each in insured_hours for line in each.results(each.owed)],
        ),
        posted_digest=rules.result_digest(
            [(each.delivered.allocation, each.posted.refunded, each.posted.due) for each in found],
            [line for each in insured_hours for line in each.results(each.posted)],
        ),
        allocations=len(found),
        at=moment,
    )
    _end_disputes(disputes, run, moment)
    _write_differences(run, found, moment)
    changed = [each for each in found if each.difference != rules.NOTHING]
    _write_lines(run, changed)
    _instruct(run, changed)
    for hour in insured_hours:
        _correct_insurance(run, hour)
    return run


# What a run builds on


def _require_posted(grade: str, day_starts_at: int, due_at: int) -> None:
    """:raises NotPosted: when the machine is not done with the day and what decides it."""
    missing = planning.unposted(grade, day_starts_at, due_at)
    if missing:
        raise NotPosted(missing)


def _require_whole_ledger(day_starts_at: int) -> None:
    """:raises LedgerBroken: when chains or seals since the day began do not verify."""
    broken = [str(each) for each in audit.sealed(_day(day_starts_at)[0]) if each.violations]
    if broken:
        raise LedgerBroken("; ".join(broken))


def _previous(grade: str, day_starts_at: int) -> models.SettlementRun:
    """Return the final run of the day.

    :raises NotPosted: when there has been none.
    """
    name = slots.of_run(grade, day_starts_at, FINAL)
    run = models.SettlementRun.objects.filter(id=name).first()
    if run is None:
        raise NotPosted(f"{name} has not run")
    return run


def gather_hour(allocation: models.Allocation) -> list[Found]:
    """Return what is known and posted of one allocation.

    :raises PriceUnresolved: when its hour has no index to settle on.
    """
    starts_at = allocation.starts_at
    hour = _gather(allocation.grade, starts_at, starts_at + timedelta(hours=1))
    return [each for each in hour if each.delivered.allocation == allocation.pk]


def owed_with(
    found: Found, *, intervals: Sequence[int], available_mntu: int, short_mntu: int
) -> tuple[int, int]:
    """Return what would be refunded and due, had some intervals been so, in micro-USD."""
    return rules.owed(
        msgspec.structs.replace(
            found.delivered,
            intervals=tuple(
                msgspec.structs.replace(
                    one,
                    available_mntu=available_mntu,
                    short_mntu=short_mntu,
                    is_suspended=False,
                )
                if one.number in intervals
                else one
                for one in found.delivered.intervals
            ),
        )
    )


def gather(grade: str, day_starts_at: int) -> Iterator[Found]:
    """Yield what is known and posted of each allocation of a day, in order of id.

    :raises PriceUnresolved: when an hour has no index to settle on.
    """
    return _gather(grade, *_day(day_starts_at))


def _gather(grade: str, since: datetime, until: datetime) -> Iterator[Found]:
    """Yield what is known and posted of the allocations of some hours."""
    rows = _rows(grade, since, until)
    suspended = {(row["starts_at"], row["interval"]) for row in rows if row["is_suspended"]}
    prices = {
        starts_at: index_queries.index_price(grade, clock.to_micros(starts_at)).price_ticks
        for starts_at in sorted({row["starts_at"] for row in rows if not row["package"]})
    }
    parties = {row[side] for row in rows for side in ("holder", "seller")}
    groups = _groups(parties)
    posted = _posted(grade, since, until)
    for number, own in groupby(rows, key=lambda row: row["id"]):
        intervals = list(own)
        first = intervals[0]
        holder, seller = first["holder"], first["seller"]
        delivered = rules.Delivered(
            allocation=number,
            holder=holder,
            seller=seller,
            lots=first["lots"],
            price=first["price"] if first["package"] else prices[first["starts_at"]],
            is_one_group=groups.get(holder, holder) == groups.get(seller, seller),
            intervals=tuple(
                rules.Interval(
                    number=row["interval"],
                    available_mntu=row["available"],
                    short_mntu=row["short"],
                    delivered_mntu=row["delivered"],
                    next_mark=row["next_mark"],
                    is_suspended=row["is_suspended"]
                    if row["is_reported"]
                    else (row["starts_at"], row["interval"]) in suspended,
                    covers=tuple((price, mntu) for price, mntu in row["covers"] or ()),
                )
                for row in intervals
            ),
        )
        refunded, due = rules.owed(delivered)
        yield Found(
            delivered=delivered,
            starts_at=first["starts_at"],
            booked_price=first["price"],
            refunded=refunded,
            due=due,
            posted=posted[number],
        )


def _missed(found: Sequence[Found]) -> dict[datetime, dict[tuple[int, int], tuple[int, int]]]:
    """Return (mNTU missed of other groups' lots, entitled lots) by hour, interval and holder."""
    entitled: dict[tuple[datetime, int], int] = defaultdict(int)
    for each in found:
        entitled[each.starts_at, each.delivered.holder] += each.delivered.lots
    missed: dict[datetime, dict[tuple[int, int], tuple[int, int]]] = defaultdict(dict)
    for each in found:
        if each.delivered.is_one_group:
            continue
        own, holder = missed[each.starts_at], each.delivered.holder
        for interval in each.delivered.intervals:
            key = interval.number, holder
            short = 0 if interval.is_suspended else interval.short_mntu
            own[key] = own.get(key, (0, 0))[0] + short, entitled[each.starts_at, holder]
    return missed


def _rows(grade: str, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return every settled interval of some hours with the best that is known of it.

    Lots that no cluster is behind are reported on by nobody: they are suspended with the others.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT allocation.id, holder, seller, lots, price_ticks AS price, package, starts_at,
                   settled.interval, settled.next_mark_ticks AS next_mark,
                   coalesce(revision.available_mntu, report.available_mntu, 0) AS available,
                   coalesce(revision.short_mntu, report.short_mntu, 0) AS short,
                   coalesce(revision.delivered_mntu, report.delivered_mntu, 0) AS delivered,
                   coalesce(revision.is_suspended, report.is_suspended, false) AS is_suspended,
                   revision.id IS NOT NULL OR report.id IS NOT NULL AS is_reported,
                   (SELECT json_agg(json_build_array(cover.price_ticks, cover.mntu)
                                    ORDER BY offer)
                    FROM settlement_coversettlement cover
                    WHERE cover.allocation_id = allocation.id
                      AND cover.interval = settled.interval) AS covers
            FROM settlement_allocation allocation
            JOIN settlement_intervalsettlement settled ON settled.allocation_id = allocation.id
            LEFT JOIN settlement_deliveryreport report
              ON report.allocation_id = allocation.id AND report.interval = settled.interval
            LEFT JOIN LATERAL (
                SELECT * FROM settlement_deliveryrevision known
                WHERE known.allocation_id = allocation.id AND known.interval = settled.interval
                ORDER BY known.id DESC LIMIT 1) revision ON true
            WHERE grade = %s AND starts_at >= %s AND starts_at < %s
            ORDER BY allocation.id, settled.interval
            """,
            [grade, since, until],
        )
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _posted(grade: str, since: datetime, until: datetime) -> dict[int, rules.Amounts]:
    """Return what intervals and earlier runs have paid, by allocation."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT allocation_id, sum(refunded)::bigint, sum(due)::bigint, sum(paid)::bigint
            FROM (SELECT allocation_id, refunded_micros AS refunded,
                         compensation_due_micros AS due, compensated_micros AS paid
                  FROM settlement_intervalsettlement
                  UNION ALL
                  SELECT allocation_id, delivery_micros, due_micros, damages_micros
                  FROM settlement_deliverycorrection) posted
            JOIN settlement_allocation allocation ON allocation.id = allocation_id
            WHERE grade = %s AND starts_at >= %s AND starts_at < %s
            GROUP BY allocation_id
            """,
            [grade, since, until],
        )
        return {row[0]: rules.Amounts(*row[1:]) for row in cursor.fetchall()}


def _groups(organizations: set[int]) -> dict[int, int]:
    """Return the beneficial-owner group of each organization."""
    rows = catalog.Organization.objects.filter(pk__in=organizations).values_list("pk", "group")
    return {pk: group or pk for pk, group in rows}


# What a run writes


def _write_lines(run: models.SettlementRun, changed: Sequence[Found]) -> None:
    models.SettlementRunLine.objects.bulk_create(
        [
            models.SettlementRunLine(
                run=run,
                allocation_id=each.delivered.allocation,
                price_ticks=each.delivered.price,
                refunded_micros=each.refunded,
                due_micros=each.due,
                posted_refunded_micros=each.posted.refunded,
                posted_due_micros=each.posted.due,
                posted_paid_micros=each.posted.paid,
                delivery_micros=each.difference.delivery,
                damages_micros=each.difference.damages,
            )
            for each in changed
        ]
    )


def _instruct(run: models.SettlementRun, changed: Sequence[Found]) -> None:
    """Have the machine post the differences, an hour at a time and so many at once."""
    by_hour: dict[datetime, list[Found]] = defaultdict(list)
    for each in changed:
        by_hour[each.starts_at].append(each)
    size = instructions.CORRECTION_LINES_MAX
    for starts_at, own in sorted(by_hour.items()):
        hour = clock.to_micros(starts_at)
        for first in range(0, len(own), size):
            operations.instruct(
                id=f"correct:{run.id}:{slots.hour_text(hour)}:{first}",
                command=instructions.CorrectDelivery(
                    run=run.id,
                    grade=run.grade,
                    hour_starts_at=hour,
                    lines=tuple(_line(each) for each in own[first : first + size]),
                ),
            )


def _correct_insurance(run: models.SettlementRun, found: insured.Found) -> None:
    """Keep what a run found of an insured hour, and have the machine post the differences."""
    differences = found.differences
    hour = found.hour.starts_at
    models.InsuranceRunLine.objects.bulk_create(
        [
            models.InsuranceRunLine(
                run=run,
                symbol=symbol,
                hour_starts_at=clock.to_datetime(hour),
                organization_id=organization,
                owed_micros=found.owed.get((symbol, organization), 0),
                posted_micros=found.posted.get((symbol, organization), 0),
            )
            for symbol, organization in differences
        ]
    )
    for policy in found.policies:
        lines = tuple(
            instructions.InsuranceLine(organization, abs(lots), differences[key])
            for organization, lots in policy.lots
            if (key := (policy.symbol, organization)) in differences
        )
        if lines:
            operations.instruct(
                id=f"correct:{run.id}:{policy.symbol}:{slots.hour_text(hour)}",
                command=instructions.CorrectInsurance(
                    run=run.id,
                    instrument=policy.symbol,
                    hour_starts_at=hour,
                    pay_ticks=policy.pay_ticks,
                    lines=lines,
                ),
            )


def _line(each: Found) -> instructions.CorrectionLine:
    added = each.difference
    return instructions.CorrectionLine(
        each.delivered.allocation,
        each.delivered.holder,
        each.delivered.seller,
        each.delivered.lots,
        max(each.delivered.price, each.booked_price),
        added.delivery,
        added.due,
        added.damages,
    )


def _write_differences(run: models.SettlementRun, found: Sequence[Found], moment: datetime) -> None:
    """Raise a row for every allocation whose parties' figures are not the gateway's (FAULTS 92).

    What cover has delivered its holder got, and its seller did not deliver.
    """
    seller, holder = models.DeliveryFigure.Party.SELLER, models.DeliveryFigure.Party.HOLDER
    figures = queries.figures([each.delivered.allocation for each in found])
    raised = set(
        models.DeliveryDifference.objects.filter(run=run.previous).values_list(
            "allocation_id", "gateway_mntu"
        )
    )
    rows = []
    for each in found:
        said = figures.get(each.delivered.allocation, {})
        gateway = sum(interval.delivered_mntu for interval in each.delivered.intervals)
        is_raised = (each.delivered.allocation, gateway) in raised
        covered = sum(mntu for interval in each.delivered.intervals for _, mntu in interval.covers)
        expected: dict[str, int] = {seller: gateway - covered, holder: gateway}
        differs = any(rules.is_difference(one, expected[party]) for party, one in said.items())
        if differs and not is_raised:
            rows.append(
                models.DeliveryDifference(
                    run=run,
                    allocation_id=each.delivered.allocation,
                    gateway_mntu=gateway,
                    seller_mntu=said.get(seller),
                    holder_mntu=said.get(holder),
                    at=moment,
                )
            )
    models.DeliveryDifference.objects.bulk_create(rows)


def _close_disputes(grade: str, day_starts_at: int, kind: str) -> list[models.Dispute]:
    """Lock the disputes that this run ends: those upheld, and in the last run those undecided."""
    since, until = _day(day_starts_at)
    state = models.Dispute.State
    ended = [state.UPHELD] if kind == FINAL else [state.UPHELD, state.OPEN, state.PROPOSED]
    return list(
        models.Dispute.objects.select_for_update(no_key=True, of=("self",))
        .filter(
            allocation__grade=grade,
            allocation__starts_at__gte=since,
            allocation__starts_at__lt=until,
            state__in=ended,
        )
        .order_by("id")
    )


def _end_disputes(
    disputes: Sequence[models.Dispute], run: models.SettlementRun, moment: datetime
) -> None:
    for dispute in disputes:
        if dispute.state == models.Dispute.State.UPHELD:
            dispute.state, dispute.settled_at = models.Dispute.State.SETTLED, moment
        else:
            dispute.state, dispute.decided_at = models.Dispute.State.LAPSED, moment
        dispute.run = run
    models.Dispute.objects.bulk_update(disputes, ["state", "settled_at", "decided_at", "run"])


def _day(day_starts_at: int) -> tuple[datetime, datetime]:
    """Return the first instant of a day, and of the next."""
    return clock.to_datetime(day_starts_at), clock.to_datetime(day_starts_at + contract.DAY)


def _date(day_starts_at: int) -> date:
    return clock.to_datetime(day_starts_at).date()


def day_of(starts_at: datetime) -> int:
    """Return the first instant of an hour's day, in microseconds."""
    midnight = datetime.combine(starts_at.astimezone(UTC).date(), time(), tzinfo=UTC)
    return clock.to_micros(midnight)
