"""`make run`: a whole demo from one command, and its end from Ctrl-C.

It makes the secrets, starts the embedded servers, migrates, seeds an empty market and keeps the
processes of the Procfile running. When everything answers it writes `demo.json`, prints where
things are and a line that begins with READY. One run at a time owns a folder: a second one says so,
and one that follows a killed run finds its servers and ends the processes that it left behind.

A demo listens on the loopback interface only. In production something else runs the Procfile.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
from honcho.environ import parse_procfile

from config import places, processes, servers, supervisor
from marketplace import private_files

BASE_DIR = Path(__file__).resolve().parent.parent
PORTS = {"WEB_PORT": 8000, "GATEWAY_PORT": 8080, "CLUSTER_PORT": 8090}
PORT_NAMES = {"WEB_PORT": "web", "GATEWAY_PORT": "gateway", "CLUSTER_PORT": "cluster"}
SECRETS = ("SECRET_KEY", "KEY_PEPPER", "RECEIPTS_SECRET")
APPLICATION_ROLE = "baseload_app"
READY_TIMEOUT_S = 150
LOCK_WAIT_S = 3.0
STOPPING_WAIT_S = 20.0
STEP_S = 0.2
SERVERS_CHECKED_EVERY_S = 5.0
PROBE_TIMEOUT_S = 2.0


class Ended(Exception):
    """The run cannot begin or go on; its message is for the person who started it."""


class Stopping(Exception):
    """Somebody asked for the end while the run was still being prepared."""


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of the demo in one folder."""

    var: Path
    ports: Mapping[str, int]
    environment: dict[str, str]
    began: float = field(default_factory=time.monotonic)
    parent: int = field(default_factory=os.getppid)
    asked_to_stop: bool = False

    @property
    def stopping(self) -> bool:
        """Whether the run is to end: asked to by a signal, or because the `make` above died."""
        orphaned = "MAKELEVEL" in os.environ and os.getppid() != self.parent
        return self.asked_to_stop or orphaned

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember that the run is to end; the loops look often."""
        del number, frame
        self.asked_to_stop = True

    @property
    def database_url(self) -> str:
        """The address of the database of this run."""
        return os.environ.get("DATABASE_URL") or servers.recorded(self.var).database_url


def main() -> int:
    """Run the demo until it is told to stop; 0 after that, 1 when it could not run."""
    try:
        run = _prepare()
        with _only_run(run.var):
            return _supervised(run)
    except (Ended, places.StartFailed) as error:
        _print(f"baseload: {error}")
        return 1


def _supervised(run: Run) -> int:
    """Do everything between the lock and its release."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, run.on_signal)
    record_path = run.var / "processes.json"
    for left in supervisor.stop_leftovers(record_path):
        _print(f"ended {left.name} (process {left.pid}), left behind by a run that was killed")
    _check_ports(run.ports)
    (run.var / "demo.json").unlink(missing_ok=True)
    watch: supervisor.Supervisor | None = None
    try:
        _make_secrets(run.var)
        _start_servers(run)
        _prepare_database(run)
        watch = supervisor.Supervisor(
            commands=parse_procfile((BASE_DIR / "Procfile").read_text()).processes,
            environment=_application_environment(run),
            folder=BASE_DIR,
            printer=supervisor.SteadyPrinter(sys.stdout),
            record_path=record_path,
        )
        _await_ready(run, watch)
        _announce(run)
        _keep(run, watch)
    except Stopping:
        pass
    finally:
        _mark_stopping(run.var)
        _print("stopping")
        (run.var / "demo.json").unlink(missing_ok=True)
        if watch is not None:
            watch.stop()
        servers.stop(run.var)
        _print("stopped; the data stays in " + str(run.var))
    return 0


# Before anything runs


