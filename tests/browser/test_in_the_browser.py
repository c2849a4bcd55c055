"""The market in a browser: by mouse, by keyboard, on a phone."""

from collections.abc import Callable
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from exchange import operations as exchange
from marketplace import models, stream
from settlement import instructions
from tests.browser.conftest import resize
from tests.market import HOUR
from tests.served import Served

pytestmark = pytest.mark.browser

PATIENCE_S = 10
PASSWORD = "correct horse battery"
PUBLIC = [
    "/",
    "/markets",
    f"/markets/{HOUR}",
    "/curve/LLAMA70B",
    "/index",
    "/transparency",
    "/receipts",
    "/login",
    "/signup",
]
PRIVATE = [
    "/portfolio",
    "/portfolio/margin",
    "/portfolio/statements",
    "/entitlements",
    "/keys",
    "/sell",
]


def until(browser: webdriver.Chrome, condition: Callable[[], Any]) -> Any:
    ignored = (StaleElementReferenceException,)
    wait = WebDriverWait(browser, PATIENCE_S, poll_frequency=0.05, ignored_exceptions=ignored)
    return wait.until(lambda _: condition())


def find(browser: webdriver.Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def shows(browser: webdriver.Chrome, selector: str, text: str) -> bool:
    return any(text in one.text for one in browser.find_elements(By.CSS_SELECTOR, selector))


def sign_up(browser: webdriver.Chrome, served: Served, name: str = "Acme") -> None:
    browser.get(f"{served.origin}/signup")
    find(browser, "#organization").send_keys(name)
    find(browser, "#email").send_keys(f"{name.lower().replace(' ', '.')}@example.com")
    find(browser, "#password").send_keys(PASSWORD)
    find(browser, "main button.primary").click()
    until(browser, lambda: browser.current_url.endswith("/portfolio"))


def deposit(browser: webdriver.Chrome, served: Served, amount: str = "1000") -> None:
    browser.get(f"{served.origin}/portfolio")
    find(browser, "#amount").send_keys(amount)
    find(browser, "#amount").submit()
    until(browser, lambda: shows(browser, ".notice", "Deposited"))


def test_a_person_signs_up_deposits_trades_and_cancels(
    browser: webdriver.Chrome, served: Served
) -> None:
    sign_up(browser, served)
    deposit(browser, served)
    browser.get(f"{served.origin}/markets")
    find(browser, f'tr[data-symbol="{HOUR}"] a').click()
    until(browser, lambda: browser.current_url.endswith(HOUR))

    lots, price = find(browser, "#lots"), find(browser, "#price")
    for field, text in ((lots, "40"), (price, "1.240")):
        field.clear()
        field.send_keys(text)
    # 40 lots at 1,240 ticks of 60 micro-USD, and 20 bp of it.
    until(browser, lambda: find(browser, '[data-preview="notional"]').text == "$2.976")
    assert find(browser, '[data-preview="margin"]').text == "$2.981952"
    find(browser, "#ticket button.primary").click()

    until(browser, lambda: shows(browser, "#outcome", "Order open: buy 40 lots at 1.240."))
    until(browser, lambda: shows(browser, "#bids", "1.240"))
    until(browser, lambda: shows(browser, "#orders tbody", "1.240"))
    until(browser, lambda: shows(browser, '[data-account="available"]', "997.018048"))
    find(browser, "#orders [data-cancel] button").click()
    until(browser, lambda: not find(browser, "#orders").is_displayed())
    until(browser, lambda: not shows(browser, "#bids", "1.240"))
    until(browser, lambda: shows(browser, '[data-account="available"]', "1,000.00"))


def test_the_book_and_the_tape_follow_the_market(browser: webdriver.Chrome, served: Served) -> None:
    world = served.world
    buyer = world.party("Buyer", cash=1_000_000_000)
    seller = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    browser.get(f"{served.origin}/markets/{HOUR}")
    until(browser, lambda: shows(browser, "#spread", "The book is empty"))

    place(seller.id, -1, 1_260, 30, "s1")
    until(browser, lambda: shows(browser, "#asks", "1.260"))
    place(buyer.id, 1, 1_260, 12, "b1")

    until(browser, lambda: shows(browser, "#tape", "12"))
    until(browser, lambda: shows(browser, "#asks", "18"))
    until(browser, lambda: find(browser, '.facts [data-field="last"]').text == "1.260")
    until(browser, lambda: find(browser, "#chart canvas").is_displayed())


def test_a_refusal_is_read_out_and_changes_nothing(
    browser: webdriver.Chrome, served: Served
) -> None:
    sign_up(browser, served)
    browser.get(f"{served.origin}/markets/{HOUR}")
    find(browser, "#ticket button.primary").click()

    outcome = until(browser, lambda: find(browser, "#outcome.error"))
    assert outcome.text == "The order was refused: insufficient funds."
    assert outcome.get_attribute("role") == "alert"
    # The browser itself notes an answer of 422 in its console; nothing else may be there.
    noted = [entry["message"] for entry in browser.get_log("browser")]
    assert all("422" in message for message in noted)


def test_everything_is_reached_by_keyboard_alone(browser: webdriver.Chrome, served: Served) -> None:
    sign_up(browser, served)
    deposit(browser, served)
    browser.get(f"{served.origin}/markets/{HOUR}")

    press(browser, Keys.TAB)
    assert focused(browser).text == "Skip to content"
    assert focused(browser).is_displayed()
    press(browser, Keys.ENTER)
    tab_to(browser, lambda one: one.get_attribute("name") == "side")
    press(browser, Keys.TAB)
    assert focused(browser).get_attribute("id") == "type"
    press(browser, Keys.TAB)
    assert focused(browser).get_attribute("id") == "lots"
    type_over(browser, "7")
    press(browser, Keys.TAB)
    assert focused(browser).get_attribute("id") == "price"
    type_over(browser, "1.230")
    tab_to(browser, lambda one: one.text == "Buy")
    assert outline(browser) != "none"
    press(browser, Keys.ENTER)
    until(browser, lambda: shows(browser, "#outcome", "Order open: buy 7 lots at 1.230."))
    until(browser, lambda: shows(browser, "#orders tbody", "1.230"))
    tab_to(browser, lambda one: one.tag_name == "summary" and one.text == "Amend")
    press(browser, Keys.ENTER)
    press(browser, Keys.TAB)
    assert focused(browser).get_attribute("name") == "lots"
    type_over(browser, "5")
    press(browser, Keys.ENTER)
    until(browser, lambda: find(browser, '#orders [data-field="quantity"]').text == "5")
    tab_to(browser, lambda one: one.text == "Cancel")
    assert "buy order of 7 lots" in (focused(browser).get_attribute("aria-label") or "")
    press(browser, Keys.ENTER)
    until(browser, lambda: not find(browser, "#orders").is_displayed())


def test_every_type_of_order_is_placed_by_keyboard_alone(
    browser: webdriver.Chrome, served: Served
) -> None:
    seller = served.world.party("Seller", "PROVIDER", cash=1_000_000_000)
    served.world.cluster(seller)
    sign_up(browser, served)
    deposit(browser, served)
    for number, (keys, fields, said) in enumerate(TYPED):
        place(seller.id, -1, 1_250, 1, f"s{number}")  # there is something to meet, and a last price
        browser.get(f"{served.origin}/markets/{HOUR}")
        tab_to(browser, lambda one: one.get_attribute("id") == "type")
        focused(browser).send_keys(keys)
        for name, text in fields.items():
            tab_to(browser, lambda one, name=name: one.get_attribute("name") == name)
            type_over(browser, text)
        tab_to(browser, lambda one: one.text == "Buy")
        press(browser, Keys.ENTER)
        until(browser, lambda said=said: shows(browser, "#outcome", said))


TYPED = [
    ("M", {"lots": "1"}, "Bought 1 lots at 1.250000."),
    ("L", {"lots": "1", "price": "1.250"}, "Bought 1 lots at 1.250000."),
    (
        "Stop",
        {"lots": "2", "stop_price": "1.290"},
        "Order untriggered: buy 2 lots, once 1.290 is reached.",
    ),
    (
        Keys.END,
        {"lots": "3", "price": "1.300", "stop_price": "1.295"},
        "Order untriggered: buy 3 lots at 1.300, once 1.295 is reached.",
    ),
]
"""Keys that choose a type, what is typed, and what the page says then."""


def test_a_halt_takes_the_ticket_away_and_the_call_brings_it_back(
    browser: webdriver.Chrome, served: Served
) -> None:
    sign_up(browser, served)
    deposit(browser, served)
    browser.get(f"{served.origin}/markets/{HOUR}")
    lots = find(browser, "#lots")
    lots.clear()
    lots.send_keys("33")
    market = served.world.market

    market.instruct("halt", instructions.Halt(instrument=HOUR, reason="a look"))
    until(browser, lambda: shows(browser, "#takes-none", "This instrument is halted"))
    assert not find(browser, "#ticket").is_displayed()
    assert find(browser, '.facts [data-field="state"]').text == "halted"

    market.instruct("resume", instructions.Resume(instrument=HOUR))
    until(browser, lambda: find(browser, "#ticket").is_displayed())
    assert find(browser, "#lots").get_attribute("value") == "33"
    assert find(browser, '.facts [data-field="state"]').text == "call"
    until(browser, lambda: find(browser, '[data-auction="kind"]').text == "reopening")


def test_a_refused_amendment_is_said_beside_the_orders(
    browser: webdriver.Chrome, served: Served
) -> None:
    sign_up(browser, served)
    deposit(browser, served)
    browser.get(f"{served.origin}/markets/{HOUR}")
    find(browser, "#ticket button.primary").click()
    until(browser, lambda: shows(browser, "#orders tbody", "open"))

    find(browser, "#orders details.amend summary").click()
    field = find(browser, "#orders [name=lots]")
    field.clear()
    field.send_keys("90000")
    field.send_keys(Keys.ENTER)

    refusal = until(browser, lambda: find(browser, "#orders-refusal").text)
    assert refusal == "The amendment was refused: position limit."
    browser.get_log("browser")  # the browser notes the answer of 422 itself


def test_the_portfolio_follows_fills_and_money(browser: webdriver.Chrome, served: Served) -> None:
    world = served.world
    seller = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    world.cluster(seller)
    sign_up(browser, served)
    deposit(browser, served)
    buyer = models.Organization.objects.get(name="Acme").pk
    browser.get(f"{served.origin}/portfolio")
    until(browser, lambda: shows(browser, "#no-orders", "No open orders."))
    assert shows(browser, "#fills", "No fills yet.")

    place(seller.id, -1, 1_260, 30, "s1")
    place(buyer, 1, 1_260, 12, "b1")

    until(browser, lambda: shows(browser, "#fills tbody", "1.260"))
    until(browser, lambda: shows(browser, "#positions tbody", "+12"))
    until(browser, lambda: shows(browser, "#ledger tbody", "trading fee"))


def test_no_page_is_wider_than_a_phone_or_complains(
    browser: webdriver.Chrome, served: Served
) -> None:
    world = served.world
    seller = world.party("Seller", "PROVIDER", cash=1_000_000_000)
    cluster = world.cluster(seller)
    place(seller.id, -1, 1_260, 30, "s1")
    sign_up(browser, served, name="A company with a rather long name of its own")
    deposit(browser, served, "123456789")
    browser.get(f"{served.origin}/keys")
    find(browser, "main form button.primary").click()
    for width, height in ((390, 844), (1440, 900)):
        resize(browser, width, height)
        for path in (*PUBLIC, *PRIVATE, f"/transparency/{cluster.public_id}"):
            browser.get(served.origin + path)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} wide"
            assert len(browser.find_elements(By.CSS_SELECTOR, "main h1")) == 1, path
            assert unlabeled(browser) == [], path


