"""What the queue of record holds: how much is due, how late, who works on it and what failed.

Due is what the market's clock says; how late it is, is market time too. When a demo's clock leaps,
a day's work is due at once and nobody is late by a day: `late_s` counts from the end of the last
leap. Leases and pauses follow the database's clock, and are shown as what is left of them.

A job is *ready*, *paused* after a failure, *running*, *waiting* for one before it, or *blocked*:
one that it waits for, directly or not, was parked or given up, and nothing will happen to it until
an operator decides about that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection

from marketplace import clock
from settlement import heartbeats, kinds, models

ROWS_MAX = 100
"""How many jobs of each list are shown."""
UNKNOWN = "unknown"
"""Queue of jobs whose kind no loaded app has."""

READY = """
    job.state IN ('DUE', 'RUNNING') AND job.kind = ANY(%(names)s) AND job.due_at <= %(at)s
    AND (job.leased_until IS NULL OR job.leased_until <= clock_timestamp())
    AND (job.not_before IS NULL OR job.not_before <= clock_timestamp())
    AND (job.after_kind = '' OR EXISTS (
        SELECT 1 FROM settlement_job first
        WHERE first.kind = job.after_kind AND first.slot = job.after_slot
          AND first.state = 'DONE'))"""
"""Condition: a worker may claim the job now."""

BLOCKED = """
    RECURSIVE blocked (id, kind, slot, by_kind, by_slot) AS (
        SELECT job.id, job.kind, job.slot, first.kind, first.slot
        FROM settlement_job first JOIN settlement_job job
            ON job.after_kind = first.kind AND job.after_slot = first.slot
        WHERE first.state IN ('PARKED', 'GIVEN_UP') AND job.state IN ('DUE', 'RUNNING')
        UNION
        SELECT job.id, job.kind, job.slot, blocked.by_kind, blocked.by_slot
        FROM blocked JOIN settlement_job job
            ON job.after_kind = blocked.kind AND job.after_slot = blocked.slot
        WHERE job.state IN ('DUE', 'RUNNING')
    )"""
"""Query, behind WITH: every open job that something set aside keeps from being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """One queue: how many of its jobs that are due are in which state, and how late they are."""

    queue: str
    ready: int
    paused: int
    running: int
    waiting: int
    blocked: int
    parked: int
    oldest_due_at: datetime | None
    """Of those that nobody works on and nothing blocks."""
    lag_s: float
    """Market time since then."""
    late_s: float
    """The same, counted from the end of the last leap of the clock at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job, for people."""

    id: int
    kind: str
    slot: str
    queue: str
    state: str
    due_at: datetime
    attempts: int
    error: str
    holder: str
    running_s: float
    lease_left_s: float
    pause_left_s: float
    blocked_by: str
    """Kind and slot of the job set aside that it waits for; empty where there is none."""
    progress: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """Who may run what must run once."""

    name: str
    holder: str
    epoch: int
    left_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """A worker or a beat."""

    process: str
    role: str
    queues: str
    silent_s: float
    is_alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionsRow:
    """What the machine has been told and has not taken yet."""

    pending: int
    oldest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SealRow:
    """The last signed head of a chain, and how far the chain has come."""

    chain: str
    sequence: int
    head_sequence: int
    at: datetime | None
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """All of it at one instant."""

    at: datetime
    queues: Sequence[QueueRow]
    running: Sequence[JobRow]
    failing: Sequence[JobRow]
    """Failed, and tried again."""
    parked: Sequence[JobRow]
    given_up: Sequence[JobRow]
    blocked: Sequence[JobRow]
    leases: Sequence[LeaseRow]
    processes: Sequence[ProcessRow]
    instructions: InstructionsRow
    seals: Sequence[SealRow]


def read(now: int) -> Backlog:
    """Return what the queue of record holds at `now` (us)."""
    kinds.load()
    at = clock.to_datetime(now)
    leapt_at = _last_leap(at)
    return Backlog(
        at=at,
        queues=_queues(at, leapt_at),
        running=_jobs("job.state = 'RUNNING'", "job.claimed_at"),
        failing=_jobs("job.state IN ('DUE', 'RUNNING') AND job.error <> ''", "job.due_at"),
        parked=_jobs("job.state = 'PARKED'", "job.due_at"),
        given_up=_jobs("job.state = 'GIVEN_UP'", "job.due_at DESC"),
        blocked=_jobs("blocked.id IS NOT NULL", "job.due_at"),
        leases=_leases(),
        processes=_processes(),
        instructions=_instructions(at, leapt_at),
        seals=_seals(at),
    )


def _last_leap(at: datetime) -> datetime:
    """Return when the clock last arrived from a leap."""
    latest = models.ClockJump.objects.filter(to_at__lte=at).order_by("-to_at").first()
    return clock.EPOCH if latest is None else latest.to_at


