"""Which jobs are due by the market's clock.

Work about delivery is planned only for hours that somebody is entitled to or uses, so that a clock
that leaps over a day does not plan thousands of jobs for nothing. Such an hour is a `DeliveryHour`:
found by its entitlements, whose ids the machine gives out in the order of their commit, so that
a mark of the last one seen misses none. Its fourteen steps (gate closure, twelve intervals, the
end) are planned as they become due, in order and a bounded number at a time; so after a downtime
everything missed is done once, in order (FAULTS K115).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time

from django.db import connection, transaction

from marketplace import clock, contract
from settlement import kinds, models, slots
from settlement.kinds import Kind

HOURS_MAX = 100
"""How many hours one pass plans steps of; the next pass does the rest."""
SLOTS_MAX = 100
"""How many missed slots of a periodic kind one pass plans."""
ROUNDS_MAX = 20

STEPS = contract.INTERVALS_PER_HOUR + 2
"""Gate closure is step 0, interval k step k, the end of the hour the last."""

DAYS_MAX = 100
"""How many days one pass plans runs of."""
RUNS = ("FINAL", "REVISION")
RUN_DAYS = {"FINAL": 1, "REVISION": 14}
"""How many days after the day's first instant each run is due, at `RUN_HOUR`."""
RUN_HOUR = 2 * contract.HOUR


def plan(now: int) -> int:
    """Store the jobs that are due at `now` (us) and are not there yet; return how many."""
    kinds.load()
    _discover_hours()
    count = 0
    for _ in range(ROUNDS_MAX):
        hours = _plan_hours(now)
        count += hours
        if hours == 0:
            break
    return count + _plan_days(now) + _plan_periods(now)


def row(
    kind: Kind, slot: str, due_at: int, now: int, after: tuple[str, str] = ("", "")
) -> models.Job:
    """Return the row of a new job."""
    return models.Job(
        kind=kind.name,
        slot=slot,
        due_at=clock.to_datetime(due_at),
        after_kind=after[0],
        after_slot=after[1],
        state=models.Job.State.DUE,
        is_awaited=kind.is_awaited,
        created_at=clock.to_datetime(now),
    )


def store(rows: Sequence[models.Job]) -> None:
    """Store new jobs; those that are there stay as they are."""
    models.Job.objects.bulk_create(rows, ignore_conflicts=True)


def step_due_at(hour_starts_at: int, step: int) -> int:
    """Return when a step of an hour is due."""
    if step == 0:
        return hour_starts_at - contract.GATE_CLOSURE_LEAD
    interval = min(step, contract.INTERVALS_PER_HOUR)
    return hour_starts_at + interval * contract.INTERVAL + contract.SETTLEMENT_LAG


def run_due_at(day_starts_at: int, run: str) -> int:
    """Return when a run over a day is due."""
    return day_starts_at + RUN_DAYS[run] * contract.DAY + RUN_HOUR


def _discover_hours() -> None:
    """Open the hours, and days, of entitlements that have appeared since the last pass."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH found AS (
                SELECT grade, starts_at, max(id) AS last FROM settlement_entitlement
                WHERE id > (SELECT coalesce(max(last_entitlement), 0) FROM settlement_deliveryhour)
                GROUP BY grade, starts_at
            ), day AS (
                INSERT INTO settlement_deliveryday (grade, delivery_date, planned_runs)
                SELECT DISTINCT grade, (starts_at AT TIME ZONE 'UTC')::date, 0 FROM found
                ORDER BY 2, 1 ON CONFLICT (grade, delivery_date) DO NOTHING
            )
            INSERT INTO settlement_deliveryhour AS hour
                (grade, starts_at, last_entitlement, planned_steps)
            SELECT grade, starts_at, last, 0 FROM found ORDER BY starts_at, grade
            ON CONFLICT (grade, starts_at) DO UPDATE
            SET last_entitlement = greatest(hour.last_entitlement, excluded.last_entitlement)
            """
        )


