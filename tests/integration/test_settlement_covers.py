"""An hour of which another cluster covered a part: its rows, statements, figures and runs."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import msgspec
import pytest
import valkey as valkey_client
from django.db import DatabaseError, connection, transaction

from admission import cover
from marketplace import audit as whole_audit
from marketplace import clock as market_clock
from marketplace import models as catalog
from marketplace import months
from settlement import (
    deliveries,
    disputes,
    instructions,
    jobs,
    models,
    queries,
    slots,
    statements,
)
from settlement.ledger import Code
from tests import settling
from tests.market import BUYER, GRADE, OTHER, SELLER, Market
from tests.settling import BAD, PER_INTERVAL, PRICE, STARTS_AT, USED, WHOLE

pytestmark = pytest.mark.django_db(transaction=True)

COVERED = 40_000_000
"""mNTU of the interval that its seller could not serve: at 1.500 60,000, of which 10,000 excess."""
LINE = instructions.CoverLine(offer=3, cluster=9, seller=OTHER, price_ticks=1_500, mntu=COVERED)
RELEASED, EXCESS = 50_000, 10_000
DAMAGES = 562
"""1,000 NTU missed at 1.500 elsewhere: 250 more than they would have cost, and a quarter, 312."""
CASH = {number: number * 64 + 1 for number in (BUYER, SELLER, OTHER)}
ESCROW = BUYER * 64 + 2
FINAL_AT = "2026-12-02T02:00:01Z"


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db, clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    for number in CASH:
        catalog.Organization.objects.create(
            id=number, name=str(number), skeleton=str(number), role="BUYER", group=number,
            created_at=datetime(2026, 11, 20, tzinfo=UTC),
        )  # fmt: skip
    with settling.only_settlements_kinds(covers=(LINE,)):
        market = Market(valkey)
        market.take_over()
        clock.set("2026-12-01T12:30Z")
        market.open()
        settling.deliver(market, clock)
        yield market
        market.close()


def transfers(*codes: int) -> list[tuple[int, int, int, int]]:
    rows = models.Transfer.objects.filter(code__in=codes).order_by("sequence")
    return list(rows.values_list("debit_account", "credit_account", "amount", "code"))


def violations() -> list[str]:
    return [str(finding) for finding in whole_audit.run() if finding.violations]


def test_cover_is_paid_as_reported_and_the_audit_finds_all_of_it(market) -> None:
    assert transfers(Code.COVER_RELEASE, Code.COVER_EXCESS, Code.COMPENSATION, Code.REFUND) == [
        (ESCROW, CASH[BUYER], PER_INTERVAL - RELEASED, Code.REFUND),
        (ESCROW, CASH[OTHER], RELEASED, Code.COVER_RELEASE),
        (CASH[SELLER], CASH[OTHER], EXCESS, Code.COVER_EXCESS),
        (CASH[SELLER], CASH[BUYER], DAMAGES, Code.COMPENSATION),
    ]
    (row,) = models.CoverSettlement.objects.all()
    assert (row.allocation_id, row.interval, row.offer, row.cluster) == (1, BAD, 3, 9)
    assert (row.seller, row.price_ticks, row.mntu) == (OTHER, 1_500, COVERED)
    assert (row.released_micros, row.excess_micros, row.excess_due_micros) == (
        RELEASED,
        EXCESS,
        EXCESS,
    )
    assert violations() == []


def test_the_parts_of_cover_fit_into_every_allocation_to_the_last_unit() -> None:
    """Of two odd lines the second of two allocations would hold a unit too many by rounding."""
    half = 5_000_000
    lines = [
        msgspec.structs.replace(LINE, offer=offer, mntu=mntu)
        for offer, mntu in ((1, half + 1), (2, half - 1), (3, half))
    ]
    own = [[line.mntu for line in part] for part in cover.parts(lines, [1, 1])]
    assert own == [[half // 2, half // 2 - 1], [half // 2 + 1, half // 2 - 1]]


@pytest.mark.parametrize("column", ["released_micros", "excess_micros"])
def test_the_audit_sees_cover_that_was_paid_otherwise(market, column: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(f"UPDATE settlement_coversettlement SET {column} = {column} + 1")
        cursor.execute("SET session_replication_role = origin")
    found = violations()
    assert any("have exactly their transfers" in each for each in found)
    assert any("pay out their escrow" in each for each in found) is (column == "released_micros")


def test_a_report_that_is_made_again_adds_no_cover(market, clock) -> None:
    other = msgspec.structs.replace(LINE, offer=4)
    settling.report(slots.of_interval(GRADE, STARTS_AT, BAD), clock.at, covers=(other,))
    assert models.DeliveryCover.objects.get().offer == LINE.offer
    assert models.DeliveryReport.objects.count() == 12


def test_an_engine_that_takes_over_replays_what_cover_was_paid(market, valkey) -> None:
    """Recovery applies the whole journal again, and compares every event with what is stored."""
    before = market.machine.snapshot()
    rows = list(models.CoverSettlement.objects.values())
    market.close()
    successor = Market(valkey)
    successor.take_over()
    try:
        assert successor.machine.snapshot() == before
        assert list(models.CoverSettlement.objects.values()) == rows
    finally:
        successor.close()


@pytest.mark.parametrize("table", ["deliverycover", "coversettlement"])
def test_what_was_covered_is_never_changed(market, table: str) -> None:
    for statement in (f"UPDATE settlement_{table} SET mntu = 1", f"DELETE FROM settlement_{table}"):
        with pytest.raises(DatabaseError, match="never changed"), connection.cursor() as cursor:
            cursor.execute(statement)


def test_statements_with_cover_add_up_for_all_three(market) -> None:
    days = {who: months.statement(who, date(2026, 12, 1)).days for who in CASH}
    seen = {
        who: [
            (
                day.role,
                day.intervals,
                day.released_micros,
                day.refunded_micros,
                day.compensated_micros,
            )
            for day in own
        ]
        for who, own in days.items()
    }
    assert seen == {
        BUYER: [
            ("holder", 12, -11 * PER_INTERVAL - RELEASED, PER_INTERVAL - RELEASED, DAMAGES),
        ],
        SELLER: [("seller", 12, 11 * PER_INTERVAL, 0, -DAMAGES - EXCESS)],
        OTHER: [("seller", 0, RELEASED, 0, EXCESS)],
    }


def test_the_holder_got_what_its_seller_did_not_deliver(market, clock) -> None:
    for party, said in (("SELLER", USED), ("HOLDER", USED + COVERED)):
        models.DeliveryFigure.objects.create(
            allocation_id=1, party=party, mntu=said, at=market_clock.now()
        )
    (held,), (sold,) = (deliveries.deliveries(who) for who in (BUYER, SELLER))
    for party in (held, sold):
        assert (party.covered_mntu, party.covered_micros) == (COVERED, RELEASED)
        paid = party.released_micros + party.covered_micros + party.refunded_micros
        assert paid == 12 * PER_INTERVAL, "the whole escrow went somewhere"
    assert not deliveries.deliveries(OTHER), "who covers is no party"
    assert (held.gateway_mntu, sold.gateway_mntu) == (USED + COVERED, USED)
    clock.set(FINAL_AT)
    settling.settle_all(market)
    assert not models.DeliveryDifference.objects.exists()
    assert transfers(Code.DELIVERY_CORRECTION, Code.DAMAGES_CORRECTION) == []
    assert violations() == []


def test_what_cover_was_paid_shows_in_the_intervals_of_both_parties(market) -> None:
    for who in (BUYER, SELLER):
        covered = {row.interval: row.covered_micros for row in queries.settlements(who)}
        assert covered == {number: RELEASED if number == BAD else 0 for number in range(1, 13)}
        day = statements.statement(
            who,
            since=datetime(2026, 12, 1, tzinfo=UTC),
            until=datetime(2026, 12, 2, tzinfo=UTC),
        )
        assert [one.covered_micros for one in day.intervals if one.covered_micros] == [RELEASED]


def test_one_operator_decides_on_no_more_than_a_hundred_dollars_with_what_cover_was_paid(
    market, clock, monkeypatch
) -> None:
    """That there was half more moves half of the refund and all damages; cover was paid beside."""
    moved = PER_INTERVAL // 2 + DAMAGES + RELEASED + EXCESS
    monkeypatch.setattr(disputes, "DECIDED_ALONE_MICROS_MAX", moved - 1)

    def decide(operator: int) -> models.Dispute:
        with transaction.atomic():
            return disputes.uphold(
                dispute_id=dispute.pk, operator_id=operator, available_mntu=WHOLE // 2,
                short_mntu=0, reason="It served half", at=clock.at,
            )  # fmt: skip

    dispute = disputes.open_dispute(
        organization_id=SELLER, allocation_id=1, intervals=[BAD], reason="We had half", at=clock.at
    )
    proposed = decide(901)
    assert (proposed.state, proposed.moves_micros) == ("PROPOSED", moved)
    assert decide(902).state == "UPHELD"


def test_a_seller_that_claims_what_cover_delivered_differs(market, clock) -> None:
    models.DeliveryFigure.objects.create(
        allocation_id=1, party="SELLER", mntu=USED + COVERED, at=market_clock.now()
    )
    clock.set(FINAL_AT)
    settling.settle_all(market)
    assert models.DeliveryDifference.objects.count() == 1


def test_a_run_that_knows_better_leaves_cover_as_it_was_paid(market, clock) -> None:
    """Half was there after all: the holder has that part of its refund, and all damages, back."""
    models.DeliveryRevision.objects.create(
        allocation_id=1, interval=BAD, source="REVIEW", available_mntu=WHOLE // 2, short_mntu=0,
        delivered_mntu=COVERED, at=market_clock.now(),
    )  # fmt: skip
    clock.set(FINAL_AT)
    settling.settle_all(market)
    assert transfers(Code.DELIVERY_CORRECTION, Code.DAMAGES_CORRECTION) == [
        (CASH[BUYER], CASH[SELLER], PER_INTERVAL // 2, Code.DELIVERY_CORRECTION),
        (CASH[BUYER], CASH[SELLER], DAMAGES, Code.DAMAGES_CORRECTION),
    ]
    assert violations() == []


def test_a_corrected_index_takes_more_of_the_cover_from_the_escrow(market, clock) -> None:
    """At 2.500 the escrow pays all 60,000 of it: 440,000 are refunded where 200,000 were."""
    market.instruct(
        "override",
        instructions.OverrideIndex(
            grade=GRADE, hour_starts_at=STARTS_AT, version=2, price_ticks=2 * PRICE,
            reason="A wrong mark.", proposed_by=1, confirmed_by=2,
        ),
    )  # fmt: skip
    clock.set(FINAL_AT)
    settling.settle_all(market)
    assert transfers(Code.DELIVERY_CORRECTION, Code.DAMAGES_CORRECTION) == [
        (CASH[SELLER], CASH[BUYER], 240_000, Code.DELIVERY_CORRECTION),
        (CASH[SELLER], CASH[BUYER], 625 - DAMAGES, Code.DAMAGES_CORRECTION),
    ]
    assert violations() == []
