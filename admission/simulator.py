"""Arrivals through the scheduler and the cluster model in virtual time, and what a cluster is
worth.

`Simulation` plays a list of arrivals: the scheduler decides, the replicas of the cluster model run
what was dispatched, and every request comes back with its decision and its times. Nothing waits, so
an hour takes a second or two, and the same arrivals always give the same answer.

`certify` finds the rate that a provider may sell (RULEBOOK 7.4): the highest at which 99 of 100
requests of one mix are within the targets of RULEBOOK 7.5, found by bisection with the same
arrivals drawn closer together or further apart, times 0.90, in whole lots. Today the envelope of a
grade is one mix; the report names it and lists every trial.
"""

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from pathlib import Path
from random import Random

from admission import replica as replicas
from admission.cluster import Cluster
from admission.decisions import (
    ClusterTerms,
    Decision,
    Outcome,
    Overflow,
    Request,
    ServiceClass,
)
from admission.inspection import percentile
from admission.levels import Window
from admission.scheduler import Scheduler
from marketplace.contract import Usage, WeightSchedule

MNTU_PER_LOT_MINUTE = 1_000_000
CERTIFIED_SHARE_PERCENT = 90
"""Of the rate that just reaches the targets (RULEBOOK 7.4)."""
WITHIN_PERCENT = 99
TRIAL_REQUESTS = 2_000
TRIAL_US_MIN = 120_000_000
"""A trial has at least so many requests and lasts at least so long."""
PROOF_FACTOR = 5
"""The rate that is certified is tried once more, so many times as long."""
TRIALS_MAX = 40
LOTS_MAX = 1_000_000
FREE_PREFILL_TOKENS = 4_096
"""Prompt tokens beyond these may take their time at the prefill rate (RULEBOOK 7.5)."""
_NEVER = 1 << 62

Progress = Callable[[int, str], None]
"""Is told how many percent are done, and what was just found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of a trace; `at` in microseconds."""

    at: int
    organization: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    service_class: ServiceClass = ServiceClass.P2
    overflow: Overflow = Overflow.SPILL


@dataclass(slots=True, kw_only=True)
class Served:
    """What became of an arrival; instants are None where it did not get that far."""

    arrival: Arrival
    decision: Decision
    mntu: int = 0
    first_token_at: int | None = None
    finished_at: int | None = None

    @property
    def first_token_us(self) -> int | None:
        """Time to first token, waiting included."""
        return None if self.first_token_at is None else self.first_token_at - self.arrival.at

    @property
    def per_token_us(self) -> int | None:
        """Mean time per output token after the first."""
        if self.finished_at is None or self.first_token_at is None:
            return None
        return (self.finished_at - self.first_token_at) // max(1, self.arrival.output_tokens - 1)


def terms_of(
    cluster: Cluster,
    *,
    weights: WeightSchedule | None = None,
    certified_lots: int = 0,
    sequences_max: int | None = None,
    context_tokens_max: int = 0,
) -> ClusterTerms:
    """Return what a scheduler has to know of a cluster.

    `sequences_max` is that of the certification; without one it is the server's own. The longest
    context is the grade's; without one it is all of the KV.
    """
    longest = min(context_tokens_max or cluster.kv_tokens, cluster.kv_tokens)
    return ClusterTerms(
        replicas=cluster.replicas,
        chunk_tokens=cluster.chunk_tokens,
        sequences_max=sequences_max or cluster.sequences_max,
        kv_tokens=cluster.kv_tokens,
        certified_lots=certified_lots,
        weights=weights or WeightSchedule(),
        iteration_us=longest_iteration_us(
            cluster, sequences=sequences_max or cluster.sequences_max, context_tokens_max=longest
        ),
        reorders_prefills=True,
        context_tokens_max=longest,
    )


def longest_iteration_us(cluster: Cluster, *, sequences: int, context_tokens_max: int) -> int:
    """Return the iteration at full sequences, full KV and the longest context (RULEBOOK 7.6)."""
    pairs = cluster.chunk_tokens * float(context_tokens_max)
    return cluster.timing.iteration_us(cluster.chunk_tokens, pairs, sequences, cluster.kv_tokens)


