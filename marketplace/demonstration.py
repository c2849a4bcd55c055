"""What only a demo can do: make organizations with keys at will, move the clock, break a cluster.

The clock is moved in this order: the clusters are probed as they are now, the jump is written with
what the probes said (they stand for every probe that it leaps over), the clock is moved, and the
engine is woken. The caller is answered when the engine has passed the new instant and nothing that
is due by then is left to do. A jump that does not settle in time may be asked for again: it is not
made twice.
"""

import contextlib
import time

from django.conf import settings
from django.db import connection, transaction

from admission import operations as admission_operations
from exchange import operations as exchange_operations
from marketplace import clock, errors, models, operations
from settlement import jobs
from settlement import models as settlement_models
from settlement import operations as settlement_operations
from settlement import queries as settlement_queries

SETTLING_TIMEOUT_S = 120.0
SETTLING_POLL_S = 0.05
SETTLING_POLLS_PER_SWEEP = 10
JUMP_DAYS_MAX = 366
PROBES = 10
_CLOCK_LOCK = 7_301_002


class NotADemo(errors.NotFound):
    """The deployment is not a demo; there, these paths do not exist."""


class ClockMovesForward(errors.Refusal):
    """The instant asked for is not ahead."""

    code, status, title = "clock_moves_forward", 422, "The clock only moves forward"


class NotSettled(errors.Unavailable):
    """The clock was moved, and the work that is due by then is still going on."""

    code, title = "clock_not_settled", "Work is still going on"


def require_demo() -> None:
    """:raises NotADemo: elsewhere."""
    if not settings.IS_DEMO or not clock.can_advance():
        raise NotADemo()


def open_with_key(*, name: str, role: str) -> tuple[models.Organization, operations.NewKey]:
    """Create an organization, known to the machine, with a key of all scopes.

    :raises Malformed: when the name may not be shown to others.
    :raises NameTaken: when it looks like that of another.
    """
    scopes = [*operations.ALL_SCOPES]
    if role == models.Organization.Role.OPERATOR:
        scopes.append("operate")
    with transaction.atomic():
        organization = operations.open_organization(name=name, role=role)
        made = operations.insert_key(organization_id=organization.pk, scopes=scopes, name="demo")
    operations.announce_keys(version=made.row.version)
    operations.accepted(f"open:{organization.pk}")
    return organization, made


def advance_clock(*, advance_to: int, actor: str) -> int:
    """Move market time forward and return it when all work that is due by then is done.

    :raises ClockMovesForward: when `advance_to` is behind, or too far ahead.
    :raises NotSettled: when the work was not done in `SETTLING_TIMEOUT_S`.
    """
    require_demo()
    if not _was_made(advance_to):
        ahead = advance_to - clock.now_micros()
        if not 0 < ahead <= JUMP_DAYS_MAX * clock.DAY:
            raise ClockMovesForward(f"advance_to is at most {JUMP_DAYS_MAX} days ahead of now")
        probes = admission_operations.probe_clusters(n=PROBES)
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CLOCK_LOCK])
            if not _was_made(advance_to):  # by another caller, while we probed
                _jump(advance_to, probes, actor)
        settlement_operations.ring()
    _await_settled(advance_to)
    return clock.now_micros()


def _was_made(advance_to: int) -> bool:
    """Whether the clock was moved to this very instant before."""
    to_at = clock.to_datetime(advance_to)
    return settlement_models.ClockJump.objects.filter(to_at=to_at).exists()


def _jump(advance_to: int, probes: dict[str, list[int]], actor: str) -> None:
    """Write the jump and move the clock; whoever sees the new time finds the jump written."""
    from_at = clock.now_micros()
    if advance_to <= from_at:
        raise ClockMovesForward("another caller moved the clock further")
    settlement_operations.record_clock_jump(from_at=from_at, to_at=advance_to, probes=probes)
    operations.audit(
        actor=actor,
        action="advance_clock",
        target="clock",
        reason="demo",
        details={"from": from_at, "to": advance_to},
    )
    transaction.on_commit(lambda: _move(advance_to))


def _move(advance_to: int) -> None:
    clock.advance_to(advance_to)


def _await_settled(advance_to: int) -> None:
    """:raises NotSettled: when work that is due by then is still open after the timeout."""
    deadline_ns = clock.monotonic_ns() + int(SETTLING_TIMEOUT_S * 1_000_000_000)
    moment = clock.to_datetime(advance_to)
    reached, left, polls = 0, -1, 0
    while clock.monotonic_ns() < deadline_ns:
        if reached < advance_to:
            with contextlib.suppress(errors.Unavailable, errors.OutcomeUnknown):
                reached = exchange_operations.tick()
        left = settlement_queries.work_due_by(moment) if reached >= advance_to else -1
        if left == 0:
            return
        if left > 0 and polls % SETTLING_POLLS_PER_SWEEP == 0:
            jobs.sweep()  # beat would come round to it seconds later
        polls += left > 0
        time.sleep(SETTLING_POLL_S)
    waiting = "the engine" if left < 0 else f"{left} pieces of work"
    raise NotSettled(f"the clock was moved; {waiting} did not follow in time", retry_after_s=5)
