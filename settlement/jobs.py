"""The queue of record: what is due, who works on it, and what became of it.

Every piece of background work is a row `Job(kind, slot)`, unique for ever, so that planning it
twice, delivering its message twice or running two schedulers does it once. A Celery message is a
doorbell: it carries no work, only wakes somebody who looks here. What a lost broker forgets, the
next sweep rings again.

A worker *claims* due jobs for a while and thereby raises their epoch. The transaction that does the
work also marks the job done where the epoch is still the worker's own, so a worker that was
suspended and overtaken cannot commit (FAULTS K119). While it works its leases are renewed
(`settlement.keeping`); when it is killed, another has its jobs after one lease and one sweep.

A failed job is tried again with growing pauses; after `ATTEMPTS_MAX` tries, or at once where an
assertion broke, it is *parked*: visible, and out of the way of all that does not depend on it. An
operator runs it again or gives it up; both take what waits for it along. A database or an engine
that is away is not the job's fault: such a job waits and is never parked.

What is due follows market time; leases and pauses are about processes and follow the database's
clock. Kinds are registered by the `tasks` module of the app that does the work
(`settlement.kinds`), rows are planned by `settlement.planning`.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import kombu.exceptions
from celery import Celery
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from kombu import Queue

from marketplace import clock, errors
from settlement import backlog, keeping, kinds, models, planning
from settlement.kinds import Claim, ClaimLost

logger = logging.getLogger(__name__)

CLAIMS_MAX = 50
"""How many short jobs share one transaction."""
ATTEMPTS_MAX = 8
PAUSE_S_MAX = 300
ERROR_CHARACTERS_MAX = 2_000
DEPTH_MAX = 20
"""How long a chain of jobs that wait for one another may be."""
WORK_S_MAX = 20
"""How long one doorbell may keep a worker; what is left rings again."""
KEPT = 7 * clock.DAY
"""How long finished jobs of periodic kinds are shown."""
DOORBELL = "settlement.work"
BROKER_TIMEOUT_S = 1.0
BROKER_ONCE = {
    "max_retries": 0,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
    "socket_timeout": BROKER_TIMEOUT_S,
    "socket_connect_timeout": BROKER_TIMEOUT_S,
}
"""A ring is tried once: whoever rings has better to do than to wait for a broker."""
RING_EXPIRES_S = 60.0
"""A doorbell that nobody answered for so long is thrown away; sweeps have rung again by then."""
AWAY = (OperationalError, InterfaceError, errors.Unavailable, errors.OutcomeUnknown)
"""What says that the database or the engine is away, and nothing about the job."""


def enqueue(*, kind: str, slot: str, due_at: int, after: tuple[str, str] = ("", "")) -> None:
    """Plan one job in the caller's transaction; one that is there already stays as it is.

    `after` is the (kind, slot) of a job that must be done first.
    """
    registered = kinds.get(kind)
    planning.store([planning.row(registered, slot, due_at, clock.now_micros(), after)])
    transaction.on_commit(lambda: ring(registered.queue))


def sweep() -> int:
    """Plan what has become due by the market's clock and wake workers; return what is open."""
    kinds.load()
    now = clock.now_micros()
    planning.plan(now)
    ready = 0
    for queue in kinds.queues():
        count = _ready(queue, now)
        if count:
            ring(queue)
        ready += count
    return ready


def ring(queue: str) -> None:
    """Wake a worker of a queue. A broker that is away is rung again by the next sweep."""
    try:
        with _broker() as broker:
            _bell().send_task(
                DOORBELL,
                kwargs={"queue": queue},
                queue=queue,
                connection=broker,
                retry=False,
                expires=RING_EXPIRES_S,
                ignore_result=True,
            )
    except BrokerAway:
        logger.warning("the broker is away; the next sweep rings again")


def doorbells() -> int | None:
    """Return how many doorbells wait in the broker; None when it does not answer."""
    waiting = 0
    try:
        with _broker() as broker, broker.channel() as channel:
            for queue in (kinds.URGENT, kinds.NORMAL):
                with contextlib.suppress(*broker.channel_errors):  # one that is empty is none
                    waiting += channel.queue_declare(queue, passive=True).message_count
    except BrokerAway:
        return None
    return waiting


class BrokerAway(Exception):
    """The broker does not answer, or not in time."""


