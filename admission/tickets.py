"""What the scheduler keeps about one request, one flow and one replica while they last.

These are its only mutable records. A ticket is in exactly one place: waiting for its flow's level,
in the entitled line, in the shared line, or running; everything counted per place (charges in line,
sequences and KV tokens of a replica) is a sum over the tickets there.
"""

from collections import deque
from enum import IntEnum

from admission.decisions import Reason, Request, ServiceClass
from admission.levels import Level


class Place(IntEnum):
    """Where a request is between its arrival and its end."""

    FLOW = 0
    ENTITLED = 1
    SHARED = 2
    RUNNING = 3


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
        "place",
        "prefilling",
        "reason",
        "replica",
        "request",
        "served",
    )

    def __init__(self, request: Request, *, at: int, charge_grains: int, kv_tokens: int) -> None:
        self.request = request
        self.arrived_at = at
        self.charge_grains = charge_grains
        self.debited = 0
        self.kv_tokens = kv_tokens
        self.deadline = at
        self.place = Place.SHARED
        self.flow: Flow | None = None
        self.served = ServiceClass.P3
        self.reason = Reason.PAY_AS_YOU_GO
        self.level_before: int | None = None
        self.level_after: int | None = None
        self.replica: int | None = None
        self.prefilling = False


class Flow:
    """One organization's rate in one class and the requests that wait for its level."""

    __slots__ = ("level", "organization", "service_class", "waiting", "waiting_grains")

    def __init__(self, organization: int, service_class: ServiceClass, level: Level) -> None:
        self.organization = organization
        self.service_class = service_class
        self.level = level
        self.waiting: deque[Ticket] = deque()
        self.waiting_grains = 0


class ReplicaLoad:
    """What was dispatched to a replica and has not ended."""

    __slots__ = ("available", "kv_tokens", "prefill_tokens", "sequences")

    def __init__(self) -> None:
        self.available = True
        self.kv_tokens = 0
        self.prefill_tokens = 0
        self.sequences = 0
