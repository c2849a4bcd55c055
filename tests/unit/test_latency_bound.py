"""The bound on a timed request's first token: its arithmetic, and that nothing ever exceeds it."""

from dataclasses import dataclass, field
from fractions import Fraction
from heapq import heappop, heappush
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.decisions import ClusterTerms, Outcome, Overflow, Reason, Request
from admission.decisions import ServiceClass as Class
from admission.latency_bound import Sold, bound_us, may_issue_p0
from admission.levels import GRAINS_PER_MNTU, Window
from admission.replica import Replica, Sequence
from admission.scheduler import Scheduler

SECOND = 1_000_000
ITERATION = 50_000
TOKEN_GRAINS = 1_000 * GRAINS_PER_MNTU


def terms(**changes: object) -> ClusterTerms:
    values = {
        "replicas": 1,
        "chunk_tokens": 512,
        "sequences_max": 112,
        "kv_tokens": 10**6,
        "iteration_us": ITERATION,
        "reorders_prefills": True,
        "shared_wait_us_max": 10**9,
    }
    return ClusterTerms(**{**values, **changes})


def sold(*lots: int, largest: tuple[int, ...] = ()) -> list[Sold]:
    return [
        Sold(lots=Fraction(each), lots_largest=Fraction(one))
        for each, one in zip(lots, largest or lots, strict=True)
    ]


def test_the_bound_is_that_of_the_rulebook() -> None:
    """An iteration reads 400 tokens; 96 lots bring 100 in its time, with what is lent."""
    load = sold(96, 96, 96)
    assert bound_us(terms(), load, Class.P0, replicas=1) == ITERATION * 2 + ITERATION * 4
    p1 = ITERATION * 2 + ITERATION * (1_600 + 2_000) // 300
    assert bound_us(terms(), load, Class.P1, replicas=1) == p1
    p2 = ITERATION * 2 + ITERATION * (1_600 + 2_000 + 3_600) // 200
    assert bound_us(terms(), load, Class.P2, replicas=1) == p2
    assert bound_us(terms(), load, Class.P3, replicas=1) is None


def test_a_server_that_does_not_reorder_prompts_has_a_chunk_before_it_and_a_quarter_less_for_it():
    load = sold(96, 0, 0)
    plain = terms(reorders_prefills=False)
    expected = ITERATION * 2 + ITERATION * (512 + 1_600) // 272
    assert bound_us(plain, load, Class.P0, replicas=1) == expected + 1, "rounded up"