class Simulation:
    """A scheduler and the replicas it feeds, in virtual time."""

    def __init__(self, cluster: Cluster, terms: ClusterTerms) -> None:
        self.cluster = cluster
        self.terms = terms
        self.scheduler = Scheduler(terms)
        self.replicas = [replicas.Replica(cluster) for _ in range(terms.replicas)]
        self.served: list[Served] = []
        self._running: dict[str, Served] = {}
        self._ends: list[tuple[int, int]] = []
        self._idle = [True] * terms.replicas

    def set_flow(self, organization: int, windows: Sequence[Window], at: int) -> None:
        """Entitle an organization to a rate for some hours."""
        self.scheduler.set_flow(organization, windows=windows, at=at)

    def run(self, arrivals: Sequence[Arrival]) -> list[Served]:
        """Play arrivals in order of time to their end and return what became of each."""
        first = len(self.served)
        position, count = 0, len(arrivals)
        at = 0
        while True:
            arrival_at = arrivals[position].at if position < count else _NEVER
            end_at = self._ends[0][0] if self._ends else _NEVER
            wake_at = _NEVER
            if self.scheduler.waiting:
                wake_at = self.scheduler.next_wake(at) or _NEVER
            at = min(arrival_at, end_at, wake_at)
            if at == _NEVER:
                break
            changed = at == wake_at
            while self._ends and self._ends[0][0] == at:
                _, number = heappop(self._ends)
                changed |= self._complete(number, at)
            while position < count and arrivals[position].at == at:
                self._arrive(arrivals[position], at)
                position += 1
                changed = True
            if changed:
                self._dispatch(at)
            next_at = arrivals[position].at if position < count else _NEVER
            self._begin(at, next_at)
        return self.served[first:]

    def _arrive(self, arrival: Arrival, at: int) -> None:
        request = Request(
            id=str(len(self.served)),
            organization=arrival.organization,
            service_class=arrival.service_class,
            prompt_tokens=arrival.prompt_tokens,
            output_tokens_max=max(arrival.output_tokens, 1),
            overflow=arrival.overflow,
        )
        served = Served(arrival=arrival, decision=self.scheduler.arrive(request, at))
        self.served.append(served)
        self._running[request.id] = served

    def _dispatch(self, at: int) -> None:
        for decision in self.scheduler.dispatch(at):
            served = self._running[decision.request_id]
            served.decision = decision
            if decision.outcome is Outcome.SHED or decision.replica is None:
                del self._running[decision.request_id]
                continue
            arrival = served.arrival
            sequence = replicas.Sequence(
                decision.request_id,
                prompt_tokens=arrival.prompt_tokens,
                output_tokens=arrival.output_tokens,
                cached_tokens=arrival.cached_tokens,
                priority=decision.priority,
            )
            self.replicas[decision.replica].submit(sequence)

    def _begin(self, at: int, arrival_at: int) -> None:
        """Start the next iteration of every replica that has one to run.

        While nobody waits, only an arrival can change what a replica does, so iterations that just
        decode are taken together up to there.
        """
        for number, replica in enumerate(self.replicas):
            if not self._idle[number] or not replica.busy:
                continue
            elapsed = 0
            if not self.scheduler.waiting:
                elapsed = replica.coast(arrival_at - at)
            self._idle[number] = False
            heappush(self._ends, (at + elapsed + replica.begin(), number))

    def _complete(self, number: int, at: int) -> bool:
        """End an iteration; return whether the scheduler may have something to dispatch."""
        iteration = self.replicas[number].complete()
        self._idle[number] = True
        for sequence in iteration.first:
            self._running[sequence.id].first_token_at = at
            self.scheduler.first_token(sequence.id, at)
        for sequence in iteration.finished:
            served = self._running.pop(sequence.id)
            served.finished_at = at
            usage = Usage(
                prompt=sequence.prompt_tokens,
                cached=sequence.cached_tokens,
                output=sequence.output_tokens,
            )
            served.mntu = self.terms.weights.mntu(usage)
            self.scheduler.finish(
                sequence.id,
                actual_mntu=served.mntu,
                output_tokens=sequence.output_tokens,
                at=at,
            )
        return bool(iteration.first or iteration.finished)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The requests of an envelope: the tokens of each, of which `cached_tokens` are cache hits."""

    name: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0

    def mntu(self, weights: WeightSchedule) -> int:
        """Return what one request counts."""
        usage = Usage(
            prompt=self.prompt_tokens, cached=self.cached_tokens, output=self.output_tokens
        )
        return weights.mntu(usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a request must reach (RULEBOOK 7.5); times in microseconds."""

    service_class: ServiceClass
    first_token_us: int
    per_token_us: int
    prefill_tokens_per_s: int = 8_192
    """The rate at which prompt tokens beyond `FREE_PREFILL_TOKENS` earn time."""

    def first_token_us_for(self, uncached_tokens: int) -> int:
        """Return the target for a prompt of this length."""
        beyond = max(0, uncached_tokens - FREE_PREFILL_TOKENS)
        return self.first_token_us + beyond * 1_000_000 // self.prefill_tokens_per_s

    def within(self, served: Served) -> bool:
        """Whether a request was served within both targets."""
        first, per_token = served.first_token_us, served.per_token_us
        if first is None or per_token is None:
            return False
        uncached = served.arrival.prompt_tokens - served.arrival.cached_tokens
        return first <= self.first_token_us_for(uncached) and per_token <= self.per_token_us


