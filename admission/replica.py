"""One server process in whole iterations: continuous batching, chunked prefill, KV and preemption.

The same object runs live, where a caller waits for `begin`'s duration before it calls `complete`,
and in virtual time, where nobody waits. An iteration decodes one token of every running sequence
and spends what is left of the token budget on prompts, in order of priority and then of arrival,
also where another was read in part. A prompt whose last chunk was read gives its first token at the
end of that iteration.

KV is counted in tokens. A prompt starts only when it fits whole; when the running sequences outgrow
the cache, the newest is preempted: its tokens are dropped, and read again as a prompt when there is
room (what was emitted stays emitted). Decoding costs nothing per sequence here: how far a sequence
is follows from the number of iterations since it joined, so that an iteration takes a few
microseconds to simulate whatever the batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from admission.cluster import Cluster


class Sequence:
    """One request inside a replica; `output_tokens` is when it ends."""

    __slots__ = (
        "_emitted",
        "_ends_at",
        "_joined_at",
        "_order",
        "cached_tokens",
        "computed_tokens",
        "id",
        "kv_tokens",
        "output_tokens",
        "priority",
        "prompt_tokens",
        "target_tokens",
    )

    def __init__(
        self,
        sequence_id: str,
        *,
        prompt_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        priority: int = 0,
    ) -> None:
        assert prompt_tokens > 0, "a sequence reads something"
        assert output_tokens > 0, "a sequence writes something"
        self.id = sequence_id
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.cached_tokens = min(cached_tokens, prompt_tokens - 1)
        self.priority = priority
        self.computed_tokens = self.cached_tokens
        self.target_tokens = prompt_tokens
        self.kv_tokens = 0
        self._order = 0
        self._emitted = 0
        self._ends_at = -1
        self._joined_at = -1
        """The iteration after which it was decoding; -1 while it is not."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration did; `first` gave their first token, `finished` their last."""

    duration_us: int
    decoded: int
    prefilled_tokens: int
    first: tuple[Sequence, ...]
    finished: tuple[Sequence, ...]
    preempted: tuple[Sequence, ...]


