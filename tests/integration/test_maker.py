"""The market-maker at work, against a real engine."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import valkey as valkey_client

from exchange import queries
from exchange.models import Order
from marketplace import clock as market_clock
from marketplace import models
from marketplace.maker import Maker
from settlement import instructions
from tests.market import BUYER, CLUSTER, GRADE, HOUR, SELLER, Market, buy

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    market = Market(valkey)
    market.take_over()
    market.open(cash=500_000_000_000)
    models.Organization.objects.create(
        id=SELLER, name="Maker", skeleton="maker", role="PROVIDER", created_at=market_clock.now()
    )
    models.Cluster.objects.create(
        id=CLUSTER,
        organization_id=SELLER,
        grade_id=GRADE,
        name="maker's",
        accelerator="H100",
        endpoint="http://127.0.0.1:9/v1",
        state="CERTIFIED",
        certified_lots=1_000,
        certified_until=market_clock.now() + timedelta(days=365),
        created_at=market_clock.now(),
    )
    yield market
    market.close()


def books() -> list[str]:
    return list(
        models.Instrument.objects.filter(state="CONTINUOUS").values_list("symbol", flat=True)
    )


def test_every_open_book_becomes_two_sided(market: Market) -> None:
    maker = Maker(organization=SELLER)
    with market.running():
        assert maker.look() > 0

    assert len(books()) > 1
    for symbol in books():
        book = queries.book(symbol=symbol)
        assert book is not None
        assert (len(book.bids), len(book.asks)) == (3, 3), symbol


def test_nothing_is_sent_while_nothing_moves(market: Market) -> None:
    maker = Maker(organization=SELLER)
    with market.running():
        maker.look()
        assert maker.look() == 0


def test_what_was_bought_from_it_is_offered_again(market: Market) -> None:
    maker = Maker(organization=SELLER)
    with market.running():
        maker.look()
        asks = queries.book(symbol=HOUR).asks
        best = int(asks[0][0].replace(".", ""))
    market.execute(buy(BUYER, best, 15, "b1"))
    with market.running():
        assert maker.look() > 0
        assert maker.look() == 0

    after = queries.book(symbol=HOUR).asks
    assert [lots for _, lots in after] == [lots for _, lots in asks]
    assert all(after[n][0] > asks[n][0] for n in range(3)), "it leans against what it holds"


def test_books_in_a_call_are_quoted_until_it_freezes_and_again_after_it(
    market: Market, clock
) -> None:
    def in_call() -> set[str]:
        return set(models.Instrument.objects.filter(state="CALL").values_list("symbol", flat=True))

    def quotes(symbols: set[str]) -> set[int]:
        return set(
            Order.objects.filter(symbol__in=symbols, status="OPEN").values_list("id", flat=True)
        )

    maker = Maker(organization=SELLER)
    clock.set("2026-12-01T10:00Z")
    market.work()
    tomorrow = in_call()
    assert len(tomorrow) == 24
    with market.running():
        maker.look()
    early = quotes(tomorrow)
    assert len(early) == 24 * 6

    clock.set("2026-12-01T11:56Z")
    market.work()
    with market.running():
        maker.look()
    assert quotes(tomorrow) == early

    clock.set("2026-12-01T12:00Z")
    market.work()
    assert in_call() == set()
    with market.running():
        maker.look()
    late = quotes(tomorrow)
    assert len(late) == 24 * 6
    assert late != early


def test_slots_are_quoted_by_who_may_sell_them_and_only_once(market: Market, clock) -> None:
    """Half of 1,000 lots on two replicas may be slots; 250 of each class are offered at most."""
    models.Cluster.objects.update(replicas=2)
    terms = instructions.DefineGrade(
        grade=GRADE, reference_price_ticks=1_250, slot_reference_ticks=(50, 20)
    )
    market.instruct("slots", terms)
    clock.set("2026-12-01T10:00Z")
    market.work()
    maker = Maker(organization=SELLER)
    with market.running():
        maker.look()
        assert maker.look() == 0
    quoted = {symbol: queries.book(symbol=symbol) for symbol in books() if ".P" in symbol}
    assert len(quoted) == 2 * 13, "both classes of the hours from 11 to 23"
    assert {(*book.bids, *book.asks) for symbol, book in quoted.items() if ".P0." in symbol} == {
        (("0.0045", 10), ("0.0055", 10))
    }
    assert {(*book.bids, *book.asks) for symbol, book in quoted.items() if ".P1." in symbol} == {
        (("0.0018", 10), ("0.0022", 10))
    }


def test_caps_and_cover_are_quoted_and_cover_by_two_who_may(market: Market, clock) -> None:
    """Caps begin at 5 % of their month's 1.250; whoever has a cluster only writes cover."""
    terms = instructions.DefineGrade(
        grade=GRADE, reference_price_ticks=1_250, premium_percents=(5, 3)
    )
    clock.set("2026-12-02T13:00Z")
    market.instruct("options", terms)
    clock.set("2026-12-03T13:00Z")
    market.work()
    options = [symbol for symbol in books() if symbol.endswith(".S") or ".C" in symbol]
    assert len(options) == 3 * 6
    maker = Maker(organization=SELLER, bidder=BUYER)
    with market.running():
        maker.look()
        assert maker.look() == 0
    for symbol in options:
        book = queries.book(symbol=symbol)
        assert (len(book.bids), len(book.asks)) == (1, 1), symbol
        holder = BUYER if symbol.endswith(".S") else SELLER
        bid = Order.objects.get(symbol=symbol, side=1, status="OPEN")
        assert (bid.organization_id, bid.lots) == (holder, 2)