def _queues(at: datetime, leapt_at: datetime) -> list[QueueRow]:
    """Return every queue that has kinds or jobs, the urgent one first."""
    rows = _rows(
        f"""
        WITH {BLOCKED}, open AS (
            SELECT job.kind,
                CASE
                    WHEN EXISTS (SELECT 1 FROM blocked WHERE blocked.id = job.id) THEN 'blocked'
                    WHEN job.state = 'RUNNING' AND job.leased_until > clock_timestamp()
                        THEN 'running'
                    WHEN job.after_kind <> '' AND NOT EXISTS (
                        SELECT 1 FROM settlement_job first
                        WHERE first.kind = job.after_kind AND first.slot = job.after_slot
                          AND first.state = 'DONE') THEN 'waiting'
                    WHEN job.not_before > clock_timestamp() THEN 'paused'
                    ELSE 'ready'
                END AS what, job.due_at
            FROM settlement_job job
            WHERE job.state IN ('DUE', 'RUNNING') AND job.due_at <= %(at)s
        )
        SELECT kind, what, count(*), min(due_at) FROM open GROUP BY kind, what
        UNION ALL
        SELECT kind, 'parked', count(*), min(due_at) FROM settlement_job
        WHERE state = 'PARKED' GROUP BY kind
        """,  # noqa: S608 - a constant of this module
        {"at": at},
    )
    counts: dict[str, dict[str, int]] = {queue: {} for queue in kinds.queues()}
    oldest: dict[str, datetime] = {}
    for kind, what, count, due_at in rows:
        queue = _queue(kind)
        of_queue = counts.setdefault(queue, {})
        of_queue[what] = of_queue.get(what, 0) + count
        if what in ("ready", "paused", "waiting"):
            oldest[queue] = min(oldest.get(queue, due_at), due_at)
    return [
        QueueRow(
            queue=queue,
            ready=of_queue.get("ready", 0),
            paused=of_queue.get("paused", 0),
            running=of_queue.get("running", 0),
            waiting=of_queue.get("waiting", 0),
            blocked=of_queue.get("blocked", 0),
            parked=of_queue.get("parked", 0),
            oldest_due_at=oldest.get(queue),
            lag_s=_seconds(oldest.get(queue), at),
            late_s=min(_seconds(oldest.get(queue), at), _seconds(leapt_at, at)),
        )
        for queue, of_queue in counts.items()
    ]


def _jobs(condition: str, order: str) -> list[JobRow]:
    """Return the first jobs that a condition of this module chooses."""
    rows = _rows(
        f"""
        WITH {BLOCKED}
        SELECT job.id, job.kind, job.slot, job.state, job.due_at, job.attempts, job.error,
            job.holder, job.progress::text, coalesce(blocked.by_kind || ' ' || blocked.by_slot, ''),
            extract(epoch FROM clock_timestamp() - job.claimed_at)::float8,
            extract(epoch FROM job.leased_until - clock_timestamp())::float8,
            extract(epoch FROM job.not_before - clock_timestamp())::float8
        FROM settlement_job job
        LEFT JOIN LATERAL (
            SELECT * FROM blocked WHERE blocked.id = job.id ORDER BY by_kind, by_slot LIMIT 1
        ) blocked ON true
        WHERE {condition} ORDER BY {order}, job.id LIMIT {ROWS_MAX}
        """,  # noqa: S608 - constants of this module
        {},
    )
    return [
        JobRow(
            id=row[0],
            kind=row[1],
            slot=row[2],
            queue=_queue(row[1]),
            state=row[3],
            due_at=row[4],
            attempts=row[5],
            error=row[6],
            holder=row[7],
            progress="" if row[8] == "{}" else row[8],
            blocked_by=row[9],
            running_s=_rest(row[10]) if row[3] == "RUNNING" else 0.0,
            lease_left_s=_rest(row[11]) if row[3] == "RUNNING" else 0.0,
            pause_left_s=_rest(row[12]),
        )
        for row in rows
    ]


def _leases() -> list[LeaseRow]:
    """Return all leases in order of name, those that have run out with nothing left."""
    rows = _rows(
        "SELECT name, holder, epoch,"
        " extract(epoch FROM expires_at - clock_timestamp())::float8"
        " FROM settlement_lease ORDER BY name",
        {},
    )
    return [
        LeaseRow(name=name, holder=holder, epoch=epoch, left_s=_rest(left))
        for name, holder, epoch, left in rows
    ]


def _processes() -> list[ProcessRow]:
    """Return the workers and beats that were heard of lately."""
    rows = _rows(
        "SELECT process, role, queues,"
        " extract(epoch FROM clock_timestamp() - seen_at)::float8"
        " FROM settlement_heartbeat ORDER BY role DESC, queues, process",
        {},
    )
    return [
        ProcessRow(
            process=process,
            role=role,
            queues=queues,
            silent_s=_rest(silent),
            is_alive=silent < heartbeats.SILENT_S,
        )
        for process, role, queues, silent in rows
    ]


def _instructions(at: datetime, leapt_at: datetime) -> InstructionsRow:
    """Return what the machine has not taken yet."""
    pending = models.Instruction.objects.filter(state=models.Instruction.State.PENDING)
    oldest = pending.order_by("number").values_list("created_at", flat=True).first()
    age = min(_seconds(oldest, at), _seconds(leapt_at, at))
    return InstructionsRow(pending=pending.count(), oldest_s=age)


def _seals(at: datetime) -> list[SealRow]:
    """Return the last seal of every chain."""
    rows = _rows(
        """
        SELECT head.chain, head.sequence, seal.sequence, seal.at FROM settlement_chainhead head
        LEFT JOIN LATERAL (
            SELECT sequence, at FROM settlement_seal
            WHERE chain = head.chain ORDER BY sequence DESC LIMIT 1
        ) seal ON true ORDER BY head.chain
        """,
        {},
    )
    return [
        SealRow(
            chain=chain,
            sequence=sealed or 0,
            head_sequence=head,
            at=sealed_at,
            age_s=_seconds(sealed_at, at),
        )
        for chain, head, sealed, sealed_at in rows
    ]


def _queue(kind: str) -> str:
    return kinds.get(kind).queue if kinds.knows(kind) else UNKNOWN


def _seconds(since: datetime | None, at: datetime) -> float:
    """Return how long ago an instant was; zero where there was none."""
    return 0.0 if since is None else max(0.0, (at - since).total_seconds())


def _rest(seconds: float | None) -> float:
    return max(0.0, seconds or 0.0)


def _rows(query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
