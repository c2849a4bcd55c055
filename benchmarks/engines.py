"""Engines and a web server as processes that can be killed, on servers that somebody else started.

An engine is a process like in any deployment, or, where many are killed, forked from one that has
loaded the code (`benchmarks.forked`): what a kill costs is measured, not how Python starts.
"""

import json
import multiprocessing
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import valkey

from config.stack import free_ports
from settlement import channels

BASE_DIR = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 60.0


class Forked:
    """An engine forked from a process that has loaded the code, with the face of a `Popen`."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        self._process = FORKS.Process(target=target, args=arguments, daemon=True)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Send the signal that nobody can refuse."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once there is one.

        :raises TimeoutError: there is none in time.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError("the process does not end")
        return self._process.exitcode


FORKS = multiprocessing.get_context("forkserver")
Process = subprocess.Popen[bytes] | Forked


@dataclass
class Deployment:
    """Engines and a web server as processes, on servers that somebody else started."""

    environment: dict[str, str]
    database_url: str
    valkey_url: str
    log: Path
    forks: bool = False
    """Whether engines are forked from a process that has loaded the code (`benchmarks.forked`)."""
    engines: list[tuple[Process, str]] = field(default_factory=list)
    """Every engine that runs, and where it fails."""
    web: subprocess.Popen[bytes] | None = None
    origin: str = ""

    def start_engine(self, failpoint: str = "") -> None:
        """Start an engine; it waits as a standby where there is one."""
        if self.forks:
            process: Process = Forked(_run_engine, str(self.log), failpoint)
        else:
            process = self._start(["manage.py", "engine"], BASELOAD_FAILPOINT=failpoint)
        self.engines.append((process, failpoint))

    def start_web(self) -> None:
        """Start the web server and wait until it is ready."""
        (port,) = free_ports(1)
        self.web = self._start(["-m", "config.serve", "web"], WEB_PORT=str(port))
        self.origin = f"http://127.0.0.1:{port}"
        until(self._is_ready, READY_TIMEOUT_S, "the web server is ready")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.origin}/readyz", timeout=2) as response:
                return bool(json.loads(response.read()).get("engine", True))
        except (OSError, ValueError):
            return False

    def _start(self, arguments: list[str], **extra: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=BASE_DIR,
                env=self.environment | extra,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def is_backed(self) -> bool:
        """Whether a standby waits for the lock of the engine that serves."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone()
        return row is not None and row[0] > 0

    def serving(self) -> tuple[Process, str] | None:
        """Return the engine that says it serves, and where it fails."""
        with valkey.Valkey.from_url(self.valkey_url) as client:
            status: Any = client.get(channels.status_key())
        pid = json.loads(status)["pid"] if status else 0
        return next((each for each in self.engines if each[0].pid == pid), None)

    def await_engine(self) -> tuple[Process, str]:
        """Wait until an engine that lives serves."""
        found: list[tuple[Process, str]] = []

        def is_serving() -> bool:
            one = self.serving()
            if one is not None and one[0].poll() is None:
                found.append(one)
            return bool(found)

        until(is_serving, READY_TIMEOUT_S, "an engine serves")
        return found[0]

    def stop(self) -> None:
        """End every process."""
        running: list[Process] = [process for process, _ in self.engines]
        if self.web is not None:
            running.append(self.web)
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def until(is_true: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


def _run_engine(log: str, failpoint: str) -> None:
    from benchmarks import forked

    forked.run_engine(log, failpoint)
