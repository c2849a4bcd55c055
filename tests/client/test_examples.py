"""Every example of the documentation, run beside a whole deployment as its page says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import servers, stack

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
CLIENT = ROOT / "clients" / "python" / "src"
SAYS = {
    "rest_by_hand.py": "now it is canceled",
    "trade.py": "filled: 2 lots at ",
    "book_by_hand.py": "recovered by range, the checksum agrees",
    "stream.py": "orders: ['canceled']",
    "chat.py": "404 model_not_found",
}
ELSEWHERE = {"walkthrough.py"}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Stack]:
    folder = tmp_path_factory.mktemp("examples")
    with stack.running(folder) as running:
        yield running
    servers.erase(folder)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"PYTHONPATH": str(CLIENT)}
    for name in [one for one in environment if one.startswith(("DJANGO", "BASELOAD"))]:
        del environment[name]
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_an_example_does_what_its_page_says(deployment: stack.Stack, name: str) -> None:
    done = run(str(EXAMPLES / name), str(deployment.var / "demo.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert SAYS[name] in done.stdout


@pytest.mark.slow
def test_the_command_line_trades_in_a_demo(deployment: stack.Stack) -> None:
    demo = ["-m", "baseload", "--demo", str(deployment.var / "demo.json")]
    listed = json.loads(run(*demo, "markets", "--state", "continuous", "--json").stdout)
    symbol = max(one["symbol"] for one in listed)
    shown = run(*demo, "book", symbol)
    assert (shown.returncode, shown.stderr) == (0, "")
    preview = json.loads(run(*demo, "order", "test", "buy", symbol, "1", "--json").stdout)
    assert preview["status"] == "filled"
    bought = json.loads(run(*demo, "order", "buy", symbol, "1", "--json").stdout)
    assert (bought["type"], bought["status"]) == ("market", "filled")
    watched = run(*demo, "watch", symbol, "--json", "--count", "2")
    assert all(json.loads(line)["instrument"] == symbol for line in watched.stdout.splitlines())
    assert run(*demo, "status").returncode == 0


def test_every_example_is_run_and_named_in_a_page() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == SAYS.keys() | ELSEWHERE
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in SAYS if name not in pages] == []
