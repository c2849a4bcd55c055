"""What the scheduler keeps about one request and one flow while they last.

These are its only mutable records. A ticket is in exactly one place: waiting for its flow's level,
in one of the lines, or running; everything counted per place (charges in line,
sequences and KV tokens of a replica) is a sum over the tickets there.
"""

from collections import deque
from collections.abc import Sequence
from enum import IntEnum

from admission.decisions import Reason, Request, ServiceClass
from admission.levels import BURST_US, Level, Window


class Place(IntEnum):
    """Where a request is between its arrival and its end; the lines come first, in their order."""

    TIMED_P0 = ServiceClass.P0
    TIMED_P1 = ServiceClass.P1
    TIMED_P2 = ServiceClass.P2
    ENTITLED = 3
    SHARED = 4
    FLOW = 5
    RUNNING = 6


LINES = tuple(place for place in Place if place <= Place.SHARED)
"""A line moves only when nobody is left in those before it."""
TIMED = (Place.TIMED_P0, Place.TIMED_P1, Place.TIMED_P2)
"""One line per class."""


class Ticket:
    """One request in the scheduler's hands."""

    __slots__ = (
        "arrived_at",
        "charge_grains",
        "deadline",
        "debited",
        "flow",
        "kv_tokens",
        "level_after",
        "level_before",
        "line",
        "loan_grains",
        "paced_grains",
        "place",
        "prefilling",
        "reason",
        "replica",
        "request",
        "served",
        "waited_us",
    )

    def __init__(self, request: Request, *, at: int, charge_grains: int, kv_tokens: int) -> None:
        self.request = request
        self.arrived_at = at
        self.charge_grains = charge_grains
        self.debited = 0
        self.kv_tokens = kv_tokens
        self.deadline = at
        self.place = Place.SHARED
        self.line = Place.SHARED
        """Which it stands in, or stood in before it ran."""
        self.loan_grains = 0
        """What its class lent it beyond its level."""
        self.paced_grains = 0
        """What of its prompt its flow's pace was debited."""
        self.flow: Flow | None = None
        self.served = ServiceClass.P3
        self.reason = Reason.PAY_AS_YOU_GO
        self.level_before: int | None = None
        self.level_after: int | None = None
        self.replica: int | None = None
        self.prefilling = False
        self.waited_us = 0
        """Until it ran."""


class Flow:
    """One organization's rate in one class and the requests that wait for its level."""

    __slots__ = ("level", "organization", "pace", "service_class", "waiting", "waiting_grains")

    def __init__(
        self, organization: int, service_class: ServiceClass, *, windows: Sequence[Window], at: int
    ) -> None:
        burst_us = BURST_US[service_class]
        self.organization = organization
        self.service_class = service_class
        self.level = Level(windows=windows, at=at, burst_us=burst_us)
        self.pace = Level(windows=windows, at=at, burst_us=burst_us)
        """Debited the prompts of timed requests only, and never given back what a request did not
        use: so what comes at once to a server is bounded, whatever estimates are corrected by."""
        self.waiting: deque[Ticket] = deque()
        self.waiting_grains = 0
