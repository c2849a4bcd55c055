"""A second look at a day: what came late is known better, and nothing else changes."""

import uuid
from collections.abc import Iterator

import pytest
import valkey as valkey_client

from admission import demand, reporting, shortfall
from admission import models as admission_models
from marketplace import clock as market_clock
from marketplace import contract
from marketplace import models as catalog
from marketplace.models import Instrument
from settlement import instructions, jobs, kinds, models, operations, slots
from tests import settling
from tests.market import BUYER, CLUSTER, GRADE, OTHER, Market, buy, sell
from tests.settling import LOTS, PRICE, STARTS_AT, WHOLE

pytestmark = pytest.mark.django_db(transaction=True)

FIRST = demand.Interval(grade=GRADE, hour_starts_at=STARTS_AT, number=1)


@pytest.fixture
def market(
    valkey: valkey_client.Valkey, transactional_db, clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    market = Market(valkey)
    market.take_over()
    clock.set("2026-12-01T12:30Z")
    market.open()
    market.execute(sell(settling.SELLER, PRICE, 100, "s1"))
    market.execute(buy(BUYER, PRICE, LOTS, "b1"))
    clock.set("2026-12-01T14:06Z")
    market.work()
    watch(FIRST)
    reporting.report(FIRST, clock.at)
    yield market
    market.close()


def watch(interval: demand.Interval) -> None:
    """Say that a gateway was there, and that every probe passed."""
    admission_models.Heartbeat.objects.create(
        gateway="g", interval_starts_at=market_clock.to_datetime(interval.starts_at)
    )
    for at in range(interval.starts_at, interval.ends_at, shortfall.PROBE_PERIOD):
        admission_models.Probe.objects.create(
            cluster=CLUSTER, slot_at=market_clock.to_datetime(at), passed=True, reason=""
        )


def use(mntu: int, organization: int = BUYER, served: str = "P2") -> None:
    """Record usage in the first interval that nobody knew of when it was reported on."""
    request = uuid.uuid4()
    at = market_clock.to_datetime(FIRST.starts_at + contract.MICROS_PER_SECOND)
    admission_models.Request.objects.create(
        id=request, organization_id=organization, key="k", grade=GRADE, cluster=CLUSTER,
        class_requested="P2", class_served=served, outcome="ADMITTED", charge_mntu=mntu,
        body_digest=b"", arrived_at=at, gateway="g",
    )  # fmt: skip
    admission_models.UsageEvent.objects.create(
        request_id=request, sequence=1, prompt_tokens=0, cached_tokens=0, output_tokens=0,
        reasoning_tokens=0, mntu=mntu, state="COMPLETED", at=at, xid=1, number=1,
    )  # fmt: skip


def test_a_second_look_at_the_same_rows_sees_the_same(market, clock) -> None:
    assert models.DeliveryReport.objects.get().available_mntu == WHOLE
    assert reporting.review(FIRST, clock.at) == 0
    assert not models.DeliveryRevision.objects.exists()


def test_usage_that_came_late_is_counted_and_once(market, clock) -> None:
    use(5_000)
    assert reporting.review(FIRST, clock.at) == 1
    assert reporting.review(FIRST, clock.at) == 0
    (revision,) = models.DeliveryRevision.objects.all()
    assert (revision.source, revision.delivered_mntu, revision.available_mntu) == (
        "REVIEW",
        5_000,
        WHOLE,
    )
    assert models.DeliveryReport.objects.get().delivered_mntu == 0


def test_a_probe_that_was_wrong_is_not_asked_again_where_a_dispute_has_decided(
    market, clock
) -> None:
    report = models.DeliveryReport.objects.get()
    models.DeliveryRevision.objects.create(
        allocation_id=report.allocation_id, interval=1, source="DISPUTE", available_mntu=0,
        short_mntu=0, delivered_mntu=0, at=market_clock.now(),
    )  # fmt: skip
    use(5_000)
    assert reporting.review(FIRST, clock.at) == 0


def test_what_was_never_reported_is_not_revised(market, clock) -> None:
    report = models.DeliveryReport.objects.get()
    unseen = operations.Delivery(
        allocation=report.allocation_id, interval=2, owed_mntu=0, available_mntu=1, short_mntu=0,
        delivered_mntu=0, probes=0, probes_passed=0,
    )  # fmt: skip
    assert operations.revise_delivery(deliveries=[unseen], at=clock.at) == 0


def test_the_final_run_waits_for_the_second_look(market, clock) -> None:
    kinds.load()
    clock.set("2026-12-02T02:00:01Z")
    from settlement import planning

    market.work()
    Instrument.objects.filter(grade=GRADE, product="HOUR").update(state="SETTLED")
    planning.plan(clock.at)
    slot = slots.of_run(GRADE, contract.day_start(STARTS_AT), "FINAL")
    final = models.Job.objects.get(kind="settle_day")
    assert (final.slot, final.after_kind, final.after_slot) == (slot, "review_day", slot)
    assert models.Job.objects.filter(kind="review_day").count() == 1


def test_pay_as_you_go_says_whose_idle_rate_it_was_served_on(market, clock) -> None:
    """Of 60 certified lots 40 are sold and idle: of 30 lots at P3 ten are served on them."""
    catalog.Organization.objects.create(
        id=settling.SELLER, name="S", skeleton="s", role="PROVIDER", created_at=market_clock.now()
    )
    catalog.Cluster.objects.create(
        id=CLUSTER, organization_id=settling.SELLER, grade_id=GRADE, name="c", accelerator="H100",
        endpoint="http://127.0.0.1:9/v1", state="CERTIFIED", certified_lots=60,
        created_at=market_clock.now(),
    )  # fmt: skip
    lot = contract.MNTU_PER_LOT_INTERVAL
    use(30 * lot, OTHER, "P3")
    reporting.report(FIRST, clock.at)
    row = models.Instruction.objects.get(id__startswith="charge:")
    charge = instructions.decode(bytes(row.body))
    assert (charge.account, charge.mntu, charge.idle) == (
        OTHER,
        30 * lot,
        ((BUYER, 10 * lot),),
    )
