"""How a benchmark says what it found: one JSON object, printed last and kept beside the others."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one benchmark measured; `ratio` is ours over the peer or the target, above 1 is better.

    Where nothing may go wrong it is 1 or 0.
    """

    bench: str
    ours: Mapping[str, Any]
    ratio: float
    peer: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cores": os.cpu_count(),
        "cpu": model or platform.machine(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def publish(result: Result) -> None:
    """Print the result as one line of JSON and keep it under `benchmarks/results/`."""
    document = {
        "bench": result.bench,
        "ours": dict(result.ours),
        "peer": dict(result.peer),
        "ratio": result.ratio,
        "machine": machine(),
        "load": dict(result.load),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result.bench}.json").write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document), flush=True)


def percentile(values: list[float], percent: float) -> float | None:
    """Return the nearest-rank percentile, or None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * int(percent * 100) // 10_000))
    return ordered[rank - 1]
