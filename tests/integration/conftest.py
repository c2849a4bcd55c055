"""What the tests of order entry share: a market with an engine, and keys of its accounts."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import valkey as valkey_client

if TYPE_CHECKING:  # loaded by the fixtures: Django may not be set up when this file is read
    from tests.market import Market


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator["Market"]:
    from marketplace import http
    from tests.market import Market

    clock.set("2026-12-01T09:00Z")
    monkeypatch.setattr(http, "WRITES", http.RateLimiter(per_second=100))
    market = Market(valkey)
    market.take_over()
    market.open()
    yield market
    market.close()


@pytest.fixture
def key(market: "Market") -> SimpleNamespace:
    from marketplace import keys
    from tests.door import key_of
    from tests.market import BUYER, SELLER

    text = key_of(BUYER, ["read", "trade"])
    seller = key_of(SELLER, ["trade"])
    reader = key_of(BUYER, ["read"])
    keys.shared_ring().refresh()
    return SimpleNamespace(buyer=text, seller=seller, reader=reader)