class Replica:
    """The sequences of one server process, advanced one iteration at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.iterations = 0
        self.preemptions = 0
        self.generated_total = 0
        self.kv_used = 0
        self.backlog_tokens = 0
        """Prompt tokens that were submitted and not yet read."""
        self._timing = cluster.timing
        self._context = 0
        self._sequences: dict[str, Sequence] = {}
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._prefilling: dict[str, Sequence] = {}
        self._decoding: dict[str, Sequence] = {}
        self._ends: dict[int, list[Sequence]] = {}
        self._submitted = 0
        self._plan: list[tuple[Sequence, int]] | None = None
        self._duration_us = 0
        self._preempted: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def busy(self) -> bool:
        """Whether there is anything for an iteration to do."""
        return bool(self._sequences)

    @property
    def running(self) -> int:
        """How many sequences hold KV."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def decoding(self) -> Iterable[str]:
        """The ids of the sequences that every iteration gives a token, oldest first."""
        return self._decoding

    def fits(self, sequence: Sequence) -> bool:
        """Whether a sequence could ever run here to its end."""
        return sequence.prompt_tokens + sequence.output_tokens <= self.cluster.kv_tokens

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; the next iteration that has room begins to read its prompt."""
        assert sequence.id not in self._sequences, "every sequence has an id of its own"
        assert self.fits(sequence), "a sequence longer than the cache would never end"
        self._submitted += 1
        sequence._order = self._submitted
        self._sequences[sequence.id] = sequence
        self.backlog_tokens += sequence.target_tokens - sequence.computed_tokens
        heappush(self._waiting, (sequence.priority, sequence._order, sequence))

    def generated(self, sequence: Sequence) -> int:
        """Return how many tokens a sequence has emitted."""
        if sequence._joined_at < 0:
            return sequence._emitted
        return sequence._emitted + self.iterations - sequence._joined_at

    def cancel(self, sequence_id: str) -> int:
        """Drop a sequence and return what it emitted; a token in the making is not made."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return 0
        emitted = self.generated(sequence)
        if sequence_id in self._decoding:
            self._stop_decoding(sequence)
        else:
            self._prefilling.pop(sequence_id, None)
            self.backlog_tokens -= sequence.target_tokens - sequence.computed_tokens
        self.kv_used -= sequence.kv_tokens
        sequence.kv_tokens = 0
        return emitted

    def step(self) -> Iteration:
        """Run one whole iteration."""
        self.begin()
        return self.complete()

    def coast(self, budget_us: int) -> int:
        """Run iterations that do nothing but decode while they end within a budget.

        Return how long they took. It stops before an iteration in which a sequence ends, and does
        nothing while a prompt is read or waits: exactly what `step` would have done, faster.
        """
        decoding = len(self._decoding)
        if not decoding or self._waiting or self._prefilling:
            return 0
        steps = min(self._ends) - self.iterations - 1
        steps = min(steps, (self.cluster.kv_tokens - self.kv_used) // decoding)
        iteration_us = self._timing.iteration_us
        elapsed, done, context = 0, 0, self._context
        while done < steps:
            duration = iteration_us(0, 0.0, decoding, context)
            if elapsed + duration > budget_us:
                break
            elapsed += duration
            context += decoding
            done += 1
        self._context = context
        self.kv_used += done * decoding
        self.iterations += done
        self.generated_total += done * decoding
        return elapsed

    def begin(self) -> int:
        """Plan the next iteration and return how many microseconds it takes."""
        assert self._plan is None, "one iteration at a time"
        self._preempt()
        decoding = len(self._decoding)
        budget = self.cluster.chunk_tokens - decoding
        plan: list[tuple[Sequence, int]] = []
        tokens, pairs = 0, 0.0
        begun = sorted(self._prefilling.values(), key=_place, reverse=True)
        while budget > 0 and (sequence := self._next_prompt(begun)) is not None:
            taken = min(budget, sequence.target_tokens - sequence.computed_tokens)
            plan.append((sequence, taken))
            tokens += taken
            budget -= taken
            pairs += taken * (sequence.computed_tokens + taken * 0.5)
        self._plan = plan
        self._duration_us = self._timing.iteration_us(tokens, pairs, decoding, self._context)
        return self._duration_us

    def complete(self) -> Iteration:
        """Carry out what `begin` planned, without what was canceled since."""
        plan = self._plan
        assert plan is not None, "an iteration begins before it completes"
        self._plan = None
        self.iterations += 1
        decoded = len(self._decoding)
        self.kv_used += decoded
        self._context += decoded
        finished: list[Sequence] = []
        ending = self._ends.pop(self.iterations, None)
        if ending is not None:
            for sequence in ending:
                if sequence._ends_at == self.iterations:
                    self._finish(sequence)
                    finished.append(sequence)
        first: list[Sequence] = []
        prefilled = 0
        for sequence, taken in plan:
            if self._sequences.get(sequence.id) is not sequence:
                continue
            sequence.computed_tokens += taken
            self.backlog_tokens -= taken
            prefilled += taken
            if sequence.computed_tokens < sequence.target_tokens:
                continue
            decoded += 1
            if self._join(sequence):
                first.append(sequence)
            if sequence._emitted == sequence.output_tokens:
                self._finish(sequence)
                finished.append(sequence)
        self.generated_total += decoded
        preempted, self._preempted = self._preempted, []
        return Iteration(
            self._duration_us, decoded, prefilled, tuple(first), tuple(finished), tuple(preempted)
        )

    def check(self) -> None:
        """Assert what must always hold of the counters."""
        held = sum(s.kv_tokens for s in self._prefilling.values())
        context = 0
        for sequence in self._decoding.values():
            context += sequence.prompt_tokens + self.generated(sequence)
        assert self._context == context, "the context is the sum of the decoding sequences"
        assert self.kv_used == held + context, "KV is held by those that run"
        assert self.kv_used <= self.cluster.kv_tokens, "the cache is never larger than it is"
        assert self.running <= self.cluster.sequences_max, "the batch is bounded"
        waiting = sum(
            s.target_tokens - s.computed_tokens
            for s in self._sequences.values()
            if s.id not in self._decoding
        )
        assert self.backlog_tokens == waiting, "the backlog is what was not read"

    def _next_prompt(self, begun: list[Sequence]) -> Sequence | None:
        """Return the prompt to read next; one of a higher class passes those that were `begun`."""
        if begun:
            while self._waiting and not self._waits(self._waiting[0]):
                heappop(self._waiting)
            if not self._waiting or _place(begun[-1]) < self._waiting[0][:2]:
                return begun.pop()
        admitted = self._admit()
        if admitted is None and begun:
            return begun.pop()
        return admitted

    def _waits(self, entry: tuple[int, int, Sequence]) -> bool:
        """Whether an entry of the line is still that of a sequence which waits."""
        _, order, sequence = entry
        return self._sequences.get(sequence.id) is sequence and sequence._order == order

    def _admit(self) -> Sequence | None:
        """Begin the prompt that is next in line, if the batch and the cache have room for it."""
        while self._waiting:
            if not self._waits(self._waiting[0]):
                heappop(self._waiting)
                continue
            sequence = self._waiting[0][2]
            room = self.cluster.kv_tokens - self.kv_used - self.running
            if self.running >= self.cluster.sequences_max or sequence.target_tokens + 1 > room:
                return None
            heappop(self._waiting)
            sequence.kv_tokens = sequence.target_tokens
            self.kv_used += sequence.kv_tokens
            self._prefilling[sequence.id] = sequence
            return sequence
        return None

    def _join(self, sequence: Sequence) -> bool:
        """Let a sequence whose prompt is read decode; return whether this is its first token."""
        del self._prefilling[sequence.id]
        is_first = sequence._emitted == 0
        sequence._emitted += 1
        sequence._joined_at = self.iterations
        self._decoding[sequence.id] = sequence
        self.kv_used += 1
        self._context += sequence.target_tokens + 1
        ends_at = self.iterations + sequence.output_tokens - sequence._emitted
        if ends_at > self.iterations:
            sequence._ends_at = ends_at
            self._ends.setdefault(ends_at, []).append(sequence)
        return is_first

    def _finish(self, sequence: Sequence) -> None:
        self._stop_decoding(sequence)
        self.kv_used -= sequence.kv_tokens
        sequence.kv_tokens = 0
        del self._sequences[sequence.id]

    def _stop_decoding(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch; its KV is `kv_tokens` from here on."""
        sequence._emitted = self.generated(sequence)
        sequence._joined_at = -1
        sequence._ends_at = -1
        sequence.kv_tokens = sequence.prompt_tokens + sequence._emitted
        self._context -= sequence.kv_tokens
        del self._decoding[sequence.id]

    def _preempt(self) -> None:
        """Make room for one token of every sequence, newest of the decoding out first.

        A prompt that is read gives its first token in the same iteration, so it counts as well.
        """
        while self._decoding and self.kv_used + self.running > self.cluster.kv_tokens:
            newest = next(reversed(self._decoding.values()))
            self._stop_decoding(newest)
            self.kv_used -= newest.kv_tokens
            newest.target_tokens = newest.kv_tokens
            newest.kv_tokens = 0
            newest.computed_tokens = 0
            self.backlog_tokens += newest.target_tokens
            self.preemptions += 1
            self._preempted.append(newest)
            heappush(self._waiting, (newest.priority, newest._order, newest))


def _place(sequence: Sequence) -> tuple[int, int]:
    """Return where a sequence stands in the line: by priority, then by arrival."""
    return sequence.priority, sequence._order