def test_a_lost_connection_is_said_and_comes_back(
    browser: webdriver.Chrome, served: Served
) -> None:
    browser.get(f"{served.origin}/markets/{HOUR}")
    until(browser, lambda: find(browser, "#book-sequence").text != "")
    assert not find(browser, "#offline").is_displayed()
    browser.execute_cdp_cmd("Network.enable", {})
    condition = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    try:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **condition})
        drop_connections()
        until(browser, lambda: find(browser, "#offline").is_displayed())
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **condition})
    until(browser, lambda: not find(browser, "#offline").is_displayed())
    browser.get_log("browser")  # the browser notes the failed attempts itself


def test_the_pages_read_without_scripts(browser: webdriver.Chrome, served: Served) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{served.origin}/markets")
        assert shows(browser, "table", "23:00")
        browser.get(f"{served.origin}/markets/{HOUR}")
        assert shows(browser, "#spread", "The book is empty")
        assert find(browser, "#nav").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_key_is_made_and_named_in_the_client_to_copy(
    browser: webdriver.Chrome, served: Served
) -> None:
    sign_up(browser, served)
    browser.get(f"{served.origin}/keys")
    find(browser, "#name").send_keys("laptop")
    Select(find(browser, "#overflow")).select_by_visible_text("Refuse with 429")
    find(browser, "main form button.primary").click()
    key = until(browser, lambda: find(browser, "#made-key").text)
    browser.get(f"{served.origin}/entitlements")

    assert key.startswith("bl_demo_")
    assert key.split("_")[2] in find(browser, "#client-python").text
    assert key not in browser.page_source


