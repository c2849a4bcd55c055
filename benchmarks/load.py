"""Load over HTTP: `wrk` with a script, and the peer's gateway beside our deployment.

`wrk` costs next to no processor time, so that a machine of two cores measures the server and not
its client. It runs closed loops: as many requests are on their way as there are connections.
Half load is the same connections with pauses between their requests.
"""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import environment
from config import stack as deployment

SCRIPT = Path(__file__).parent / "load.lua"
MARKET = "BENCH"
PEER_START_S = 30.0


class NoClient(environment.Unavailable):
    """There is no `wrk` here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a load goes: an origin, and the file that says what a request is."""

    name: str
    url: str
    script: Path


def require_client() -> None:
    """:raises NoClient: when `wrk` is not installed."""
    if shutil.which("wrk") is None:
        raise NoClient("wrk is not installed (on Debian: apt-get install wrk)")


def run(
    target: Target,
    *,
    connections: int,
    seconds: float,
    mark: str,
    per_request: int = 1,
    pause_ms: float = 0.0,
) -> dict[str, Any]:
    """Send for some seconds; return requests, rates and latencies.

    :raises RuntimeError: when the client says nothing.
    """
    done = subprocess.run(
        ["wrk", "--threads", "1", "--connections", str(connections), "--duration",
         f"{max(1, round(seconds))}s", "--timeout", "10s", "--script", str(SCRIPT), target.url],
        env={
            **os.environ,
            "LOAD": str(target.script),
            "LOAD_MARK": mark,
            "LOAD_PER_REQUEST": str(per_request),
            "LOAD_PAUSE_MS": f"{pause_ms:.3f}",
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(found.group(1))
    result["per_second"] = round(result["requests"] / result["seconds"], 1)
    return result


def ours(stack: deployment.Stack, folder: Path, *, organizations: int, keys_each: int) -> Target:
    """Make members in a deployment and return orders over REST as a target."""
    done = subprocess.run(
        [*_python(), "-m", "benchmarks.members", str(organizations), str(keys_each)],
        cwd=environment.BASE_DIR,
        env=stack.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    made = json.loads(done.stdout.strip().splitlines()[-1])
    members = ",\n".join(f'{{key="{one["key"]}"}}' for one in made["members"])
    script = folder / "ours.lua"
    script.write_text(
        f"""
        local symbol = "{made["symbol"]}"
        local members = {{ {members} }}
        for _, member in ipairs(members) do
          member.headers = {{["Authorization"] = "Bearer " .. member.key,
            ["Content-Type"] = "application/json"}}
        end
        local form = '{{"instrument":"' .. symbol .. '","side":"%s","price":"%d.%03d",' ..
          '"quantity":%d,"client_order_id":"%s"}}'
        return {{
          path = os.getenv("LOAD_PER_REQUEST") == "1" and "/api/v1/orders"
            or "/api/v1/orders/batch",
          middle = {made["reference"]},
          members = members,
          headers = function(member) return member.headers end,
          order = function(member, side, ticks, lots, id)
            return string.format(form, side, math.floor(ticks / 1000), ticks % 1000, lots, id)
          end,
          batch = os.getenv("LOAD_PER_REQUEST") ~= "1" and function(parts)
            for i = 1, #parts do parts[i] = '{{"op":"place",' .. parts[i]:sub(2) end
            return '{{"operations":[' .. table.concat(parts, ",") .. "]}}"
          end or nil,
        }}
        """
    )
    return Target(name="ours", url=stack.web, script=script)


@contextmanager
def peer(found: environment.Environment, folder: Path) -> Iterator[Target]:
    """The peer's own FastAPI gateway with its fsynced log, for the length of a block."""
    (port,) = deployment.free_ports(1)
    process = subprocess.Popen(
        [str(found.python), "-m", "matching_engine", "serve", "--port", str(port)],
        cwd=folder,
        env={
            **os.environ,
            "ME_DATA_DIR": str(folder / "peer"),
            "ME_MARKETS": f"{MARKET}:0.001:1",
            "ME_FSYNC": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(f"{url}/healthz")
        script = folder / "peer.lua"
        script.write_text(
            """
            local members = {}
            for i = 1, 64 do members[i] = {account = i} end
            local headers = {["Content-Type"] = "application/json"}
            local form = '{"account":%d,"side":"%s","price":"%d.%03d","quantity":"%d"}'
            return {
              path = "/markets/BENCH/orders",
              middle = 10000,
              members = members,
              headers = function(member) return headers end,
              order = function(member, side, ticks, lots, id)
                return string.format(form, member.account, side, math.floor(ticks / 1000),
                  ticks % 1000, lots)
              end,
            }
            """
        )
        yield Target(name="peer", url=url, script=script)
    finally:
        process.terminate()
        process.wait(30)


def halves(results: Mapping[str, Any], connections: int) -> float:
    """Return the pause, in ms, with which so many connections make half of what they made."""
    return max(0.0, 2000 * connections / results["per_second"] - results["p50_ms"])


def _await(url: str) -> None:
    """:raises RuntimeError: when nothing answers in time."""
    deadline = time.monotonic() + PEER_START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def _python() -> list[str]:
    import sys

    return [sys.executable]
