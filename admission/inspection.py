"""What a scheduler shows of itself: queues, waits, counts and fairness per class, levels per flow.

Nothing here decides anything. `Tally` counts as decisions are made, `Inspection` is the frozen
state at one instant that pages, metrics and tests read.
"""

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from admission.decisions import ServiceClass
from admission.fairness import jain
from admission.scaling import PARTS

FAIRNESS_WINDOW_US = 10_000_000
"""Fairness is judged over flows that waited through a whole window of this length."""
WAITS_KEPT = 1_024
"""How many of the last waits of a class the percentiles look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    """What happened to one class since the scheduler began; waits of the last `WAITS_KEPT`."""

    queued_now: int
    running_now: int
    arrived: int
    admitted: int
    queued: int
    shed: int
    spilled: int
    aborted: int
    wait_us_p50: int
    wait_us_p95: int
    wait_us_p99: int
    first_token_us_p50: int
    """From arrival, as the caller of `first_token` saw it."""
    first_token_us_p99: int
    jain: Fraction | None
    """Over flows that waited through the last whole window; None when there were not two."""
    bound_us: int | None = None
    """How late the first token of a timed request may be (RULEBOOK 7.6); None: no bound."""
    is_bound_void: bool = False
    """Whether timed requests wait now, because sequences or KV are exhausted."""
    factor: int = PARTS
    """What of the rates of the class holds, in millionths, while a replica is lost."""
    lag_us: int | None = None
    """The worst of the last timed requests less the bound: below zero it was kept by so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowReport:
    """One flow: its rate, its level and debt, and who waits for it."""

    organization: int
    service_class: ServiceClass
    lots: int
    level_mntu: int
    owed_mntu: int
    forgiven_mntu: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What the scheduler believes a replica is doing."""

    available: bool
    prefill_tokens: int
    sequences: int
    kv_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The whole state of the scheduler at an instant, for people and for metrics."""

    at: int
    classes: dict[ServiceClass, ClassReport]
    flows: tuple[FlowReport, ...]
    replicas: tuple[ReplicaReport, ...]


class Tally:
    """The counts of one class, the waits of its last requests, and its fairness by window.

    A flow counts in a window's index when it waited from its begin to its end: only those could
    have been served more. `serve` and `wait` tell who is waiting; `roll` closes windows.
    """

    __slots__ = (
        "aborted",
        "admitted",
        "arrived",
        "backlogged_since",
        "bounded_us",
        "first_tokens_us",
        "jain",
        "queued",
        "served",
        "shed",
        "spilled",
        "waits_us",
        "window",
    )

    def __init__(self) -> None:
        self.arrived = 0
        self.admitted = 0
        self.queued = 0
        self.shed = 0
        self.spilled = 0
        self.aborted = 0
        self.waits_us: deque[int] = deque(maxlen=WAITS_KEPT)
        self.first_tokens_us: deque[int] = deque(maxlen=WAITS_KEPT)
        self.bounded_us: deque[int] = deque(maxlen=WAITS_KEPT)
        """The first tokens of timed requests that did not wait for sequences or KV."""
        self.backlogged_since: dict[int, int] = {}
        self.served: dict[int, Fraction] = {}
        self.window = 0
        self.jain: Fraction | None = None

    def wait(self, organization: int, at: int) -> None:
        """Note that an organization has requests in line."""
        self.roll(at)
        self.backlogged_since.setdefault(organization, at)

    def serve(self, organization: int, share: Fraction, at: int, *, still_waiting: bool) -> None:
        """Note what an organization was served, over its weight, and whether more of it waits."""
        self.roll(at)
        if organization in self.backlogged_since:
            self.served[organization] = self.served.get(organization, Fraction(0)) + share
        if not still_waiting:
            self.backlogged_since.pop(organization, None)

    def leave(self, organization: int) -> None:
        """Note that the last waiting request of an organization was refused or withdrawn."""
        self.backlogged_since.pop(organization, None)

    def roll(self, at: int) -> None:
        """Close the window that ended, if one did."""
        window = at // FAIRNESS_WINDOW_US
        if window == self.window:
            return
        began = self.window * FAIRNESS_WINDOW_US
        shares = [
            self.served.get(organization, Fraction(0))
            for organization, since in sorted(self.backlogged_since.items())
            if since <= began
        ]
        self.jain = jain(shares) if len(shares) > 1 and window == self.window + 1 else None
        self.served = {}
        self.window = window

    def report(
        self,
        *,
        queued_now: int,
        running_now: int,
        bound_us: int | None,
        is_bound_void: bool,
        factor: int,
    ) -> ClassReport:
        """Return the counts and the percentiles of the last waits."""
        waits = sorted(self.waits_us)
        first_tokens = sorted(self.first_tokens_us)
        return ClassReport(
            queued_now=queued_now,
            running_now=running_now,
            arrived=self.arrived,
            admitted=self.admitted,
            queued=self.queued,
            shed=self.shed,
            spilled=self.spilled,
            aborted=self.aborted,
            wait_us_p50=percentile(waits, 50),
            wait_us_p95=percentile(waits, 95),
            wait_us_p99=percentile(waits, 99),
            first_token_us_p50=percentile(first_tokens, 50),
            first_token_us_p99=percentile(first_tokens, 99),
            jain=self.jain,
            bound_us=bound_us,
            is_bound_void=is_bound_void,
            factor=factor,
            lag_us=(
                max(self.bounded_us) - bound_us
                if self.bounded_us and bound_us is not None
                else None
            ),
        )


def percentile(ordered: list[int], percent: int) -> int:
    """Return the smallest value that at least `percent` of an ordered list do not exceed."""
    if not ordered:
        return 0
    return ordered[-(-percent * len(ordered) // 100) - 1]
