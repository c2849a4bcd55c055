"""The bell that tells the engine an instruction waits, and nothing more.

The row is the truth: the engine takes pending instructions by state, looks every quarter of a
second even when no bell rings, and ignores what a bell says. So a bell that is lost costs 250 ms,
one too many costs nothing, and a Valkey that is away must not fail the transaction it follows.

The names of keys are here because everybody below and above the engine needs them, and settlement
is the lowest of those.
"""

import logging
import threading

import valkey
from django.conf import settings

logger = logging.getLogger(__name__)

GROUP = "main"
"""The clearing group of a deployment with one engine."""
TIMEOUT_S = 0.25
"""How long a ring may hold up the caller whose transaction has already committed."""
FIELD = b"d"
"""The field of a stream entry that is a bell; order commands have others."""


def engine_key(group: str = GROUP) -> str:
    """Return the key, with a time to live, that holds the live engine's epoch in decimal."""
    return f"engine:{group}"


def stream_key(epoch: int, group: str = GROUP) -> str:
    """Return the command stream of an epoch."""
    return f"orders:{group}:{epoch}"


def ring(group: str = GROUP) -> bool:
    """Wake the engine; return whether a live one was there to hear it."""
    try:
        connection = _connection()
        epoch = connection.get(engine_key(group))
        if not isinstance(epoch, bytes):
            return False
        # Without NOMKSTREAM a bell for an engine that has just left would found a stream
        # that nobody reads.
        return (
            connection.xadd(stream_key(int(epoch), group), {FIELD: b""}, nomkstream=True)
            is not None
        )
    except (valkey.ValkeyError, OSError):
        logger.warning("the engine's bell could not be rung; it will find the row by itself")
        return False


def _connection() -> valkey.Valkey:
    """Return this thread's connection; a forked worker makes its own."""
    connection: valkey.Valkey | None = getattr(_local, "connection", None)
    if connection is None:
        connection = valkey.Valkey.from_url(
            settings.VALKEY_URL, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )
        _local.connection = connection
    return connection


_local = threading.local()
