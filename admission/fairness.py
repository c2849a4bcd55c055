"""Who is next among organizations that wait for the same thing.

Each organization has a *virtual counter* of the tokens it was served, divided by its weight; the
one with the lowest is next, and within it the request that came first. An organization that comes
back after a pause starts where the queue is now, so it can neither save up service nor is it
punished for having been away. A counter moves by the charge when a request is dispatched and is
corrected by the difference when its usage is known. Over any time in which two organizations both
wait, what they are served differs by no more than their largest requests (Sheng et al., "Fairness
in Serving Large Language Models", 2024).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from heapq import heappop, heappush
from typing import Generic, TypeVar

from admission.decisions import ClusterTerms

COUNTER_SCALE = 1_000
"""Counters are kept in thousandths, so that a division by a large weight does not vanish."""

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within an organization; lowest virtual counter between them."""

    __slots__ = ("_counters", "_heap", "_length", "_queues", "_virtual")

    def __init__(self) -> None:
        self._queues: dict[int, deque[T]] = {}
        self._counters: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._length = 0
        self._virtual = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for queue in self._queues.values():
            yield from queue

    def waiting(self, organization: int) -> int:
        """Return how many requests of an organization wait."""
        queue = self._queues.get(organization)
        return len(queue) if queue else 0

    def organizations(self) -> list[int]:
        """Return who waits, lowest id first."""
        return sorted(self._queues)

    def push(self, organization: int, item: T) -> None:
        """Add a request at the end of its organization's line."""
        queue = self._queues.get(organization)
        if queue is None:
            queue = self._queues[organization] = deque()
            counter = max(self._counters.get(organization, 0), self._virtual)
            self._counters[organization] = counter
            heappush(self._heap, (counter, organization))
        queue.append(item)
        self._length += 1

    def peek(self) -> tuple[int, T] | None:
        """Return who is next and its first request; None when nobody waits."""
        heap = self._heap
        while heap:
            counter, organization = heap[0]
            queue = self._queues.get(organization)
            if queue is None or self._counters[organization] != counter:
                heappop(heap)
                continue
            return organization, queue[0]
        return None

    def heads(self) -> Iterator[tuple[int, T]]:
        """Yield everybody who waits and its first request, who is next first."""
        for _, organization in sorted((self._counters[each], each) for each in self._queues):
            yield organization, self._queues[organization][0]

    def pop(self, organization: int, *, charge: int, weight: int) -> T:
        """Take an organization's first request and move its counter by charge over weight."""
        self._virtual = max(self._virtual, self._counters[organization])
        item = self._queues[organization].popleft()
        self._length -= 1
        self._drop_if_empty(organization)
        self.correct(organization, charge=charge, weight=weight)
        return item

    def correct(self, organization: int, *, charge: int, weight: int) -> None:
        """Move a counter by what was used beyond the charge, or below it."""
        counter = self._counters.get(organization, self._virtual)
        self._counters[organization] = counter + charge * COUNTER_SCALE // max(weight, 1)
        if organization in self._queues:
            heappush(self._heap, (self._counters[organization], organization))

    def remove(self, organization: int, item: T) -> None:
        """Take a request out of the line, wherever it stands."""
        self._queues[organization].remove(item)
        self._length -= 1
        self._drop_if_empty(organization)

    def _drop_if_empty(self, organization: int) -> None:
        if not self._queues[organization]:
            del self._queues[organization]
        elif len(self._heap) > 64 + 4 * len(self._queues):
            self._heap = sorted((self._counters[o], o) for o in self._queues)


class Shares:
    """Who waits or runs in one line, by what weight, and the sequences and KV that each holds.

    A flow holds at most its share of them, and one more, while another waits (RULEBOOK 7.7).
    """

    __slots__ = ("_held", "_total", "_weights")

    def __init__(self) -> None:
        self._weights: dict[int, int] = {}
        self._total = 0
        self._held: dict[int, tuple[int, int]] = {}

    def join(self, organization: int, weight: int) -> None:
        """Count an organization in, by the weight it has when it comes."""
        if organization not in self._weights:
            self._weights[organization] = weight
            self._total += weight

    def leave(self, organization: int) -> None:
        """Count out an organization of which nothing waits, unless something still runs."""
        if organization in self._weights and organization not in self._held:
            self._total -= self._weights.pop(organization)

    def begin(self, organization: int, kv_tokens: int) -> None:
        """Note that a request runs."""
        sequences, held = self._held.get(organization, (0, 0))
        self._held[organization] = sequences + 1, held + kv_tokens

    def end(self, organization: int, kv_tokens: int) -> None:
        """Note that it runs no more."""
        sequences, held = self._held.pop(organization)
        if sequences > 1:
            self._held[organization] = sequences - 1, held - kv_tokens

    def is_over(self, organization: int, replicas: int, terms: ClusterTerms) -> bool:
        """Whether an organization holds more than its share of so many replicas already."""
        sequences, kv_tokens = self._held.get(organization, (0, 0))
        part = replicas * self._weights[organization]
        return (
            sequences * self._total > terms.sequences_max * part
            or kv_tokens * self._total > terms.kv_tokens * part
        )


def jain(shares: Iterable[Fraction | int]) -> Fraction:
    """Return Jain's index of what flows were served: 1 when all are equal, 1/n when one has all."""
    values = list(shares)
    squares = sum(value * value for value in values)
    if not squares:
        return Fraction(1)
    total = sum(values)
    return Fraction(total * total) / (len(values) * squares)