def _prepare() -> Run:
    """Read the environment.

    :raises Ended: it asks for what this command does not do.
    """
    if os.environ.get("DEPLOYMENT", "demo") != "demo":
        raise Ended("make run is for a demo; run the Procfile's processes yourself in production")
    var = Path(os.environ.get("BASELOAD_VAR") or BASE_DIR / "var").resolve()
    try:
        var.mkdir(parents=True, exist_ok=True)
        ports = {name: int(os.environ.get(name) or port) for name, port in PORTS.items()}
        if not all(0 < port < 65_536 for port in ports.values()):
            raise ValueError("no such port")
    except OSError as error:
        raise Ended(f"{var} cannot be made: {error.strerror}") from error
    except ValueError as error:
        raise Ended(f"a port is a number from 1 to 65535: {', '.join(PORTS)}") from error
    environment = dict(os.environ) | {
        "BASELOAD_VAR": str(var),
        "DEPLOYMENT": "demo",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        **{name: str(port) for name, port in ports.items()},
    }
    return Run(var=var, ports=ports, environment=environment)


@contextlib.contextmanager
def _only_run(var: Path) -> Iterator[None]:
    """Own the folder for the length of a run.

    :raises Ended: another run owns it.
    """
    with (var / "run.lock").open("a+") as file:
        began = time.monotonic()
        while not _locked(file.fileno()):
            file.seek(0)
            owner = file.read().split() or ["unknown"]
            waited = time.monotonic() - began
            if waited > (STOPPING_WAIT_S if "stopping" in owner else LOCK_WAIT_S):
                raise Ended(f"already running in {var} (process {owner[0]})")
            time.sleep(STEP_S)
        file.truncate(0)
        file.write(f"{os.getpid()} running\n")
        file.flush()
        yield


def _locked(handle: int) -> bool:
    """Return whether the lock on an open file is now ours."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _mark_stopping(var: Path) -> None:
    """Tell a run that waits for the folder that it will soon be free."""
    (var / "run.lock").write_text(f"{os.getpid()} stopping\n")


def _check_ports(ports: Mapping[str, int]) -> None:
    """Refuse to begin when a port is not ours to have.

    :raises Ended: names every port that is taken, and by whom where that is known.
    """
    if len(set(ports.values())) < len(ports):
        raise Ended(f"{', '.join(ports)} must be three ports")
    taken = []
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pid = processes.listener(port)
                owner = f" by process {pid}" if pid else ""
                taken.append(f"port {port} is taken{owner}; set {name} to another")
    if taken:
        raise Ended("\nbaseload: ".join(taken))


def _make_secrets(var: Path) -> None:
    """Make the folder's secrets where it has none yet."""
    path = var / "secrets.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if not set(SECRETS) <= set(known):
        made = {name: secrets.token_urlsafe(48) for name in SECRETS}
        private_files.write(path, json.dumps(made | known, indent=1))


def _start_servers(run: Run) -> None:
    """Start the embedded servers that no address was given for."""
    given = {name: bool(os.environ.get(name)) for name in ("DATABASE_URL", "VALKEY_URL")}
    if not all(given.values()):
        _print("starting PostgreSQL and Valkey")
    servers.start(run.var, postgres=not given["DATABASE_URL"], valkey=not given["VALKEY_URL"])


def _prepare_database(run: Run) -> None:
    """Migrate, and seed a market that never had a command."""
    unfinished = run.var / "seeding"
    if unfinished.exists():
        if os.environ.get("DATABASE_URL") or os.environ.get("VALKEY_URL"):
            raise Ended(f"the seed was cut short: empty the database, then remove {unfinished}")
        _print("the first run's seed was cut short: it begins again")
        servers.begin_again(run.var)
        unfinished.unlink()
    _print("bringing the database up to date")
    _manage(run, run.environment, "migrate", "--verbosity", "0")
    if _journal_is_empty(run):
        _print("seeding the market; the first run does this once")
        unfinished.touch()
        _manage(run, _application_environment(run), "seed")
        unfinished.unlink()


def _journal_is_empty(run: Run) -> bool:
    """Return whether the machine never applied a command in this database."""
    with psycopg.connect(run.database_url) as connection:
        row = connection.execute("SELECT EXISTS (SELECT FROM exchange_journalbatch)").fetchone()
        return row == (False,)


