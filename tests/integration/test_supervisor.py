"""The supervisor with real processes: what ends starts again, what is stopped stays stopped."""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from config import processes, supervisor

PATIENCE_S = 20


def watch(folder: Path, **commands: str) -> supervisor.Supervisor:
    return supervisor.Supervisor(
        commands={
            name: command.format(python=sys.executable) for name, command in commands.items()
        },
        environment={"PATH": "/usr/bin:/bin"},
        folder=folder,
        printer=supervisor.SteadyPrinter(io.StringIO()),
        record_path=folder / "processes.json",
    )


def printed(watched: supervisor.Supervisor) -> str:
    return watched.printer.output.getvalue()


def step_until(watched: supervisor.Supervisor, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        watched.step(0.05)
        assert time.monotonic() < deadline, printed(watched)


SLEEPER = "exec {python} -c 'import time; print(\"up\", flush=True); time.sleep(600)'"
STUBBORN = (
    "exec {python} -c 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    ' print("up", flush=True); time.sleep(600)\''
)


def test_a_process_that_is_killed_starts_again_under_a_new_id(tmp_path: Path) -> None:
    watched = watch(tmp_path, one=SLEEPER)
    step_until(watched, lambda: watched.children["one"].recorded is not None)
    first = watched.children["one"].recorded
    assert first is not None

    psutil.Process(first.pid).kill()
    step_until(watched, lambda: watched.children["one"].recorded not in (None, first))

    assert "one ended by signal 9; it starts again in 0.5 s" in printed(watched)
    assert processes.find(first) is None
    watched.stop()


def test_a_process_that_keeps_ending_waits_twice_as_long_each_time(tmp_path: Path) -> None:
    watched = watch(tmp_path, one="exit 3")
    step_until(watched, lambda: "again in 1 s" in printed(watched))
    watched.stop()
    assert "one ended with status 3; it starts again in 0.5 s" in printed(watched)
    assert "one ended with status 3; it starts again in 1 s" in printed(watched)


def test_stop_ends_even_a_process_that_will_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_GRACE_S", 0.3)
    watched = watch(tmp_path, kind=SLEEPER, stubborn=STUBBORN)
    step_until(watched, lambda: printed(watched).count("| up") == 2)
    running = [child.recorded for child in watched.children.values()]

    watched.stop()

    assert [processes.find(one) for one in running if one] == [None, None]
    assert not (tmp_path / "processes.json").exists()


def test_a_later_run_ends_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    killed = watch(tmp_path, one=SLEEPER)
    step_until(killed, lambda: killed.children["one"].recorded is not None)
    left = killed.children["one"].recorded
    assert left is not None
    stranger = psutil.Popen(["sleep", "600"], start_new_session=True)
    record = tmp_path / "processes.json"
    impostor = processes.Recorded("impostor", stranger.pid, stranger.create_time() - 100)
    record.write_text(json.dumps([left, impostor]))

    stopped = supervisor.stop_leftovers(record)

    assert stopped == [left]
    assert processes.find(left) is None
    assert stranger.is_running()
    assert supervisor.stop_leftovers(record) == []
    stranger.kill()
    stranger.wait()
