"""How a process logs: one line to standard error, and never a key.

The runner adds the time and the name of the process. An API key, an authorization header or the
password of a URL is blotted out in the finished text, so it does not matter whether it came in a
message, an argument or a traceback.
"""

import logging
import re

_SECRETS = re.compile(
    r"(?P<key>bl_(?:demo|live)_[A-Za-z0-9]+)_[A-Za-z0-9_-]+"
    r"|(?P<scheme>(?:[Bb]earer|[Bb]asic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<url>[a-z][a-z0-9+]*://[^\s:/@]*:)[^\s@/]+(?=@)"
)


def redact(text: str) -> str:
    """Return `text` with the secret part of keys, headers and URLs blotted out."""
    return _SECRETS.sub(_kept, text)


def _kept(found: re.Match[str]) -> str:
    """Return the harmless part of a match: the key's public id, the scheme, the user."""
    if found["key"]:
        return found["key"] + "_..."
    return (found["scheme"] or found["url"]) + "..."


class Formatter(logging.Formatter):
    """Formats a record as level, logger and message, with secrets blotted out."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line."""
        return redact(super().format(record))
