"""The scheduler: what it decides in small tables, and what always holds under random use."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from admission.decisions import ClusterTerms, Decision, Outcome, Overflow, Reason, Request
from admission.decisions import ServiceClass as Class
from admission.levels import GRAINS_PER_MNTU, Window
from admission.scheduler import Scheduler

SECOND = 1_000_000
HOUR = 3_600 * SECOND


def terms(**changes: object) -> ClusterTerms:
    values = {"replicas": 1, "chunk_tokens": 8_192, "sequences_max": 64, "kv_tokens": 100_000}
    return ClusterTerms(**{**values, **changes})


def window(lots: int, starts_at: int = 0, ends_at: int = HOUR) -> Window:
    return Window(starts_at=starts_at, ends_at=ends_at, lots=lots)


def request(number: object, organization: int = 1, **changes: object) -> Request:
    values = {
        "id": str(number),
        "organization": organization,
        "service_class": Class.P2,
        "prompt_tokens": 1_000,
        "output_tokens_max": 100,
    }
    return Request(**{**values, **changes})


def entitled(lots: int = 60, **changes: object) -> Scheduler:
    """A scheduler with one flow whose hour began at zero."""
    scheduler = Scheduler(terms(**changes))
    scheduler.set_flow(1, windows=[window(lots)], at=0)
    return scheduler


def summary(decision: Decision) -> tuple[str, Outcome, Reason, Class]:
    return decision.request_id, decision.outcome, decision.reason, decision.class_served


def test_what_each_overflow_policy_does_when_the_level_is_spent() -> None:
    scheduler = entitled(lots=60)
    at = SECOND
    first = scheduler.arrive(request("a"), at)
    assert (first.charge_mntu, first.level_before_mntu) == (1_400_000, 1_000_000)
    assert first.level_after_mntu == -400_000
    assert scheduler.arrive(request("b", overflow=Overflow.SPILL), at).class_served is Class.P3
    refused = scheduler.arrive(request("c", overflow=Overflow.REJECT), at)
    assert summary(refused) == ("c", Outcome.SHED, Reason.LEVEL_SPENT, Class.P3)
    assert refused.retry_after_us == 400_001
    waiting = scheduler.arrive(request("d", overflow=Overflow.QUEUE), at)
    assert summary(waiting) == ("d", Outcome.QUEUE, Reason.LEVEL_SPENT, Class.P2)
    assert [summary(each) for each in scheduler.dispatch(at)] == [
        ("a", Outcome.ADMIT, Reason.ENTITLED, Class.P2),
        ("b", Outcome.SPILL, Reason.LEVEL_SPENT, Class.P3),
    ]
    assert scheduler.next_wake(at) == at + 400_001
    assert scheduler.dispatch(at + 400_000) == []
    [admitted] = scheduler.dispatch(at + 400_001)
    assert summary(admitted) == ("d", Outcome.ADMIT, Reason.ENTITLED, Class.P2)
    assert admitted.waited_us == 400_001


def test_of_parallel_requests_an_entitlement_for_one_admits_one() -> None:
    scheduler = entitled(lots=1)
    decisions = [scheduler.arrive(request(n, overflow=Overflow.REJECT), SECOND) for n in range(64)]
    assert [each.outcome for each in decisions].count(Outcome.QUEUE) == 1
    assert len(scheduler.dispatch(SECOND)) == 1


def test_a_charge_is_reconciled_with_usage_at_the_end() -> None:
    scheduler = entitled(lots=60)
    scheduler.arrive(request("a"), SECOND)
    scheduler.dispatch(SECOND)
    scheduler.charged("a", mntu=1_200_000, at=SECOND)
    assert scheduler.inspect(SECOND).flows[0].level_mntu == -400_000, "within the charge"
    scheduler.charged("a", mntu=1_500_000, at=SECOND)
    assert scheduler.inspect(SECOND).flows[0].level_mntu == -500_000
    scheduler.finish("a", actual_mntu=1_100_000, output_tokens=25, at=SECOND)
    assert scheduler.inspect(SECOND).flows[0].level_mntu == -100_000


def test_what_is_aborted_in_line_is_free() -> None:
    scheduler = entitled(lots=60)
    scheduler.arrive(request("a"), SECOND)
    scheduler.abort("a", at=SECOND)
    assert scheduler.inspect(SECOND).flows[0].level_mntu == 1_000_000
    assert scheduler.dispatch(SECOND) == []


def classes(lots: dict[Class, int], **changes: object) -> Scheduler:
    """A scheduler whose holders 10, 11 and 12 have lots of P0, P1 and P2, their bursts saved up."""
    scheduler = Scheduler(terms(**changes))
    for each, number in lots.items():
        scheduler.set_flow(10 + each, windows=[window(number)], at=0, service_class=each)
    return scheduler


def test_a_request_is_timed_if_its_class_lends_what_its_level_lacks() -> None:
    """60 lots of P0 save up 750,000 mNTU, and lend 250,000 at once."""
    scheduler = classes({Class.P0: 60})
    at = 10 * SECOND
    p0 = {"organization": 10, "service_class": Class.P0, "output_tokens_max": 50}
    first = scheduler.arrive(request("a", prompt_tokens=700, **p0), at)
    assert (first.reason, first.loan_mntu, first.priority) == (Reason.TIMED, 150_000, 0)
    assert (first.level_before_mntu, first.level_after_mntu) == (750_000, -150_000)
    at += SECOND
    again = scheduler.arrive(request("b", prompt_tokens=901, **p0), at)
    assert (again.level_before_mntu, again.charge_mntu) == (750_000, 1_101_000)
    assert (again.reason, again.loan_mntu, again.priority) == (Reason.ENTITLED, 0, 3)
    at += 2 * SECOND
    third = scheduler.arrive(request("c", prompt_tokens=800, **p0), at)
    assert (third.reason, third.loan_mntu) == (Reason.TIMED, 250_000), "it was full again"


def test_all_holders_of_a_class_draw_on_one_loan_and_no_other_class_does() -> None:
    scheduler = classes({Class.P0: 30, Class.P1: 60})
    scheduler.set_flow(20, windows=[window(30)], at=0, service_class=Class.P0)
    at = 10 * SECOND
    asked = {"service_class": Class.P0, "output_tokens_max": 50, "prompt_tokens": 375}
    decided = [scheduler.arrive(request(who, who, **asked), at) for who in (10, 20)]
    assert [(each.reason, each.loan_mntu) for each in decided] == [
        (Reason.TIMED, 200_000),
        (Reason.ENTITLED, 0),
    ]
    of_p1 = request("p1", 11, **asked | {"service_class": Class.P1, "prompt_tokens": 1_000})
    assert scheduler.arrive(of_p1, at).loan_mntu == 200_000


def test_a_class_lends_by_the_rate_that_is_sold_in_the_hour() -> None:
    scheduler = Scheduler(terms())
    scheduler.set_flow(1, windows=[window(60, 0, HOUR), window(6, HOUR, 2 * HOUR)], at=0)
    scheduler.set_flow(2, windows=[window(60, 0, HOUR)], at=0)
    before = scheduler.arrive(request("a", prompt_tokens=2_100), HOUR - SECOND)
    assert (before.loan_mntu, before.reason) == (500_000, Reason.TIMED)
    scheduler.abort("a", at=HOUR - SECOND)
    after = scheduler.arrive(request("b", prompt_tokens=0, output_tokens_max=60), 2 * HOUR - SECOND)
    assert (after.level_before_mntu, after.loan_mntu) == (200_000, 0)
    assert after.reason is Reason.ENTITLED, "6 lots lend 25,000 mNTU, not the 40,000 it lacks"


def test_timed_requests_run_by_class_before_all_others_and_do_not_wait_for_the_window() -> None:
    scheduler = classes({Class.P0: 60, Class.P1: 60, Class.P2: 60}, chunk_tokens=1_000)
    at = 10 * SECOND
    scheduler.arrive(request("shared", 2, service_class=Class.P3, prompt_tokens=1_000), at)
    assert [each.request_id for each in scheduler.dispatch(at)] == ["shared"]
    scheduler.arrive(request("waits", 2, service_class=Class.P3), at)
    long = request("long", 12, prompt_tokens=2_500)
    assert scheduler.arrive(long, at).reason is Reason.ENTITLED
    scheduler.abort("long", at=at)
    for each in (Class.P2, Class.P1, Class.P0):
        made = request(each.name, 10 + each, service_class=each, prompt_tokens=300)
        assert scheduler.arrive(made, at).reason is Reason.TIMED
    decided = scheduler.dispatch(at)
    assert [each.request_id for each in decided] == ["P0", "P1", "P2"]
    assert [each.priority for each in decided] == [0, 1, 2]
    assert scheduler.waiting == 1, "the window of the only replica is full for what is not timed"


def test_a_replica_reads_one_long_shared_prompt_at_a_time() -> None:
    scheduler = classes({Class.P2: 600}, chunk_tokens=65_536, kv_tokens=10**6)
    at = 10 * SECOND
    for name in ("first", "second"):
        scheduler.arrive(request(name, 2, service_class=Class.P3, prompt_tokens=8_193), at)
    timed = request("timed", 12, prompt_tokens=9_000)
    assert scheduler.arrive(timed, at).reason is Reason.TIMED
    assert [each.request_id for each in scheduler.dispatch(at)] == ["timed", "first"]
    scheduler.first_token("first", at)
    assert [each.request_id for each in scheduler.dispatch(at)] == ["second"]


def test_sequences_and_memory_are_held_back_for_what_is_sold() -> None:
    """Half of the cluster is sold, so a sixteenth of each replica is not for P3."""
    sold = {"certified_lots": 120, "sequences_max": 32, "kv_tokens": 16_000, "chunk_tokens": 65_536}
    scheduler = classes({Class.P2: 60}, **sold)
    at = 10 * SECOND
    for number in range(40):
        made = request(number, 2, service_class=Class.P3, prompt_tokens=1, output_tokens_max=1)
        scheduler.arrive(made, at)
    assert len(scheduler.dispatch(at)) == 30
    for number in range(3):
        made = request(f"t{number}", 12, prompt_tokens=1, output_tokens_max=1)
        assert scheduler.arrive(made, at).reason is Reason.TIMED
    assert [each.request_id for each in scheduler.dispatch(at)] == ["t0", "t1"]
    scheduler = classes({Class.P2: 60}, **sold)
    for number in range(3):
        made = request(number, 2, service_class=Class.P3, prompt_tokens=7_500, output_tokens_max=1)
        scheduler.arrive(made, at)
    assert len(scheduler.dispatch(at)) == 1, "15,000 of 16,000 tokens, of which 1,000 are kept"


def test_a_lost_replica_scales_the_lowest_classes_by_one_factor_each_and_stops_p3() -> None:
    """90 of 120 lots are sold; one of two replicas leaves 60: all of P0, P1, none of P2."""
    lots = {Class.P0: 30, Class.P1: 40, Class.P2: 20}
    scheduler = classes(lots, certified_lots=120, replicas=2)
    at = 10 * SECOND
    assert {each.factor for each in scheduler.inspect(at).classes.values()} == {10**6}
    scheduler.arrive(request("before", 2, service_class=Class.P3), at)
    scheduler.set_replica(1, available=False)
    assert scheduler.dispatch(at) == [], "P3 stops, what waited for it included"
    seen = scheduler.inspect(at)
    assert [seen.classes[each].factor for each in Class] == [10**6, 750_000, 0, 10**6]
    assert [flow.level_mntu for flow in seen.flows] == [375_000, 500_000, 0]
    p1 = request("p1", 11, service_class=Class.P1, prompt_tokens=300, output_tokens_max=50)
    assert scheduler.arrive(p1, at).level_after_mntu == 0
    later = scheduler.inspect(at + SECOND).flows[1]
    assert later.level_mntu == 500_000, "three quarters of 40 lots for a second"
    p2 = request("p2", 12, overflow=Overflow.REJECT, prompt_tokens=10)
    assert scheduler.arrive(p2, at).reason is Reason.LEVEL_SPENT
    spilled = request("p3", 12, prompt_tokens=10)
    assert scheduler.arrive(spilled, at).reason is Reason.NO_CAPACITY
    scheduler.set_replica(1, available=True)
    at += SECOND
    assert [each.request_id for each in scheduler.dispatch(at)] == ["p1", "before"]
    assert scheduler.inspect(at + SECOND).flows[2].level_mntu == 333_333, "it fills again"


def test_who_holds_more_than_its_share_lets_others_pass_but_leaves_nothing_idle() -> None:
    scheduler = Scheduler(terms(sequences_max=8, chunk_tokens=65_536))
    p3 = {"service_class": Class.P3, "prompt_tokens": 1_000, "output_tokens_max": 1}
    for number in range(10):
        scheduler.arrive(request(number, 1, **p3), 0)
    assert len(scheduler.dispatch(0)) == 8, "nobody else waits"
    for number in range(4):
        scheduler.arrive(request(f"b{number}", 2, **p3 | {"prompt_tokens": 3_000}), 0)
    served = []
    for name in "0123":
        scheduler.finish(name, actual_mntu=1_004_000, output_tokens=1, at=0)
        served += [each.request_id for each in scheduler.dispatch(0)]
    assert served == ["b0", "b1", "b2", "8"], "it is next after b0, but holds more than four"


def test_entitled_requests_run_before_those_that_came_first_at_p3() -> None:
    scheduler = entitled(chunk_tokens=1_000)
    for number in range(3):
        scheduler.arrive(request(f"s{number}", 2, service_class=Class.P3), SECOND)
    scheduler.arrive(request("e"), SECOND)
    assert [each.request_id for each in scheduler.dispatch(SECOND)] == ["e"]
    scheduler.first_token("e", SECOND)
    assert [each.request_id for each in scheduler.dispatch(SECOND)] == ["s0"]


def test_a_small_request_at_p3_does_not_pass_a_large_entitled_one_that_waits_for_room() -> None:
    scheduler = entitled(kv_tokens=3_000)
    scheduler.arrive(request("running", 2, service_class=Class.P3, prompt_tokens=2_000), SECOND)
    scheduler.dispatch(SECOND)
    scheduler.first_token("running", SECOND)
    scheduler.arrive(request("small", 2, service_class=Class.P3, prompt_tokens=10), SECOND)
    scheduler.arrive(request("large"), SECOND)
    assert scheduler.dispatch(SECOND) == []
    scheduler.finish("running", actual_mntu=1, output_tokens=1, at=SECOND)
    assert [each.request_id for each in scheduler.dispatch(SECOND)] == ["large", "small"]


def test_nobody_passes_those_of_the_same_flow_who_wait_for_its_level() -> None:
    scheduler = entitled(lots=60)
    scheduler.arrive(request("a", prompt_tokens=800), SECOND)
    scheduler.arrive(request("b", overflow=Overflow.QUEUE), SECOND)
    later = scheduler.arrive(request("c", overflow=Overflow.REJECT), 3 * SECOND)
    assert later.reason is Reason.LEVEL_SPENT
    assert [each.request_id for each in scheduler.dispatch(3 * SECOND)] == ["a", "b"]


def test_a_replica_is_fed_until_its_prefill_backlog_is_a_chunk() -> None:
    scheduler = Scheduler(terms(replicas=2, chunk_tokens=2_000))
    for number in range(6):
        scheduler.arrive(request(number, number, service_class=Class.P3), 0)
    first = scheduler.dispatch(0)
    assert [each.replica for each in first] == [0, 1, 0, 1]
    scheduler.first_token("1", 5)
    assert [each.replica for each in scheduler.dispatch(5)] == [1]


def test_organizations_without_entitlement_or_at_its_end_fall_through_with_the_reason() -> None:
    scheduler = entitled(lots=60)
    stranger = scheduler.arrive(request("a", 2, overflow=Overflow.REJECT), SECOND)
    assert summary(stranger) == ("a", Outcome.SHED, Reason.NO_ENTITLEMENT, Class.P3)
    assert stranger.retry_after_us is None
    late = scheduler.arrive(request("b", prompt_tokens=2_000, overflow=Overflow.REJECT), HOUR - 1)
    assert late.reason is Reason.WINDOW_ENDS


def test_every_reason_to_refuse_in_its_order() -> None:
    scheduler = Scheduler(
        terms(certified_lots=60, shared_queue_max=2, shared_wait_us_max=3_000_000, kv_tokens=5_000)
    )
    scheduler.set_replica(0, available=False)
    p3 = {"service_class": Class.P3}
    long = scheduler.arrive(request("long", prompt_tokens=5_000), 0)
    assert (long.reason, long.retry_after_us) == (Reason.CONTEXT_TOO_LONG, None)
    assert scheduler.arrive(request("none"), 0).reason is Reason.NO_CAPACITY
    scheduler.set_replica(0, available=True)
    assert scheduler.arrive(request("p", prompt_tokens=3_000, **p3), 0).outcome is Outcome.QUEUE
    overloaded = scheduler.arrive(request("q", **p3), 0)
    assert (overloaded.reason, overloaded.retry_after_us) == (Reason.OVERLOADED, 400_000)
    scheduler = Scheduler(terms(shared_queue_max=1))
    scheduler.arrive(request("r", **p3), 0)
    assert scheduler.arrive(request("s", **p3), 0).reason is Reason.QUEUE_FULL


def test_who_waits_too_long_is_refused_with_the_time_waited() -> None:
    scheduler = Scheduler(terms(chunk_tokens=1_000, shared_wait_us_max=2 * SECOND))
    for number in range(2):
        scheduler.arrive(request(number, service_class=Class.P3), 0)
    assert [each.request_id for each in scheduler.dispatch(0)] == ["0"]
    assert scheduler.next_wake(0) == 2 * SECOND
    [late] = scheduler.dispatch(2 * SECOND)
    assert summary(late) == ("1", Outcome.SHED, Reason.WAITED_TOO_LONG, Class.P3)
    assert (late.waited_us, late.retry_after_us) == (2 * SECOND, SECOND)


def test_slots_without_lots_order_their_holders_requests_at_p3_in_their_hour() -> None:
    """With two of them a holder is served three times as much as one with none, not instead."""
    scheduler = Scheduler(terms(chunk_tokens=1_000, shared_wait_us_max=HOUR))
    scheduler.set_idle_slots({2: (window(2, ends_at=8 * SECOND),)})
    for number in range(40):
        scheduler.arrive(request(number, number % 2 + 1, service_class=Class.P3), 0)

    def served(seconds: range) -> list[int]:
        found = []
        for second in seconds:
            (decision,) = scheduler.dispatch(second * SECOND)
            found.append(decision.organization)
            scheduler.finish(
                decision.request_id, actual_mntu=1_400_000, output_tokens=100, at=second * SECOND
            )
        return found

    within = served(range(8))
    assert (within.count(1), within.count(2)) == (2, 6)
    after = served(range(8, 16))
    assert (after.count(1), after.count(2)) == (4, 4)


def test_inspection_counts_what_happened_and_judges_fairness_by_window() -> None:
    scheduler = Scheduler(terms(chunk_tokens=1_000, shared_wait_us_max=HOUR))
    for number in range(80):
        scheduler.arrive(request(number, number % 2 + 1, service_class=Class.P3), 0)
    for second in range(21):
        for decision in scheduler.dispatch(second * SECOND):
            scheduler.finish(
                decision.request_id, actual_mntu=1_400_000, output_tokens=100, at=second * SECOND
            )
    report = scheduler.inspect(21 * SECOND).classes[Class.P3]
    assert (report.arrived, report.admitted, report.queued_now) == (80, 21, 59)
    assert (report.wait_us_p50, report.wait_us_p99) == (10 * SECOND, 20 * SECOND)
    assert report.jain == 1


ARRIVALS = st.tuples(
    st.integers(1, 3),
    st.sampled_from([Class.P0, Class.P2, Class.P3]),
    st.sampled_from(list(Overflow)),
    st.sampled_from([10, 100, 600, 2_500]),
    st.sampled_from([10, 600]),
)


class SchedulerUnderRandomUse(RuleBasedStateMachine):
    """Random arrivals, ends and outages; the invariants are what admission promises."""

    @initialize(replicas=st.integers(1, 3), chunk=st.sampled_from([500, 2_000, 20_000]))
    def begin(self, replicas: int, chunk: int) -> None:
        self.terms = terms(
            replicas=replicas,
            chunk_tokens=chunk,
            sequences_max=4,
            kv_tokens=4_000,
            shared_wait_us_max=20 * SECOND,
            entitled_wait_us_max=30 * SECOND,
        )
        self.scheduler = Scheduler(self.terms)
        self.at = SECOND
        self.lots = {1: 600, 2: 60}
        self.ends_at = 300 * SECOND
        for organization, lots in self.lots.items():
            hours = [window(lots // 2, 0, self.ends_at)]
            for each in (Class.P0, Class.P2):
                self.scheduler.set_flow(organization, windows=hours, at=0, service_class=each)
        self.alive: dict[str, Request] = {}
        self.running: dict[str, Decision] = {}
        self.final: dict[str, Decision] = {}
        self.used: dict[int, int] = {1: 0, 2: 0}
        self.count = 0

    def dispatch(self) -> None:
        decisions = self.scheduler.dispatch(self.at)
        lines = [d.priority for d in decisions if d.outcome is not Outcome.SHED]
        assert lines == sorted(lines), "timed before entitled before P3"
        entitled_wait = sum(len(line) for line in list(self.scheduler._lines.values())[:4])
        assert not (entitled_wait and 4 in lines), "no entitled request waits behind P3"
        for decision in decisions:
            self.settle(decision)

    def settle(self, decision: Decision) -> None:
        assert decision.request_id not in self.final, "one final decision each"
        assert decision.final
        self.final[decision.request_id] = decision
        if decision.outcome is Outcome.SHED:
            del self.alive[decision.request_id]
        else:
            self.running[decision.request_id] = decision

    @rule(burst=st.lists(ARRIVALS, min_size=1, max_size=6))
    def arrive(self, burst) -> None:
        for organization, service_class, overflow, prompt, limit in burst:
            self.count += 1
            made = request(
                self.count,
                organization,
                service_class=service_class,
                overflow=overflow,
                prompt_tokens=prompt,
                output_tokens_max=limit,
            )
            self.alive[made.id] = made
            decision = self.scheduler.arrive(made, self.at)
            if decision.final:
                self.settle(decision)
        self.dispatch()

    @rule(wait=st.integers(1, 5 * SECOND))
    def advance(self, wait: int) -> None:
        self.at += wait
        self.dispatch()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), output=st.integers(1, 600))
    def finish(self, data, output: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        decision, made = self.running.pop(name), self.alive.pop(name)
        mntu = made.prompt_tokens * 1_000 + output * 4_000
        self.scheduler.finish(name, actual_mntu=mntu, output_tokens=output, at=self.at)
        if decision.class_served is not Class.P3:
            self.used[made.organization] += mntu * GRAINS_PER_MNTU
        self.dispatch()

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        self.scheduler.abort(name, at=self.at)
        del self.alive[name]
        self.running.pop(name, None)
        self.dispatch()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def first_token(self, data) -> None:
        self.scheduler.first_token(data.draw(st.sampled_from(sorted(self.running))), self.at)
        self.dispatch()

    @rule(available=st.sampled_from([True, True, False]))
    def replica(self, available: bool) -> None:
        self.scheduler.set_replica(0, available=available)
        self.dispatch()

    @invariant()
    def counters_are_sums(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        replicas = self.scheduler.inspect(self.at).replicas
        assert sum(each.sequences for each in replicas) == len(self.running)
        assert self.scheduler.waiting == len(self.alive) - len(self.running)
        for each in replicas:
            assert each.prefill_tokens >= 0
            assert (each.kv_tokens > 0) == (each.sequences > 0)

    @invariant()
    def work_is_conserved(self) -> None:
        """Who is first in the line that moves next fits nowhere."""
        if not hasattr(self, "scheduler"):
            return
        for place in range(5):
            head = self.scheduler._lines[place].peek()
            if head is None:
                continue
            needed = head[1].kv_tokens
            for each in self.scheduler.inspect(self.at).replicas:
                assert (
                    not each.available
                    or (place >= 3 and each.prefill_tokens >= self.terms.chunk_tokens)
                    or each.sequences >= self.terms.sequences_max
                    or (each.sequences and each.kv_tokens + needed > self.terms.kv_tokens)
                )
            break

    @invariant()
    def nobody_uses_more_than_was_bought(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        forgiven = dict.fromkeys(self.lots, 0)
        for flow in self.scheduler._flows.values():
            flow.level.refill(self.at)
            forgiven[flow.organization] += flow.level.forgiven
            assert flow.level.grains + flow.level.owed(self.at) >= 0
        for organization, lots in self.lots.items():
            assert self.used[organization] - forgiven[organization] <= lots * self.ends_at

    def teardown(self) -> None:
        """Everyone is served or refused in the end: nobody starves."""
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.set_replica(0, available=True)
        for _ in range(10_000):
            if not self.alive:
                break
            self.dispatch()
            for name in sorted(self.running):
                self.scheduler.finish(name, actual_mntu=1, output_tokens=1, at=self.at)
                del self.running[name], self.alive[name]
            if self.alive and not self.running:
                wake = self.scheduler.next_wake(self.at)
                self.at = self.at if wake is None else wake
        assert not self.alive, "every request gets its decision"


SchedulerUnderRandomUse.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestSchedulerUnderRandomUse = SchedulerUnderRandomUse.TestCase
