"""Measured inference servers: reading them, predicting them, and fitting the cluster model to them.

A measured point is a closed loop: so many callers, each sending its next request when the last one
ends, with prompts and outputs of one length. In its steady state every iteration decodes one token
of each sequence that fits, and reads on average one prompt per `output` iterations and sequence.
The model is linear in its five constants, so a fit is a small least-squares problem with lower
bounds; points are weighted towards the median of the relative error, because a few measured points
lie far from all others of their kind.

Which third of the points is held out is decided by a hash of their id, so it never changes and no
constant was chosen by looking at it.
"""

import csv
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from admission import cluster
from admission.calibration import GROUP_POINTS_MIN, Calibration

MODEL_NAMES = {
    "meta-llama/Llama-3.1-8B-Instruct": "LLAMA8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "LLAMA8B",
    "meta-llama/Llama-3.1-70B": "LLAMA70B",
    "Qwen/Qwen3-32B": "QWEN32B",
    "Qwen/Qwen3-235B-A22B-FP8": "QWEN235B",
    "openai/gpt-oss-120b": "GPTOSS120B",
    "MiniMaxAI/MiniMax-M2.5": "MINIMAXM2",
}
HELD_OUT_EVERY = 3
LOWER_BOUNDS = (1.0, 1.0, 0.0, 0.0, 0.0)
"""Compute and memory are never faster than the data sheet."""
_ROUNDS = 40
_ERROR_FLOOR = 0.02
"""Below this relative error a point weighs no more than one that has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPoint:
    """One measured configuration under one load; times in milliseconds, medians."""

    id: str
    cluster: cluster.Cluster
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    first_token_ms: float
    per_token_ms: float

    @property
    def group(self) -> tuple[str, str, str]:
        """Stack, accelerator and kind of model: what shares a calibration."""
        return self.cluster.stack, self.cluster.accelerator, self.cluster.shape.kind

    @property
    def held_out(self) -> bool:
        """Whether no fit may look at this point."""
        return int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % HELD_OUT_EVERY == 0

    def features(self) -> tuple[float, ...]:
        """Return the five terms of the mean iteration in the steady state of the closed loop."""
        context = self.prompt_tokens + self.output_tokens / 2
        sequences = min(self.concurrency, max(1.0, self.cluster.kv_tokens / context))
        prefill = sequences * self.prompt_tokens / self.output_tokens
        return self.cluster.terms.features(
            prefill_tokens=prefill,
            pairs=prefill * self.prompt_tokens / 2,
            sequences=sequences,
            context_tokens=sequences * context,
            prefill_share=min(1.0, sequences / self.output_tokens),
        )

    def predicted_ms(self, by: Calibration) -> float:
        """Return the predicted time per output token."""
        weights = (by.compute, by.memory, by.layer_us, by.sequence_us, by.link)
        terms = zip(self.features(), weights, strict=True)
        return 1e3 * sum(term * weight for term, weight in terms)

    def error(self, by: Calibration) -> float:
        """Return the relative error of the predicted time per output token."""
        return abs(self.predicted_ms(by) / self.per_token_ms - 1)


def read_points(path: Path) -> list[ServingPoint]:
    """Return the points whose model this package knows, in the file's order."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    points = []
    for row in rows:
        model = MODEL_NAMES.get(row["model_path"])
        if model is None or not _is_plain(row, model):
            continue
        points.append(
            ServingPoint(
                id=row["id"],
                cluster=cluster.Cluster(
                    accelerator=row["system"].removesuffix("_sxm").upper(),
                    model=model,
                    precision=row["precision"] or "bf16",
                    tensor_parallel=_size(row, "tp_size"),
                    replicas=1,
                    sequences_max=1_024,
                    stack=row["backend"],
                ),
                prompt_tokens=int(row["isl"]),
                output_tokens=int(row["osl"]),
                concurrency=int(float(row["concurrency"] or row["batch_size"])),
                first_token_ms=float(row["silicon_ttft_ms"]),
                per_token_ms=float(row["silicon_tpot_ms"]),
            )
        )
    return points


def _size(row: dict[str, str], name: str) -> int:
    return int(float(row[name] or 1))


def _is_plain(row: dict[str, str], model: str) -> bool:
    """Whether a point is one tensor-parallel server inside one node.

    Pipeline parallelism, data-parallel attention (also where only the experts' own parallelism
    shows it) and several nodes are other machines than the one that is modelled.
    """
    parallel = _size(row, "tp_size")
    experts = _size(row, "moe_tp_size") * _size(row, "moe_ep_size")
    plain = _size(row, "pp_size") == 1 and _size(row, "attention_dp_size") == 1
    return plain and parallel <= 8 and (cluster.MODELS[model].experts == 1 or experts == parallel)


def groups(points: Sequence[ServingPoint]) -> dict[tuple[str, str, str], list[ServingPoint]]:
    """Return the points that each calibration is fitted to, in order of its key.

    A model has a group of its own when it has enough points and is not alone in that of its kind.
    """
    found: dict[tuple[str, str, str], list[ServingPoint]] = {}
    for point in points:
        stack, accelerator, kind = point.group
        found.setdefault((stack, accelerator, kind), []).append(point)
        found.setdefault((stack, accelerator, point.cluster.model), []).append(point)
    return {
        key: members
        for key, members in sorted(found.items())
        if len(members) >= GROUP_POINTS_MIN
        and (key[2] == members[0].group[2] or len(members) < len(found[members[0].group]))
    }


def fit(points: Sequence[ServingPoint]) -> Calibration:
    """Return the constants with the least weighted relative error, within their bounds."""
    rows = [[term * 1e3 / point.per_token_ms for term in point.features()] for point in points]
    weights = [1.0] * len(rows)
    solution = list(LOWER_BOUNDS)
    for _ in range(_ROUNDS):
        solution = _least_squares(rows, weights, solution)
        for number, row in enumerate(rows):
            error = abs(sum(a * x for a, x in zip(row, solution, strict=True)) - 1)
            weights[number] = 1 / max(error, _ERROR_FLOOR)
    compute, memory, layer_us, sequence_us, link = (round(value, 3) for value in solution)
    return Calibration(
        compute=compute, memory=memory, layer_us=layer_us, sequence_us=sequence_us, link=link
    )


def median_error(points: Sequence[ServingPoint], by: Calibration) -> float:
    """Return the median relative error over points."""
    return median(point.error(by) for point in points)


def _least_squares(
    rows: list[list[float]], weights: list[float], start: list[float]
) -> list[float]:
    """Minimize the weighted squares of `row . x - 1` with `x` above its bounds, by coordinates."""
    size = range(len(start))
    gram = [
        [sum(w * r[i] * r[j] for w, r in zip(weights, rows, strict=True)) for j in size]
        for i in size
    ]
    right = [sum(w * r[i] for w, r in zip(weights, rows, strict=True)) for i in size]
    x = list(start)
    for _ in range(20_000):
        moved = 0.0
        for i in size:
            if not gram[i][i]:
                continue
            rest = sum(gram[i][j] * x[j] for j in size if j != i)
            value = max(LOWER_BOUNDS[i], (right[i] - rest) / gram[i][i])
            moved = max(moved, abs(value - x[i]) / (abs(value) + 1e-9))
            x[i] = value
        if moved < 1e-9:
            break
    return x
