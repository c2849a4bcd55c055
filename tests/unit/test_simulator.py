"""Virtual time: the same answer always, faster than it happened; a rate that keeps its targets."""

from functools import cache
from time import perf_counter

import pytest

from admission import simulator
from admission.cluster import Cluster
from admission.decisions import Outcome, Reason, ServiceClass
from admission.levels import Window
from admission.simulator import Arrival, Mix, Served, Simulation

SECOND = 1_000_000
HOUR = 3_600 * SECOND
CHAT = Mix(name="chat", prompt_tokens=1_155, output_tokens=211)
H100 = Cluster(accelerator="H100", model="LLAMA70B", precision="fp8", tensor_parallel=4, replicas=1)
PAIR = Cluster(accelerator="H100", model="LLAMA70B", precision="fp8", tensor_parallel=4, replicas=2)
B200 = Cluster(accelerator="B200", model="LLAMA70B", precision="fp8", tensor_parallel=4, replicas=1)


def entitled(
    cluster: Cluster, lots: int, certified_lots: int = 0, sequences_max: int | None = None
) -> Simulation:
    simulation = Simulation(
        cluster,
        simulator.terms_of(cluster, certified_lots=certified_lots, sequences_max=sequences_max),
    )
    simulation.set_flow(1, [Window(starts_at=0, ends_at=2 * HOUR, lots=lots)], at=0)
    return simulation


@cache
def certified() -> simulator.Report:
    return simulator.certify(H100, CHAT)


def times(served: list[Served]) -> list[tuple[object, ...]]:
    return [(each.decision, each.first_token_at, each.finished_at, each.mntu) for each in served]


def test_a_request_alone_takes_its_prefill_and_one_iteration_a_token() -> None:
    simulation = entitled(H100, 100)
    arrival = Arrival(at=SECOND, organization=1, prompt_tokens=1_000, output_tokens=3)
    [served] = simulation.run([arrival])
    timing = H100.timing
    prefill = timing.iteration_us(1_000, 1_000 * 500.0, 0, 0)
    assert served.first_token_us == prefill
    decode = timing.iteration_us(0, 0.0, 1, 1_001) + timing.iteration_us(0, 0.0, 1, 1_002)
    assert served.finished_at == SECOND + prefill + decode
    assert served.mntu == 1_000 * 1_000 + 3 * 4_000
    assert served.decision.outcome is Outcome.ADMIT


def test_a_flow_at_its_rate_is_served_and_beyond_it_is_spilled() -> None:
    gap = 60 * SECOND * CHAT.mntu(simulator.WeightSchedule()) // (100 * 1_000_000)
    arrivals = [
        Arrival(at=SECOND + n * gap, organization=1, prompt_tokens=1_155, output_tokens=211)
        for n in range(300)
    ]
    served = entitled(PAIR, 105).run(arrivals)
    assert all(each.decision.outcome is Outcome.ADMIT for each in served)
    half = entitled(PAIR, 50).run(arrivals)
    spilled = [each for each in half if each.decision.outcome is Outcome.SPILL]
    assert {each.decision.reason for each in spilled} == {Reason.LEVEL_SPENT}
    assert 145 <= len(spilled) <= 155
    entitled_mntu = sum(each.mntu for each in half if each.decision.outcome is Outcome.ADMIT)
    assert entitled_mntu <= 50 * 1_000_000 * (arrivals[-1].at + 2 * SECOND) // (60 * SECOND)


def test_the_same_arrivals_give_the_same_answer_however_they_are_played() -> None:
    arrivals = [
        Arrival(
            at=n * n * 7_919 % (60 * SECOND),
            organization=n % 3 + 1,
            prompt_tokens=n * 97 % 3_000 + 1,
            output_tokens=n * 31 % 300 + 1,
        )
        for n in range(600)
    ]
    arrivals.sort(key=lambda each: each.at)
    once = times(entitled(PAIR, 200, 1_000).run(arrivals))
    stepwise = entitled(PAIR, 200, 1_000)
    for replica in stepwise.replicas:
        replica.coast = lambda budget_us: 0  # type: ignore[method-assign]
    assert times(stepwise.run(arrivals)) == once


def test_overload_is_shed_at_p3_and_entitled_requests_keep_their_targets() -> None:
    lots = 1_300
    mntu = CHAT.mntu(simulator.WeightSchedule())
    gap = 60 * SECOND * mntu // (2 * lots * 1_000_000)
    arrivals = [
        Arrival(
            at=SECOND + n * gap,
            organization=n % 10 // 4 + 1,
            prompt_tokens=1_155,
            output_tokens=211,
            service_class=ServiceClass.P2 if n % 10 < 4 else ServiceClass.P3,
        )
        for n in range(3_000)
    ]
    target = simulator.TARGETS[ServiceClass.P2]
    batch = simulator.batch_within(H100, CHAT, target)
    served = entitled(H100, lots, lots, batch).run(arrivals)
    timed = [each for each in served if each.arrival.organization == 1]
    assert {each.decision.reason for each in timed} == {Reason.TIMED}
    assert sum(map(target.within, timed)) >= 0.99 * len(timed)
    shed = [each for each in served if each.decision.outcome is Outcome.SHED]
    assert len(shed) > 500
    assert all(each.decision.retry_after_us for each in shed)


def test_a_certified_rate_is_ninety_percent_of_the_last_that_passed_in_whole_lots() -> None:
    told: list[tuple[int, str]] = []
    report = simulator.certify(
        H100, CHAT, progress=lambda percent, message: told.append((percent, message))
    )
    passed = [trial.lots for trial in report.trials[:-1] if trial.passed]
    failed = [trial.lots for trial in report.trials[:-1] if not trial.passed]
    assert report.measured_lots == max(passed) < min(failed)
    assert report.certified_lots == report.measured_lots * 90 // 100
    assert report.trials[-1].lots == report.certified_lots
    assert report.trials[-1].passed
    assert report.trials[-1].requests >= 5 * simulator.TRIAL_REQUESTS * 4 // 5
    assert told[-1] == (100, f"certified {report.certified_lots} lots")
    assert [percent for percent, _ in told] == sorted(percent for percent, _ in told)
    assert certified() == report, "again, and the same"


def test_tighter_targets_certify_less_and_allow_a_smaller_batch() -> None:
    base = certified()
    p0 = simulator.certify(H100, CHAT, simulator.TARGETS[ServiceClass.P0])
    assert 0 < p0.certified_lots < base.certified_lots
    assert 0 < p0.sequences_max < base.sequences_max < H100.sequences_max


@pytest.mark.data("azure_llm_2023")
def test_a_real_hour_is_replayed_a_thousand_times_faster(data_folder) -> None:
    path = data_folder / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv.gz"
    trace = simulator.read_azure_trace(path)
    assert (len(trace), trace[0], trace[1][1:]) == (19_366, (0, 374, 44), (396, 109))
    arrivals = simulator.trace_arrivals(trace, starts_at=0, organizations=[1, 2, 3])
    simulation = entitled(PAIR, 900, 2_600)
    began = perf_counter()
    served = simulation.run(arrivals)
    elapsed = perf_counter() - began
    assert all(each.finished_at for each in served)
    assert sum(replica.generated_total for replica in simulation.replicas) == sum(
        max(1, output) for _, _, output in trace
    )
    assert arrivals[-1].at / 1e6 / elapsed > 300, "1,000 and more on a machine that is not busy"
