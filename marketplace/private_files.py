"""Files that only their owner may read: secrets, keys and the records of a run."""

import os
from pathlib import Path

MODE = 0o600


def write(path: Path, text: str) -> None:
    """Write a private file, whole or not at all; it ends with a newline."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
    draft.replace(path)
