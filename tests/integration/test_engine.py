"""The engine on PostgreSQL: what a batch writes, what it answers twice, and what it survives."""

from collections.abc import Iterator

import pytest
import valkey as valkey_client

from exchange import events, models, queries
from settlement import ledger
from settlement import models as settlement_models
from tests.market import BUYER, HOUR, OTHER, SELLER, Market, buy, sell

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    market = Market(valkey)
    market.take_over()
    market.open()
    yield market
    market.close()


def test_a_trade_is_written_with_everything_that_follows_from_it(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 100, "s1"))
    ((placed, *rest),) = market.execute(buy(BUYER, 1_260, 40, "b1"))
    assert isinstance(placed, events.OrderPlaced)
    assert [type(event) for event in rest] == [events.Traded, events.OrderClosed]

    trade = models.Trade.objects.get()
    assert (trade.symbol, trade.price_ticks, trade.lots) == (HOUR, 1_250, 40)
    assert (trade.maker, trade.taker, trade.taker_side) == (SELLER, BUYER, 1)
    orders = {row.client_order_id: row for row in models.Order.objects.all()}
    assert (orders["s1"].status, orders["s1"].filled_lots) == ("PARTIALLY_FILLED", 40)
    assert (orders["b1"].status, orders["b1"].filled_lots) == ("FILLED", 40)
    positions = settlement_models.Position.objects.order_by("organization_id")
    assert [(row.organization_id, row.net_lots) for row in positions] == [
        (BUYER, 40),
        (SELLER, -40),
    ]
    fees = settlement_models.Account.objects.get(
        id=ledger.cash_account(ledger.EXCHANGE, ledger.Kind.FEES)
    )
    assert fees.credits == trade.maker_fee_micros + trade.taker_fee_micros > 0
    book = queries.book(symbol=HOUR)
    assert book is not None
    assert (book.bids, book.asks) == ([], [("1.250", 60)])
