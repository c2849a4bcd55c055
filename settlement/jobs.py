"""The queue of record: what is due, who works on it, and what became of it.

Every piece of background work is a row `Job(kind, slot)`, unique for ever, so that planning it
twice, delivering its message twice or running two schedulers does it once. A Celery message is a
doorbell: it carries no work, only wakes somebody who looks here. What a lost broker forgets the
next sweep rings again.

A worker *claims* due jobs for a while and thereby raises their epoch. The transaction that does the
work also marks the job done where the epoch is still the worker's own, so a worker that was
suspended and overtaken cannot commit (FAULTS K119). A failed job is tried again with growing
pauses and after `ATTEMPTS_MAX` tries is *parked*: visible, and out of the way of everything that
does not depend on it.

What is due follows market time; leases and pauses are about processes and follow the database's
clock.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

Handler = Callable[[str, int], None]
"""Does a job's work in the caller's transaction, given its slot and market time (us)."""
LongHandler = Callable[["Claim"], None]
"""Does long work in transactions of its own, each of which calls `fence(claim)`."""


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
