"""A cluster that is down sells nothing, and is certified again when it is back."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
import valkey as valkey_client
from django.db import connection, transaction

from admission import demand, outages, reporting, shortfall
from admission import models as admission_models
from admission import operations as admission_operations
from exchange import events
from exchange.reasons import Reject
from marketplace import audit, contract
from marketplace import clock as market_clock
from marketplace import models as catalog
from settlement import jobs, models, operations, queries
from tests.delivery import make_catalog, make_cluster
from tests.market import BUYER, CLUSTER, GRADE, SELLER, Market, buy, order, sell
from tests.settling import LOTS, PRICE, STARTS_AT, WHOLE

pytestmark = pytest.mark.django_db(transaction=True)

ENDS_AT = STARTS_AT + contract.HOUR
CERTIFIED = 1_000
NEXT = "LLAMA70B.H.20261201T20Z"


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db, clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    market = Market(valkey)
    market.take_over()
    clock.set("2026-12-01T12:30Z")
    market.open()
    make_catalog()
    make_cluster(CLUSTER, lots=CERTIFIED)
    until = market_clock.now() + timedelta(days=365)
    catalog.Cluster.objects.update(certified_until=until)
    market.execute(sell(SELLER, PRICE, 100, "s1"))
    market.execute(buy(BUYER, PRICE, LOTS, "b1"))
    clock.set("2026-12-01T14:06Z")
    market.work()
    yield market
    market.close()


def cluster() -> catalog.Cluster:
    return catalog.Cluster.objects.get(pk=CLUSTER)


def report(number: int, available: int, *, is_suspended: bool = False) -> None:
    operations.report_delivery(
        deliveries=[
            operations.Delivery(
                allocation=row.allocation, interval=number, owed_mntu=WHOLE,
                available_mntu=available, short_mntu=0, delivered_mntu=0, probes=10,
                probes_passed=0, is_suspended=is_suspended,
            )
            for row in queries.entitlements_snapshot(
                starts_at=market_clock.to_datetime(STARTS_AT), grade=GRADE
            )
        ],
        at=ENDS_AT,
    )  # fmt: skip


def rewrite(change: str) -> None:
    """Change reports that the database keeps as they were written."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(f"UPDATE settlement_deliveryreport SET {change}")


def go_down(market: Market, clock) -> admission_models.Outage:
    """Have nothing available for the whole hour, and everybody know of it."""
    for number in range(1, 13):
        report(number, 0)
    clock.set("2026-12-01T15:01Z")
    assert find() == 1
    market.work()
    return admission_models.Outage.objects.get()


def find(until: int = ENDS_AT) -> int:
    with transaction.atomic():
        return outages.find(grade=GRADE, interval_ends_at=until)


def end(at: int) -> int:
    with transaction.atomic():
        return outages.end(at)


def certify(certification: int) -> str:
    with transaction.atomic():
        return admission_operations.certify(
            cluster=cluster(), certification_id=certification, lots=7
        )


def probe(n: int, *, first: int = 0, passed: bool = True) -> None:
    for k in range(first, first + n):
        admission_models.Probe.objects.create(
            cluster=CLUSTER,
            slot_at=market_clock.to_datetime(ENDS_AT + k * shortfall.PROBE_PERIOD),
            passed=passed,
        )


def test_twelve_intervals_of_nothing_suspend_the_certificate_once(market: Market, clock) -> None:
    before = cluster()
    assert (before.state, before.certified_lots > 0) == ("CERTIFIED", True)
    outage = go_down(market, clock)
    after = cluster()
    assert (after.state, after.certified_lots) == ("DOWN", 0)
    assert (outage.lots, outage.valid_until) == (before.certified_lots, before.certified_until)
    assert models.Instruction.objects.get(id=f"down:{outage.pk}").state == "APPLIED"
    assert find() == 0
    assert admission_models.Outage.objects.count() == 1
    assert not audit._down(None).violations
    catalog.Cluster.objects.update(certified_lots=1)
    assert audit._down(None).violations == 1
    with pytest.raises(admission_operations.ClusterDown):
        admission_operations.request_certification(cluster_id=CLUSTER)


def test_what_somebody_had_or_nobody_watched_is_no_outage(market: Market) -> None:
    for number in range(1, 13):
        report(number, int(number == 5))
    assert find() == 0
    rewrite("available_mntu = 0, is_suspended = true WHERE interval = 5")
    assert find() == 0
    rewrite("is_suspended = false")
    assert find(ENDS_AT - contract.INTERVAL) == 0
    assert find() == 1


