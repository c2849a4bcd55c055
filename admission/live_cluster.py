"""A modelled cluster in real time: replicas whose iterations take as long as the model says.

Each replica has one task that sleeps while there is nothing to do, and otherwise until the end of
the iteration that is running: a wake-up per iteration, none in between. Iterations follow each
other on one absolute schedule, so that late wake-ups do not add up; a process that was starved of
CPU for longer than `LAG_S_MAX` forgets the rest of its delay.

What a request generated is counted here, per request id, and can be asked for afterwards: metering
must come to the same number.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from admission.cluster import Cluster
from admission.replica import Replica, Sequence

LAG_S_MAX = 0.25
GENERATED_KEPT = 100_000
"""How many of the last requests of a cluster are remembered by what they generated."""
WAITING_MAX = 4_096
"""Sequences of one cluster, waiting or running, beyond which the answer is 503."""
PARTS = 1_000_000
"""Availability is kept in millionths, so that the refusals of a fault are exact."""


class ClusterConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What `PUT /clusters/{id}` takes: hardware and model, and what the traffic is like.

    `cached_percent` of every prompt is a prefix-cache hit, `reasoning_percent` of every output is
    reasoning; `grade` is the name under which `/v1/models` lists it.
    """

    accelerator: str
    model: str
    precision: str
    tensor_parallel: int
    replicas: int
    grade: str = ""
    stack: str = ""
    chunk_tokens: int = 2_048
    sequences_max: int = 256
    cached_percent: int = 0
    reasoning_percent: int = 0
    available: float = 1.0

    def cluster(self) -> Cluster:
        """Return the cluster that is modelled."""
        return Cluster(
            accelerator=self.accelerator,
            model=self.model,
            precision=self.precision,
            tensor_parallel=self.tensor_parallel,
            replicas=self.replicas,
            chunk_tokens=self.chunk_tokens,
            sequences_max=self.sequences_max,
            stack=self.stack,
        )


@dataclass(slots=True)
class Generated:
    """What one request used; `state` is `running`, `finished` or `canceled`."""

    prompt: int
    cached: int
    completion: int
    reasoning: int
    state: str


class Job:
    """The sequences of one request, and the wake-up of whoever streams them."""

    __slots__ = ("_news", "_waiter", "canceled", "is_stream", "pending", "record", "sequences")

    def __init__(self, sequences: list[Sequence], record: Generated, *, is_stream: bool) -> None:
        self.sequences = sequences
        self.is_stream = is_stream
        self.record = record
        self.pending = {sequence.id for sequence in sequences}
        self.canceled = False
        self._news = False
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let the reader look again, now or when it next waits."""
        self._news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the next token, the end or a cancel, unless one came since the last wait."""
        if not self._news:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._news = False


