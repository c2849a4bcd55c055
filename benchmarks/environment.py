"""The peers' own environment: the newest Python here, and what they need, pinned.

The peer of the matching benchmarks needs Python 3.12 or newer, so both sides run on the newest
interpreter that is found: on the search path, or where pyenv and uv keep theirs. The environment
lies beside the project's own (`.venv-bench`), is made once, and again when the interpreter or
`requirements-peer.txt` changes. Only the standard library is imported here, because the modules
of both sides import it.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent
FOLDER = BASE_DIR / ".venv-bench"
REQUIREMENTS = Path(__file__).parent / "requirements-peer.txt"
PEER = "matching-engine"
BOOKS = ("liquibook==2.0.1", "litebook==0.0.1", "orderly-chaos==0.2.0")
"""Books in C++ and Rust that are driven per call; each is measured where it can be installed."""
VERSION_MIN = (3, 12)
_ASK = "import sys, json, ensurepip, venv; print(json.dumps(sys.version_info[:4]))"


class Unavailable(Exception):
    """There is nothing to compare with here; the message says what is missing, by name."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter with the peers installed, and those that could not be."""

    python: Path
    version: str
    missing: dict[str, str]


def prepare() -> Environment:
    """Return the peers' environment, making it when it is not there.

    :raises Unavailable: no interpreter is new enough, or the peer cannot be installed.
    """
    found = newest()
    if found is None:
        wanted = ".".join(map(str, VERSION_MIN))
        raise Unavailable(
            f"{PEER} needs Python {wanted} or newer: none on the search path, in pyenv or in uv"
        )
    interpreter, version = found
    pins = REQUIREMENTS.read_text() + "".join(BOOKS)
    stamp = FOLDER / "made.json"
    mark = hashlib.sha256(f"{interpreter} {version} {pins}".encode()).hexdigest()
    python = FOLDER / "bin" / "python"
    if stamp.exists() and (made := json.loads(stamp.read_text()))["of"] == mark:
        return Environment(python, version, made["missing"])
    say(f"making {FOLDER.name} with Python {version} ({interpreter})")
    _run([str(interpreter), "-m", "venv", "--clear", str(FOLDER)])
    _run([*_pip(python), "--requirement", str(REQUIREMENTS)])
    missing: dict[str, str] = {}
    for book in BOOKS:
        try:
            _run([*_pip(python), "--no-deps", book])
        except Unavailable as error:
            missing[book.partition("==")[0]] = str(error)
    stamp.write_text(json.dumps({"of": mark, "missing": missing}))
    return Environment(python, version, missing)


def newest() -> tuple[Path, str] | None:
    """Return the newest released interpreter that is new enough, and its version."""
    best: tuple[tuple[int, ...], Path] | None = None
    seen: set[Path] = set()
    for path in _candidates():
        real = path.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            asked = subprocess.run(
                [str(path), "-c", _ASK], capture_output=True, text=True, timeout=20, check=True
            )
            *numbers, level = json.loads(asked.stdout)
        except (OSError, subprocess.SubprocessError, ValueError):
            continue
        version = tuple(numbers)
        if level == "final" and version >= VERSION_MIN and (best is None or version > best[0]):
            best = version, path
    return (best[1], ".".join(map(str, best[0]))) if best is not None else None


def _candidates() -> Iterator[Path]:
    """Yield what may be an interpreter."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python")
    yield Path(sys.executable)
    yield from sorted(pyenv.glob("versions/*/bin/python3"))
    yield from sorted(uv.glob("*/bin/python3"))
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and ".venv" not in folder and "shims" not in folder:
            yield from sorted(Path(folder).glob("python3*[0-9]"))
            yield Path(folder) / "python3"


def work(module: str, *arguments: str, python: Path) -> dict[str, Any]:
    """Run `python -m MODULE ARGUMENTS` in the repository; return the object it prints last.

    What it says on its standard error is progress and goes through.

    :raises RuntimeError: when it fails.
    """
    done = subprocess.run(
        [str(python), "-m", module, *arguments],
        cwd=BASE_DIR,
        env={**os.environ, "PYTHONPATH": str(BASE_DIR), "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _run(command: list[str]) -> None:
    """:raises Unavailable: when the command fails; with the last line of what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise Unavailable(f"{' '.join(command[-2:])}: {lines[-1]}")
