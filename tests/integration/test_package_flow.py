"""Packages from a purchase to a gateway's levels: rows, transfers, and audits that agree."""

from collections.abc import Iterator

import pytest
import valkey as valkey_client

from admission import queries as admission_queries
from admission.decisions import ServiceClass
from marketplace import clock as market_clock
from marketplace.contract import DAY
from settlement import audit, instructions, jobs, models, queries
from tests import settling
from tests.market import BUYER, CLUSTER, GRADE, OTHER, SELLER, Market, buy, sell

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = 3_600_000_000
NEXT_HOUR = f"{GRADE}.H.20261202T14Z"


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    """The seller's 1,000 lots at 10:00, the day before a package begins."""
    market = Market(valkey)
    market.take_over()
    market.open()
    clock.set("2026-12-01T10:00Z")
    market.work()
    yield market
    market.close()


def test_a_package_is_bought_cut_and_delivered_beside_the_market(market: Market, clock) -> None:
    starts_at = market_clock.now_micros() // DAY * DAY + DAY
    market.instruct(
        "buy:1",
        instructions.BuyPackage(
            listing=5,
            seller=SELLER,
            buyer=BUYER,
            grade=GRADE,
            starts_at=starts_at,
            ends_at=starts_at + 2 * DAY,
            lots=(20,),
            p1_lots=(6,),
            price_ticks=1_100,
            list_price_ticks=1_200,
        ),
    )
    market.instruct(
        "resell:1",
        instructions.ResellPackage(
            package=1,
            holder=BUYER,
            buyer=OTHER,
            starts_at=starts_at + 14 * HOUR,
            ends_at=starts_at + 16 * HOUR,
            lots=(5,),
            price_ticks=1_150,
            fee_bp=100,
        ),
    )
    whole, piece = models.Package.objects.order_by("id")
    assert (whole.instruction, whole.listing, whole.parent) == ("buy:1", 5, 0)
    assert whole.escrow_micros == 60 * 1_100 * (20 * 48 - 10)
    assert [stretch[2] for stretch in whole.schedule] == [[20], [15], [20]]
    assert (piece.holder, piece.parent, piece.price_ticks) == (OTHER, 1, 1_100)
    resale = models.PackageResale.objects.get()
    assert (resale.package, resale.amount_micros, resale.fee_micros) == (2, 690_000, 6_900)
    assert [finding for finding in audit.run() if finding.violations] == []

    clock.set("2026-12-01T12:01Z")
    market.work()
    market.execute(
        sell(SELLER, 1_250, 10, "s1", instrument=NEXT_HOUR),
        buy(BUYER, 1_250, 10, "b1", instrument=NEXT_HOUR),
    )
    clock.set("2026-12-02T13:55:01Z")
    market.work()
    given = [
        (row.holder, row.lots, row.price_ticks, row.p1_lots, row.package)
        for row in models.Allocation.objects.filter(
            starts_at=market_clock.to_datetime(starts_at + 14 * HOUR)
        ).order_by("id")
    ]
    assert given == [(BUYER, 10, 1_250, 0, 0), (BUYER, 15, 1_100, 6, 1), (OTHER, 5, 1_100, 0, 2)]
    windows = admission_queries.snapshot(starts_at + 14 * HOUR).windows
    rates = {each: hours[0].lots for each, hours in windows[CLUSTER, BUYER].items()}
    assert rates == {ServiceClass.P1: 6, ServiceClass.P2: 19}
    assert queries.entitlements(OTHER, now=market_clock.now())[0].escrow_micros == 60 * 1_100 * 5
    assert [finding for finding in audit.run() if finding.violations] == []


def test_a_days_run_computes_a_package_at_its_own_price(
    market: Market, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interval of package and market was refunded, each at its price: nothing differs later."""
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    starts_at = market_clock.now_micros() // DAY * DAY + DAY
    market.instruct(
        "buy:1",
        instructions.BuyPackage(
            listing=5,
            seller=SELLER,
            buyer=BUYER,
            grade=GRADE,
            starts_at=starts_at,
            ends_at=starts_at + DAY,
            lots=(0,) * 14 + (20,) + (0,) * 9,
            p1_lots=(),
            price_ticks=1_100,
            list_price_ticks=1_200,
        ),
    )
    clock.set("2026-12-01T12:01Z")
    market.work()
    market.execute(
        sell(SELLER, 1_250, 10, "s1", instrument=NEXT_HOUR),
        buy(BUYER, 1_250, 10, "b1", instrument=NEXT_HOUR),
    )
    with settling.only_settlements_kinds():
        for at in ("2026-12-02T13:56Z", "2026-12-02T15:02Z", "2026-12-03T02:00:01Z"):
            clock.set(at)
            settling.settle_all(market)
    refunded = models.IntervalSettlement.objects.filter(interval=settling.BAD).order_by("id")
    assert [row.refunded_micros for row in refunded] == [5 * 1_250 * 10, 5 * 1_100 * 20]
    run = models.SettlementRun.objects.get()
    assert (run.kind, run.allocations) == ("FINAL", 2)
    assert bytes(run.result_digest) == bytes(run.posted_digest)
    assert not models.SettlementRunLine.objects.exists()