def _manage(run: Run, environment: Mapping[str, str], *arguments: str) -> None:
    """Run a management command to its end.

    :raises Ended: it failed.
    :raises Stopping: the run is to end; the command was ended first.
    """
    command = [sys.executable, "manage.py", *arguments]
    child = subprocess.Popen(
        command, cwd=BASE_DIR, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    recorded = processes.record(arguments[0], child.pid)
    record_path = run.var / "processes.json"
    private_files.write(record_path, json.dumps([recorded]))
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = child.wait(STEP_S)
            break
        if run.stopping:
            processes.stop([recorded], grace_s=supervisor.STOP_GRACE_S)
            child.wait()
            raise Stopping
    record_path.unlink(missing_ok=True)
    if status:
        raise Ended(f"manage.py {arguments[0]} failed with status {status}")


def _application_environment(run: Run) -> dict[str, str]:
    """Return the environment of the processes, which do not have the owner's rights."""
    with psycopg.connect(run.database_url) as connection:
        query = "SELECT FROM pg_roles WHERE rolname = %s"
        known = connection.execute(query, [APPLICATION_ROLE]).fetchone() is not None
    role = APPLICATION_ROLE if known else ""
    return run.environment | {"DATABASE_ROLE": os.environ.get("DATABASE_ROLE", role)}


# While it runs


def _await_ready(run: Run, watch: supervisor.Supervisor) -> None:
    """Keep the processes going until every server says that it is ready.

    :raises Ended: one does not within the limit.
    :raises Stopping: the run is to end.
    """
    waiting = {PORT_NAMES[name]: port for name, port in run.ports.items()}
    deadline = time.monotonic() + READY_TIMEOUT_S
    while waiting:
        watch.step(STEP_S)
        if run.stopping:
            raise Stopping
        if time.monotonic() > deadline:
            raise Ended(f"not ready after {READY_TIMEOUT_S} s: {', '.join(waiting)}")
        waiting = {name: port for name, port in waiting.items() if not _is_ready(port)}


def _is_ready(port: int) -> bool:
    """Return whether a server says it is ready, and knows of an engine where it looks for one."""
    url = f"http://127.0.0.1:{port}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as response:
            body = response.read()
    except OSError:
        return False
    try:
        said: Any = json.loads(body)
    except ValueError:
        return True
    return not isinstance(said, dict) or bool(said.get("engine", True))


def _keep(run: Run, watch: supervisor.Supervisor) -> None:
    """Keep the processes and the embedded servers going until the run is to end."""
    check_at = 0.0
    while not run.stopping:
        watch.step(STEP_S)
        if time.monotonic() >= check_at:
            check_at = time.monotonic() + SERVERS_CHECKED_EVERY_S
            _keep_servers(run, watch)


def _keep_servers(run: Run, watch: supervisor.Supervisor) -> None:
    """Start an embedded server again that has gone."""
    postgres, queue = servers.running(run.var)
    gone = [
        name
        for name, variable, runs in (
            ("PostgreSQL", "DATABASE_URL", postgres),
            ("Valkey", "VALKEY_URL", queue),
        )
        if not runs and not os.environ.get(variable)
    ]
    if gone:
        watch.say(f"{' and '.join(gone)} ended; starting again")
        _start_servers(run)


def _announce(run: Run) -> None:
    """Write `demo.json`, and print where everything is."""
    web, gateway, cluster = (f"http://127.0.0.1:{run.ports[name]}" for name in PORTS)
    path = run.var / "seed.json"
    seeded: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    login = seeded.get("login", {"email": "", "password": ""})
    organizations = seeded.get("organizations", [])
    demo = {
        "web": web,
        "gateway": gateway,
        "cluster": cluster,
        "websocket": f"ws://127.0.0.1:{run.ports['WEB_PORT']}/ws/v1",
        "login": login,
        "organizations": organizations,
    }
    private_files.write(run.var / "demo.json", json.dumps(demo, indent=1))
    buyer = next((one for one in organizations if one["role"] == "buyer"), None)
    _print("")
    _print(f"  web       {web}")
    _print(f"  gateway   {gateway}/v1   the OpenAI client's base URL")
    _print(f"  cluster   {cluster}")
    _print(f"  log in    {login['email']}   {login['password']}")
    if buyer is not None:
        _print(f"  API key   {buyer['key']}   of {buyer['name']}, a buyer")
    _print(f"  all keys  {run.var / 'demo.json'}")
    _print("")
    _print(f"READY {web} after {time.monotonic() - run.began:.1f} s; Ctrl-C stops everything")


def _print(text: str) -> None:
    """Print a line at once; a reader that has gone is no reason to leave a server running."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
