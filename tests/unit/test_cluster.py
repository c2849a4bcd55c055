"""The cluster model: arithmetic by hand, batching in tables, error on measured servers."""

from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission import cluster, measured
from admission.calibration import CALIBRATIONS, Calibration
from admission.cluster import MODELS, Cluster
from admission.replica import Replica, Sequence

H100 = Cluster(accelerator="H100", model="LLAMA70B", precision="fp8", tensor_parallel=4, replicas=1)
POINTS = "aiconfigurator"


def small(**changes: object) -> Cluster:
    values = {
        "accelerator": "H100",
        "model": "LLAMA8B",
        "precision": "bf16",
        "tensor_parallel": 1,
        "replicas": 1,
    }
    return Cluster(**{**values, **changes})


def play(replica: Replica, *, until: int = 100_000) -> dict[str, list[int]]:
    """Run to the end; for each sequence the iterations that gave its first and last token."""
    seen: dict[str, list[int]] = {}
    while replica.busy and replica.iterations < until:
        iteration = replica.step()
        replica.check()
        for each in (*iteration.first, *iteration.finished):
            seen.setdefault(each.id, []).append(replica.iterations)
    return seen


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("LLAMA8B", 8.0),
        ("LLAMA70B", 70.6),
        ("QWEN32B", 32.8),
        ("QWEN235B", 235),
        ("GPTOSS120B", 116),
    ],
)
def test_shapes_have_the_parameters_that_their_cards_state(name: str, billions: float) -> None:
    assert MODELS[name].parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_an_iteration_is_the_sum_of_its_terms() -> None:
    by = H100.calibration
    peak, bandwidth = 4 * 1978e12, 4 * 3.35e12
    shape = H100.shape
    compute = 16 * (2 * shape.active_parameters + 2 * 128_256 * 8_192) / peak
    compute += 32_000 * 4 * 80 * 64 * 128 / (4 * 989e12)
    memory = shape.active_parameters + 128_256 * 8_192 * 2 + 32_000 * shape.kv_bytes_per_token
    link = 16 * 2 * 80 * 8_192 * 2 / 450e9
    expected = by.compute * compute * 1e6 + by.memory * memory / bandwidth * 1e6
    expected += by.layer_us * 80 + by.sequence_us * 16 + by.link * link * 1e6
    assert H100.timing.iteration_us(0, 0, 16, 32_000) == round(expected)


def test_what_does_not_fit_or_was_not_measured_is_refused_by_name() -> None:
    assert cluster.problem(H100) is None
    assert cluster.problem(small(accelerator="A100")) == "unknown_accelerator"
    assert cluster.problem(small(model="GPT4O")) == "unknown_model"
    assert cluster.problem(small(precision="fp16")) == "unknown_precision"
    assert cluster.problem(small(tensor_parallel=3)) == "unsupported_tensor_parallel"
    assert cluster.problem(small(replicas=0)) == "replicas_out_of_range"
    assert cluster.problem(small(stack="tgi")) == "not_calibrated"
    assert cluster.problem(small(model="LLAMA70B")) == "model_does_not_fit"


def test_a_prompt_is_read_in_chunks_and_gives_its_first_token_with_the_last() -> None:
    replica = Replica(small(chunk_tokens=1_000, sequences_max=8))
    replica.submit(Sequence("a", prompt_tokens=2_500, output_tokens=3))
    assert play(replica) == {"a": [3, 5]}


def test_cached_tokens_are_not_read() -> None:
    replica = Replica(small(chunk_tokens=1_000, sequences_max=8))
    replica.submit(Sequence("a", prompt_tokens=2_500, output_tokens=3, cached_tokens=2_000))
    assert replica.backlog_tokens == 500
    assert play(replica) == {"a": [1, 3]}


def test_decoding_goes_on_while_a_prompt_is_read() -> None:
    replica = Replica(small(chunk_tokens=1_000, sequences_max=8))
    replica.submit(Sequence("a", prompt_tokens=10, output_tokens=10))
    replica.step()
    replica.submit(Sequence("b", prompt_tokens=1_999, output_tokens=1))
    assert play(replica) == {"b": [4, 4], "a": [10]}, "a's token takes one of each chunk"


def test_lower_priority_runs_first_and_then_who_came_first() -> None:
    replica = Replica(small(chunk_tokens=256, sequences_max=1))
    for name, priority in (("a", 3), ("b", 2), ("c", 2)):
        replica.submit(Sequence(name, prompt_tokens=10, output_tokens=2, priority=priority))
    assert list(play(replica)) == ["b", "c", "a"]


def test_the_newest_is_preempted_and_read_again_when_the_cache_is_full() -> None:
    tight = small(chunk_tokens=8_192, sequences_max=8)
    tight.__dict__["kv_tokens"] = 1_000
    replica = Replica(tight)
    replica.submit(Sequence("a", prompt_tokens=400, output_tokens=300))
    replica.submit(Sequence("b", prompt_tokens=400, output_tokens=300))
    seen = play(replica)
    assert replica.preemptions == 1
    assert seen["a"] == [1, 300], "the older one is not disturbed"
    assert seen["b"][0] == 1
    assert seen["b"][1] > 300
    assert replica.generated_total == 600, "what was emitted is not emitted again"


