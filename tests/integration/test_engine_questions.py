"""Strips, switches and previews through the engine: what is written, and what is only answered."""

from collections.abc import Iterator

import pytest
import valkey as valkey_client

from exchange import commands, envelope, events, models
from exchange.passing import Incoming
from marketplace import contract
from settlement import models as settlement_models
from tests.market import BUYER, GRADE, HOUR, SELLER, Market, buy, sell

NEXT = "LLAMA70B.H.20261201T15Z"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    market = Market(valkey)
    market.take_over()
    market.open()
    yield market
    market.close()


def strip(lots: int, price: int, name: str, fingerprint: bytes = b"f" * 32) -> commands.PlaceStrip:
    """Two hours for the buyer."""
    terms = contract.parse_symbol(HOUR)
    assert terms is not None
    return commands.PlaceStrip(
        account=BUYER,
        grade=GRADE,
        side=1,
        from_at=terms.starts_at,
        to_at=terms.starts_at + 2 * contract.HOUR,
        price=price,
        lots=lots,
        min_share=100,
        client_order_id=name,
        fingerprint=fingerprint,
    )


def test_a_preview_shows_what_its_batch_left_and_is_journaled_nowhere(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 30, "s1"))
    before = market.machine.sequence
    question = commands.PreviewOrder(buy(BUYER, 1_260, 25, "asked"))
    bought = Incoming(buy(BUYER, 1_250, 20, "b1"), "r", 1)

    answers = market.engine.run_batch([Incoming(question, "r", 2), bought])

    (told,) = [answer for answer in answers if answer.incoming.correlation == 2]
    assert told.result == envelope.APPLIED
    (found,) = told.happened
    assert isinstance(found, events.Previewed)
    assert (found.fills, found.status) == (((1_250, 10),), "partially_filled")
    assert market.machine.sequence == before + 1
    assert told.sequence == before + 1
    assert not models.Order.objects.filter(client_order_id="asked").exists()

    batches = models.JournalBatch.objects.count()
    digest = market.machine.digest()
    market.engine.run_batch([Incoming(question, "r", 3)])
    assert models.JournalBatch.objects.count() == batches
    assert market.machine.digest() == digest


def test_a_strip_is_one_row_with_the_trades_of_all_its_hours(market: Market) -> None:
    for symbol in (HOUR, NEXT):
        market.execute(sell(SELLER, 1_250, 40, f"s-{symbol}", instrument=symbol))
    ((placed, *rest),) = market.execute(strip(25, 1_250, "strip"))
    assert isinstance(placed, events.StripPlaced)
    assert [type(event) for event in rest] == [events.Traded, events.Traded, events.OrderClosed]

    row = models.Order.objects.get(client_order_id="strip")
    assert (row.type, row.symbol, row.status) == ("STRIP", f"{GRADE}.R.20261201T14Z+2", "FILLED")
    assert (row.lots, row.filled_lots) == (25, 25)
    trades = models.Trade.objects.order_by("id").values_list("symbol", "lots", "taker_order")
    assert list(trades) == [(HOUR, 25, row.id), (NEXT, 25, row.id)]
    held = settlement_models.Position.objects.filter(organization_id=BUYER).order_by("symbol")
    assert [(row.symbol, row.net_lots) for row in held] == [(HOUR, 25), (NEXT, 25)]


def test_a_strip_s_id_is_remembered_beside_those_of_orders(market: Market) -> None:
    market.execute(sell(SELLER, 1_250, 40, "s1"))
    market.execute(strip(25, 1_250, "one"))
    (again,) = market.engine.run_batch([Incoming(strip(25, 1_250, "one"), "r", 1)])
    assert again.result == envelope.REPLAYED
    assert isinstance(again.happened[0], events.StripPlaced)
    (other,) = market.engine.run_batch([Incoming(strip(5, 1_250, "one", b"g" * 32), "r", 2)])
    assert other.result == envelope.KEY_REUSE
    market.execute(buy(BUYER, 1_200, 1, "two"))
    (taken,) = market.engine.run_batch([Incoming(strip(5, 1_250, "two"), "r", 3)])
    assert taken.result == envelope.KEY_REUSE


def test_a_switch_survives_a_restart_and_fires_at_its_instant(market: Market, clock) -> None:
    market.execute(buy(BUYER, 1_200, 5, "b1"))
    (happened,) = market.execute(commands.CancelAllAfter(BUYER, 10 * 1_000_000))
    assert [type(event) for event in happened] == [events.SwitchSet]
    market.take_over()
    clock.advance(seconds=9)
    market.work()
    assert models.Order.objects.get(client_order_id="b1").status == "OPEN"
    clock.advance(seconds=2)
    market.work()
    row = models.Order.objects.get(client_order_id="b1")
    assert (row.status, row.reason) == ("CANCELED", "cancel_all_after")
