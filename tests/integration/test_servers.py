"""The embedded servers, really started: found again, started anew after a kill, erased."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import valkey

from config import places, postgres_server, servers, valkey_server


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="baseload-servers-"))
    path.chmod(0o711)
    yield path
    servers.erase(path)


def postmaster(var: Path) -> psutil.Process:
    found = postgres_server.postmaster(places.place(var).data)
    assert found is not None
    return found


def count(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def test_a_second_start_finds_both_servers_and_their_data(folder: Path) -> None:
    first = servers.start(folder, durable=False)
    with psycopg.connect(first.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    valkey.Valkey.from_url(first.valkey_url).set("kept", "1")
    process = postmaster(folder).pid

    second = servers.start(folder, durable=False)

    assert second == first == servers.recorded(folder) == servers.plan(folder)
    assert postmaster(folder).pid == process
    assert count(second.database_url) == 1
    assert valkey.Valkey.from_url(second.valkey_url).get("kept") == b"1"
    assert valkey.Valkey.from_url(second.broker_url).ping()


def test_killed_servers_start_anew_at_their_addresses_with_every_committed_row(
    folder: Path,
) -> None:
    first = servers.start(folder, durable=False)
    with psycopg.connect(first.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    held = psycopg.connect(first.database_url)
    queue = valkey_server.running(folder)
    assert queue is not None
    postmaster(folder).kill()
    psutil.Process(queue.pid).kill()

    second = servers.start(folder, durable=False)

    assert second == first
    assert count(second.database_url) == 1
    assert servers.running(folder) == (True, True)
    held.close()


def test_stop_leaves_the_data_and_erase_leaves_nothing(folder: Path) -> None:
    servers.start(folder, durable=False)
    servers.stop(folder)
    place = places.place(folder)
    assert servers.running(folder) == (False, False)
    assert (place.data / "PG_VERSION").exists()

    servers.erase(folder)

    assert not folder.exists()
    assert not place.data.exists()
    assert not place.sockets.exists()


def test_sockets_move_where_a_long_path_would_not_fit(folder: Path) -> None:
    deep = folder / ("long" * 30)
    deep.mkdir()
    addresses = servers.start(deep, durable=False)
    place = places.place(deep)
    assert not place.sockets.is_relative_to(deep)
    assert len(os.fsencode(place.sockets / ".s.PGSQL.5432.lock")) <= 100
    with psycopg.connect(addresses.database_url):
        pass
    servers.erase(deep)


def test_a_closed_folder_above_the_data_stays_closed(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    servers.start(closed / "var", durable=False)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert servers.running(closed / "var") == (True, True)
    servers.erase(closed / "var")


def test_what_is_recorded_is_for_its_owner_only(folder: Path) -> None:
    servers.start(folder, durable=False)
    private = (folder / "servers.json", folder / "valkey" / "process.json")
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600, 0o600]
    assert json.loads(private[0].read_text()).keys() == {
        "database_url",
        "valkey_url",
        "broker_url",
    }


def test_valkey_wants_its_password(folder: Path) -> None:
    addresses = servers.start(folder, postgres=False)
    place = places.place(folder)
    stranger = valkey.Valkey(unix_socket_path=str(place.sockets / "valkey.sock"))
    with pytest.raises(valkey.AuthenticationError):
        stranger.ping()
    assert addresses.database_url == ""
