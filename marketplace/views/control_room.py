"""What operators watch, queues, failures, leases, workers, engine, and what they decide."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.cache import patch_cache_control
from django.views.decorators.http import require_POST, require_safe

from marketplace import clock, control_room, errors
from marketplace.control_room import duration
from marketplace.views import shared
from settlement import backlog

Decide = Callable[..., list[tuple[str, str]]]


def operator_page(view: shared.View) -> shared.View:
    """Let only operators in: to others the page does not exist, strangers are asked to log in."""

    @wraps(view)
    def guarded(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect(f"{settings.LOGIN_URL}?next=/operations")
        if not shared.may_operate(request):
            return shared.refused(request, errors.Forbidden("only operators may see this"))
        try:
            response = view(request, *arguments, **named)
        except errors.Refusal as refusal:
            return shared.refused(request, refusal)
        patch_cache_control(response, no_store=True)
        return response

    return guarded


@require_safe
@operator_page
def page(request: HttpRequest) -> HttpResponse:
    """How the work behind the market stands now."""
    room = control_room.look(clock.now_micros())
    held = room.backlog
    values = {
        "at": held.at,
        "alerts": room.alerts,
        "engine": room.engine,
        "engine_age": duration(room.engine.age_s),
        "broker": room.broker,
        "instructions": held.instructions,
        "instruction_age": duration(held.instructions.oldest_s),
        "queues": [_queue(row) for row in held.queues],
        "parked": [_job(row) for row in held.parked],
        "given_up": [_job(row) for row in held.given_up],
        "failing": [_job(row) for row in held.failing],
        "blocked": [_job(row) for row in held.blocked],
        "running": [_job(row) for row in held.running],
        "leases": [
            {
                "name": row.name,
                "holder": row.holder,
                "epoch": row.epoch,
                "left": duration(row.left_s) if row.left_s else "",
            }
            for row in held.leases
        ],
        "processes": [
            {
                "process": row.process,
                "role": row.role,
                "queues": row.queues.replace(",", ", "),
                "silent": duration(row.silent_s),
                "is_alive": row.is_alive,
            }
            for row in held.processes
        ],
        "seals": [
            {"row": row, "age": duration(row.age_s), "behind": row.head_sequence - row.sequence}
            for row in held.seals
        ],
        "rows_max": backlog.ROWS_MAX,
        "reason_min": control_room.REASON_CHARACTERS_MIN,
        "reason_max": control_room.REASON_CHARACTERS_MAX,
    }
    return shared.page(request, "marketplace/operations.html", values)


def _queue(row: backlog.QueueRow) -> dict[str, Any]:
    limit = control_room.LATE_S_MAX.get(row.queue, control_room.LATE_S_MAX_OTHERWISE)
    return {
        "row": row,
        "lag": duration(row.lag_s) if row.oldest_due_at else "",
        "limit": duration(limit),
        "is_late": row.late_s > limit,
    }


def _job(row: backlog.JobRow) -> dict[str, Any]:
    return {
        "row": row,
        "running": duration(row.running_s),
        "lease_left": duration(row.lease_left_s) if row.lease_left_s else "",
        "pause_left": duration(row.pause_left_s) if row.pause_left_s else "",
    }


@require_POST
@operator_page
def run_again(request: HttpRequest) -> HttpResponse:
    """Put a job that was set aside back into its queue."""
    moved = _decide(request, control_room.run_again)
    messages.success(request, f"{_named(moved)} will be run again.")
    return redirect("/operations")


@require_POST
@operator_page
def give_up(request: HttpRequest) -> HttpResponse:
    """Give a parked job up."""
    moved = _decide(request, control_room.give_up)
    messages.success(request, f"{_named(moved)}: given up.")
    return redirect("/operations")


def _decide(request: HttpRequest, decision: Decide) -> list[tuple[str, str]]:
    given = request.POST
    return decision(
        kind=given.get("kind", "")[:80].replace("\0", ""),
        slot=given.get("slot", "")[:80].replace("\0", ""),
        reason=given.get("reason", "").replace("\0", ""),
        actor=str(getattr(request.user, "email", "")),
    )


def _named(moved: list[tuple[str, str]]) -> str:
    """Return the job's name, and how many were moved along."""
    (kind, slot), *others = moved
    rest = f" and {len(others)} behind it" if others else ""
    return f"{kind} {slot}{rest}"
