"""Which request runs now, which waits and which is refused: the scheduler of one cluster.

It is pure: it is given every instant, in integer microseconds, and decides the same way whether time
is real or simulated. A request that arrives is judged by the level of its flow (RULEBOOK 7.2):

* above zero, it is *entitled* and is debited its charge at once, so that parallel requests cannot
  spend the same level twice;
* otherwise it goes by its overflow policy: `SPILL` serves it at P3, `REJECT` refuses it with the
  time to come back, `QUEUE` lets it wait, bounded, until its level allows it.

Entitled requests run strictly before P3. Inside each of the two, organizations share by virtual
counters (`admission.fairness`), entitled ones in proportion to their lots. Work is conserved: a
request waits only while no replica may take one, and a replica may while its prefill backlog is
below one chunk and sequences and KV tokens are free (RULEBOOK 7.7). The line forms here, where it is
ordered and visible, and not in the model server. The first in line is never overtaken by a smaller
request behind it, so nobody starves inside a tier.

Everything that happens to a request is a `Decision`, which says what was asked, what was served, how
long it waited and why. A request gets one from `arrive`; if that leaves it waiting, it gets its final
one from `dispatch`. Who calls: `arrive` and then `dispatch`, `dispatch` again at `next_wake` and after
every `first_token`, `finish` and `abort`.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from fractions import Fraction
from heapq import heappop, heappush

from admission.fairness import FairQueue, jain
from admission.levels import GRAINS_PER_MNTU, Level, OutputEstimate, Window
from marketplace.contract import WeightSchedule

FAIRNESS_WINDOW_US = 10_000_000
"""Fairness is judged over flows that waited through a whole window of this length."""
WAITS_KEPT = 1_024
"""How many of the last waits of a class the percentiles look at."""
RETRY_AFTER_US_MIN = 100_000
RETRY_AFTER_US_DEFAULT = 1_000_000
"""What a caller is told when nothing says when capacity will be back."""


class ServiceClass(IntEnum):
    """The order in which requests are served."""

    P0 = 0
    P1 = 1
    P2 = 2
    P3 = 3


class Overflow(StrEnum):
    """What becomes of a request that its flow's level does not cover."""

    SPILL = "SPILL"
    REJECT = "REJECT"
    QUEUE = "QUEUE"


class Outcome(StrEnum):
    """What a decision says: run now, wait, refused, or run now at P3 instead of what was asked."""

    ADMIT = "ADMIT"
    QUEUE = "QUEUE"
    SHED = "SHED"
    SPILL = "SPILL"


class Reason(StrEnum):
    """Why, in order of precedence; the first that applies is given."""

    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    NO_CAPACITY = "NO_CAPACITY"
    NO_ENTITLEMENT = "NO_ENTITLEMENT"
    WINDOW_ENDS = "WINDOW_ENDS"
    LEVEL_SPENT = "LEVEL_SPENT"
    QUEUE_FULL = "QUEUE_FULL"
    OVERLOADED = "OVERLOADED"
    WAITED_TOO_LONG = "WAITED_TOO_LONG"
    ENTITLED = "ENTITLED"
    PAY_AS_YOU_GO = "PAY_AS_YOU_GO"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTerms:
    """What a cluster can take and what its queues may hold; limits are per cluster unless named."""

    replicas: int
    chunk_tokens: int
    """Prefill tokens of one iteration; a replica is fed while its backlog is below this."""
    sequences_max: int
    """Per replica."""
    kv_tokens: int
    """Per replica."""
    certified_lots: int = 0
    """Estimates how fast the shared line moves; 0 when it is not known."""
    weights: WeightSchedule = WeightSchedule()
    entitled_queue_max: int = 1_024
    shared_queue_max: int = 1_024
    flow_queue_max: int = 64
    """Requests of one flow that wait for its level (overflow policy QUEUE)."""
    entitled_wait_us_max: int = 30_000_000
    shared_wait_us_max: int = 5_000_000
    flow_wait_us_max: int = 30_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it arrives; `prompt_tokens` counts as uncached, whatever is cached."""

    id: str
    organization: int
    service_class: ServiceClass
    prompt_tokens: int
    output_tokens_max: int
    overflow: Overflow = Overflow.SPILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided about a request, and why; levels and charge in mNTU, times in microseconds.

    `replica` is set when it runs (`ADMIT`, `SPILL`), `retry_after_us` when it was refused and may
    come back, `class_served` is what it runs or waits as.
    """

    request_id: str
    organization: int
    outcome: Outcome
    reason: Reason
    class_requested: ServiceClass
    class_served: ServiceClass
    at: int
    waited_us: int = 0
    charge_mntu: int = 0
    level_before_mntu: int | None = None
    level_after_mntu: int | None = None
    replica: int | None = None
    retry_after_us: int | None = None
    queue_length: int = 0

    @property
    def final(self) -> bool:
        """Whether nothing more will be decided about the request."""
        return self.outcome is not Outcome.QUEUE


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
    jain: Fraction | None
    """Over flows that waited through the last whole window; None when there were not two."""


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


class Scheduler:
    """Admits, queues and sheds the requests of one cluster; instants never go back."""

    def __init__(self, terms: ClusterTerms) -> None: ...

    def set_flow(self, organization: int, *, windows: Sequence[Window], at: int) -> None:
        """Replace the hours an organization is entitled to; idempotent, level and debt are kept."""

    def set_replica(self, replica: int, *, available: bool) -> None:
        """Take a replica out of dispatch, or back; what runs on it goes on until told otherwise."""

    def arrive(self, request: Request, at: int) -> Decision:
        """Judge a request: `QUEUE` (`dispatch` decides, maybe at once) or `SHED` (final)."""
        raise NotImplementedError

    def dispatch(self, at: int) -> list[Decision]:
        """Return every final decision that is due: `ADMIT`, `SPILL` and late `SHED`."""
        raise NotImplementedError

    def first_token(self, request_id: str, at: int) -> None:
        """Note that a request's prompt was read: its replica may be fed again."""

    def charged(self, request_id: str, *, mntu: int, at: int) -> None:
        """Note what a running request used so far; what exceeds its charge is debited."""

    def finish(self, request_id: str, *, actual_mntu: int, output_tokens: int, at: int) -> None:
        """End a running request and reconcile its charge with what it used."""

    def abort(self, request_id: str, *, at: int, actual_mntu: int = 0) -> None:
        """End a request whose caller hung up or whose upstream failed, waiting or running."""

    def next_wake(self, at: int) -> int | None:
        """Return when `dispatch` is due again if nothing else happens, or None."""

    def inspect(self, at: int) -> Inspection:
        """Return the state, every queue and counter included."""
        raise NotImplementedError