@contextlib.contextmanager
def _broker() -> Iterator[Any]:
    """Connect to the broker, once and not for long.

    :raises BrokerAway: when it is.
    """
    with _bell().connection_for_write(transport_options=BROKER_ONCE) as broker:
        away: Any = broker.connection_errors
        try:
            yield broker
        except (kombu.exceptions.KombuError, OSError, *away) as error:
            raise BrokerAway from error


@functools.cache
def _bell() -> Celery:
    """Return an application that only sends: web processes and commands load no worker's."""
    app = Celery("bell", broker=settings.CELERY_BROKER_URL, set_as_current=False)
    app.conf.task_queues = [Queue(queue) for queue in (kinds.URGENT, kinds.NORMAL)]
    app.conf.task_default_queue = kinds.NORMAL
    return app


def work(queue: str) -> int:
    """Do the due jobs of a queue until none is left or the time is up; return how many."""
    kinds.load()
    until = clock.monotonic_ns() + WORK_S_MAX * 10**9
    done = 0
    while True:
        planning.plan(clock.now_micros())
        claims = claim(queue, at=clock.now_micros())
        if not claims:
            return done
        done += run(claims)
        if clock.monotonic_ns() >= until:
            ring(queue)
            return done


def claim(queue: str, *, at: int, limit: int = CLAIMS_MAX) -> list[Claim]:
    """Lease due jobs in order: many that are new and short, or one that is long or was tried."""
    names = kinds.names(queue)
    short = [name for name in names if kinds.get(name).handler is not None]
    return _claim(short, at, limit, is_new=True) or _claim(names, at, 1, is_new=False)


def _claim(names: Sequence[str], at: int, limit: int, *, is_new: bool) -> list[Claim]:
    """Lease the first due jobs of these kinds."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH chosen AS (
                SELECT job.id FROM settlement_job job
                WHERE {backlog.READY}
                  AND (NOT %(is_new)s OR job.state = 'DUE' AND job.attempts = 0)
                ORDER BY job.due_at, job.id LIMIT %(limit)s
                FOR NO KEY UPDATE SKIP LOCKED
            ), claimed AS (
                UPDATE settlement_job job SET
                    attempts = attempts + CASE job.state WHEN 'RUNNING' THEN 1 ELSE 0 END,
                    state = 'RUNNING', lease_epoch = lease_epoch + 1,
                    holder = %(holder)s, claimed_at = clock_timestamp(),
                    leased_until = clock_timestamp() + lease.seconds * interval '1 second'
                FROM chosen,
                    unnest(%(names)s::text[], %(seconds)s::float8[]) AS lease (kind, seconds)
                WHERE job.id = chosen.id AND lease.kind = job.kind
                RETURNING job.id, job.kind, job.slot, job.lease_epoch, job.attempts, job.due_at
            )
            SELECT id, kind, slot, lease_epoch, attempts FROM claimed ORDER BY due_at, id
            """,  # noqa: S608 - a constant of the module that reads the same rows
            {
                "names": list(names),
                "seconds": [float(kinds.get(name).lease_s) for name in names],
                "at": clock.to_datetime(at),
                "holder": keeping.process_name(),
                "is_new": is_new,
                "limit": limit,
            },
        )
        claims = []
        for id_, kind, slot, epoch, attempts in cursor.fetchall():
            claim = Claim(id=id_, kind=kind, slot=slot, epoch=epoch, at=at)
            if attempts >= ATTEMPTS_MAX:
                _park(cursor, claim, attempts, "its workers died")
            else:
                claims.append(claim)
    return claims


def run(claims: Sequence[Claim]) -> int:
    """Do claimed jobs; short ones share a transaction. Return how many were done."""
    short = [claim for claim in claims if kinds.get(claim.kind).handler is not None]
    long = [claim for claim in claims if kinds.get(claim.kind).handler is None]
    with keeping.keeper.keep(claims):
        return _run_together(short) + sum(_run_long(claim) for claim in long)


def _run_together(claims: Sequence[Claim]) -> int:
    """Do short jobs in one transaction; should any fail, again with each on its own."""
    if len(claims) > 1:
        try:
            with transaction.atomic():
                for claim in claims:
                    _do(claim)
            return len(claims)
        except Exception:  # noqa: BLE001 - each is done again, and its own error stored with it
            logger.info("%d jobs are done one by one", len(claims))
            claims = _still_held(claims)
    with transaction.atomic():
        return sum(_run_short(claim) for claim in claims)


