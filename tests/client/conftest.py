"""A market for the client, served over a real socket."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import valkey as valkey_client

if TYPE_CHECKING:  # this file is read before Django is set up
    from tests.served import Served


@pytest.fixture(scope="session")
def _ring(django_db_setup: None) -> Iterator[None]:
    """Stop the ring before its database is dropped."""
    from marketplace import keys

    yield
    keys.close_shared_ring()


@pytest.fixture
def served(
    _ring: None, valkey: valkey_client.Valkey, transactional_db: None, clock: Any
) -> Iterator["Served"]:
    """The web process's application on a free port, with an engine, at 09:00 UTC."""
    from tests.served import serving

    with serving(valkey) as found:
        yield found