def test_a_canceled_sequence_gives_its_room_back_and_its_token_is_not_made() -> None:
    replica = Replica(small(chunk_tokens=8_192, sequences_max=8))
    replica.submit(Sequence("a", prompt_tokens=100, output_tokens=50))
    for _ in range(3):
        replica.step()
    replica.begin()
    assert replica.cancel("a") == 3
    iteration = replica.complete()
    assert (iteration.decoded, replica.kv_used, replica.busy) == (0, 0, False)
    assert replica.cancel("a") == 0


def test_prompts_read_in_one_iteration_leave_room_for_each_ones_first_token() -> None:
    tight = small(chunk_tokens=512, sequences_max=6)
    tight.__dict__["kv_tokens"] = 11
    replica = Replica(tight)
    for name in "ab":
        replica.submit(Sequence(name, prompt_tokens=5, output_tokens=2))
    while replica.busy:
        replica.step()
        replica.check()
    assert replica.generated_total == 4


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 900), st.integers(1, 60), st.integers(0, 5)), max_size=30
    ),
    canceled=st.sets(st.integers(0, 29)),
    coasts=st.booleans(),
)
def test_every_token_is_made_once_whatever_comes_and_goes(requests, canceled, coasts) -> None:
    tight = small(chunk_tokens=512, sequences_max=6)
    tight.__dict__["kv_tokens"] = 2_000
    replica = Replica(tight)
    expected = 0
    for number, (prompt, output, pause) in enumerate(requests):
        replica.submit(Sequence(str(number), prompt_tokens=prompt, output_tokens=output))
        expected += output
        for _ in range(pause):
            if replica.busy:
                replica.step()
        if number in canceled and str(number) in replica._sequences:
            expected -= output - replica.cancel(str(number))
        replica.check()
    while replica.busy:
        if coasts:
            replica.coast(10**9)
        replica.step()
        replica.check()
    assert (replica.generated_total, replica.kv_used) == (expected, 0)


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 90)), min_size=1, max_size=8),
    budget=st.integers(0, 3_000_000),
)
def test_coasting_is_what_single_steps_would_have_been(requests, budget) -> None:
    slow, fast = Replica(small()), Replica(small())
    for replica in (slow, fast):
        for number, (prompt, output) in enumerate(requests):
            replica.submit(Sequence(str(number), prompt_tokens=prompt, output_tokens=output))
        replica.step()
    elapsed = fast.coast(budget)
    spent = 0
    while slow.iterations < fast.iterations:
        iteration = slow.step()
        assert not iteration.finished
        spent += iteration.duration_us
    assert (spent, slow.kv_used) == (elapsed, fast.kv_used)
    assert elapsed <= budget
    slow.check()
    fast.check()


@pytest.mark.data(POINTS)
def test_the_constants_are_those_that_a_fit_finds_without_the_points_held_out(data_folder) -> None:
    groups = measured.groups(points_of(data_folder))
    assert set(groups) == set(CALIBRATIONS)
    for group, members in groups.items():
        fitted = measured.fit([point for point in members if not point.held_out])
        for name in Calibration.__dataclass_fields__:
            value = getattr(CALIBRATIONS[group], name)
            assert getattr(fitted, name) == pytest.approx(value, abs=0.002), (group, name)


@pytest.mark.data(POINTS)
def test_the_median_error_on_points_held_out_is_below_nine_percent(data_folder) -> None:
    points = [each for each in points_of(data_folder) if each.group in CALIBRATIONS]
    held_out = [each for each in points if each.held_out]
    assert len(held_out) > 300
    assert median(each.error(each.cluster.calibration) for each in held_out) < 0.06
    for accelerator, stack in (("H100", "vllm"), ("H200", "trtllm"), ("B200", "vllm")):
        dense = [each for each in held_out if each.group == (stack, accelerator, "dense")]
        assert median(each.error(each.cluster.calibration) for each in dense) < 0.09


@pytest.mark.data(POINTS)
def test_the_replica_in_a_closed_loop_agrees_with_the_formula_it_was_fitted_by(data_folder) -> None:
    points = [
        each
        for each in points_of(data_folder)
        if each.group == ("vllm", "H100", "dense")
        and each.output_tokens == 1_024
        and each.concurrency <= 32
    ]
    for point in points[:6]:
        assert _closed_loop_ms(point) == pytest.approx(
            point.predicted_ms(point.cluster.calibration), rel=0.08
        )


def points_of(folder) -> list[measured.ServingPoint]:
    return measured.read_points(folder / POINTS / "serving_points.csv.gz")


def _closed_loop_ms(point: measured.ServingPoint) -> float:
    """Median time per output token of a simulated closed loop, its callers out of step."""
    replica = Replica(point.cluster)
    at, number, first, times = 0, 0, {}, []

    def submit() -> None:
        nonlocal number
        output = point.output_tokens * (100 + number * 37 % 21 - 10) // 100
        sequence = Sequence(str(number), prompt_tokens=point.prompt_tokens, output_tokens=output)
        replica.submit(sequence)
        number += 1

    for _ in range(point.concurrency):
        submit()
    while len(times) < 4 * point.concurrency:
        iteration = replica.step()
        at += iteration.duration_us
        first |= {each.id: at for each in iteration.first}
        for each in iteration.finished:
            times.append((at - first[each.id]) / (each.output_tokens - 1))
            submit()
    return median(times[point.concurrency :]) / 1e3