def _still_held(claims: Sequence[Claim]) -> list[Claim]:
    """Return the claims that nobody has taken over, so that lost work is not even begun again."""
    rows = models.Job.objects.filter(pk__in=[claim.id for claim in claims])
    epochs = dict(rows.values_list("pk", "lease_epoch"))
    return [claim for claim in claims if epochs[claim.id] == claim.epoch]


def _do(claim: Claim) -> None:
    """Do a short job and mark it done, in the caller's transaction."""
    handler = kinds.get(claim.kind).handler
    assert handler is not None, "a short kind has a handler"
    handler(claim.slot, claim.at)
    finish(claim)


def _run_short(claim: Claim) -> bool:
    """Do one job inside the caller's transaction; a failure takes back only its own part."""
    try:
        with transaction.atomic():
            _do(claim)
    except ClaimLost:
        logger.warning("job %s %s was taken over", claim.kind, claim.slot)
        return False
    except Exception as error:  # noqa: BLE001 - whatever it is, it is stored with the job
        fail(claim, error)
        return False
    return True


def _run_long(claim: Claim) -> bool:
    """Do one job that has transactions of its own."""
    handler = kinds.get(claim.kind).long_handler
    assert handler is not None, "a long kind has a handler"
    try:
        handler(claim)
        with transaction.atomic():
            finish(claim)
    except ClaimLost:
        logger.warning("job %s %s was taken over", claim.kind, claim.slot)
        return False
    except Exception as error:  # noqa: BLE001 - whatever it is, it is stored with the job
        with transaction.atomic():
            fail(claim, error)
        return False
    return True


def fence(claim: Claim) -> None:
    """Hold the claim to the end of the caller's transaction; for long handlers.

    :raises ClaimLost: when another worker has taken the job over.
    """
    assert connection.in_atomic_block, "a fence guards a transaction"
    _update(claim, "lease_epoch = lease_epoch", {})


def progress(claim: Claim, done: dict[str, Any]) -> None:
    """Show how far a long job has come, and renew its lease.

    :raises ClaimLost: when another worker has taken the job over.
    """
    seconds = float(kinds.get(claim.kind).lease_s)
    _update(
        claim,
        "progress = %(progress)s::jsonb,"
        " leased_until = clock_timestamp() + %(seconds)s * interval '1 second'",
        {"progress": kinds.to_json(done), "seconds": seconds},
    )


def finish(claim: Claim) -> None:
    """Mark a job done in the transaction of its work; one that repeats is due again.

    :raises ClaimLost: when another worker has taken the job over.
    """
    schedule = kinds.get(claim.kind).schedule
    if isinstance(schedule, kinds.Repeat):
        _update(
            claim,
            "state = 'DUE', due_at = %(due_at)s, leased_until = NULL, not_before = NULL,"
            " attempts = 0, error = '', finished_at = %(at)s",
            {
                "due_at": clock.to_datetime(claim.at + schedule.period),
                "at": clock.to_datetime(claim.at),
            },
        )
        return
    _update(
        claim,
        "state = 'DONE', leased_until = NULL, error = '', finished_at = %(at)s",
        {"at": clock.to_datetime(claim.at)},
    )


def fail(claim: Claim, error: Exception) -> None:
    """Put a job back for another try after a pause, or park it when it was tried often enough."""
    text = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS_MAX]
    with connection.cursor() as cursor:
        cursor.execute("SELECT attempts + 1 FROM settlement_job WHERE id = %s", [claim.id])
        attempts = int(cursor.fetchone()[0])
        try:
            # A broken assertion does not mend itself; somebody is to look at once.
            is_hopeless = attempts >= ATTEMPTS_MAX or isinstance(error, AssertionError)
            if is_hopeless and not isinstance(error, AWAY):
                _park(cursor, claim, attempts, text)
                logger.error("job %s %s is parked: %s", claim.kind, claim.slot, text)
                return
            _update(
                claim,
                "state = 'DUE', leased_until = NULL, attempts = %(attempts)s, error = %(error)s,"
                " not_before = clock_timestamp() + %(pause)s * interval '1 second'",
                {
                    "attempts": min(attempts, ATTEMPTS_MAX - 1),
                    "error": text,
                    "pause": min(2.0**attempts / 4, PAUSE_S_MAX),
                },
            )
        except ClaimLost:
            return
    logger.warning("job %s %s failed: %s", claim.kind, claim.slot, text)