def place(organization: int, side: int, price: int, lots: int, name: str) -> None:
    exchange.place(
        organization=organization,
        instrument=HOUR,
        side=side,
        price_ticks=price,
        lots=lots,
        client_order_id=name,
    )


def drop_connections() -> None:
    """Close every WebSocket, as a server that stops would."""
    for connection in list(stream._open):
        if not connection._loop.is_closed():  # another test's, which ended with its loop
            connection._loop.call_soon_threadsafe(connection.close, 1012)


def focused(browser: webdriver.Chrome) -> WebElement:
    return browser.switch_to.active_element


def press(browser: webdriver.Chrome, key: str) -> None:
    focused(browser).send_keys(key)


def type_over(browser: webdriver.Chrome, text: str) -> None:
    focused(browser).send_keys(Keys.CONTROL, "a")
    focused(browser).send_keys(text)


def tab_to(browser: webdriver.Chrome, wanted: Callable[[WebElement], bool]) -> None:
    for _ in range(80):
        press(browser, Keys.TAB)
        if wanted(focused(browser)):
            return
    raise AssertionError("not reached by tabbing")


def outline(browser: webdriver.Chrome) -> str:
    return browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")


def unlabeled(browser: webdriver.Chrome) -> list[str]:
    """Fields and tables that a screen reader could not name; a chart is one image to it."""
    return browser.execute_script("""
        const bare = [];
        for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
          if (!field.labels?.length && !field.ariaLabel) bare.push(field.outerHTML);
        for (const table of document.querySelectorAll("main table:not(.u-legend)"))
          if (!table.caption) bare.push("a table without a caption");
        for (const button of document.querySelectorAll("button, a"))
          if (!button.textContent.trim() && !button.ariaLabel) bare.push(button.outerHTML);
        return bare;
    """)
