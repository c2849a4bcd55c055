"""Batches of a hundred orders over REST beside single ones, both durable.

One deployment, eight connections, in turns: `POST orders` and `POST orders/batch` with a hundred
places in each. Published are orders per second, medians of the rounds; what the peer does beside
it is in the benchmark `orders`, for it has no batches.
"""

import os
import statistics
import tempfile
from pathlib import Path

from benchmarks import environment, load
from benchmarks.report import Result
from config import servers
from config import stack as deployment

SIZE = 100
CONNECTIONS = 8
SINGLE_CONNECTIONS = 64
SECONDS = float(os.environ.get("BENCH_SECONDS", "6"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
ORGANIZATIONS = 128
"""So many that none enters more orders than come without trades (INTERFACES 2)."""
KEYS_EACH = 5
TARGET = 4.0


def run() -> Result:
    """Measure; the ratio is orders per second in batches over single ones."""
    terms = {
        "orders_per_batch": SIZE,
        "connections": CONNECTIONS,
        "connections_single": SINGLE_CONNECTIONS,
        "seconds": SECONDS,
        "rounds": ROUNDS,
        "client": "wrk",
        "target": TARGET,
    }
    try:
        load.require_client()
    except environment.Unavailable as error:
        return Result(
            bench="batch", ours={}, peer={"not available": str(error)}, ratio=0.0, load=terms
        )
    single: list[float] = []
    batched: list[float] = []
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        var = folder / "var"
        with deployment.running(var) as stack:
            target = load.ours(stack, folder, organizations=ORGANIZATIONS, keys_each=KEYS_EACH)
            for number in range(ROUNDS):
                one = load.run(
                    target, connections=SINGLE_CONNECTIONS, seconds=SECONDS, mark=f"s{number}"
                )
                many = load.run(
                    target,
                    connections=CONNECTIONS,
                    seconds=SECONDS,
                    mark=f"b{number}",
                    per_request=SIZE,
                )
                for result in (one, many):
                    if result["broken"] or result["refused"] > result["requests"] // 100:
                        raise RuntimeError(f"refused or broken requests: {result}")
                single.append(one["per_second"])
                batched.append(many["per_second"] * SIZE)
                waits.append(many["p99_ms"])
                environment.say(
                    f"round {number + 1} of {ROUNDS}: single {single[-1]:,.0f}/s, "
                    f"in batches {batched[-1]:,.0f}/s"
                )
        servers.erase(var)
    return Result(
        bench="batch",
        ours={
            "single_per_second": round(statistics.median(single), 1),
            "batched_per_second": round(statistics.median(batched), 1),
            "batch_p99_ms": round(statistics.median(waits), 1),
        },
        peer={"name": "our single orders, in the same run"},
        ratio=round(statistics.median(batched) / statistics.median(single), 2),
        load=terms,
    )
