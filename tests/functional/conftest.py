"""What the tests of the API share: an exchange, and callers of it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import valkey as valkey_client

if TYPE_CHECKING:  # this file is read before Django is set up
    from tests.rest import Api, World
    from tests.stream import Caller, Loop


@pytest.fixture(scope="session")
def _ring(django_db_setup: None) -> Iterator[None]:
    """Stop the ring before its database is dropped."""
    from marketplace import keys

    yield
    keys.close_shared_ring()


@pytest.fixture
def world(
    _ring: None, valkey: valkey_client.Valkey, transactional_db: None, clock, settings
) -> Iterator["World"]:
    """An exchange at 09:00 UTC on December 1, 2026, with one grade; nobody has an account yet."""
    from marketplace import http, keys, models
    from settlement import instructions
    from tests.market import GRADE, Market, define_grade
    from tests.rest import World

    settings.CLUSTER_ORIGIN = settings.GATEWAY_ORIGIN = "http://127.0.0.1:9"  # nobody is there
    for limiter in (http.READS, http.WRITES):
        limiter._full_at.clear()
    market = Market(valkey)
    market.take_over()
    define_grade()
    models.Grade.objects.update(is_listed=True)
    market.instruct("grade", instructions.DefineGrade(grade=GRADE, reference_price_ticks=1_250))
    keys.shared_ring()
    yield World(market=market)
    market.close()


@pytest.fixture
def anyone(world: "World") -> "Api":
    """A caller without a key."""
    from tests.rest import Api

    return Api()


@pytest.fixture
def loop(world: "World") -> Iterator["Loop"]:
    """The loop that serves the WebSocket in this process."""
    from tests.stream import Loop

    made = Loop()
    yield made
    made.close()


@pytest.fixture
def call(loop: "Loop") -> "Callable[..., Caller]":
    """Make a caller of the WebSocket, with headers of its own or as any program."""
    from tests.stream import Caller

    def connect(headers: list[tuple[bytes, bytes]] | None = None) -> Caller:
        return Caller(loop, headers or [(b"host", b"127.0.0.1:8000")])

    return connect
