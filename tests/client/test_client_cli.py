"""The command line as a shell sees it: what it prints, to where, and how it exits."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baseload import cli
from tests.market import GRADE, HOUR
from tests.served import Served

CASH = 1_000_000_000
SOURCE = Path(__file__).resolve().parents[2] / "clients" / "python" / "src"


@dataclass
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Run a command as a buyer with cash."""
    party = served.world.party("Buyer", cash=CASH)
    monkeypatch.setenv("BASELOAD_URL", served.origin)
    monkeypatch.setenv("BASELOAD_KEY", party.api.key)

    def command(*arguments: str) -> Ran:
        capsys.readouterr()
        status = cli.main(arguments)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return command


def test_a_buyer_trades_from_a_shell(served: Served, run: Callable[..., Ran]) -> None:
    seller = served.world.party("Seller", "PROVIDER", cash=CASH)
    served.world.cluster(seller)
    sold = run("--key", seller.api.key, "order", "sell", HOUR, "10", "1.250")
    assert (sold.status, sold.err) == (0, "")
    assert "sell 10 " + HOUR + " @ 1.250  open, 0 of 10 filled" in sold.out

    listed = run("markets", "--grade", GRADE)
    assert listed.out.splitlines()[0].split()[:3] == ["symbol", "state", "best"]
    hour = next(line for line in listed.out.splitlines() if line.startswith(HOUR))
    assert hour.split()[1:5] == ["continuous", "-", "1.250", "-"]
    assert run("book", HOUR).out.splitlines()[1].split() == ["1.250", "10"]
    assert run("book", HOUR, "--json").json["asks"] == [["1.250", 10]]

    bought = run("order", "buy", HOUR, "4", "1.260", "--id", "mine", "--json")
    assert (bought.json["status"], bought.json["average_price"]) == ("filled", "1.250000")
    assert run("order", "buy", HOUR, "4", "1.260", "--id", "mine", "--json").json == bought.json
    assert run("positions", "--json").json[0]["quantity"] == 4
    assert run("fills", "--json").json[0]["liquidity"] == "taker"
    assert run("trades", HOUR).out.splitlines()[1].split()[2:] == ["buy", "4", "1.250"]
    assert run("account", "--json").json["cash"] == "999.999400"
    assert "available" in run("account").out
    assert run("order", "show", bought.json["id"], "--json").json["fills"]
    exported = [json.loads(line) for line in run("export", "fills").out.splitlines()]
    assert [one["quantity"] for one in exported] == [4]


def test_orders_are_listed_amended_and_canceled(run: Callable[..., Ran]) -> None:
    ids = [run("order", "buy", HOUR, "5", "1.200", "--json").json["id"] for _ in range(4)]
    assert [one["id"] for one in run("orders", "--json").json] == ids[::-1]
    assert run("amend", ids[0], "--quantity", "3", "--json").json["quantity"] == 3
    assert run("cancel", ids[0], "--json").json[0]["status"] == "canceled"
    again = run("cancel", ids[0])
    assert (again.status, again.out) == (1, "")
    assert again.err.startswith("baseload: order_closed: ")
    several = run("cancel", ids[0], ids[1], "--json")
    assert [one["id"] for one in several.json] == [ids[1]]
    assert (several.status, ids[0] in several.err) == (1, True)
    assert len(run("cancel", "--all", "--side", "buy", "--json").json) == 2
    assert run("orders").err == "no order\n"
    assert len(run("orders", "--status", "canceled", "--json").json) == 4


def test_refusals_and_wrong_use_have_exit_codes(run: Callable[..., Ran]) -> None:
    refused = run("order", "buy", HOUR, "5", "9.000")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("baseload: outside_band: ")
    as_json = run("--json", "order", "buy", HOUR, "5", "9.000")
    assert json.loads(as_json.err)["code"] == "outside_band"
    assert run("book", "NOTHING").err.startswith("baseload: not_found")
    assert run("watch", "NOTHING").err.startswith("baseload: not_found")
    assert run("--key", "bl_demo_x_y", "account").err.startswith("baseload: invalid_key")
    for wrong in (
        ["order", "buy", HOUR, "many"],
        ["order", "buy", HOUR, "5", "1.2345"],
        ["cancel"],
        ["cancel", "1", "--all"],
        ["amend", "1"],
        ["watch", "--channel", "book"],
        ["export", "trades"],
        ["--demo", "/nowhere.json", "account"],
    ):
        assert run(*wrong).status == 2, wrong
    for misspelt in (
        ["dance"],
        ["trades", HOUR, "--limit", "-5"],
        ["book", HOUR, "--depth", "0"],
        ["--timeout", "0", "account"],
        ["strip", "buy", GRADE, "2026-12-01", "2026-12-02T00Z", "1", "1.250"],
    ):
        with pytest.raises(SystemExit) as raised:
            run(*misspelt)
        assert raised.value.code == 2, misspelt
    assert run("--url", "http://127.0.0.1:9", "--timeout", "0.2", "status").status == 3


def test_signing_without_its_package_says_what_to_install(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)

    refused = run("--signing-key", str(key), "account")
    assert refused.status == 2
    assert "pip install 'clients/python[signing]'" in refused.err


def test_a_demos_file_says_where_and_as_whom(
    served: Served, run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = served.world.party("Other", cash=5_000_000)
    found = {"id": str(other.id), "name": "Other", "role": "provider", "key": other.api.key}
    demo = tmp_path / "demo.json"
    demo.write_text(json.dumps({"web": served.origin, "organizations": [found]}))
    monkeypatch.setenv("BASELOAD_URL", "http://127.0.0.1:9")
    for organization in ("provider", "Other"):
        as_other = run("--demo", str(demo), "--organization", organization, "account", "--json")
        assert as_other.json["cash"] == "5.000000"
    assert run("--demo", str(demo), "account").err.startswith("baseload: ")


def test_watch_prints_an_object_a_line_until_it_is_interrupted(
    served: Served, run: Callable[..., Ran]
) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "baseload", "watch", HOUR, "--json"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite in the background ignores interrupts, and what it starts would as well.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stderr is not None
    begun = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert {one["channel"] for one in begun} == {"book", "trades"}
    run("order", "buy", HOUR, "5", "1.200")
    delta = json.loads(process.stdout.readline())
    assert (delta["type"], delta["data"]["bids"]) == ("delta", [["1.200", 5]])
    process.send_signal(signal.SIGINT)
    assert (process.wait(10), process.stderr.read()) == (130, "")


def test_watch_shows_a_person_the_book(run: Callable[..., Ran]) -> None:
    run("order", "buy", HOUR, "5", "1.200")
    shown = run("watch", HOUR, "--channel", "book", "--count", "1")
    assert shown.out.splitlines()[0].startswith(HOUR)
    assert shown.out.splitlines()[2].split() == ["5", "1.200"]
    orders = run("watch", "--channel", "orders", "--count", "1")
    assert "buy 5 " + HOUR in orders.out


def test_a_reader_that_has_enough_is_no_error(run: Callable[..., Ran]) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": str(SOURCE)}
    command = f"{sys.executable} -m baseload markets | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[1] == "0"
    assert done.stderr == ""
