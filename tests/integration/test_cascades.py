"""What a cascade leaves in the tables, and that the audit follows lots and money through it."""

import pytest
from django.db import connection, transaction

from exchange import models as orders
from marketplace import audit
from marketplace.models import Instrument
from settlement import models, queries
from tests.market import BUYER, OTHER, SELLER, Market, buy, sell

WEEK = "LLAMA70B.W.26W50"
TOMORROW = "LLAMA70B.D.20261202"
DAY_OF_WEEK = "LLAMA70B.D.20261208"


@pytest.fixture
def cascaded(market: Market, clock) -> Market:
    """A day and a week that were traded and have cascaded, with days and hours traded beside."""
    trades = (
        (WEEK, 1_260, 40, BUYER),
        (DAY_OF_WEEK, 1_240, 10, OTHER),
        (TOMORROW, 1_270, 5, BUYER),
        (WEEK, 1_290, 20, OTHER),
    )
    for number, (symbol, price, lots, buyer) in enumerate(trades):
        market.execute(sell(SELLER, price, lots, f"s{number}", instrument=symbol))
        market.execute(buy(buyer, price, lots, f"b{number}", instrument=symbol))
    for at in ("2026-12-01T12:00:00Z", "2026-12-02T18:30:00Z", "2026-12-05T11:30:00Z"):
        clock.set(at)
        market.work()
    market.execute(sell(BUYER, 1_300, 15, "s9", instrument=DAY_OF_WEEK))
    market.execute(buy(OTHER, 1_300, 15, "b9", instrument=DAY_OF_WEEK))
    return market


def found() -> dict[str, int]:
    return {finding.name: finding.violations for finding in audit.run() if finding.violations}


def test_a_cascade_is_stored_as_positions_of_its_parts(cascaded: Market, clock) -> None:
    assert Instrument.objects.get(symbol=WEEK).state == "SETTLED"
    assert not models.Position.objects.filter(symbol=WEEK).exclude(net_lots=0, cost_ticks=0)
    held = {row.symbol: row.net_lots for row in queries.positions(SELLER)}
    days = {f"LLAMA70B.D.202612{day:02}": -60 for day in range(7, 14)}
    assert held == days | {DAY_OF_WEEK: -70}
    entitled = models.Entitlement.objects.filter(starts_at__date="2026-12-02")
    assert [(row.organization_id, row.lots) for row in entitled] == [(BUYER, 5)] * 24
    assert orders.Trade.objects.filter(symbol__contains=".H.").count() == 0
    clock.advance(seconds=3_600)
    cascaded.work()
    assert found() == {}


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        (
            "positions and what they became are the sums of trades",
            f"UPDATE settlement_position SET net_lots = 0 WHERE symbol = '{DAY_OF_WEEK}'",
        ),
        (
            "positions and what they became are the sums of trades",
            f"UPDATE settlement_mark SET price_ticks = 9 WHERE symbol = '{WEEK}'",
        ),
        (
            "marks paid their variation",
            "UPDATE settlement_position SET received_ticks = received_ticks + 1"
            f" WHERE symbol = '{DAY_OF_WEEK}'",
        ),
        (
            "marks paid their variation",
            "DELETE FROM settlement_transfer WHERE code = 4",
        ),
    ],
)
def test_what_is_lost_on_the_way_through_a_cascade_is_found(
    cascaded: Market, clock, name: str, statement: str
) -> None:
    clock.advance(seconds=3_600)
    cascaded.work()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(statement)
            assert cursor.rowcount > 0
        assert name in found()
        transaction.set_rollback(True)
