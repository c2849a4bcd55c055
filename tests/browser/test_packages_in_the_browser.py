"""Packages in a browser: a week of one is bought with a thumb, and a slice of it sold on."""

import os
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import Select

from marketplace import models
from settlement import models as settled
from tests.browser.conftest import resize
from tests.browser.test_in_the_browser import deposit, find, shows, sign_up, until
from tests.market import GRADE
from tests.served import Served

pytestmark = pytest.mark.browser

PHONE = (390, 844)
OFFICE = " ".join(["0"] * 8 + ["10"] * 10 + ["0"] * 6)


def fits(browser: webdriver.Chrome, name: str) -> bool:
    """Whether the page is no wider than a phone; kept as a picture where a folder is named."""
    if folder := os.environ.get("BASELOAD_PICTURES"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))
    return browser.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]


def log_out(browser: webdriver.Chrome) -> None:
    browser.delete_all_cookies()


def fill(browser: webdriver.Chrome, **values: str) -> None:
    for name, value in values.items():
        field = find(browser, f'main [name="{name}"]')
        browser.execute_script("arguments[0].value = arguments[1]", field, value)


def test_a_package_is_listed_bought_and_sold_on_from_a_phone(
    browser: webdriver.Chrome, served: Served
) -> None:
    resize(browser, *PHONE)
    provider = served.world.party("Cirrus", "PROVIDER", cash=1_000_000_000)
    served.world.cluster(provider, lots=100)
    sign_up(browser, served, "Lister")
    models.Membership.objects.update(organization=provider.organization)
    browser.get(f"{served.origin}/sell/packages")
    Select(find(browser, "#grade")).select_by_value(GRADE)
    fill(browser, from_date="2026-12-03", last_date="2026-12-23", lots=OFFICE, list_price="1.25")
    fill(browser, discounts="7: 5, 14: 9", units="4")
    assert fits(browser, "sell")
    find(browser, "main form button.primary").click()
    until(browser, lambda: shows(browser, ".notice", "is listed"))
    assert fits(browser, "listed")
    log_out(browser)

    sign_up(browser, served, "Acme")
    deposit(browser, served)
    browser.get(f"{served.origin}/packages")
    assert fits(browser, "browse")
    find(browser, "main tbody a").click()
    until(browser, lambda: shows(browser, "h1", "package"))
    fill(browser, from_date="2026-12-03", last_date="2026-12-09", units="1")
    find(browser, "main form button").click()
    until(browser, lambda: shows(browser, "button.primary", "Buy for $49.854"))
    assert shows(browser, "dl.pairs", "5 % off 1.250")
    assert fits(browser, "quote")
    find(browser, "main button.primary").click()
    until(browser, lambda: shows(browser, ".notice", "Bought package"))
    assert fits(browser, "held")

    package = settled.Package.objects.get()
    browser.get(f"{served.origin}/portfolio/packages/{package.pk}")
    fill(browser, starts_at="2026-12-05T09:00", ends_at="2026-12-05T12:00", lots="4", price="1.4")
    assert fits(browser, "resell")
    find(browser, "main form button.primary").click()
    until(browser, lambda: shows(browser, ".notice", "The slice is offered"))
    log_out(browser)

    sign_up(browser, served, "Globex")
    deposit(browser, served)
    browser.get(f"{served.origin}/packages")
    assert fits(browser, "slices")
    find(browser, 'form[action="/packages/slices/buy"] button').click()
    until(browser, lambda: shows(browser, ".notice", "Bought the slice"))
    child = settled.Package.objects.get(parent=package.pk)
    assert child.schedule[0][2] == [4]
    assert child.holder == models.Organization.objects.get(name="Globex").pk
