"""A receipt verified in the browser: with its place in the log, altered, and by another root."""

import base64
import json
import os
import uuid
from pathlib import Path

import pytest
from django.db import transaction
from selenium import webdriver

from admission import custody, models, receipts, transparency_log
from marketplace import clock, contract
from tests.browser.conftest import resize
from tests.browser.test_in_the_browser import find, until
from tests.market import GRADE
from tests.served import Served

pytestmark = pytest.mark.browser


def issued(*, is_logged: bool) -> dict[str, object]:
    """Return a receipt of a refusal that was owed service, nonce with all that is odd in JSON."""
    now = clock.now_micros()
    at = now - now % contract.INTERVAL
    key = custody.new_key("gateway-1")
    receipt, name = receipts.issue(
        key,
        issuer=receipts.key_id(receipts.public_bytes(key)),
        public={
            "class_requested": "p1", "class_served": "", "first_token_ms": "", "grade": GRADE,
            "interval_starts_at": str(at), "mntu": "0", "outcome": "shed", "per_token_us": "",
            "pool": "pool", "queue_ms": "250", "reason": "no_capacity",
        },
        private={
            "class_owed": "p1", "nonce": 'a"\\\u00fc\u2028\x7f', "organization": "1",
            "previous": "0" * 64, "request": "r", "sequence": "1",
        },
        salt=bytes(range(32)),
    )  # fmt: skip
    row = models.Receipt.objects.create(
        id=uuid.uuid4(), hash=name, issuer=receipt.issuer, organization_id=1, grade=GRADE,
        cluster=1, class_requested="P1", sequence=1, interval_starts_at=clock.to_datetime(at),
        public=receipts.canonical(receipt.public).decode(),
        private=receipts.canonical(receipt.private).decode(),
        salt=receipt.salt, signature=receipt.signature,
    )  # fmt: skip
    models.ReceiptWaiting.objects.create(
        id=row.pk, organization_id=1, cluster=1, interval_starts_at=row.interval_starts_at
    )
    if is_logged:
        with transaction.atomic():
            transparency_log.grow(contract.hour_start(at) + contract.HOUR)
    return receipts.document(receipt)


def verdict(browser: webdriver.Chrome, document: object, root_key: str = "") -> tuple[str, str]:
    browser.execute_script(
        "document.getElementById('document').value = arguments[0];"
        "document.getElementById('root-key').value = arguments[1];"
        "document.getElementById('result').replaceChildren();",
        json.dumps(document),
        root_key,
    )
    find(browser, "#verify button.primary").click()
    found = until(browser, lambda: find(browser, "#result [data-verdict]"))
    return found.get_attribute("data-verdict"), find(browser, "#result").text


def test_a_receipt_is_verified_in_the_browser_and_an_altered_one_is_not(
    browser: webdriver.Chrome, served: Served
) -> None:
    document = issued(is_logged=True)
    browser.get(f"{served.origin}/receipts")
    said, text = verdict(browser, document)
    assert said == "genuine", text
    for part in ("in the log", "gateway-1", "leaf 2 of 3", "The promise was broken", "P1"):
        assert part in text
    photograph(browser, "receipts")

    root = base64.b64encode(receipts.public_bytes(custody.root())).decode()
    assert verdict(browser, document, root)[0] == "genuine"
    other = base64.b64encode(receipts.public_bytes(custody.new_key("g"))).decode()
    said, text = verdict(browser, document, other)
    assert (said, "did not certify" in text) == ("refused", True)


def test_what_was_altered_or_is_no_receipt_is_refused(
    browser: webdriver.Chrome, served: Served
) -> None:
    document = issued(is_logged=False)
    browser.get(f"{served.origin}/receipts")
    said, text = verdict(browser, document)
    assert (said, "Not in the log yet" in text) == ("genuine", True)
    for part, field, value in (
        ("private", "nonce", "forged"), ("private", "organization", "2"), ("public", "mntu", "1"),
    ):  # fmt: skip
        altered = {**document, part: {**document[part], field: value}}
        said, text = verdict(browser, altered)
        assert (said, "altered, or made up" in text) == ("refused", True), field
    for wrong in ({}, [], 7, {**document, "public": 7}, {**document, "version": "2"}):
        assert verdict(browser, wrong)[0] == "refused", wrong
    browser.get_log("browser")  # a proof that is not there yet is answered with 404


def photograph(browser: webdriver.Chrome, name: str) -> None:
    """Keep what the page looks like, where somebody asked for it."""
    folder = os.environ.get("BASELOAD_SCREENSHOTS")
    for width in (1280, 390) if folder else ():
        resize(browser, width, 900)
        browser.get_screenshot_as_file(str(Path(str(folder)) / f"{name}-{width}.png"))
    resize(browser, 1440, 900)
