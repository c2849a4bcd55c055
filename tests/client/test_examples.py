"""Every example of the documentation, run as its page says, against a market over sockets."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey as valkey_client

from baseload import Client, NewOrder
from tests.delivery import Stage, stage
from tests.market import GRADE, Market
from tests.served import Served

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
CLIENT = ROOT / "clients" / "python" / "src"
TRADES = {
    "rest_by_hand.py": ["sent again: the same order", "now it is canceled"],
    "trade.py": [
        "would be filled, 2 lots",
        "filled: 2 lots at 1.250000",
        "\n  canceled\n  open\n  outside_band\n  canceled\n",
        ": filled, 3 fills",
        "1 canceled",
    ],
    "book_by_hand.py": ["3 recovered by range, the checksum agrees"],
    "stream.py": ["is open", "orders: ['canceled']"],
}
CHATS = {
    "chat.py": [f"grades: {GRADE}", "x-baseload-class-served: P2", "404 model_not_found"],
}
ELSEWHERE = {"walkthrough.py"}
CASH = 1_000_000_000


@pytest.fixture
def market(served: Served, tmp_path: Path) -> str:
    """The demo.json of a market in which somebody sells every hour."""
    seller = served.world.party("Seller", "PROVIDER", cash=CASH)
    served.world.cluster(seller)
    buyer = served.world.party("Buyer", cash=CASH)
    with Client(served.origin, key=seller.api.key) as client:
        hours = [one.symbol for one in client.instruments(state="continuous")]
        client.batch(
            [NewOrder(instrument=one, side="sell", quantity=9, price="1.250") for one in hours]
        )
    return write(
        tmp_path,
        web=served.origin,
        websocket=served.origin.replace("http", "ws") + "/ws/v1",
        key=buyer.api.key,
    )


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock: Any, monkeypatch: Any
) -> Iterator[Stage]:
    """An hour of which the buyer holds lots, and the gateway in front of it."""
    from marketplace import keys

    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def write(folder: Path, *, key: str, **places: str) -> str:
    path = folder / "demo.json"
    organization = {"id": "1", "name": "Buyer", "role": "buyer", "key": key}
    path.write_text(json.dumps(places | {"organizations": [organization]}))
    return str(path)


def run(name: str, demo: str) -> str:
    """Run an example and return what it printed."""
    environment = dict(os.environ) | {"PYTHONPATH": str(CLIENT)}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), demo],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize("name", TRADES)
def test_an_example_does_what_its_page_says(market: str, name: str) -> None:
    printed = run(name, market)
    assert [one for one in TRADES[name] if one not in printed] == [], printed


def test_the_gateways_example_chats(delivery: Stage, tmp_path: Path) -> None:
    gateway = delivery.url.removesuffix("/v1")
    demo = write(tmp_path, gateway=gateway, key=delivery.keys["buyer"])
    printed = run("chat.py", demo)
    assert [one for one in CHATS["chat.py"] if one not in printed] == [], printed


def test_every_example_is_run_and_named_in_a_page() -> None:
    names = TRADES.keys() | CHATS.keys()
    assert {path.name for path in EXAMPLES.glob("*.py")} == names | ELSEWHERE
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in names if name not in pages] == []
