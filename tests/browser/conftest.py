"""A web server in this process, and a browser in front of it."""

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import valkey as valkey_client

if TYPE_CHECKING:  # this file is read before Django is set up
    from selenium import webdriver

    from tests.rest import World

START_SECONDS_MAX = 20
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
)


@dataclass
class Served:
    """A market with pages at `origin`."""

    world: "World"
    origin: str


@pytest.fixture(scope="session")
def _ring(django_db_setup: None) -> Iterator[None]:
    """Stop the ring before its database is dropped."""
    from marketplace import keys

    yield
    keys.close_shared_ring()


@pytest.fixture
def served(
    _ring: None, valkey: valkey_client.Valkey, transactional_db: None, clock: Any
) -> Iterator[Served]:
    """The web process's application on a free port, with an engine, at 09:00 UTC."""
    import asyncio

    import uvicorn

    from config import asgi
    from marketplace import http, keys, models
    from marketplace.views import people
    from settlement import instructions
    from tests.market import GRADE, Market, define_grade
    from tests.rest import World

    for limiter in (http.READS, http.WRITES, people.ATTEMPTS):
        limiter._full_at.clear()
    market = Market(valkey)
    market.take_over()
    define_grade()
    models.Grade.objects.update(is_listed=True)
    market.instruct("grade", instructions.DefineGrade(grade=GRADE, reference_price_ticks=1_250))
    keys.shared_ring()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(asgi.application, port=port, log_level="warning", ws="websockets")
    )

    async def serve() -> None:
        await server.serve()
        await asyncio.get_running_loop().shutdown_default_executor()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    with market.running():
        market.work = applied  # the engine works by itself; what is written is waited for
        thread.start()
        until = time.monotonic() + START_SECONDS_MAX
        while not server.started:
            assert time.monotonic() < until, "the server starts"
            thread.join(0.05)
        yield Served(world=World(market=market), origin=f"http://127.0.0.1:{port}")
        server.should_exit = True
        server.force_exit = True
        thread.join(START_SECONDS_MAX)
    market.close()


def applied() -> None:
    """Return when the running engine has taken every instruction."""
    from settlement import models, queries

    pending = models.Instruction.objects.filter(state=models.Instruction.State.PENDING)
    for waiting in list(pending.values_list("id", flat=True)):
        queries.wait_for_instruction(waiting, timeout_s=START_SECONDS_MAX)


@pytest.fixture(scope="session")
def chromium() -> Iterator["webdriver.Chrome"]:
    """One browser for the run, with a profile of its own."""
    from selenium import webdriver

    profile = Path(tempfile.mkdtemp(prefix="baseload-browser-"))
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def browser(chromium: "webdriver.Chrome", served: Served) -> Iterator["webdriver.Chrome"]:
    """The browser without cookies, as wide as a desktop's; it must have nothing to complain of."""
    chromium.delete_all_cookies()
    chromium.get_log("browser")
    resize(chromium, 1440, 900)
    yield chromium
    complaints = [
        entry["message"]
        for entry in chromium.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]
    chromium.get("about:blank")
    assert complaints == []


def resize(driver: "webdriver.Chrome", width: int, height: int) -> None:
    """Make the page as large as a device's."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
