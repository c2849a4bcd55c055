"""Ten minutes of real requests through the gateway, and whether every token was metered.

The Azure conversation trace of 2023 is replayed at its own pace against the cluster model:
arrivals, prompt and output lengths are the trace's. Three buyers hold capacity for the hour, a
fourth pays as it goes. Printed are time to first token and queue wait by class, the tokens that
the gateway metered against those that the cluster says it generated (they must be equal), and what
the ledger's audit says afterwards.
"""

import asyncio
import csv
import gzip
import json
import os
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.report import Result, percentile
from config import servers
from config import stack as deployment

NEEDS_DATA = True
SECONDS = int(os.environ.get("BENCH_SECONDS", "600"))
GRADE = "LLAMA70B"
BYTES_PER_TOKEN = 4
"""How the cluster model counts a prompt."""
OUTPUT_TOKENS_MAX = 1_500
HOLDERS = (("Metering Buyer A", 240), ("Metering Buyer B", 180), ("Metering Buyer C", 120))
"""Organizations that buy lots of the hour; one more buys none and pays as it goes."""
PAYER = "Metering Buyer D"
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
        "messages": [{"role": "user", "content": "x" * (arrival.prompt_tokens * BYTES_PER_TOKEN)}],
        "max_tokens": arrival.output_tokens,
        "min_tokens": arrival.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with session.post(
        f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
    ) as response:
        outcome = Outcome(
            status=response.status,
            service_class=response.headers.get("x-baseload-class-served", ""),
            queue_ms=float(response.headers.get("x-baseload-queue-ms", "0") or 0),
        )
        if response.status != HTTPStatus.OK:
            await response.read()
            return outcome
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            chunk = json.loads(line[6:])
            if outcome.first_token_ms is None and chunk.get("choices"):
                outcome.first_token_ms = (time.perf_counter() - started) * 1000
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


def prepare(stack: deployment.Stack) -> list[str]:
    """Have buyers hold capacity in the next hour and begin it; return everybody's keys.

    A provider sells it to each at the top of the band, where nobody else deals.
    """
    operator = Caller(stack.web, stack.key("operator"))
    now = datetime.fromisoformat(operator.send("GET", "time")["now"])
    hour = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    if hour - now < timedelta(minutes=8):
        hour += timedelta(hours=1)
    symbol = f"{GRADE}.H.{hour:%Y%m%dT%H}Z"
    high = operator.send("GET", f"instruments/{symbol}")["band"][1]
    keys = []
    for name, lots in HOLDERS:
        made = operator.send("POST", "demo/organizations", {"name": name, "role": "buyer"})
        buyer = Caller(stack.web, made["key"])
        buyer.send("POST", "deposits", {"amount": "5000"})
        buyer.send("POST", "orders", order(symbol, "buy", high, lots))
        keys.append(made["key"])
    made = operator.send("POST", "demo/organizations", {"name": PAYER, "role": "buyer"})
    Caller(stack.web, made["key"]).send("POST", "deposits", {"amount": "5000"})
    provider = Caller(stack.web, stack.key("provider", 1))
    provider.send("POST", "orders", order(symbol, "sell", high, sum(n for _, n in HOLDERS)))
    operator.send("POST", "demo/clock", {"advance_to": f"{hour:%Y-%m-%dT%H:%M:%S}.000000Z"})
    return [*keys, made["key"]]


def order(symbol: str, side: str, price: str, lots: int) -> dict[str, Any]:
    """Return a limit order as REST takes it."""
    return {
        "instrument": symbol,
        "side": side,
        "type": "limit",
        "price": price,
        "quantity": lots,
        "time_in_force": "gtc",
        "client_order_id": uuid.uuid4().hex,
    }


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller of the REST interface with one key."""

    web: str
    key: str

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the decoded answer."""
        request = urllib.request.Request(
            f"{self.web}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.key}",
                "Content-Type": "application/json",
                "Idempotency-Key": uuid.uuid4().hex,
            },
        )
        with urllib.request.urlopen(request, timeout=180) as response:
            return json.load(response)


def compare(stack: deployment.Stack) -> dict[str, int]:
    """Return what was metered beside what the clusters say they generated, request by request.

    :raises RuntimeError: when the command could not compare.
    """
    found = stack.manage("compare_metering", "--json")
    if not found.stdout:
        raise RuntimeError(found.stderr)
    counts: dict[str, int] = json.loads(found.stdout)
    return counts


def run() -> Result:
    """Replay the trace and compare; the ratio is 1 when every token was metered and all is true."""
    arrivals = read_trace(Path(os.environ["BASELOAD_DATA"]), SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        var = Path(folder) / "var"
        with deployment.running(var) as stack:
            keys = prepare(stack)
            outcomes = asyncio.run(replay(stack.gateway, keys, arrivals))
            counts = compare(stack)
            audit = stack.manage("audit_ledger", "--json")
        servers.erase(var)
    table = by_class(outcomes)
    for name, row in table.items():
        print(f"{name:12} {row}", file=sys.stderr)
    is_equal = counts["different"] == 0 and counts["metered"] == counts["generated"]
    return Result(
        bench="metering",
        ours={
            "by_class": table,
            "tokens_metered": counts["metered"],
            "tokens_generated": counts["generated"],
            "requests_different": counts["different"],
            "tokens_seen_by_callers": sum(one.completion_tokens for one in outcomes),
            "audit": "all invariants hold" if audit.returncode == 0 else "violated",
        },
        ratio=1.0 if is_equal and audit.returncode == 0 else 0.0,
        load={
            "trace": "Azure LLM inference 2023, conversation",
            "seconds": SECONDS,
            "requests": len(arrivals),
            "lots": dict(HOLDERS),
        },
    )
