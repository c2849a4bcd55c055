"""Slots from a trade to a gateway's levels: rows, transfers and the classes of an entitlement."""

from collections.abc import Iterator

import pytest
import valkey as valkey_client

from admission import queries as admission_queries
from admission.decisions import ServiceClass
from marketplace import clock as market_clock
from marketplace import contract
from settlement import audit, instructions, models, queries
from tests.market import BUYER, CLUSTER, GRADE, HOUR, OTHER, SELLER, Market, buy, sell

pytestmark = pytest.mark.django_db(transaction=True)

STARTS_AT = contract.parse_symbol(HOUR).starts_at
P0, P1 = (contract.slot_contract(GRADE, each, STARTS_AT).symbol for each in contract.SLOT_CLASSES)


@pytest.fixture
def market(valkey: valkey_client.Valkey, transactional_db: None, clock) -> Iterator[Market]:
    """A day on which slots are listed at 10:00, with the seller's 1,000 lots."""
    market = Market(valkey)
    market.take_over()
    market.open(lots=100)
    terms = instructions.DefineGrade(
        grade=GRADE, reference_price_ticks=1_250, slot_reference_ticks=(50, 20)
    )
    market.instruct("slots", terms)
    clock.set("2026-12-01T10:00Z")
    market.work()
    yield market
    market.close()


def test_slots_become_the_classes_of_an_entitlement(market: Market, clock) -> None:
    """The buyer has 20 lots, 8 P0 and 5 P1 slots; the other holds 30 P0 slots and 2 lots.

    The seller owes 22 lots and may deliver as many slots: 22 of its 30 P0 and none of its 5 P1.
    """
    market.execute(sell(SELLER, 1_250, 22, "s1"), buy(BUYER, 1_250, 20, "b1"))
    market.execute(buy(OTHER, 1_250, 2, "o1"))
    market.execute(
        sell(SELLER, 50, 30, "s2", instrument=P0), buy(BUYER, 50, 8, "b2", instrument=P0)
    )
    market.execute(buy(OTHER, 50, 22, "o2", instrument=P0))
    market.execute(sell(SELLER, 20, 5, "s3", instrument=P1), buy(BUYER, 20, 5, "b3", instrument=P1))
    clock.set("2026-12-01T13:55:01Z")
    market.work()

    rows = {
        (row.organization_id, row.service_class): (row.lots, row.failed_lots, row.backed_lots)
        for row in models.SlotSettlement.objects.all()
    }
    assert rows == {
        (SELLER, "P0"): (-30, 8, 22),
        (BUYER, "P0"): (8, 2, 6),
        (OTHER, "P0"): (22, 6, 2),
        (SELLER, "P1"): (-5, 5, 0),
        (BUYER, "P1"): (5, 5, 0),
    }
    damages = dict(
        models.SlotSettlement.objects.filter(service_class="P0").values_list(
            "organization_id", "damages_micros"
        )
    )
    assert damages == {SELLER: -8 * 1_250, BUYER: 2 * 1_250, OTHER: 6 * 1_250}
    (entitlement,) = queries.entitlements(BUYER, now=market_clock.now())
    assert (entitlement.p0_lots, entitlement.p1_lots, entitlement.p2_lots) == (6, 0, 14)
    snapshot = admission_queries.snapshot(STARTS_AT)
    windows = snapshot.windows
    assert {
        holder: [(hours.starts_at, hours.lots) for hours in of]
        for holder, of in snapshot.idle_slots[GRADE].items()
    } == {OTHER: [(STARTS_AT, 22 - 6 - 2)]}
    rates = {each: hours[0].lots for each, hours in windows[CLUSTER, BUYER].items()}
    assert rates == {ServiceClass.P0: 6, ServiceClass.P2: 14}
    assert [finding for finding in audit.run() if finding.violations] == []