TARGETS = {
    each.service_class: each
    for each in (
        Targets(service_class=ServiceClass.P0, first_token_us=500_000, per_token_us=50_000),
        Targets(service_class=ServiceClass.P1, first_token_us=1_000_000, per_token_us=60_000),
        Targets(service_class=ServiceClass.P2, first_token_us=2_000_000, per_token_us=100_000),
        Targets(service_class=ServiceClass.P3, first_token_us=5_000_000, per_token_us=200_000),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a cluster did at one rate."""

    lots: int
    requests: int
    within_permille: int
    first_token_us_p99: int
    per_token_us_p99: int
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a certification found, and from what; `certified_lots` is what may be sold."""

    cluster: Cluster
    mix: Mix
    targets: Targets
    trials: tuple[Trial, ...]
    measured_lots: int
    certified_lots: int
    sequences_max: int
    """The largest batch of a replica that keeps the time per output token (`batch_within`)."""


def certify(
    cluster: Cluster,
    mix: Mix,
    targets: Targets = TARGETS[ServiceClass.P2],
    *,
    weights: WeightSchedule | None = None,
    progress: Progress | None = None,
    seed: int = 1,
) -> Report:
    """Return the rate that a cluster may sell for one mix, in whole lots.

    The bracket is found by doubling and halved until it is one lot, or one percent, wide. The last
    trial proves what is certified over a longer time, and lowers it should it fail there.
    """
    weights = weights or WeightSchedule()
    trials: list[Trial] = []

    def passes(lots: int, length: int = 1) -> bool:
        trial = _try(cluster, mix, targets, weights, lots=lots, seed=seed, length=length)
        trials.append(trial)
        if progress is not None:
            verdict = "within" if trial.passed else "beyond"
            share = 95 * len(trials) // (len(trials) + 4)
            progress(share, f"{lots} lots: {verdict} the targets")
        return trial.passed

    low, high = 0, 64
    while high <= LOTS_MAX and passes(high):
        low, high = high, high * 2
    while high - low > max(1, low // 100) and len(trials) < TRIALS_MAX:
        middle = (low + high) // 2
        if passes(middle):
            low = middle
        else:
            high = middle
    certified = low * CERTIFIED_SHARE_PERCENT // 100
    while certified and not passes(certified, PROOF_FACTOR):
        certified = certified * 98 // 100
    if progress is not None:
        progress(100, f"certified {certified} lots")
    return Report(
        cluster=cluster,
        mix=mix,
        targets=targets,
        trials=tuple(trials),
        measured_lots=low,
        certified_lots=certified,
        sequences_max=batch_within(cluster, mix, targets),
    )


def batch_within(cluster: Cluster, mix: Mix, targets: Targets) -> int:
    """Return how many sequences a replica may run and keep the time per output token; at least 1.

    However much is offered, a scheduler that admits no more than these keeps the target: in steady
    state every iteration decodes all of them and reads the prompts that take the place of those
    that end. Beyond this batch more throughput is bought with everybody's time per token.
    """
    context = mix.prompt_tokens + mix.output_tokens // 2
    uncached = mix.prompt_tokens - mix.cached_tokens
    batch = min(cluster.sequences_max, max(1, cluster.kv_tokens // context))
    while batch > 1:
        prefill = -(-batch * uncached // mix.output_tokens)
        pairs = prefill * (mix.cached_tokens + uncached / 2)
        if cluster.timing.iteration_us(prefill, pairs, batch, batch * context) <= (
            targets.per_token_us * CERTIFIED_SHARE_PERCENT // 100
        ):
            break
        batch -= 1
    return batch


def _try(
    cluster: Cluster,
    mix: Mix,
    targets: Targets,
    weights: WeightSchedule,
    *,
    lots: int,
    seed: int,
    length: int,
) -> Trial:
    """Offer one rate as a Poisson stream and see who is served within the targets.

    The first fifth warms up and is not judged. Nobody is shed: who waits too long has missed.
    """
    gap_us = mix.mntu(weights) * 60_000_000 / (lots * MNTU_PER_LOT_MINUTE)
    count = length * max(TRIAL_REQUESTS, int(TRIAL_US_MIN / gap_us))
    random = Random(seed)
    arrivals, at = [], 0.0
    for _ in range(count + count // 4):
        at += random.expovariate(1.0) * gap_us
        arrivals.append(
            Arrival(
                at=int(at),
                organization=1,
                prompt_tokens=mix.prompt_tokens,
                output_tokens=mix.output_tokens,
                cached_tokens=mix.cached_tokens,
                service_class=ServiceClass.P3,
            )
        )
    terms = ClusterTerms(
        replicas=cluster.replicas,
        chunk_tokens=cluster.chunk_tokens,
        sequences_max=cluster.sequences_max,
        kv_tokens=cluster.kv_tokens,
        weights=weights,
        shared_queue_max=_NEVER,
        shared_wait_us_max=_NEVER,
    )
    served = Simulation(cluster, terms).run(arrivals)[count // 4 :]
    first = sorted(each.first_token_us or 0 for each in served)
    per_token = sorted(each.per_token_us or 0 for each in served)
    within = sum(map(targets.within, served))
    return Trial(
        lots=lots,
        requests=len(served),
        within_permille=within * 1_000 // len(served),
        first_token_us_p99=percentile(first, 99),
        per_token_us_p99=percentile(per_token, 99),
        passed=within * 100 >= WITHIN_PERCENT * len(served),
    )


def read_azure_trace(path: Path) -> list[tuple[int, int, int]]:
    """Return the requests of an Azure LLM inference trace: offset in us, prompt, output tokens.

    Source: Azure/AzurePublicDataset (CC-BY-4.0), `AzureLLMInferenceTrace_{code,conv}.csv`.
    """
    rows: list[tuple[int, int, int]] = []
    began: int | None = None
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            moment = datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC)
            at = int(moment.timestamp()) * 1_000_000 + moment.microsecond
            began = at if began is None else began
            rows.append((at - began, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
    return rows


def trace_arrivals(
    trace: Sequence[tuple[int, int, int]],
    *,
    starts_at: int,
    organizations: Sequence[int],
    speed_percent: int = 100,
    service_class: ServiceClass = ServiceClass.P2,
) -> list[Arrival]:
    """Return a trace as arrivals of some organizations, in turn, at a multiple of its own speed."""
    return [
        Arrival(
            at=starts_at + offset * 100 // speed_percent,
            organization=organizations[number % len(organizations)],
            prompt_tokens=max(prompt, 1),
            output_tokens=max(output, 1),
            service_class=service_class,
        )
        for number, (offset, prompt, output) in enumerate(trace)
    ]