def test_replicas_share_the_load_but_for_one_prompt() -> None:
    one = sold(96, 0, 0, largest=(24, 0, 0))
    largest = Fraction(24 * 750_000 + 96 * 250_000, TOKEN_GRAINS)
    expected = ITERATION * 2 + ITERATION * (1_600 + largest) / 2 / 400
    assert bound_us(terms(), one, Class.P0, replicas=2) == -(-expected // 1)
    short = terms(context_tokens_max=100)
    assert bound_us(short, one, Class.P0, replicas=2) == ITERATION * 2 + ITERATION * 850 // 400


@pytest.mark.parametrize("changes", [{"iteration_us": 0}, {"chunk_tokens": 112}])
def test_there_is_no_bound_where_nothing_is_known_or_nothing_is_left(changes) -> None:
    assert bound_us(terms(**changes), sold(96, 0, 0), Class.P0, replicas=1) is None
    assert bound_us(terms(), sold(96, 0, 0), Class.P0, replicas=0) is None


def test_there_is_no_bound_for_more_than_the_server_reads() -> None:
    assert bound_us(terms(), sold(384, 0, 0), Class.P0, replicas=1) is not None
    assert bound_us(terms(), sold(385, 0, 0), Class.P0, replicas=1) is None
    assert bound_us(terms(), sold(300, 84, 1), Class.P1, replicas=1) is not None
    assert bound_us(terms(), sold(300, 84, 1), Class.P2, replicas=1) is None
    assert bound_us(terms(), sold(384, 0, 0), Class.P1, replicas=1) is None


def test_p0_may_be_issued_while_its_bound_is_within_its_target() -> None:
    assert may_issue_p0(terms(), sold(192, 0, 0), replicas=1), "exactly 500 ms"
    assert not may_issue_p0(terms(), sold(193, 0, 0), replicas=1)
    assert not may_issue_p0(terms(iteration_us=0), sold(1, 0, 0), replicas=1)


@dataclass
class Server:
    """A scheduler and replicas whose every iteration takes as long as one ever does."""

    terms: ClusterTerms
    at: int = 0
    count: int = 0
    ends: list[tuple[int, int]] = field(default_factory=list)
    arrived: dict[str, int] = field(default_factory=dict)
    timed: dict[str, Class] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    waited: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        cluster = SimpleNamespace(
            chunk_tokens=self.terms.chunk_tokens,
            sequences_max=self.terms.sequences_max,
            kv_tokens=self.terms.kv_tokens,
            timing=SimpleNamespace(iteration_us=lambda *_: self.terms.iteration_us),
        )
        self.scheduler = Scheduler(self.terms)
        self.replicas = [Replica(cluster) for _ in range(self.terms.replicas)]
        self.idle = [True] * self.terms.replicas
        self.outputs: dict[str, tuple[int, int]] = {}
        self.owners: dict[str, int] = {}
        self.places: dict[str, int] = {}
        self.done: set[str] = set()

    def arrive(self, organization: int, each: Class, prompt: int, output: int) -> None:
        self.count += 1
        made = Request(
            id=str(self.count),
            organization=organization,
            service_class=each,
            prompt_tokens=prompt,
            output_tokens_max=output,
            overflow=Overflow.SPILL,
        )
        decision = self.scheduler.arrive(made, self.at)
        self.owners[made.id] = organization
        self.arrived[made.id], self.outputs[made.id] = self.at, (prompt, output)
        if decision.reason is Reason.TIMED:
            self.timed[made.id] = decision.class_served

    def hang_up(self, organization: int, *, only: str = "") -> None:
        """Have a holder abort all or one of what it has running, and get back what it reserved."""
        for name, replica in [(only, self.places[only])] if only else list(self.places.items()):
            if self.owners[name] == organization and name not in self.done:
                self.done.add(name)
                self.scheduler.abort(name, at=self.at, actual_mntu=0)
                self.replicas[replica].cancel(name)
                self.timed.pop(name, None)

    def largest_timed(self, organization: int, each: Class, output: int) -> int:
        """The longest prompt that would be timed now."""
        flow = self.scheduler._flows[organization, each]
        loans = self.scheduler._loans
        loans.lend(each, 1, flows=self.scheduler._flows.values(), at=self.at)
        loans.give_back(each, 1)
        spare = loans.left(each, self.at)
        level, pace = flow.level.refill(self.at), max(0, flow.pace.refill(self.at))
        if level <= 0:
            return 0
        estimate = self.scheduler._estimates.get(organization)
        tokens = min(256, output) if estimate is None else estimate.tokens(output)
        return min(level + spare - 4 * tokens * TOKEN_GRAINS, pace + spare) // TOKEN_GRAINS

    def run(self, until: int) -> None:
        self.dispatch()
        while self.ends and self.ends[0][0] <= until:
            self.at = self.ends[0][0]
            while self.ends and self.ends[0][0] == self.at:
                _, number = heappop(self.ends)
                self.idle[number] = True
                iteration = self.replicas[number].complete()
                for sequence in iteration.first:
                    self.first[sequence.id] = self.at
                    self.scheduler.first_token(sequence.id, self.at)
                for sequence in iteration.finished:
                    self.done.add(sequence.id)
                    prompt, output = self.outputs[sequence.id]
                    mntu = prompt * 1_000 + output * 4_000
                    self.scheduler.finish(
                        sequence.id, actual_mntu=mntu, output_tokens=output, at=self.at
                    )
            self.dispatch()
        self.at = until

    def dispatch(self) -> None:
        for decision in self.scheduler.dispatch(self.at):
            assert decision.outcome is not Outcome.SHED
            name = decision.request_id
            if decision.waited_us:
                self.waited.add(name)
            prompt, output = self.outputs[name]
            sequence = Sequence(
                name, prompt_tokens=prompt, output_tokens=output, priority=decision.priority
            )
            self.replicas[decision.replica].submit(sequence)
            self.places[name] = decision.replica
        for number, replica in enumerate(self.replicas):
            if self.idle[number] and replica.busy:
                self.idle[number] = False
                heappush(self.ends, (self.at + replica.begin(), number))


HOLDERS = {
    1: (Class.P0, 40),
    2: (Class.P0, 10),
    3: (Class.P1, 50),
    4: (Class.P2, 60),
    5: (Class.P2, 5),
}
ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 20_000, 49_999, 50_000, 300_000, 2 * SECOND]),
        st.sampled_from([1, 2, 3, 4, 5, 6]),
        st.sampled_from([0, 0, 1, 30, 2_000]),
        st.sampled_from([1, 1, 5, 200]),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


@given(replicas=st.integers(1, 3), arrivals=ARRIVALS)
def test_no_timed_request_is_later_than_its_bound(replicas: int, arrivals) -> None:
    """Every holder sends as much as is timed, or whatever it likes, and hangs up as it likes."""
    server = Server(terms(replicas=replicas))
    for organization, (each, lots) in HOLDERS.items():
        hours = [Window(starts_at=0, ends_at=3_600 * SECOND, lots=lots * replicas)]
        server.scheduler.set_flow(organization, windows=hours, at=0, service_class=each)
    server.run(until=3 * SECOND)
    for pause, organization, prompt, output, hangs_up in arrivals:
        server.run(until=server.at + pause)
        if hangs_up:
            server.hang_up(organization)
        each, _ = HOLDERS.get(organization, (Class.P3, 0))
        if not prompt and each is not Class.P3:
            prompt = server.largest_timed(organization, each, output)
        if prompt >= 0:
            server.arrive(organization, each, max(prompt, 1), output)
    bounds = {each: server.scheduler.bound_us(each, server.at) for each in Class}
    server.run(until=server.at + 3_000 * SECOND)
    assert not server.waited & server.timed.keys(), "sequences and KV were never exhausted"
    for name, each in server.timed.items():
        assert server.first[name] - server.arrived[name] <= bounds[each]


def test_who_gives_back_what_it_reserved_cannot_send_it_all_at_once() -> None:
    """It holds many requests with long outputs, and swaps them one by one for prompts."""
    server = Server(terms())
    hours = [Window(starts_at=0, ends_at=3_600 * SECOND, lots=96)]
    server.scheduler.set_flow(1, windows=hours, at=0, service_class=Class.P0)
    server.run(until=3 * SECOND)
    for _ in range(40):
        server.arrive(1, Class.P0, 1, 100)
        server.run(until=server.at + SECOND // 4)
    bound = server.scheduler.bound_us(Class.P0, server.at)
    server.timed.clear()
    held = [name for name in server.places if name not in server.done]
    assert len(held) == 20
    for name in held:
        server.hang_up(1, only=name)
        server.arrive(1, Class.P0, 400, 1)
    assert list(server.timed.values()) == [Class.P0] * 4, "1,200 tokens of burst, 400 lent"
    server.run(until=server.at + 60 * SECOND)
    assert max(server.first[name] - server.arrived[name] for name in server.timed) <= bound