def run_again(*, kind: str, slot: str) -> list[tuple[str, str]]:
    """Put a job that was set aside back, with what was given up along with it; return them.

    Both are in the caller's transaction, as is `give_up`; nothing is returned where the job is in
    no such state.
    """
    states = (models.Job.State.PARKED, models.Job.State.GIVEN_UP)
    moved = _move(kind, slot, states, (models.Job.State.GIVEN_UP,), models.Job.State.DUE)
    for queue in {kinds.get(name).queue for name, _ in moved if kinds.knows(name)}:
        transaction.on_commit(functools.partial(ring, queue))
    return moved


def give_up(*, kind: str, slot: str) -> list[tuple[str, str]]:
    """Give up a parked job, and all that waits for it; return them, the parked one first."""
    return _move(
        kind, slot, (models.Job.State.PARKED,), (models.Job.State.DUE,), models.Job.State.GIVEN_UP
    )


def _move(
    kind: str, slot: str, states: Sequence[str], dependent_states: Sequence[str], to: str
) -> list[tuple[str, str]]:
    """Change the state of a job in one of `states`, and of those behind it in others."""
    assert connection.in_atomic_block, "an operator's decision stands or falls with its audit entry"
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE moving (id, kind, slot, depth) AS (
                SELECT id, kind::text, slot::text, 0 FROM settlement_job
                WHERE kind = %(kind)s AND slot = %(slot)s AND state = ANY(%(states)s)
                UNION
                SELECT job.id, job.kind::text, job.slot::text, moving.depth + 1
                FROM moving JOIN settlement_job job
                    ON job.after_kind = moving.kind AND job.after_slot = moving.slot
                WHERE job.state = ANY(%(dependent_states)s) AND moving.depth < %(depth_max)s
            ), moved AS (
                UPDATE settlement_job job
                SET state = %(to)s, attempts = 0, not_before = NULL, leased_until = NULL
                FROM moving WHERE job.id = moving.id
                RETURNING job.id
            )
            SELECT kind, slot FROM moving JOIN moved USING (id) ORDER BY depth, kind, slot
            """,
            {
                "kind": kind,
                "slot": slot,
                "states": list(states),
                "dependent_states": list(dependent_states),
                "depth_max": DEPTH_MAX,
                "to": to,
            },
        )
        return [(name, what) for name, what in cursor.fetchall()]


def prune(at: int) -> int:
    """Forget finished jobs of periodic kinds that are old; return how many.

    Planning only looks for the latest slot of a periodic kind. Jobs about delivery and those that
    were enqueued stay for ever: they are what keeps a slot from being done twice.
    """
    periodic = [kind.name for kind in kinds.every() if isinstance(kind.schedule, kinds.Every)]
    return models.Job.objects.filter(
        kind__in=periodic, state=models.Job.State.DONE, due_at__lt=clock.to_datetime(at - KEPT)
    ).delete()[0]


def _park(cursor: Any, claim: Claim, attempts: int, error: str) -> None:
    """Set a job aside."""
    _update(
        claim,
        "state = 'PARKED', leased_until = NULL, attempts = %(attempts)s, error = %(error)s",
        {"attempts": attempts, "error": error},
    )


def _update(claim: Claim, assignments: str, values: dict[str, Any]) -> None:
    """Change a job where the claim still holds.

    :raises ClaimLost: when it does not.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE settlement_job SET {assignments}"  # noqa: S608 - constants of this module
            " WHERE id = %(id)s AND lease_epoch = %(epoch)s AND state = 'RUNNING'",
            {**values, "id": claim.id, "epoch": claim.epoch},
        )
        if cursor.rowcount != 1:
            raise ClaimLost(f"{claim.kind} {claim.slot}")


def _ready(queue: str, at: int) -> int:
    """Count the jobs of a queue that a worker could claim now."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM settlement_job job WHERE {backlog.READY}",  # noqa: S608
            {"names": kinds.names(queue), "at": clock.to_datetime(at)},
        )
        return int(cursor.fetchone()[0])
