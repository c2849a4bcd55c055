"""One key that stuffs the entry with orders, and what others notice of it (FAULTS H82).

Others trade at a steady pace over few connections, each key well inside its limit. Then one key
sends new orders as fast as `wrk` can over 64 connections of its own, beside the same trading. It is
refused with 429 beyond its limit and, having been refused often enough, its answers are held. The
others are measured from when it has used up the five seconds' worth that every key may send at
once, which cost others what any burst costs. Published are the others' p99 alone and beside it,
medians of the rounds, and what became of the stuffer's requests. Client, stuffer and server share
the machine.
"""

import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import environment, load
from benchmarks.report import Result
from config import servers
from config import stack as deployment

SECONDS = float(os.environ.get("BENCH_SECONDS", "6"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
ORGANIZATIONS = 16
KEYS_EACH = 4
CONNECTIONS = 8
PAUSE_MS = 25.0
"""Between two requests of a connection of the others, on average."""
STUFFING_CONNECTIONS = 64
LEAD_S = 3.0
"""How long before the others are measured the stuffer begins."""
TARGET = 1.5


def run() -> Result:
    """Measure; the ratio is the others' p99 beside the stuffer over theirs alone."""
    terms = {
        "connections": CONNECTIONS,
        "pause_ms": PAUSE_MS,
        "stuffing_connections": STUFFING_CONNECTIONS,
        "lead_s": LEAD_S,
        "seconds": SECONDS,
        "rounds": ROUNDS,
        "client": "wrk",
        "p99_ratio_at_most": TARGET,
    }
    try:
        load.require_client()
    except environment.Unavailable as error:
        return Result(
            bench="stuffing", ours={}, peer={"not available": str(error)}, ratio=0.0, load=terms
        )
    alone: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []
    stuffed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        var = folder / "var"
        with deployment.running(var) as stack:
            made = load.ours(stack, folder, organizations=ORGANIZATIONS, keys_each=KEYS_EACH)
            others = _some(made, "others", "table.remove(conf.members, 1)", folder)
            stuffer = _some(made, "stuffer", "conf.members = {conf.members[1]}", folder)
            for number in range(ROUNDS):
                alone.append(_trade(others, f"a{number}"))
                with ThreadPoolExecutor(1) as thread:
                    stuffing = thread.submit(
                        load.run,
                        stuffer,
                        connections=STUFFING_CONNECTIONS,
                        seconds=LEAD_S + SECONDS + 1,
                        mark=f"x{number}",
                    )
                    time.sleep(LEAD_S)
                    beside.append(_trade(others, f"b{number}"))
                    stuffed.append(stuffing.result())
                environment.say(
                    f"round {number + 1} of {ROUNDS}: p99 {alone[-1]['p99_ms']} ms alone, "
                    f"{beside[-1]['p99_ms']} ms beside {stuffed[-1]['requests']:,} requests of "
                    f"which {stuffed[-1]['refused']:,} were refused"
                )
        servers.erase(var)
    median = {
        f"{when}_{what}": round(statistics.median(one[what] for one in results), 2)
        for when, results in (("alone", alone), ("beside", beside))
        for what in ("p50_ms", "p99_ms", "per_second")
    }
    return Result(
        bench="stuffing",
        ours={
            **median,
            "others_refused": sum(one["refused"] for one in [*alone, *beside]),
            "stuffer_requests": [one["requests"] for one in stuffed],
            "stuffer_refused": [one["refused"] for one in stuffed],
        },
        peer={"p99_ratio_at_most": TARGET},
        ratio=round(median["beside_p99_ms"] / median["alone_p99_ms"], 2),
        load=terms,
    )


def _some(made: load.Target, name: str, choose: str, folder: Path) -> load.Target:
    """Return the target with only some of its keys."""
    script = folder / f"{name}.lua"
    script.write_text(f'local conf = dofile("{made.script}")\n{choose}\nreturn conf\n')
    return load.Target(name=name, url=made.url, script=script)


def _trade(others: load.Target, mark: str) -> dict[str, Any]:
    """Trade at the steady pace.

    :raises RuntimeError: when somebody else than the stuffer is refused.
    """
    result = load.run(
        others, connections=CONNECTIONS, seconds=SECONDS, mark=mark, pause_ms=PAUSE_MS
    )
    if result["broken"] or result["refused"]:
        raise RuntimeError(f"others were refused: {result}")
    return result
