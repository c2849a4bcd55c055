"""Durable orders over REST: the whole deployment beside the peer behind its own FastAPI gateway.

Ours is what `make run` starts, with keys, write limits, accounts, margin, ledger and feed, and
PostgreSQL's fsync on; the peer has no accounts and no authentication, and its own log file with
fsync on. Both servers run side by side in one run, and `wrk` visits them in turns with 1, 8 and 64
connections; published are the medians of the rounds, and at half of its rate with 64 connections
each side's p99. Every order is new and about half of them trade. Where the time of the engine goes
is its own account of it (`exchange.passing.Spent`), over all of the run.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import valkey

from benchmarks import environment, load
from benchmarks.report import Result
from config import servers
from config import stack as deployment
from settlement import channels

CONNECTIONS = (1, 8, 64)
SECONDS = float(os.environ.get("BENCH_SECONDS", "6"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
ORGANIZATIONS = 64
KEYS_EACH = 4
TARGET = 2.0
P99_MS_TARGET = 15.0


def run() -> Result:
    """Measure; the ratio is ours over the peer with 64 connections."""
    terms = {
        "connections": list(CONNECTIONS),
        "seconds": SECONDS,
        "rounds": ROUNDS,
        "keys": ORGANIZATIONS * KEYS_EACH,
        "client": "wrk",
        "target": TARGET,
        "p99_ms_at_half_load_target": P99_MS_TARGET,
    }
    try:
        load.require_client()
        found = environment.prepare()
    except environment.Unavailable as error:
        return Result(
            bench="orders", ours={}, peer={"not available": str(error)}, ratio=0.0, load=terms
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        var = folder / "var"
        with deployment.running(var) as stack, load.peer(found, folder) as peer:
            ours = load.ours(stack, folder, organizations=ORGANIZATIONS, keys_each=KEYS_EACH)
            before = spent(stack)
            table = measure((ours, peer))
            parts = breakdown(before, spent(stack))
        servers.erase(var)
    ratio = table["ours"]["64"]["per_second"] / table["peer"]["64"]["per_second"]
    return Result(
        bench="orders",
        ours={**table["ours"], "engine": parts},
        peer={"name": f"{environment.PEER} behind FastAPI and uvicorn", "python": found.version,
              **table["peer"]},
        ratio=round(ratio, 2),
        load=terms,
    )  # fmt: skip


def measure(targets: tuple[load.Target, ...]) -> dict[str, dict[str, Any]]:
    """Return the medians of every target, by connections, and at half of its greatest rate."""
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {one.name: {} for one in targets}
    for number in range(ROUNDS):
        for connections in CONNECTIONS:
            for target in targets:
                result = load.run(
                    target,
                    connections=connections,
                    seconds=SECONDS,
                    mark=f"{number}-{connections}",
                )
                keep(rows, target, str(connections), result, number)
        for target in targets:
            full = rows[target.name]["64"][-1]
            result = load.run(
                target,
                connections=64,
                seconds=SECONDS,
                mark=f"{number}-half",
                pause_ms=load.halves(full, 64),
            )
            keep(rows, target, "64 at half load", result, number)
    return {
        name: {label: median(results) for label, results in row.items()}
        for name, row in rows.items()
    }


def keep(
    rows: dict[str, dict[str, list[dict[str, Any]]]],
    target: load.Target,
    label: str,
    result: dict[str, Any],
    number: int,
) -> None:
    """Keep a result and say what it is.

    :raises RuntimeError: when requests failed: a rate of refusals is no rate.
    """
    rows[target.name].setdefault(label, []).append(result)
    environment.say(
        f"round {number + 1} of {ROUNDS}: {target.name} {label}: {result['per_second']:,.0f}/s, "
        f"p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms"
    )
    if result["broken"] or result["refused"] > result["requests"] // 100:
        raise RuntimeError(f"{target.name} refused or broke requests: {result}")


def median(results: list[dict[str, Any]]) -> dict[str, float]:
    """Return the medians of several results."""
    wanted = ("per_second", "p50_ms", "p99_ms", "refused")
    return {name: round(statistics.median(one[name] for one in results), 2) for name in wanted}


def spent(stack: deployment.Stack) -> dict[str, Any]:
    """Return what the engine says its time went into since it began."""
    addresses = servers.recorded(stack.var)
    client = valkey.Valkey.from_url(addresses.valkey_url)
    try:
        status: Any = client.get(channels.status_key())
        return dict(json.loads(status or b"{}").get("spent", {}))
    finally:
        client.close()


def breakdown(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return microseconds per command by what they went into, and commands per batch."""
    commands = after.get("commands", 0) - before.get("commands", 0)
    batches = after.get("batches", 0) - before.get("batches", 0)
    if not commands or not batches:
        return {}
    parts = {
        name: round((after[name] - before.get(name, 0)) / commands / 1_000, 2)
        for name in after
        if name.endswith("_ns")
    }
    return {
        "commands_per_batch": round(commands / batches, 1),
        **{name.replace("_ns", "_us"): value for name, value in parts.items()},
    }
