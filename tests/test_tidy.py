"""Rules about the source itself, and for each a sample that it must still refuse.

A rule is a function from one file to the complaints about it. What the import contracts of
`pyproject.toml` can say stands there; here is the rest, and that every module is in a contract.
"""

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("admission", "config", "exchange", "marketplace", "settlement")
APPS = ("admission", "exchange", "marketplace", "settlement")
CLOCK = "marketplace/clock.py"
CORE_CONTRACT = "The core knows no Django, no server and no clock"
ACROSS_CONTRACT = "Across the apps"

FILE_LINES_MAX = 600
LINE_LENGTH_MAX = 100
FUNCTION_LINES_MAX = 70
SLEEP_S_MAX = 0.5

CORE_LIBRARIES = frozenset({"msgspec", "sortedcontainers"})
CORE_STANDARD = frozenset(
    """__future__ abc array base64 bisect collections copy dataclasses datetime decimal enum
    fractions functools hashlib heapq hmac itertools json math operator re string struct types
    typing zlib""".split()
)
CORE_FORBIDDEN_CALLS = frozenset({"open", "print", "input", "float", "id", "hash", "vars"})
PHYSICS = frozenset(
    f"admission.{name}" for name in ("calibration", "cluster", "fairness", "replica")
)
"""Core modules that model a machine, or rank by a ratio: floats are theirs to use."""
CLOCK_READS = frozenset(
    """datetime.now datetime.utcnow datetime.today date.today time.time time.time_ns
    timezone.now""".split()
)
MEASUREMENTS = "admission"
"""The one app whose tables hold ratios as floats; amounts are integers everywhere."""

WORDS = {
    # Spelled in two parts, so that this file may be read by its own rule.
    "cust" + "omer": "organization",
    "ten" + "ant": "organization",
    "TO" + "DO": "an issue",
    "FIX" + "ME": "an issue",
}
PHRASES = ("/wo" + "rk/", "base" + "load/BRIEF", "sit" + "ting")
TEXT_SUFFIXES = frozenset({".py", ".md", ".html", ".css", ".js", ".toml", ".in", ".yaml", ".svg"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of the repository: its path from the root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py")

    @property
    def is_migration(self) -> bool:
        return "/migrations/" in self.path

    @property
    def is_ours(self) -> bool:
        """Whether it is part of the product, not of its tests or measurements."""
        return self.path.split("/")[0] in PACKAGES

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


Rule = Callable[[Source], Iterator[str]]


# What the rules look at


def contracts() -> dict[str, dict[str, Any]]:
    """Return the import contracts by name."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {one["name"]: one for one in configuration["tool"]["importlinter"]["contracts"]}


def names_in_layers(contract: dict[str, Any]) -> set[str]:
    """Return every module that a contract of layers names."""
    return {
        name
        for layer in contract["layers"]
        for name in re.findall(r"[\w.]+", layer)
    }  # fmt: skip


CONTRACTS = contracts()
CORE = frozenset(CONTRACTS[CORE_CONTRACT]["source_modules"])
ACROSS = names_in_layers(CONTRACTS[ACROSS_CONTRACT])


def is_core(source: Source) -> bool:
    return source.is_python and any(
        source.module == name or source.module.startswith(name + ".") for name in CORE
    )


def every_source() -> list[Source]:
    """Return the repository's text files, whether or not they were committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        Source(path=path, text=(ROOT / path).read_text())
        for path in sorted(set(listed.stdout.splitlines()))
        if Path(path).suffix in TEXT_SUFFIXES and "/vendor/" not in path and (ROOT / path).is_file()
    ]


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Return the line and the full name of everything that a module imports."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """Return `a.b` of an attribute or a name; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


# The rules


def core_imports_only_the_core(source: Source) -> Iterator[str]:
    if not is_core(source):
        return
    allowed = CORE_STANDARD | CORE_LIBRARIES
    for line, name in imported(source):
        first = name.split(".")[0]
        own = any(name == one or name.startswith(one + ".") for one in CORE)
        parent = any(one.startswith(name + ".") for one in CORE)
        if first not in allowed and not own and not parent:
            yield f"{line}: the core imports {name}"


def core_has_no_io_and_no_floats(source: Source) -> Iterator[str]:
    if not is_core(source):
        return
    physics = any(source.module.startswith(name) for name in PHYSICS)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in CORE_FORBIDDEN_CALLS:
            if not (physics and dotted(node.func) == "float"):
                yield f"{node.lineno}: the core calls {dotted(node.func)}()"
        elif physics:
            continue
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"{node.lineno}: the core has the float {node.value}"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield f"{node.lineno}: the core divides with /"
        elif isinstance(node, ast.Name) and node.id == "float":
            yield f"{node.lineno}: the core names float"


def core_iterates_in_a_stated_order(source: Source) -> Iterator[str]:
    if not is_core(source):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.For | ast.comprehension):
            built = isinstance(node.iter, ast.Set | ast.SetComp)
            called = isinstance(node.iter, ast.Call) and dotted(node.iter.func) in (
                "set",
                "frozenset",
            )
            if built or called:
                yield f"{node.iter.lineno}: the core iterates over a set"


