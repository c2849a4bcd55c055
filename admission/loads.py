"""What runs on the replicas of a cluster, and which of them takes the next request.

A replica may take a request while it has sequences and KV tokens free. For one that is not timed
some of both are held back, its prefill backlog must also be below one chunk, and a long prompt
waits while another such is read there (RULEBOOK 7.7): so a timed request finds no more than that
before it. Of those that may, the one takes it that has least to read before it: of its own line and
of those before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from admission.decisions import ClusterTerms
from admission.inspection import ReplicaReport
from admission.tickets import LINES, TIMED, Ticket

LONG_PROMPT_TOKENS = 8_192
"""A replica reads one shared prompt beyond this length at a time (RULEBOOK 7.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """What of each replica is kept free for timed requests."""

    sequences: int = 0
    kv_tokens: int = 0


class _Load:
    """What was dispatched to a replica and has not ended."""

    __slots__ = ("available", "kv_tokens", "long_prefills", "prefills", "sequences")

    def __init__(self) -> None:
        self.available = True
        self.kv_tokens = 0
        self.long_prefills = 0
        self.prefills = [0] * len(LINES)
        """Prompt tokens to read, by the line they came from."""
        self.sequences = 0

    @property
    def prefill_tokens(self) -> int:
        """All prompt tokens to read."""
        return sum(self.prefills)


class Loads:
    """The load of every replica of a cluster, by its number."""

    def __init__(self, replicas: int) -> None:
        self._loads = [_Load() for _ in range(replicas)]

    @property
    def available(self) -> int:
        """How many replicas anything can be dispatched to."""
        return sum(load.available for load in self._loads)

    def set_available(self, replica: int, *, available: bool) -> None:
        """Take a replica out, or back."""
        self._loads[replica].available = available

    def least(self, ticket: Ticket, terms: ClusterTerms, held_back: HeldBack) -> int | None:
        """Return the least loaded replica that may take a request, the lowest number first."""
        is_timed, is_long = ticket.line in TIMED, _is_long(ticket)
        best: int | None = None
        best_load = (0, 0, 0)
        for number, load in enumerate(self._loads):
            if not load.available or load.sequences >= terms.sequences_max:
                continue
            if load.sequences and load.kv_tokens + ticket.kv_tokens > terms.kv_tokens:
                continue
            if not is_timed and not _has_room_beside(load, ticket, terms, held_back):
                continue
            if is_long and load.long_prefills:
                continue
            before_it = sum(load.prefills[: ticket.line + 1])
            its_load = (before_it, load.prefill_tokens, load.sequences)
            if best is None or its_load < best_load:
                best, best_load = number, its_load
        return best

    def begin(self, ticket: Ticket, replica: int) -> None:
        """Give a request to a replica, which reads its prompt first."""
        load = self._loads[replica]
        load.sequences += 1
        load.kv_tokens += ticket.kv_tokens
        load.prefills[ticket.line] += ticket.request.prompt_tokens
        load.long_prefills += _is_long(ticket)
        ticket.replica = replica
        ticket.prefilling = True

    def end_prefill(self, ticket: Ticket) -> None:
        """Note that a prompt was read, or never will be; the same again changes nothing."""
        if ticket.prefilling and ticket.replica is not None:
            ticket.prefilling = False
            load = self._loads[ticket.replica]
            load.prefills[ticket.line] -= ticket.request.prompt_tokens
            load.long_prefills -= _is_long(ticket)

    def end(self, ticket: Ticket) -> None:
        """Take a request off its replica."""
        assert ticket.replica is not None, "what runs has a replica"
        self.end_prefill(ticket)
        load = self._loads[ticket.replica]
        load.sequences -= 1
        load.kv_tokens -= ticket.kv_tokens

    def reports(self) -> Iterator[ReplicaReport]:
        """Yield what is believed of each replica."""
        for load in self._loads:
            yield ReplicaReport(
                available=load.available,
                prefill_tokens=load.prefill_tokens,
                sequences=load.sequences,
                kv_tokens=load.kv_tokens,
            )


def _has_room_beside(load: _Load, ticket: Ticket, terms: ClusterTerms, held_back: HeldBack) -> bool:
    """Whether a request that is not timed leaves those that are what they need."""
    if load.prefill_tokens >= terms.chunk_tokens:
        return False
    if not load.sequences:
        return True
    sequences, kv_tokens = load.sequences + 1, load.kv_tokens + ticket.kv_tokens
    return (
        sequences + held_back.sequences <= terms.sequences_max
        and kv_tokens + held_back.kv_tokens <= terms.kv_tokens
    )


def _is_long(ticket: Ticket) -> bool:
    """Whether a prompt is shared and so long that a replica reads one such at a time."""
    return ticket.line not in TIMED and ticket.request.prompt_tokens > LONG_PROMPT_TOKENS
