"""The embedded PostgreSQL of one place: initialized once, started, found again, stopped.

It holds the truth and syncs every commit. It is found by its own `postmaster.pid`; a server whose
runner was killed simply goes on and is used by the next one.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from config import places
from config.places import Place, StartFailed

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 8
ORPHANS_TIMEOUT_S = 10
DATABASE = "baseload"
OWNER = "postgres"

SETTINGS: Mapping[str, str] = {
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


def start(place: Place, *, durable: bool) -> str:
    """Return the address of the running server, started if need be, its database created.

    One that was found may still be recovering, or be about to die; it is asked until it answers.

    :raises StartFailed: it does not start, or does not answer within the limit.
    """
    if place.user is not None:
        places.prepare_system_user(place)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if postmaster(place.data) is None:
            places.own(place.sockets, place.user)
            if not (place.data / "PG_VERSION").exists():
                _initialize(place)
            _configure(place, durable=durable)
            _clear_remains(place)
            _launch(place)
        try:
            _create_database(place)
            return database_url(place)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise StartFailed(f"PostgreSQL does not answer: {error}") from error
            time.sleep(0.1)


def database_url(place: Place) -> str:
    """Return the address of the database through its socket."""
    return f"postgresql://{OWNER}@/{DATABASE}?host={quote(str(place.sockets), safe='')}"


def postmaster(data: Path) -> psutil.Process | None:
    """Return the server process of a data folder, by its `postmaster.pid`, if it runs."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline():
            return process
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        pass
    return None


def _clear_remains(place: Place) -> None:
    """Remove the locks of a server that was killed, once its children are gone.

    PostgreSQL would do so itself, but for a zombie or another process with the old one's id.
    """
    orphans = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.info["name"] == "postgres" and process.cwd() == str(place.data):
                orphans.append(process)
    _, alive = psutil.wait_procs(orphans, timeout=ORPHANS_TIMEOUT_S)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=ORPHANS_TIMEOUT_S)
    for lock in (place.data / "postmaster.pid", place.sockets / ".s.PGSQL.5432.lock"):
        lock.unlink(missing_ok=True)


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
    places.own(draft, place.user)
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
    settings = {**SETTINGS, "unix_socket_directories": str(place.sockets)}
    if not durable:
        settings |= VOLATILE_SETTINGS
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    path = place.data / "baseload.conf"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o644)


def _launch(place: Place) -> None:
    """Start the server and return when it is ready.

    :raises StartFailed: it did not start; the message ends with its log.
    """
    log = place.data / "server.log"
    options = ("-l", str(log), "-s", "-w", "-t", str(START_TIMEOUT_S))
    try:
        arguments = ("start", "-D", str(place.data), *options)
        _run(place, "pg_ctl", *arguments, timeout_s=START_TIMEOUT_S + 5)
    except StartFailed as error:
        tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        raise StartFailed(f"{error}\n{tail}") from error


def _connect(place: Place) -> psycopg.Connection[tuple[object, ...]]:
    """Connect to the maintenance database."""
    return psycopg.connect(
        host=str(place.sockets), user=OWNER, dbname="postgres", autocommit=True, connect_timeout=5
    )


def _create_database(place: Place) -> None:
    """Create the database where it is not there yet."""
    with _connect(place) as connection:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(query, [DATABASE]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def drop_database(place: Place) -> None:
    """Drop the database and create it empty; the server must be running."""
    with _connect(place) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    _create_database(place)


def stop(place: Place) -> None:
    """Stop the server, if it runs, with a checkpoint; without one where that takes too long."""
    if postmaster(place.data) is None:
        return
    limit = str(STOP_TIMEOUT_S)
    arguments = ("stop", "-D", str(place.data), "-s", "-w", "-t", limit, "-m")
    try:
        _run(place, "pg_ctl", *arguments, "fast", timeout_s=STOP_TIMEOUT_S + 2)
    except StartFailed:
        _run(place, "pg_ctl", *arguments, "immediate", timeout_s=STOP_TIMEOUT_S + 2)