class _Worker:
    """One replica and the task that runs its iterations."""

    def __init__(self, cluster: Cluster) -> None:
        self.replica = Replica(cluster)
        self.jobs: dict[str, Job] = {}
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def submit(self, sequence: Sequence, job: Job) -> None:
        """Queue a sequence and make sure that somebody runs iterations."""
        self.jobs[sequence.id] = job
        self.replica.submit(sequence)
        self._work.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def cancel(self, sequence_id: str) -> None:
        """Drop a sequence."""
        self.jobs.pop(sequence_id, None)
        self.replica.cancel(sequence_id)

    def stop(self) -> None:
        """End the task; sequences still in it never finish."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        replica, jobs = self.replica, self.jobs
        due = loop.time()
        while True:
            if not replica.busy:
                self._work.clear()
                await self._work.wait()
                due = loop.time()
            due = max(due, loop.time() - LAG_S_MAX) + replica.begin() / 1e6
            await asyncio.sleep(max(0.0, due - loop.time()))
            iteration = replica.complete()
            for sequence in iteration.finished:
                job = jobs.pop(sequence.id, None)
                if job is not None:
                    job.pending.discard(sequence.id)
                    job.wake()
            for sequence_id in replica.decoding:
                job = jobs.get(sequence_id)
                if job is not None and job.is_stream:
                    job.wake()


class LiveCluster:
    """The replicas of one cluster behind one address, with its counters and its fault."""

    def __init__(self, cluster_id: str, config: ClusterConfig) -> None:
        self.id = cluster_id
        self.config = config
        self.cluster = config.cluster()
        self.generated: OrderedDict[str, Generated] = OrderedDict()
        self.requests = 0
        self.refused = 0
        self.tokens_finished = 0
        self._workers = [_Worker(self.cluster) for _ in range(config.replicas)]
        self._jobs: dict[str, Job] = {}
        self._places: dict[str, _Worker] = {}
        self._arrivals = 0
        self._available = PARTS
        self.is_closed = False
        self.set_available(config.available)

    def set_available(self, share: float) -> None:
        """Serve this share of requests from now on and refuse the rest, evenly spread."""
        self._available = round(min(max(share, 0.0), 1.0) * PARTS)
        self._arrivals = 0

    def refuses(self) -> bool:
        """Count an arrival and return whether the fault takes it: by error diffusion, exactly.

        Of n arrivals, `floor(n * available)` are served.
        """
        self._arrivals += 1
        self.requests += 1
        before, after = (self._arrivals - 1) * self._available, self._arrivals * self._available
        if after // PARTS > before // PARTS:
            return False
        self.refused += 1
        return True

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be queued."""
        return len(self._places) >= WAITING_MAX

    def fits(self, tokens: int) -> bool:
        """Whether a sequence of so many tokens, prompt and output, fits into a replica."""
        return tokens <= self.cluster.kv_tokens

    def start(
        self,
        request_id: str,
        sequences: list[Sequence],
        *,
        prompt: int,
        is_stream: bool,
        replica: int | None = None,
    ) -> Job:
        """Run the sequences of a request on one replica: the one named, or the least loaded."""
        cached = sum(sequence.cached_tokens for sequence in sequences)
        job = Job(sequences, Generated(prompt, cached, 0, 0, "running"), is_stream=is_stream)
        self.generated[request_id] = job.record
        if len(self.generated) > GENERATED_KEPT:
            self.generated.popitem(last=False)
        self._jobs[request_id] = job
        worker = self._choose(replica)
        for sequence in sequences:
            self._places[sequence.id] = worker
            worker.submit(sequence, job)
        return job

    def counted(self, sequence: Sequence) -> int:
        """Return how many tokens a sequence has generated."""
        return self._places[sequence.id].replica.generated(sequence)

    def end(self, request_id: str, job: Job, *, completion: int, reasoning: int) -> None:
        """Note what a request generated; cancel what of it still runs."""
        if self._jobs.pop(request_id, None) is None:
            return
        for sequence in job.sequences:
            worker = self._places.pop(sequence.id)
            if sequence.id in job.pending:
                worker.cancel(sequence.id)
        job.record.completion = completion
        job.record.reasoning = reasoning
        job.record.state = "canceled" if job.pending else "finished"
        self.tokens_finished += completion

    def abort(self, request_id: str) -> bool:
        """Stop a request where it is: its stream ends with what was generated."""
        job = self._jobs.get(request_id)
        if job is None:
            return False
        job.canceled = True
        job.wake()
        return True

    def close(self) -> None:
        """Stop every replica and end every stream; nothing may be started any more."""
        self.is_closed = True
        for worker in self._workers:
            worker.stop()
        for job in self._jobs.values():
            job.canceled = True
            job.wake()

    def gauges(self) -> dict[str, int]:
        """Return what the metrics show."""
        replicas = [worker.replica for worker in self._workers]
        return {
            "requests_running": sum(replica.running for replica in replicas),
            "requests_waiting": sum(len(replica) - replica.running for replica in replicas),
            "kv_tokens_used": sum(replica.kv_used for replica in replicas),
            "kv_tokens": self.cluster.kv_tokens * len(replicas),
            "iterations_total": sum(replica.iterations for replica in replicas),
            "preemptions_total": sum(replica.preemptions for replica in replicas),
            "generated_tokens_total": sum(replica.generated_total for replica in replicas),
            "requests_total": self.requests,
            "refused_total": self.refused,
        }

    def _choose(self, replica: int | None) -> _Worker:
        if replica is not None and 0 <= replica < len(self._workers):
            return self._workers[replica]
        return min(self._workers, key=lambda w: (w.replica.backlog_tokens, len(w.replica)))
