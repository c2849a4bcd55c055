"""The client as a package: what it stands on, and that its page names all of it."""

import ast
import io
import re
import sys
import tomllib
from pathlib import Path

import pytest

from baseload import cli, output
from baseload.api import Api
from baseload.calls import Endpoint, Listing

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "python"
SOURCES = sorted((PACKAGE / "src" / "baseload").glob("*.py"))


def test_it_stands_on_what_it_declares_and_on_nothing_of_the_exchange() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["signing"]]
    declared = {re.split(r"[<>=]", one)[0] for one in wanted}
    imported = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) - {"baseload"} == declared


def test_its_page_names_every_call_and_every_command() -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    calls = [
        name
        for name, value in vars(Api).items()
        if isinstance(value, Endpoint | Listing) and value.__doc__
    ]
    assert len(calls) > 35
    assert [name for name in calls if not re.search(rf"\b{name}\b", page)] == []
    groups = cli.parser()._subparsers
    assert groups is not None
    commands = groups._group_actions[0].choices
    assert commands is not None
    assert [name for name in commands if f"baseload {name}" not in page] == []


def test_every_command_of_the_page_can_be_read() -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    lines = re.findall(r"^baseload [^#|>\n]*", page, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        for command in line.split(";"):
            cli.parser().parse_args(command.split()[1:])


class Terminal(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("notes", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_for_a_terminal_only(notes: type[io.StringIO], shown: bool) -> None:
    where = notes()
    progress = output.Output(is_json=True, notes=where).progress("canceling", 3)
    for _ in range(3):
        progress.advance()
    progress.end()
    said = "\rcanceling: 1 of 3 \rcanceling: 2 of 3 \rcanceling: 3 of 3 \n"
    assert where.getvalue() == (said if shown else "")
