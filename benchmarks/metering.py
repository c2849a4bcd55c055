"""Ten minutes of real requests through the gateway, and whether every token was metered.

The Azure conversation trace of 2023 is replayed at its own pace against the cluster model:
arrivals, prompt and output lengths are the trace's. Three buyers hold capacity for the hour,
a fourth pays as it goes. Printed are time to first token and queue wait by class, the tokens that
the gateway metered against those that the cluster says it generated (they must be equal), and what
the ledger's audit says afterwards.
"""

import asyncio
import csv
import gzip
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.report import percentile

NEEDS_DATA = True
SECONDS = int(os.environ.get("BENCH_SECONDS", "600"))
GRADE = "LLAMA70B"
BYTES_PER_TOKEN = 4
"""How the cluster model counts a prompt."""
OUTPUT_TOKENS_MAX = 1_500
HOLDERS = (("Metering Buyer A", 120), ("Metering Buyer B", 90), ("Metering Buyer C", 60))
"""Organizations that buy lots of the hour; one more buys none."""
PROGRESS_EVERY_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request of the trace: seconds from its start, prompt and output tokens."""

    after_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a caller saw of one request."""

    status: int
    service_class: str = ""
    queue_ms: float = 0.0
    first_token_ms: float | None = None
    completion_tokens: int = 0


def read_trace(folder: Path, seconds: float) -> list[Arrival]:
    """Return the requests of the trace's first `seconds`."""
    arrivals: list[Arrival] = []
    first: datetime | None = None
    path = folder / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv.gz"
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            first = first or at
            after_s = (at - first).total_seconds()
            if after_s >= seconds:
                break
            arrivals.append(
                Arrival(
                    after_s=after_s,
                    prompt_tokens=int(row["ContextTokens"]),
                    output_tokens=max(1, min(int(row["GeneratedTokens"]), OUTPUT_TOKENS_MAX)),
                )
            )
    return arrivals


async def send(session: aiohttp.ClientSession, url: str, key: str, arrival: Arrival) -> Outcome:
    """Stream one request as a caller would, and note what came when."""
    started = time.perf_counter()
    body = {
        "model": GRADE,
        "messages": [{"role": "user", "content": "word " * arrival.prompt_tokens}],
        "max_tokens": arrival.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body["messages"][0]["content"] = "x" * (arrival.prompt_tokens * BYTES_PER_TOKEN)  # type: ignore[index]
    async with session.post(
        f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
    ) as response:
        outcome = Outcome(
            status=response.status,
            service_class=response.headers.get("x-baseload-class-served", ""),
            queue_ms=float(response.headers.get("x-baseload-queue-ms", "0") or 0),
        )
        if response.status != 200:
            await response.read()
            return outcome
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            if outcome.first_token_ms is None:
                outcome.first_token_ms = (time.perf_counter() - started) * 1000
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                outcome.completion_tokens = chunk["usage"]["completion_tokens"]
        return outcome


async def replay(url: str, keys: list[str], arrivals: list[Arrival]) -> list[Outcome]:
    """Send every request at its time, organizations in turn; returns the outcomes."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    done: list[Outcome] = []
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        started = time.perf_counter()
        reported = 0.0

        async def one(arrival: Arrival, key: str) -> None:
            done.append(await send(session, url, key, arrival))

        async with asyncio.TaskGroup() as group:
            for number, arrival in enumerate(arrivals):
                delay = arrival.after_s - (time.perf_counter() - started)
                if delay > 0:
                    await asyncio.sleep(delay)
                if arrival.after_s - reported >= PROGRESS_EVERY_S:
                    reported = arrival.after_s
                    print(f"{reported:6.0f} s  {number} sent, {len(done)} done", file=sys.stderr)
                group.create_task(one(arrival, keys[number % len(keys)]))
    return done


def by_class(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return counts, time to first token and queue wait of each class, in ms."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.service_class or f"refused {outcome.status}"].append(outcome)
    table: dict[str, Any] = {}
    for name, members in sorted(groups.items()):
        first = [one.first_token_ms for one in members if one.first_token_ms is not None]
        waits = [one.queue_ms for one in members]
        table[name] = {
            "requests": len(members),
            "first_token_ms_p50": _rounded(percentile(first, 50)),
            "first_token_ms_p99": _rounded(percentile(first, 99)),
            "queue_ms_p50": _rounded(percentile(waits, 50)),
            "queue_ms_p99": _rounded(percentile(waits, 99)),
        }
    return table


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
