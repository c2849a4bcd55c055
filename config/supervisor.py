"""Keeps the Procfile's processes running, on honcho's processes and printer.

Honcho's own manager ends everything when one process ends. Here a process that ends is started
again after a pause that doubles while it keeps ending: the loss of one is a gap, not an outage.
Each is the leader of a session of its own, is recorded with its start so that a later run can find
what a killed runner left behind, and has its output printed under its name.
"""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import cycle
from pathlib import Path

from honcho.printer import Message, Printer
from honcho.process import Process

from config import processes
from marketplace import clock, private_files

PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 30.0
STEADY_S = 60.0
"""A process that ran this long starts again with the shortest pause."""
STOP_GRACE_S = 6.0
LAUNCH_S_MAX = 2.0
COLOURS = ("36", "33", "32", "35", "34", "31", "96")


class SteadyPrinter(Printer):  # type: ignore[misc]
    """Goes on when nobody reads any more; what runs does not depend on its audience."""

    def write(self, message: Message) -> None:
        """Print a line under its process's name."""
        with contextlib.suppress(OSError):
            super().write(message)


@dataclass(slots=True, kw_only=True)
class Child:
    """One line of the Procfile, and how it fares."""

    name: str
    command: str
    colour: str
    recorded: processes.Recorded | None = None
    launching: bool = False
    """Between its start and the event that tells its id."""
    started: float = 0.0
    pause_s: float = PAUSE_S_MIN
    start_at: float | None = 0.0
    """When to start it, by the monotonic clock; none while it runs."""


@dataclass(slots=True)
class Supervisor:
    """The processes of one run. Call `step` often; `stop` once."""

    commands: Mapping[str, str]
    environment: Mapping[str, str]
    folder: Path
    printer: Printer
    record_path: Path
    children: dict[str, Child] = field(default_factory=dict)
    events: queue.Queue[Message] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        colours = cycle(COLOURS)
        self.printer.width = max(len(name) for name in (*self.commands, "system"))
        for name, command in self.commands.items():
            self.children[name] = Child(name=name, command=command, colour=next(colours))

    def step(self, wait_s: float) -> None:
        """Start what is due, then pass on what the processes say for `wait_s`."""
        now = time.monotonic()
        for child in self.children.values():
            if child.start_at is not None and child.start_at <= now:
                self._start(child)
        while True:
            try:
                message = self.events.get(timeout=max(0.0, now + wait_s - time.monotonic()))
            except queue.Empty:
                return
            self._take(message)

    def say(self, text: str) -> None:
        """Print a line of the supervisor's own."""
        self.printer.write(
            Message(type="line", data=text, time=_wall(), name="system", colour=None)
        )

    def stop(self) -> None:
        """End every process and wait for it; by force after `STOP_GRACE_S`."""
        deadline = time.monotonic() + LAUNCH_S_MAX
        while any(child.launching for child in self.children.values()):
            with contextlib.suppress(queue.Empty):
                self._take(self.events.get(timeout=0.1))
            if time.monotonic() > deadline:
                break
        running = [child.recorded for child in self.children.values() if child.recorded]
        for child in self.children.values():
            child.start_at = None
        processes.stop(running, grace_s=STOP_GRACE_S)
        self.record_path.unlink(missing_ok=True)
        while not self.events.empty():
            message = self.events.get()
            if message.type == "line":
                self.printer.write(message)

    def _start(self, child: Child) -> None:
        """Start a process, and a thread that passes on its output and its end."""
        child.start_at = None
        child.launching = True
        child.started = time.monotonic()
        process = Process(
            child.command,
            name=child.name,
            colour=child.colour,
            env=dict(self.environment),
            cwd=str(self.folder),
        )
        threading.Thread(target=process.run, args=(self.events,), daemon=True).start()

    def _take(self, message: Message) -> None:
        """Act on one event of a process."""
        match message.type:
            case "line":
                self.printer.write(message)
            case "start":
                self._record(self.children[message.name], message.data["pid"])
            case "stop":
                self._ended(self.children[message.name], message.data["returncode"])

    def _record(self, child: Child, pid: int) -> None:
        """Remember a process for this run and, on disk, for the next."""
        child.launching = False
        try:
            child.recorded = processes.record(child.name, pid)
        except ProcessLookupError:
            return  # its end is the next event
        self._write_record()

    def _ended(self, child: Child, status: int) -> None:
        """Plan the next start of a process that ended."""
        now = time.monotonic()
        if now - child.started >= STEADY_S:
            child.pause_s = PAUSE_S_MIN
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        self.say(f"{child.name} ended {how}; it starts again in {child.pause_s:g} s")
        child.recorded = None
        child.start_at = now + child.pause_s
        child.pause_s = min(2 * child.pause_s, PAUSE_S_MAX)
        self._write_record()

    def _write_record(self) -> None:
        """Write down which processes run."""
        running = [child.recorded for child in self.children.values() if child.recorded]
        private_files.write(self.record_path, json.dumps(running))


def stop_leftovers(record_path: Path) -> list[processes.Recorded]:
    """End the processes that a killed run left behind, and return those that still ran."""
    try:
        recorded = [processes.Recorded(*one) for one in json.loads(record_path.read_text())]
    except FileNotFoundError:
        return []
    stopped = processes.stop(recorded, grace_s=STOP_GRACE_S)
    record_path.unlink(missing_ok=True)
    return stopped


def _wall() -> datetime:
    """Return the wall clock that the lines of the log carry, as honcho's own do."""
    return clock.to_datetime(clock.system_micros()).astimezone()