def _plan_hours(now: int) -> int:
    """Plan the due steps of some open hours, the earliest first."""
    with transaction.atomic():
        # Only hours with a step past due: else one under way would be locked at each pass.
        hours = list(
            models.DeliveryHour.objects.raw(
                """
                SELECT * FROM settlement_deliveryhour
                WHERE planned_steps < 14 AND %s >=
                    starts_at + interval '5 minutes' * least(planned_steps, 12)
                    + CASE planned_steps WHEN 0 THEN interval '-5 minutes'
                      ELSE interval '1 minute' END
                ORDER BY starts_at, grade LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
                """,
                [clock.to_datetime(now), HOURS_MAX],
            )
        )
        rows: list[models.Job] = []
        for hour in hours:
            starts_at = clock.to_micros(hour.starts_at)
            first = hour.planned_steps
            while hour.planned_steps < STEPS and step_due_at(starts_at, hour.planned_steps) <= now:
                rows += _step_rows(hour.grade, starts_at, hour.planned_steps, now)
                hour.planned_steps += 1
            assert hour.planned_steps > first, "an hour that was chosen has a step that is due"
        store(rows)
        models.DeliveryHour.objects.bulk_update(hours, ["planned_steps"])
    return len(hours)


def unposted(grade: str, day_starts_at: int, due_at: int) -> str:
    """Return what a run over a day has to wait for, in words; empty when all of it is posted.

    That is the settlement of every hour, what its options pay, what any earlier run has asked for,
    and every instruction from before the run was due.
    """
    since = clock.to_datetime(day_starts_at)
    with connection.cursor() as cursor:
        cursor.execute(
            _UNPOSTED,
            {
                "grade": grade,
                "since": since,
                "until": clock.to_datetime(day_starts_at + contract.DAY),
                "date": since.date(),
                "month": clock.to_datetime(contract.month_start(day_starts_at)),
                "paid": [
                    f"insurance:{grade}:{slots.hour_text(at)}"
                    for at in range(day_starts_at, day_starts_at + contract.DAY, contract.HOUR)
                ],
                "due": clock.to_datetime(due_at),
            },
        )
        hours, insured, corrections, pending = cursor.fetchone()
    if hours:
        return f"an hour of {grade} on {since:%Y-%m-%d} is not settled yet"
    if insured:
        return f"options of {grade} have hours on {since:%Y-%m-%d} to pay"
    if corrections:
        return "a correction of the run before waits for the machine"
    return "an instruction from before the run waits for the machine" if pending else ""


_UNPOSTED = """
    SELECT EXISTS (
        SELECT 1 FROM marketplace_instrument WHERE grade_id = %(grade)s AND product = 'HOUR'
          AND starts_at >= %(since)s AND starts_at < %(until)s AND state <> 'SETTLED'),
      EXISTS (
        SELECT 1 FROM settlement_insuranceposition
        WHERE grade = %(grade)s AND starts_at = %(month)s)
      AND (SELECT count(*) FROM settlement_instruction
           WHERE id = ANY(%(paid)s) AND state <> 'PENDING') < cardinality(%(paid)s::text[]),
      EXISTS (
        SELECT 1 FROM settlement_settlementrun run
        JOIN settlement_settlementrunline line ON line.run_id = run.id
        LEFT JOIN settlement_deliverycorrection posted
          ON posted.run = run.id AND posted.allocation_id = line.allocation_id
        WHERE run.grade = %(grade)s AND run.delivery_date = %(date)s AND posted.id IS NULL)
      OR EXISTS (
        SELECT 1 FROM settlement_settlementrun run
        JOIN settlement_insurancerunline line ON line.run_id = run.id
        LEFT JOIN settlement_insurancecorrection posted
          ON posted.run = run.id AND posted.organization_id = line.organization_id
          AND posted.symbol = line.symbol AND posted.hour_starts_at = line.hour_starts_at
        WHERE run.grade = %(grade)s AND run.delivery_date = %(date)s AND posted.id IS NULL),
      EXISTS (
        SELECT 1 FROM settlement_instruction
        WHERE state = 'PENDING' AND created_at <= %(due)s)
"""


def _plan_days(now: int) -> int:
    """Plan the runs that are due of days with delivery, the earliest days first."""
    due = clock.to_datetime(now - RUN_HOUR)
    with transaction.atomic():
        days = list(
            models.DeliveryDay.objects.raw(
                """
                SELECT * FROM settlement_deliveryday
                WHERE planned_runs < 2 AND delivery_date <= (%s AT TIME ZONE 'UTC')::date
                    - CASE planned_runs WHEN 0 THEN %s ELSE %s END
                ORDER BY delivery_date, grade LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
                """,
                [due, *(RUN_DAYS[run] for run in RUNS), DAYS_MAX],
            )
        )
        rows: list[models.Job] = []
        changed = []
        for day in days:
            before = day.planned_runs
            starts_at = clock.to_micros(datetime.combine(day.delivery_date, time(), tzinfo=UTC))
            while day.planned_runs < len(RUNS):
                run = RUNS[day.planned_runs]
                due_at = run_due_at(starts_at, run)
                # A job that could only wait would be tried, and fail, until it can be done.
                if due_at > now or unposted(day.grade, starts_at, due_at):
                    break
                rows += _run_rows(day.grade, starts_at, run, now)
                day.planned_runs += 1
            changed += [day] if day.planned_runs > before else []
        store(rows)
        models.DeliveryDay.objects.bulk_update(changed, ["planned_runs"])
    return len(rows)


