"""The vocabulary of admission: what arrives, what a cluster can take, and what is decided.

A decision is a value that explains itself and that the next layer carries out: the gateway live,
the simulator in virtual time. It names the class that was asked for and the one that was served,
the outcome, the wait and one reason out of a closed enumeration in order of precedence.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from marketplace.contract import WeightSchedule


class ServiceClass(IntEnum):
    """The order in which requests are served."""

    P0 = 0
    P1 = 1
    P2 = 2
    P3 = 3


FIRST_TOKEN_US = (500_000, 1_000_000, 2_000_000, 5_000_000)
"""The targets of P0 to P3 in a grade that names none (RULEBOOK 7.5)."""


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
    TIMED = "TIMED"
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
    weights: WeightSchedule = field(default_factory=WeightSchedule)
    iteration_us: int = 0
    """Of one at full sequences, full KV and the longest context admitted; 0 when unknown."""
    reorders_prefills: bool = False
    """Whether a prompt of a higher class passes one that the server has read a part of."""
    context_tokens_max: int = 0
    """The longest prompt that the grade admits; 0 when only the KV limits it."""
    first_token_us: tuple[int, int, int, int] = FIRST_TOKEN_US
    """The target of each class for a prompt of no more than 4,096 tokens."""
    entitled_queue_max: int = 1_024
    """Of each line of requests whose level is above zero."""
    shared_queue_max: int = 1_024
    flow_queue_max: int = 64
    """Requests of one flow that wait for its level (overflow policy QUEUE)."""
    entitled_wait_us_max: int = 30_000_000
    shared_wait_us_max: int = 4_500_000
    """The target of P3 less a tenth, in which its prompt is read: who is later is refused."""
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
    priority: int = 0
    """Which line it stands or stood in: 0 to 2 timed at P0 to P2, 3 entitled, 4 at P3."""
    loan_mntu: int = 0
    """What its class lent it beyond its level, for it to be timed."""

    @property
    def final(self) -> bool:
        """Whether nothing more will be decided about the request."""
        return self.outcome is not Outcome.QUEUE