def only_the_clock_reads_a_clock(source: Source) -> Iterator[str]:
    if not source.is_python or not source.is_ours or source.path == CLOCK:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            name = ".".join(dotted(node).split(".")[-2:])
            if name in CLOCK_READS:
                yield f"{node.lineno}: {name} is read outside {CLOCK}"
    for line, name in imported(source):
        if name in ("time.time", "time.time_ns", "django.utils.timezone.now"):
            yield f"{line}: {name} is imported outside {CLOCK}"


def files_lines_and_functions_are_short(source: Source) -> Iterator[str]:
    if not source.is_python or source.is_migration:
        return
    lines = source.text.splitlines()
    if len(lines) > FILE_LINES_MAX:
        yield f"{len(lines)} lines: look for the second idea inside"
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_LENGTH_MAX:
            yield f"{number}: {len(line)} columns"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {node.name} has {length} lines"


def modules_say_what_they_are(source: Source) -> Iterator[str]:
    if source.is_python and not source.is_migration and source.text.strip():
        if not ast.get_docstring(source.tree):
            yield "no module docstring"
        if Path(source.path).stem == "ut" + "ils":
            yield "find the noun"


def words_are_the_glossarys(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        for word, better in WORDS.items():
            if re.search(rf"\b{word}s?\b", line, re.IGNORECASE if word.islower() else 0):
                yield f"{number}: say {better}, not {word}"
        for phrase in PHRASES:
            if phrase.lower() in line.lower():
                yield f"{number}: {phrase} is not about the product"


def models_keep_no_floats_orders_or_side_effects(source: Source) -> Iterator[str]:
    if not source.is_python or not source.is_ours:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and (
            node.attr == "DecimalField"
            or (node.attr == "FloatField" and not source.path.startswith(MEASUREMENTS + "/"))
        ):
            yield f"{node.lineno}: {node.attr}: money, lots and tokens are integers"
        if isinstance(node, ast.ClassDef) and node.name == "Meta" and not source.is_migration:
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                if any(dotted(target) == "ordering" for target in targets):
                    yield f"{statement.lineno}: order where it is read, not in Meta"
        if isinstance(node, ast.FunctionDef) and node.name == "save" and "models" in source.path:
            yield f"{node.lineno}: a model overrides save()"
    for line, name in imported(source):
        if name.startswith(("django.db.models.signals", "django.dispatch")):
            yield f"{line}: signals are called nowhere"


def suites_have_functions_that_do_not_wait(source: Source) -> Iterator[str]:
    if not source.is_python or not source.path.startswith("tests/"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield f"{node.lineno}: {node.name}: a test is a function"
        if isinstance(node, ast.Call) and dotted(node.func) in ("time.sleep", "asyncio.sleep"):
            pause = node.args[0] if node.args else None
            if (
                isinstance(pause, ast.Constant)
                and isinstance(pause.value, int | float)
                and pause.value > SLEEP_S_MAX
            ):
                yield f"{node.lineno}: a test sleeps {pause.value} s; time is a parameter"


def marketplace_is_catalog_or_front(source: Source) -> Iterator[str]:
    parts = source.module.split(".")
    if source.is_python and parts[0] == "marketplace" and len(parts) > 1:
        name = ".".join(parts[:2])
        if parts[1] != "migrations" and name not in ACROSS:
            yield f"{name} is in no layer of the contract {ACROSS_CONTRACT!r}"


RULES: tuple[Rule, ...] = (
    core_imports_only_the_core,
    core_has_no_io_and_no_floats,
    core_iterates_in_a_stated_order,
    only_the_clock_reads_a_clock,
    files_lines_and_functions_are_short,
    modules_say_what_they_are,
    words_are_the_glossarys,
    models_keep_no_floats_orders_or_side_effects,
    suites_have_functions_that_do_not_wait,
    marketplace_is_catalog_or_front,
)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return every_source()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule, sources: list[Source]) -> None:
    complaints = [f"{one.path}:{complaint}" for one in sources for complaint in rule(one)]
    assert not complaints, "\n".join(complaints)


def test_every_app_lists_every_module_of_its_own() -> None:
    for app in APPS:
        contract = CONTRACTS[f"Inside {app}"]
        assert contract["containers"] == [app]
        assert contract["exhaustive"] is True
        assert contract["exhaustive_ignores"] == ["migrations"]


def test_every_core_module_is_there() -> None:
    for name in CORE:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or path.is_dir(), name


DOCUMENTED = '"""A module."""\n'
BAD: tuple[tuple[Rule, str, str], ...] = (
    (core_imports_only_the_core, "marketplace/contract.py", "import random\n"),
    (core_imports_only_the_core, "marketplace/contract.py", "from django.db import models\n"),
    (core_imports_only_the_core, "marketplace/contract.py", "from marketplace import clock\n"),
    (core_has_no_io_and_no_floats, "marketplace/contract.py", "x = open('y')\n"),
    (core_has_no_io_and_no_floats, "marketplace/contract.py", "x = 0.1\n"),
    (core_has_no_io_and_no_floats, "marketplace/contract.py", "x = 1 / 3\n"),
    (core_has_no_io_and_no_floats, "marketplace/contract.py", "def f(x: float) -> None: ...\n"),
    (core_iterates_in_a_stated_order, "marketplace/contract.py", "x = [y for y in {1, 2}]\n"),
    (core_iterates_in_a_stated_order, "marketplace/contract.py", "for y in set(z): pass\n"),
    (only_the_clock_reads_a_clock, "settlement/jobs.py", "x = datetime.now(UTC)\n"),
    (only_the_clock_reads_a_clock, "settlement/jobs.py", "x = time.time()\n"),
    (only_the_clock_reads_a_clock, "settlement/jobs.py", "x = timezone.now()\n"),
    (only_the_clock_reads_a_clock, "settlement/jobs.py", "from time import time\n"),
    (files_lines_and_functions_are_short, "settlement/jobs.py", "\n" * 601),
    (files_lines_and_functions_are_short, "settlement/jobs.py", f"x = {'1' * 97}\n"),
    (files_lines_and_functions_are_short, "settlement/jobs.py", "def f():\n" + "    x = 1\n" * 70),
    (modules_say_what_they_are, "settlement/jobs.py", "x = 1\n"),
    (modules_say_what_they_are, "settlement/ut" + "ils.py", DOCUMENTED),
    (words_are_the_glossarys, "docs/errors.md", "Each cust" + "omer has a key.\n"),
    (words_are_the_glossarys, "docs/errors.md", "The Ten" + "ants pay.\n"),
    (words_are_the_glossarys, "settlement/jobs.py", "# TO" + "DO: later\n"),
    (words_are_the_glossarys, "README.md", "See /wo" + "rk/shared.\n"),
    (
        models_keep_no_floats_orders_or_side_effects,
        "settlement/models.py",
        "x = models.DecimalField()\n",
    ),
    (
        models_keep_no_floats_orders_or_side_effects,
        "settlement/models.py",
        "class Meta:\n    ordering = ['id']\n",
    ),
    (
        models_keep_no_floats_orders_or_side_effects,
        "settlement/models.py",
        "def save(self) -> None: ...\n",
    ),
    (
        models_keep_no_floats_orders_or_side_effects,
        "settlement/apps.py",
        "from django.db.models.signals import post_save\n",
    ),
    (suites_have_functions_that_do_not_wait, "tests/unit/test_x.py", "class TestX: ...\n"),
    (suites_have_functions_that_do_not_wait, "tests/unit/test_x.py", "time.sleep(2)\n"),
    (marketplace_is_catalog_or_front, "marketplace/mystery.py", DOCUMENTED),
)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    BAD,
    ids=[f"{rule.__name__}-{n}" for n, (rule, _, _) in enumerate(BAD)],
)
def test_the_rule_still_bites(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path=path, text=text)))


def test_every_rule_has_a_sample_that_it_refuses() -> None:
    assert {rule for rule, _, _ in BAD} == set(RULES)


def test_no_two_modules_of_tests_have_one_name() -> None:
    """One of two would be left out by whoever collects both."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
