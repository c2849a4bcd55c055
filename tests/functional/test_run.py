"""`make run` as a person meets it: ready, alone, found again after a kill, gone after Ctrl-C.

One deployment is started, and started again, for all of it; starting is what costs.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from config import servers, stack

STOP_S_MAX = 15.0


@pytest.fixture(scope="module")
def var() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="baseload-run-"))
    folder.chmod(0o711)
    yield folder
    servers.erase(folder)


@pytest.fixture(scope="module")
def first(var: Path) -> Iterator[stack.Stack]:
    started = stack.start(var)
    yield started
    if started.process.poll() is None:
        started.stop()


def children(var: Path) -> dict[str, int]:
    return {name: pid for name, pid, _ in json.loads((var / "processes.json").read_text())}


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as response:
        return int(response.status)


def run_once(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "config.run"],
        cwd=stack.BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_that_is_none_is_named_before_anything_starts(tmp_path: Path, port: str) -> None:
    environment = dict(os.environ) | {"BASELOAD_VAR": str(tmp_path), "WEB_PORT": port}

    refused = run_once(environment)

    assert refused.returncode == 1
    assert refused.stdout.startswith("baseload: a port is a number from 1 to 65535: WEB_PORT")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ready_means_that_everything_answers_and_says_where(first: stack.Stack, var: Path) -> None:
    demo = first.demo
    assert list(demo) == ["web", "gateway", "cluster", "websocket", "login", "organizations"]
    assert stat.S_IMODE((var / "demo.json").stat().st_mode) == 0o600
    assert [status(f"{demo[name]}/readyz") for name in ("web", "gateway", "cluster")] == [200] * 3
    assert set(demo["login"]) == {"email", "password"}
    assert all(set(one) == {"id", "name", "role", "key"} for one in demo["organizations"])
    assert all(one["key"].startswith("bl_demo_") for one in demo["organizations"])
    roles = [one["role"] for one in demo["organizations"]]
    assert all(roles.count(role) >= 2 for role in ("buyer", "provider", "operator"))
    assert set(children(var)) == {
        "web", "gateway", "cluster", "engine", "worker-urgent", "worker-normal", "beat", "maker",
    }  # fmt: skip


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_says_who_has_it(first: stack.Stack, var: Path) -> None:
    second = run_once(first.environment)
    assert second.returncode == 1
    assert second.stdout == f"baseload: already running in {var} (process {first.process.pid})\n"


@pytest.mark.slow
def test_a_run_beside_it_names_the_ports_that_are_taken(first: stack.Stack, tmp_path: Path) -> None:
    second = run_once(first.environment | {"BASELOAD_VAR": str(tmp_path)})
    web = children(first.var)["web"]
    assert second.returncode == 1
    port = first.environment["WEB_PORT"]
    assert f"port {port} is taken by process {web}; set WEB_PORT to another" in second.stdout
    assert second.stdout.count("is taken") == 3


@pytest.mark.slow
def test_a_killed_process_is_started_again(first: stack.Stack, var: Path) -> None:
    before = children(var)["beat"]
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while children(var).get("beat", before) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "beat ended by signal 9" in (var / "stack.log").read_text()


@pytest.mark.slow
def test_after_a_kill_the_next_run_ends_what_was_left_and_keeps_the_market(
    first: stack.Stack, var: Path
) -> None:
    left = children(var)
    first.process.kill()
    first.process.wait()

    again = stack.start(var)
    try:
        assert again.demo["organizations"] == first.demo["organizations"]
        assert again.demo["login"] == first.demo["login"]
        assert not set(left.values()) & set(children(var).values())
    finally:
        began = time.monotonic()
        ended = again.stop()
    assert ended == 0
    assert time.monotonic() - began < STOP_S_MAX
    assert servers.running(var) == (False, False)
    assert not (var / "demo.json").exists()
    log = (var / "stack.log").read_text()
    assert "left behind by a run that was killed" in log
    assert "Traceback" not in log
    assert not [p for p in psutil.process_iter(["cwd", "environ"]) if _belongs(p, var)]


def _belongs(process: psutil.Process, var: Path) -> bool:
    """Return whether a process was started by the run of a folder."""
    environment = process.info["environ"] or {}
    return environment.get("BASELOAD_VAR") == str(var)
