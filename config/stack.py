"""A whole deployment of one's own, for tests and benchmarks: every process, on free ports.

It is `make run` in a folder of its own, so what is measured or tested is what a person would start.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

BASE_DIR = Path(__file__).resolve().parent.parent
START_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 30.0


class StackFailed(Exception):
    """The deployment ended before it was ready; carries what it printed last."""


@dataclass(slots=True, kw_only=True)
class Stack:
    """A running deployment: its addresses and keys as `demo.json` has them."""

    var: Path
    process: subprocess.Popen[str]
    log: IO[str]
    environment: dict[str, str]
    demo: dict[str, Any] = field(default_factory=dict)

    @property
    def web(self) -> str:
        """Origin of pages and REST."""
        return str(self.demo["web"])

    @property
    def gateway(self) -> str:
        """Origin of the OpenAI-compatible gateway."""
        return str(self.demo["gateway"])

    def key(self, role: str, number: int = 0) -> str:
        """Return the API key of the n-th organization of a role."""
        of_role = [one for one in self.demo["organizations"] if one["role"] == role]
        return str(of_role[number]["key"])

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command against the deployment."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def stop(self) -> int:
        """End the deployment as Ctrl-C would; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.log.close()


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that are free right now."""
    with contextlib.ExitStack() as open_sockets:
        found = []
        for _ in range(count):
            listener = open_sockets.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            found.append(int(listener.getsockname()[1]))
        return found


def start(var: Path, **extra: str) -> Stack:
    """Start a deployment in the folder `var` and wait until it is ready.

    :raises StackFailed: it ended, or was not ready in time.
    """
    var.mkdir(parents=True, exist_ok=True)
    web, gateway, cluster = free_ports(3)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "VALKEY_URL", "CELERY_BROKER_URL", "DATABASE_ROLE")
        and not name.startswith(("DJANGO_", "PYTEST_", "DATABASE_POOL"))
    }
    environment = inherited | {
        "BASELOAD_VAR": str(var),
        "WEB_PORT": str(web),
        "GATEWAY_PORT": str(gateway),
        "CLUSTER_PORT": str(cluster),
        **extra,
    }
    log_path = var / "stack.log"
    log = log_path.open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "config.run"],
        cwd=BASE_DIR,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    stack = Stack(var=var, process=process, log=log, environment=environment)
    try:
        _await_ready(stack)
    except BaseException:
        stack.stop()
        raise
    stack.demo = json.loads((var / "demo.json").read_text())
    return stack


@contextlib.contextmanager
def running(var: Path, **extra: str) -> Iterator[Stack]:
    """A deployment for the length of a block."""
    stack = start(var, **extra)
    try:
        yield stack
    finally:
        stack.stop()


def _await_ready(stack: Stack) -> None:
    """Copy what the deployment prints to its log until it says READY."""
    assert stack.process.stdout is not None, "the deployment's output is read"
    output = stack.process.stdout
    ready = threading.Event()

    def copy() -> None:
        for line in output:
            if not stack.log.closed:
                stack.log.write(line)
                stack.log.flush()
            if line.startswith("READY"):
                ready.set()
        ready.set()

    threading.Thread(target=copy, daemon=True).start()
    ready.wait(START_SECONDS_MAX)
    if not ready.is_set() or stack.process.poll() is not None:
        tail = (stack.var / "stack.log").read_text()[-4_000:]
        raise StackFailed(f"the deployment did not become ready:\n{tail}")