def test_nothing_new_is_sold_on_a_cluster_that_is_down(market: Market, clock) -> None:
    go_down(market, clock)
    market.execute(order(BUYER, 1, PRICE, 1, "b2", instrument=NEXT))
    (answer,) = market.execute(order(SELLER, -1, PRICE, 1, "s2", instrument=NEXT))
    assert [event.reason for event in answer if isinstance(event, events.OrderRejected)] == [
        Reject.INSUFFICIENT_COVERAGE
    ]


def test_open_hours_of_a_cluster_that_is_down_are_bought_in_and_what_remains_fails(
    market: Market, clock
) -> None:
    market.execute(sell(SELLER, PRICE, 30, "s2", instrument=NEXT))
    market.execute(buy(BUYER, PRICE, 10, "b2", instrument=NEXT))
    go_down(market, clock)
    seller = market.machine.state.accounts[SELLER]
    open_orders = [
        (each.side, each.remaining, each.position.instrument.contract.symbol)
        for each in seller.orders.values()
    ]
    assert open_orders == [(1, 10, NEXT)], "its sales are withdrawn, and the engine bids for it"
    clock.set("2026-12-01T19:56Z")
    market.work()
    (failed,) = models.Allocation.objects.filter(
        starts_at=market_clock.to_datetime(contract.parse_symbol(NEXT).starts_at)
    )
    assert (failed.holder, failed.seller, failed.cluster, failed.lots) == (BUYER, SELLER, 0, 10)

    starts_at = contract.parse_symbol(NEXT).starts_at
    refused(starts_at + contract.SETTLEMENT_LAG, charge_mntu=3_000_000)
    interval = demand.Interval(grade=GRADE, hour_starts_at=starts_at, number=1)
    admission_models.Heartbeat.objects.create(
        gateway="g", interval_starts_at=market_clock.to_datetime(starts_at)
    )
    with transaction.atomic():
        reporting.report(interval, at=starts_at + contract.INTERVAL)
        operations.settle_interval(grade=GRADE, hour_starts_at=starts_at, interval=1)
    said = models.DeliveryReport.objects.get(allocation=failed)
    assert (said.available_mntu, said.short_mntu) == (0, 3_000_000)
    clock.set("2026-12-01T20:06Z")
    market.work()
    paid = models.IntervalSettlement.objects.get(allocation=failed)
    assert (paid.released_micros, paid.refunded_micros) == (0, 5 * failed.price_ticks * 10)
    assert paid.compensated_micros == failed.price_ticks * 1_000 * 3_000 // 4_000_000
    assert find(starts_at + contract.INTERVAL) == 0, "nothing is behind them that could be down"


def refused(at: int, *, charge_mntu: int) -> None:
    """Have a gateway find nothing that could serve the buyer's lots."""
    admission_models.Request.objects.create(
        id=uuid.uuid4(), organization_id=BUYER, key="k", grade=GRADE, cluster=0,
        class_requested="P2", outcome="SHED", reason="NO_CAPACITY", charge_mntu=charge_mntu,
        body_digest=b"b" * 16, arrived_at=market_clock.to_datetime(at), gateway="g",
        is_in_profile=True,
    )  # fmt: skip


def test_twelve_good_probes_certify_it_again(market: Market, clock) -> None:
    outage = go_down(market, clock)
    probe(1, passed=False)
    probe(11, first=1)
    at = ENDS_AT + 20 * shortfall.PROBE_PERIOD
    assert end(at) == 0
    probe(1, first=12)
    assert end(at) == 1
    market.work()
    assert (cluster().state, cluster().certified_lots) == ("CERTIFIED", outage.lots)
    assert models.Instruction.objects.get(id=f"back:{outage.pk}").state == "APPLIED"
    assert end(at) == 0
    # The same report seen late does not take it down again.
    assert find() == 0


def test_a_certificate_that_has_lapsed_meanwhile_does_not_come_back(market: Market, clock) -> None:
    outage = go_down(market, clock)
    lapsed = market_clock.now() - timedelta(seconds=1)
    admission_models.Outage.objects.filter(pk=outage.pk).update(valid_until=lapsed)
    probe(12)
    assert end(ENDS_AT + 20 * shortfall.PROBE_PERIOD) == 1
    market.work()
    assert (cluster().state, cluster().certified_lots) == ("REGISTERED", 0)


def test_a_certification_that_ends_in_an_outage_is_in_force_after_it(market: Market, clock) -> None:
    go_down(market, clock)
    row = admission_models.Certification.objects.create(
        cluster=CLUSTER, state="RUNNING", lots=7, created_at=market_clock.now()
    )
    named = certify(row.pk)
    market.work()
    assert (cluster().state, cluster().certified_lots) == ("DOWN", 0)
    probe(12)
    assert end(ENDS_AT + 20 * shortfall.PROBE_PERIOD) == 1
    market.work()
    assert (cluster().state, cluster().certified_lots) == ("CERTIFIED", 7)
    again = certify(row.pk)
    assert again == named
