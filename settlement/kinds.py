"""Which kinds of background work there are, when each is due and who does it.

A kind is registered by the `tasks` module of the app that does the work, so that settlement plans
and dispatches what admission and exchange bring without knowing them. A *short* kind is a function
of slot and market time that runs inside the transaction that marks it done; a *long* one has
transactions of its own and passes the claim to `jobs.fence` in each.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.utils.module_loading import autodiscover_modules

URGENT = "urgent"
"""Queue of what settles delivery and money."""
NORMAL = "normal"
"""Queue of everything that may wait."""

REPORT_INTERVAL = "report_interval"
"""Admission's report on an interval, which settlement waits for; registered by admission."""
REVIEW_DAY = "review_day"
"""Admission's second look at a day that is over, which its final run waits for."""
SETTLE_DAY = "settle_day"
SETTLE_INTERVAL = "settle_interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that is this worker's until the lease ends, and the epoch that proves it."""

    id: int
    kind: str
    slot: str
    epoch: int
    at: int
    """Market time of the claim, microseconds."""


class ClaimLost(Exception):
    """The job's lease was taken over: nothing of this transaction may commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """Due at each full period of market time; of slots missed, the latest or each in order."""

    period: int
    """Microseconds."""
    catch_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """One job that is due again a period after it was done; for what is polled often."""

    period: int
    """Microseconds."""


@dataclass(frozen=True, slots=True)
class PerInterval:
    """Due `SETTLEMENT_LAG` after each five-minute interval of an hour with delivery."""


@dataclass(frozen=True, slots=True)
class AtGateClosure:
    """Due when the gate of an hour with delivery has closed."""


@dataclass(frozen=True, slots=True)
class AfterHour:
    """Due `SETTLEMENT_LAG` after the end of an hour with delivery."""


@dataclass(frozen=True, slots=True)
class AfterDay:
    """Due at 02:00 on D+1 and again on D+14 of a day with delivery; or on D+1 alone."""

    is_repeated: bool = True


Schedule = Every | Repeat | PerInterval | AtGateClosure | AfterHour | AfterDay


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of background work; without a schedule its jobs are enqueued one by one."""

    name: str
    queue: str = NORMAL
    schedule: Schedule | None = None
    handler: Callable[[str, int], None] | None = None
    """Does the work in the caller's transaction, given the slot and market time (us)."""
    long_handler: Callable[[Claim], None] | None = None
    after: str = ""
    """Kind whose job of the same slot must be done first. The job of an hour waits for that kind's
    job of the hour's last interval."""
    lease_s: float = 60.0
    is_awaited: bool = True
    """Whether a demo's clock, when it is advanced, waits for jobs of this kind."""


def register(kind: Kind) -> None:
    """Make a kind known; the same name again replaces it."""
    assert (kind.handler is None) != (kind.long_handler is None), "a kind is short or long"
    _registry[kind.name] = kind


def get(name: str) -> Kind:
    """Return a registered kind.

    :raises KeyError: when no loaded app has it.
    """
    return _registry[name]


def knows(name: str) -> bool:
    """Whether a loaded app has the kind; rows outlive the code that planned them."""
    return name in _registry


def every() -> list[Kind]:
    """Return all kinds in order of name."""
    return [_registry[name] for name in sorted(_registry)]


def names(queue: str) -> list[str]:
    """Return the kinds of a queue in order of name."""
    return [kind.name for kind in every() if kind.queue == queue]


def queues() -> list[str]:
    """Return the queues that have kinds, the urgent one first."""
    return [queue for queue in (URGENT, NORMAL) if names(queue)]


def load() -> None:
    """Import every app's `tasks`, which register their kinds."""
    if not _loaded:
        autodiscover_modules("tasks")
        _loaded.append(True)


def to_json(value: dict[str, Any]) -> str:
    """Return progress as it is stored."""
    return json.dumps(value, sort_keys=True)


_registry: dict[str, Kind] = {}
_loaded: list[bool] = []
