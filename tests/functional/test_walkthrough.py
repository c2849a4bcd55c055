"""The README's walk-through, on a whole deployment with every process it has."""

import importlib.util
import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import servers, stack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Stack]:
    folder = tmp_path_factory.mktemp("walkthrough")
    with stack.running(folder) as running:
        yield running
    servers.erase(folder)


def get(deployment: stack.Stack, path: str, key: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{deployment.web}/api/v1/{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


@pytest.mark.slow
def test_the_seeded_market_is_there_at_first_sight(deployment: stack.Stack) -> None:
    roles = [one["role"] for one in deployment.demo["organizations"]]
    assert min(roles.count("buyer"), roles.count("provider"), roles.count("operator")) >= 2
    assert all(one["key"].startswith("bl_demo_") for one in deployment.demo["organizations"])

    until = time.monotonic() + 20
    while True:  # the market-maker looks once a second
        books = get(deployment, "instruments?state=continuous&limit=1000")["results"]
        one_sided = [b["symbol"] for b in books if not (b["best_bid"] and b["best_ask"])]
        if books and not one_sided:
            break
        assert time.monotonic() < until, one_sided
        time.sleep(0.5)
    assert {book["product"] for book in books} == {
        "hour", "day", "week", "month", "slot", "cap", "cover",
    }  # fmt: skip
    traded = max(books, key=lambda book: book["volume"])
    assert get(deployment, f"instruments/{traded['symbol']}/candles?interval=1h")["results"]
    paths = (f"instruments/{book['symbol']}/auction" for book in books)
    assert any(get(deployment, path)["last_auction"] for path in paths)
    methods = {one["method"] for one in get(deployment, "index/LLAMA70B?limit=100")["results"]}
    assert "trades" in methods

    buyer = deployment.key("buyer")
    entitlements = get(deployment, "entitlements?limit=1000", buyer)["results"]
    assert any(one["state"] == "active" for one in entitlements)
    settled = get(deployment, "settlements?limit=1000", buyer)["results"]
    assert any(float(one["released"]) > 0 for one in settled)


def walk(deployment: stack.Stack) -> dict[str, object]:
    described = importlib.util.spec_from_file_location(
        "walkthrough", ROOT / "docs" / "examples" / "walkthrough.py"
    )
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules["walkthrough"] = module  # its dataclasses look themselves up
    described.loader.exec_module(module)
    return module.Walk(deployment.demo).run()


@pytest.mark.slow
def test_a_token_is_sold_delivered_metered_and_paid(deployment: stack.Stack) -> None:
    seen = walk(deployment)

    assert list(seen) == [
        "certified",
        "instrument",
        "listing",
        "purchase",
        "cancel",
        "entitlement",
        "delivery",
        "metered_mntu",
        "refund",
        "statements",
    ]
    compared = deployment.manage("compare_metering", "--json")
    counts = json.loads(compared.stdout)
    assert (compared.returncode, counts["different"]) == (0, 0), compared.stdout + compared.stderr
    assert counts["metered"] == counts["generated"] > 0
    audit = deployment.manage("audit_ledger")
    assert audit.returncode == 0, audit.stdout + audit.stderr
