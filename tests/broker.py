"""A broker of the test's own choosing: away, silent, or one that can be stopped and flushed."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from settlement import jobs


@contextmanager
def at(url: str) -> Iterator[None]:
    """Send doorbells to another address for a while.

    Celery reads the address from the environment before anything else.
    """
    with mock.patch.dict(os.environ, {"CELERY_BROKER_URL": url}):
        jobs._bell.cache_clear()
        try:
            yield
        finally:
            jobs._bell.cache_clear()


@contextmanager
def silent() -> Iterator[str]:
    """A server that accepts connections and never says a word; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
