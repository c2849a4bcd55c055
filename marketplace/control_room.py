"""What operators watch: the work behind the market, how late it is, and what is wrong with it.

One look gathers the queue of record, the broker that wakes its workers, the workers themselves and
the engine. The page, the API, the metrics and the alerts in the log are four ways of printing the
same look. An alert is a sentence that holds now: it needs no state, and is gone when its cause is.

The limits are about processes and money that should have moved. They are generous beside
what is normal (a sweep every five seconds, an instruction taken in milliseconds) and small beside
what a member would notice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from exchange import queries as exchange_queries
from marketplace import errors, operations
from settlement import backlog, heartbeats, jobs, kinds
from settlement.backlog import Backlog

LATE_S_MAX = {kinds.URGENT: 60.0, kinds.NORMAL: 600.0}
"""How late the oldest job of a queue may be before it is an alert, market time."""
LATE_S_MAX_OTHERWISE = 60.0
INSTRUCTION_S_MAX = 10.0
"""How long an instruction may wait for the engine."""
REASON_CHARACTERS_MIN = 5
REASON_CHARACTERS_MAX = 500


class NotSetAside(errors.Refusal):
    """The job is neither parked nor given up, as what was asked of it needs."""

    code, status, title = "job_not_set_aside", 422, "The job is not set aside"


class ReasonRequired(errors.Refusal):
    """What an operator decides goes into the audit trail with a reason."""

    code, status, title = "reason_required", 422, "A reason is required"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Where the journal ends."""

    state: str
    epoch: int
    sequence: int
    committed_at: datetime
    age_s: float
    """Market time since the last commit; an idle engine commits only what is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Whether the broker answers, and how many doorbells nobody has answered yet."""

    is_reachable: bool
    doorbells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that an operator should look at now."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRoom:
    """Everything at one instant."""

    backlog: Backlog
    engine: Engine
    broker: Broker
    alerts: Sequence[Alert]


def look(now: int) -> ControlRoom:
    """Return how the work behind the market stands at `now` (us)."""
    held = backlog.read(now)
    status = exchange_queries.status()
    engine = Engine(
        state=status.state,
        epoch=status.epoch,
        sequence=status.sequence,
        committed_at=status.at,
        age_s=max(0.0, (held.at - status.at).total_seconds()),
    )
    waiting = jobs.doorbells()
    broker = Broker(is_reachable=waiting is not None, doorbells=waiting or 0)
    return ControlRoom(
        backlog=held, engine=engine, broker=broker, alerts=alerts(held, engine, broker)
    )


def alerts(held: Backlog, engine: Engine, broker: Broker) -> list[Alert]:
    """Return what is wrong, what stops most first."""
    found = []
    if engine.state != "running":
        found.append(Alert(code="engine", text=f"The engine is {engine.state.replace('_', ' ')}."))
    if held.instructions.oldest_s > INSTRUCTION_S_MAX:
        found.append(
            Alert(
                code="instructions",
                text=f"{held.instructions.pending} instructions wait for the engine, the oldest"
                f" for {duration(held.instructions.oldest_s)}.",
            )
        )
    if not broker.is_reachable:
        found.append(Alert(code="broker", text="The broker does not answer."))
    found += _silences(held)
    for row in held.queues:
        limit = LATE_S_MAX.get(row.queue, LATE_S_MAX_OTHERWISE)
        if row.late_s > limit:
            text = f"Queue {row.queue} is {duration(row.late_s)} late; {duration(limit)} is normal."
            found.append(Alert(code="lag", text=text))
    if held.parked:
        found.append(Alert(code="parked", text=_parked(held)))
    return found


def _silences(held: Backlog) -> list[Alert]:
    """Return which queues nobody works on, and whether nobody rings."""
    alive = [one for one in held.processes if one.is_alive]
    served = {
        queue for one in alive if one.role == heartbeats.WORKER for queue in one.queues.split(",")
    }
    found = [
        Alert(code="worker", text=f"No worker serves queue {queue}.")
        for queue in kinds.queues()
        if queue not in served
    ]
    if not any(one.role == heartbeats.BEAT for one in alive):
        found.append(Alert(code="beat", text="No sweep was heard: beat or its way is down."))
    return found


def _parked(held: Backlog) -> str:
    """Return how much is parked, and what waits for it."""
    count = len(held.parked)
    text = "1 job is parked" if count == 1 else f"{count} jobs are parked"
    return f"{text}; {len(held.blocked)} more are blocked." if held.blocked else f"{text}."


def duration(seconds: float) -> str:
    """Print a duration for people: `8 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


# What operators decide


def run_again(*, kind: str, slot: str, actor: str, reason: str) -> list[tuple[str, str]]:
    """Put a job that was set aside back into its queue, and what was given up along with it.

    :raises ReasonRequired: without a reason.
    :raises NotSetAside: when it is neither parked nor given up, or does not exist.
    """
    with transaction.atomic():
        moved = jobs.run_again(kind=kind, slot=slot)
        _write_down("run_job_again", moved, kind, slot, actor, reason)
    return moved


def give_up(*, kind: str, slot: str, actor: str, reason: str) -> list[tuple[str, str]]:
    """Give a parked job up, and all that waits for it.

    :raises ReasonRequired: without a reason.
    :raises NotSetAside: when it is not parked, or does not exist.
    """
    with transaction.atomic():
        moved = jobs.give_up(kind=kind, slot=slot)
        _write_down("give_job_up", moved, kind, slot, actor, reason)
    return moved


def _write_down(
    action: str,
    moved: Sequence[tuple[str, str]],
    kind: str,
    slot: str,
    actor: str,
    reason: str,
) -> None:
    """Leave an audit entry in the caller's transaction, or take it all back."""
    reason = " ".join(reason.split())
    if not REASON_CHARACTERS_MIN <= len(reason) <= REASON_CHARACTERS_MAX:
        raise ReasonRequired(
            f"give a reason of {REASON_CHARACTERS_MIN} to {REASON_CHARACTERS_MAX} characters"
        )
    if not moved:
        raise NotSetAside(f"job {kind} {slot} is not set aside; somebody may have decided already")
    operations.audit(
        actor=actor,
        action=action,
        target=f"job:{kind} {slot}",
        reason=reason,
        details={"jobs": [f"{name} {what}" for name, what in moved]},
    )
