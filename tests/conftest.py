"""What every test may use: servers of the run's own, a database, a clock, and real data.

The run has a folder of its own; PostgreSQL is shared by its workers, which have a database each,
and every worker has a Valkey and a clock of its own. Nothing is started before a test asks for it,
so the unit tests stay as quick as they are. What a killed run left behind is removed by the next.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import valkey as valkey_client

from config import processes, servers
from marketplace import clock as market_clock

PREFIX = "baseload-test-"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")


def _remove_leftovers(parent: Path) -> None:
    """Erase the folders of runs whose process is gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            owner = processes.Recorded(*json.loads((folder / "owner.json").read_text()))
        except (OSError, ValueError):
            continue
        if processes.find(owner) is None:
            for var in (*folder.glob("worker-*"), folder / "shared"):
                servers.erase(var)
            shutil.rmtree(folder, ignore_errors=True)


def _prepare() -> Path:
    """Choose the run's folder and point Django at it, before Django is loaded."""
    if "BASELOAD_TEST_FOLDER" not in os.environ:
        parent = Path(tempfile.gettempdir())
        _remove_leftovers(parent)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        folder.chmod(0o711)  # a root run gives PostgreSQL to another user
        owner = processes.record("pytest", os.getpid())
        (folder / "owner.json").write_text(json.dumps(owner))
        os.environ["BASELOAD_TEST_FOLDER"] = str(folder)
    folder = Path(os.environ["BASELOAD_TEST_FOLDER"])
    var = folder / f"worker-{WORKER}"
    planned = servers.plan(var)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DEPLOYMENT": "demo",
        "BASELOAD_VAR": str(var),
        "DATABASE_URL": servers.plan(folder / "shared").database_url,
        "DATABASE_POOL_SIZE_MAX": "0",
        "DATABASE_ROLE": "",
        "VALKEY_URL": planned.valkey_url,
        "CELERY_BROKER_URL": planned.broker_url,
        "DJANGO_ALLOW_ASYNC_UNSAFE": "",
    }
    return folder


FOLDER = _prepare()
VAR = Path(os.environ["BASELOAD_VAR"])


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers and load Django with the run's own addresses."""
    config.addinivalue_line("markers", "data(folder): needs a folder of BASELOAD_DATA")
    config.addinivalue_line("markers", "browser: needs chromium and chromium-driver")
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    import django
    from django.conf import settings

    django.setup()
    _let_tests_empty_tables()
    ours = os.environ["VALKEY_URL"] == settings.VALKEY_URL and settings.VAR == VAR
    assert ours, "Django was loaded before the run's own addresses were known"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let each worker load Django itself, after it has chosen its addresses."""
    del os.environ["DJANGO_SETTINGS_MODULE"]


def _let_tests_empty_tables() -> None:
    """Have the flush after a transactional test pass the triggers that forbid it to everybody."""
    from django.db import connections, transaction
    from django.db.backends.postgresql.operations import DatabaseOperations

    def execute_sql_flush(operations: DatabaseOperations, statements: list[str]) -> None:
        alias = operations.connection.alias
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                cursor.execute(statement)

    DatabaseOperations.execute_sql_flush = execute_sql_flush  # type: ignore[method-assign]


def pytest_unconfigure() -> None:
    """Stop the servers and remove the run's folder; a worker leaves that to the run."""
    if WORKER == "main":
        for var in (*FOLDER.glob("worker-*"), FOLDER / "shared"):
            servers.erase(var)
        shutil.rmtree(FOLDER, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, by name, what needs data or a browser that this machine lacks."""
    for mark in item.iter_markers("data"):
        folder = mark.args[0] if mark.args else ""
        if not os.environ.get("BASELOAD_DATA"):
            pytest.skip(f"BASELOAD_DATA is not set: {folder} is needed")
        if not (Path(os.environ["BASELOAD_DATA"]) / folder).is_dir():
            pytest.skip(f"BASELOAD_DATA has no {folder}")
    if item.get_closest_marker("browser"):
        missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def postgres() -> str:
    """The run's PostgreSQL, started when first asked for; its address."""
    return servers.start(FOLDER / "shared", valkey=False, durable=False).database_url


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    postgres: str, django_db_modify_db_settings_parallel_suffix: None
) -> None:
    """Start PostgreSQL before pytest-django creates the worker's database in it."""


@pytest.fixture(scope="session")
def valkey_server() -> str:
    """The worker's Valkey, started when first asked for; its address."""
    return servers.start(VAR, postgres=False).valkey_url


@pytest.fixture
def valkey(valkey_server: str) -> Iterator[valkey_client.Valkey]:
    """A client of the worker's Valkey, which is empty when the test begins."""
    client = valkey_client.Valkey.from_url(valkey_server)
    client.flushall()
    yield client
    client.close()


class MovedClock:
    """Market time in the hands of a test: it stands still until it is moved."""

    def __init__(self, at: int) -> None:
        self.at = at
        market_clock.freeze(at)

    def set(self, moment: str | int) -> int:
        """Move to an instant, as microseconds or as `2026-12-05T14:00Z`; return it."""
        self.at = moment if isinstance(moment, int) else instant(moment)
        market_clock.freeze(self.at)
        return self.at

    def advance(self, *, seconds: int = 0, micros: int = 0) -> int:
        """Move forward and return the new instant."""
        return self.set(self.at + seconds * market_clock.SECOND + micros)


def instant(text: str) -> int:
    """Return the instant of an ISO 8601 text with a zone."""
    return market_clock.to_micros(datetime.fromisoformat(text))


@pytest.fixture
def clock() -> Iterator[MovedClock]:
    """This process's market time, frozen at 09:00 UTC on December 1, 2026."""
    yield MovedClock(instant("2026-12-01T09:00Z"))
    market_clock.freeze(None)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data; for tests marked `data`."""
    return Path(os.environ["BASELOAD_DATA"])
