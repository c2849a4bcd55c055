"""A web server in this process, and a browser in front of it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import valkey as valkey_client

if TYPE_CHECKING:  # this file is read before Django is set up
    from selenium import webdriver

    from tests.served import Served

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


@pytest.fixture(scope="session")
def _ring(django_db_setup: None) -> Iterator[None]:
    """Stop the ring before its database is dropped."""
    from marketplace import keys

    yield
    keys.close_shared_ring()


@pytest.fixture
def served(
    _ring: None, valkey: valkey_client.Valkey, transactional_db: None, clock: Any
) -> Iterator["Served"]:
    """The web process's application on a free port, with an engine, at 09:00 UTC."""
    from tests.served import serving

    with serving(valkey) as found:
        yield found


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
def browser(chromium: "webdriver.Chrome", served: "Served") -> Iterator["webdriver.Chrome"]:
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
