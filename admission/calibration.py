"""The five constants of the cluster model, per serving stack, accelerator and model.

Fitted by `manage.py fit_cluster_model --fit` to two thirds of the measured serving points of NVIDIA
aiconfigurator (commit 095f58a, Apache-2.0); the other third was held out and says how good they
are. `compute` and `memory` are inverse efficiencies and held to at least 1: nothing is faster than
its data sheet, also where the points alone would not object. A group with fewer than
`GROUP_POINTS_MIN` points is not fitted: six points do not tell five constants apart.
A model with so many points of its own, in a group that has other models too, has constants of its
own; every other one has those of its kind, dense or mixture of experts.
"""

from dataclasses import dataclass

GROUP_POINTS_MIN = 20
"""Fitted and held out together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Weights of the terms of an iteration; times in microseconds."""

    compute: float
    """Time over the time at peak rate."""
    memory: float
    """Time over the time at full bandwidth."""
    layer_us: float
    """Per layer and iteration: launches, and the latency of all-reduces."""
    sequence_us: float
    """Per decoding sequence and iteration: sampling, scheduling, output."""
    link: float
    """Time over the time at full interconnect bandwidth."""


CALIBRATIONS: dict[tuple[str, str, str], Calibration] = {
    ("sglang", "H100", "dense"): Calibration(
        compute=1.0, memory=1.0, layer_us=63.838, sequence_us=18.113, link=0.326
    ),
    ("sglang", "H200", "dense"): Calibration(
        compute=1.497, memory=1.0, layer_us=147.23, sequence_us=18.701, link=1.971
    ),
    ("trtllm", "B200", "moe"): Calibration(
        compute=1.0, memory=1.0, layer_us=58.252, sequence_us=0.0, link=2.564
    ),
    ("trtllm", "H100", "dense"): Calibration(
        compute=1.282, memory=1.0, layer_us=63.312, sequence_us=7.672, link=3.835
    ),
    ("trtllm", "H100", "moe"): Calibration(
        compute=1.0, memory=1.0, layer_us=77.506, sequence_us=12.02, link=11.286
    ),
    ("trtllm", "H200", "dense"): Calibration(
        compute=1.0, memory=1.0, layer_us=49.206, sequence_us=0.0, link=3.354
    ),
    ("trtllm", "H200", "moe"): Calibration(
        compute=1.0, memory=1.0, layer_us=125.994, sequence_us=24.819, link=7.969
    ),
    ("vllm", "B200", "dense"): Calibration(
        compute=1.0, memory=1.031, layer_us=69.628, sequence_us=8.354, link=5.361
    ),
    ("vllm", "B200", "moe"): Calibration(
        compute=3.135, memory=1.0, layer_us=104.134, sequence_us=21.418, link=0.0
    ),
    ("vllm", "H100", "dense"): Calibration(
        compute=1.934, memory=1.0, layer_us=75.321, sequence_us=10.211, link=1.871
    ),
    ("vllm", "H100", "moe"): Calibration(
        compute=1.0, memory=1.0, layer_us=94.948, sequence_us=0.0, link=0.0
    ),
    ("vllm", "H200", "moe"): Calibration(
        compute=1.996, memory=1.436, layer_us=90.039, sequence_us=0.0, link=6.924
    ),
    ("trtllm", "H100", "LLAMA8B"): Calibration(
        compute=1.209, memory=1.0, layer_us=57.314, sequence_us=22.311, link=2.586
    ),
    ("trtllm", "H100", "QWEN32B"): Calibration(
        compute=1.477, memory=1.0, layer_us=60.488, sequence_us=39.097, link=3.28
    ),
    ("trtllm", "H100", "QWEN235B"): Calibration(
        compute=1.0, memory=1.0, layer_us=79.233, sequence_us=0.0, link=11.569
    ),
    ("vllm", "H100", "GPTOSS120B"): Calibration(
        compute=1.0, memory=1.0, layer_us=92.72, sequence_us=0.0, link=0.0
    ),
    ("vllm", "H200", "GPTOSS120B"): Calibration(
        compute=2.671, memory=1.225, layer_us=86.919, sequence_us=11.863, link=5.686
    ),
    ("vllm", "H200", "MINIMAXM2"): Calibration(
        compute=4.258, memory=1.453, layer_us=107.956, sequence_us=0.0, link=1.968
    ),
}
"""By serving stack, accelerator, and kind of model (`dense`, `moe`) or one model."""

STACKS = ("vllm", "trtllm", "sglang")
"""In the order in which one is taken where a cluster names none."""


def find(stack: str, accelerator: str, *, model: str, kind: str) -> Calibration | None:
    """Return the constants of a model, else those of its kind, or None when there are none."""
    own = CALIBRATIONS.get((stack, accelerator, model))
    return own or CALIBRATIONS.get((stack, accelerator, kind))


def default_stack(accelerator: str, kind: str) -> str | None:
    """Return the first stack that was measured on an accelerator with this kind of model."""
    for stack in STACKS:
        if (stack, accelerator, kind) in CALIBRATIONS:
            return stack
    return None
