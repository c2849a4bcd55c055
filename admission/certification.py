"""What a cluster is certified for: the plan of the search, its run, and how its report is shown.

A plan holds everything that the search depends on and nothing else, so two clusters of one make
have equal plans and would be certified alike.
"""

from dataclasses import dataclass
from typing import Any

from admission import cluster as physics
from admission import simulator
from admission.decisions import ServiceClass
from marketplace import contract
from marketplace import models as catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Hardware, mix, targets and weights of one search."""

    hardware: physics.Cluster
    mix: simulator.Mix
    targets: simulator.Targets
    weights: contract.WeightSchedule


def plan(cluster: catalog.Cluster) -> Plan:
    """Return what the search for a cluster's rate depends on, by the terms of its grade."""
    grade = cluster.grade
    targets = simulator.TARGETS[ServiceClass.P2]
    if len(grade.first_token_ms) == len(grade.per_token_ms) == len(ServiceClass):
        targets = simulator.Targets(
            service_class=ServiceClass.P2,
            first_token_us=grade.first_token_ms[ServiceClass.P2] * 1_000,
            per_token_us=grade.per_token_ms[ServiceClass.P2] * 1_000,
        )
    return Plan(
        hardware=physics.Cluster(
            accelerator=cluster.accelerator,
            model=grade.model_shape,
            precision=grade.precision,
            tensor_parallel=cluster.tensor_parallel,
            replicas=cluster.replicas,
        ),
        mix=simulator.Mix(
            name=f"{grade.code} base",
            prompt_tokens=grade.mix_prompt_tokens,
            output_tokens=grade.mix_output_tokens,
        ),
        targets=targets,
        weights=contract.WeightSchedule(
            version=grade.schedule_version,
            cached=grade.weight_cached,
            output=grade.weight_output,
        ),
    )


def search(wanted: Plan, *, progress: simulator.Progress | None = None) -> simulator.Report:
    """Search on the cluster model; the same plan always gives the same report."""
    return simulator.certify(
        wanted.hardware, wanted.mix, wanted.targets, weights=wanted.weights, progress=progress
    )


def shown(report: simulator.Report) -> dict[str, Any]:
    """Return a report as it is stored and shown."""
    return {
        "method": "model",
        "accelerator": report.cluster.accelerator,
        "model": report.cluster.model,
        "precision": report.cluster.precision,
        "tensor_parallel": report.cluster.tensor_parallel,
        "replicas": report.cluster.replicas,
        "mix": {
            "name": report.mix.name,
            "prompt_tokens": report.mix.prompt_tokens,
            "output_tokens": report.mix.output_tokens,
            "cached_tokens": report.mix.cached_tokens,
        },
        "targets": {
            "class": report.targets.service_class.name,
            "first_token_ms": report.targets.first_token_us // 1_000,
            "per_token_ms": report.targets.per_token_us // 1_000,
        },
        "measured_lots": report.measured_lots,
        "certified_lots": report.certified_lots,
        "trials": [
            {
                "lots": trial.lots,
                "requests": trial.requests,
                "within_permille": trial.within_permille,
                "first_token_ms_p99": trial.first_token_us_p99 // 1_000,
                "per_token_ms_p99": trial.per_token_us_p99 // 1_000,
                "passed": trial.passed,
            }
            for trial in report.trials
        ],
    }