def _run_rows(grade: str, day_starts_at: int, run: str, now: int) -> list[models.Job]:
    """Return the jobs of one run over a day; a revision waits for the final run."""
    slot = slots.of_run(grade, day_starts_at, run)
    due_at = run_due_at(day_starts_at, run)
    rows = []
    for kind in kinds.every():
        match kind.schedule:
            case kinds.AfterDay(is_repeated=is_repeated) if is_repeated or run == RUNS[0]:
                after = _after(kind, slot)
                if run != RUNS[0]:
                    after = (kind.name, slots.of_run(grade, day_starts_at, RUNS[0]))
                rows.append(row(kind, slot, due_at, now, after))
    return rows


def _step_rows(grade: str, starts_at: int, step: int, now: int) -> list[models.Job]:
    """Return the jobs of one step of an hour."""
    due_at = step_due_at(starts_at, step)
    rows = []
    for kind in kinds.every():
        match kind.schedule:
            case kinds.AtGateClosure() if step == 0:
                rows.append(row(kind, slots.of_hour(grade, starts_at), due_at, now))
            case kinds.PerInterval() if 1 <= step <= contract.INTERVALS_PER_HOUR:
                slot = slots.of_interval(grade, starts_at, step)
                rows.append(row(kind, slot, due_at, now, _after(kind, slot)))
            case kinds.AfterHour() if step == STEPS - 1:
                last = slots.of_interval(grade, starts_at, contract.INTERVALS_PER_HOUR)
                slot = slots.of_hour(grade, starts_at)
                rows.append(row(kind, slot, due_at, now, _after(kind, last)))
    return rows


def _after(kind: Kind, slot: str) -> tuple[str, str]:
    """Return what must be done before a job: nothing where no app does that kind of work."""
    known = {other.name for other in kinds.every()}
    return (kind.after, slot) if kind.after in known else ("", "")


def _plan_periods(now: int) -> int:
    """Plan the slots of periodic kinds, and the one job of each that repeats."""
    periodic = [kind for kind in kinds.every() if isinstance(kind.schedule, kinds.Every)]
    repeating = [kind for kind in kinds.every() if isinstance(kind.schedule, kinds.Repeat)]
    latest = _latest_due([kind.name for kind in (*periodic, *repeating)])
    rows = [
        row(kind, slots.ALWAYS, now, now) for kind in repeating if latest.get(kind.name) is None
    ]
    for kind in periodic:
        assert isinstance(kind.schedule, kinds.Every), "chosen for it"
        period = kind.schedule.period
        last = now - now % period
        seen = latest.get(kind.name)
        first = last
        if kind.schedule.catch_up and seen is not None:
            first = seen + period
        if seen is None or last > seen:
            due = range(first, last + 1, period)[:SLOTS_MAX]
            rows += [row(kind, slots.of_instant(at), at, now) for at in due]
    store(rows)
    planned = {one.kind for one in rows}
    _forget([kind.name for kind in periodic if kind.name in planned], now)
    return len(rows)


def _forget(names: list[str], now: int) -> None:
    """Drop slots that nobody began and a later one has replaced, where nothing is caught up."""
    latest_only = [
        name
        for name in names
        if isinstance(kind := kinds.get(name).schedule, kinds.Every) and not kind.catch_up
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM settlement_job job
            WHERE kind = ANY(%s) AND state = 'DUE' AND lease_epoch = 0 AND due_at < (
                SELECT max(due_at) FROM settlement_job later
                WHERE later.kind = job.kind AND later.due_at <= %s)
            """,
            [latest_only, clock.to_datetime(now)],
        )


def _latest_due(names: list[str]) -> dict[str, int | None]:
    """Return when the latest job of each kind was due."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, (SELECT max(due_at) FROM settlement_job WHERE kind = name)"
            " FROM unnest(%s::text[]) AS name",
            [names],
        )
        return {
            name: None if due_at is None else clock.to_micros(due_at)
            for name, due_at in cursor.fetchall()
        }
