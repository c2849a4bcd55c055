"""Processes that outlive the one that started them, told from strangers by their start time.

A process id is reused after a while; a process id and the instant its process began are not. What
is recorded here may be found, and stopped, by a later run; nothing else ever is.
"""

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import NamedTuple

import psutil

START_TOLERANCE_S = 2.0
"""The start is computed from the boot time, which moves a little when the clock is set."""


class Recorded(NamedTuple):
    """A process by name, id and start (seconds since the epoch, by the system's clock)."""

    name: str
    pid: int
    started: float


def record(name: str, pid: int) -> Recorded:
    """Return the record of the running process `pid`.

    :raises ProcessLookupError: there is no such process any more.
    """
    try:
        return Recorded(name, pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(pid) from error


def find(recorded: Recorded) -> psutil.Process | None:
    """Return the recorded process if it still runs; never another with the same id."""
    try:
        process = psutil.Process(recorded.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        same = abs(process.create_time() - recorded.started) <= START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def stop(recorded: Sequence[Recorded], *, grace_s: float) -> list[Recorded]:
    """End the recorded processes with their groups, by force after `grace_s`.

    Returns those that were found running. Each is the leader of a session of its own.
    """
    found = [(one, process) for one in recorded if (process := find(one)) is not None]
    for one, _ in found:
        _signal_group(one.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs([process for _, process in found], timeout=grace_s)
    for process in alive:
        _signal_group(process.pid, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_s)
    return [one for one, _ in found]


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a session's leader and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def listener(port: int) -> int | None:
    """Return the id of the process that listens on a TCP port, where the system tells."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return None if connection.pid is None else int(connection.pid)
    return None
