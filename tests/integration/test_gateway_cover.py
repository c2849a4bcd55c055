"""A cluster fails, and another seller's standing offer serves its holder (RULEBOOK 6.6).

Through the real gateway with the official client, on two modelled clusters.
"""

import time
from collections.abc import Iterator

import openai
import pytest
import valkey as valkey_client

from admission import cover, demand, desk, models, operations, queries, reporting
from marketplace import audit, contract, keys
from marketplace import clock as market_clock
from marketplace import models as catalog
from settlement import jobs, kinds, ledger
from settlement import models as clearing
from settlement.ledger import Code, Kind
from tests.delivery import Stage, make_cluster, stage
from tests.market import BUYER, CLUSTER, GRADE, OTHER, SELLER, Market

pytestmark = pytest.mark.django_db(transaction=True)

HELPER = CLUSTER + 50
"""A cluster of somebody who sells nothing else."""
FAILS_OVER_IN_S = 5


@pytest.fixture
def delivery(
    valkey: valkey_client.Valkey, transactional_db: None, clock, monkeypatch
) -> Iterator[Stage]:
    market = Market(valkey)
    market.take_over()
    try:
        with stage(market, clock, monkeypatch) as made:
            yield made
    finally:
        market.close()
        keys.close_shared_ring()


def offered(delivery: Stage, *, price: int = 1_500, lots: int = 30, owner: int = OTHER) -> int:
    """Have a second cluster stand in at a price; return the offer once gateways know it."""
    row = make_cluster(HELPER, lots=100)
    row.organization_id = owner
    row.save(update_fields=["organization_id"])
    operations._install(row)
    made = cover.offer(cluster=row, price_ticks=price, lots=lots)
    snapshot = queries.snapshot(market_clock.now_micros())
    assert [(one.id, one.price_ticks) for one in snapshot.covers[GRADE]] == [(made.pk, price)]
    assert operations.probe(HELPER) == (True, "")  # the gateway has not heard of it, and looks
    delivery.clock.advance(seconds=3)  # the offer's level fills
    ask(delivery.client())
    return made.pk


def offered_by_many(delivery: Stage, *prices: int) -> list[int]:
    """Have a cluster stand in at each price, and none of them answer; return them in order."""
    numbers = []
    for number, price in enumerate(prices, start=HELPER):
        row = make_cluster(number, lots=100)
        row.organization_id = OTHER
        row.save(update_fields=["organization_id"])
        operations._install(row)
        cover.offer(cluster=row, price_ticks=price, lots=30)
        assert operations.probe(number) == (True, "")
        numbers.append(number)
    delivery.clock.advance(seconds=3)
    ask(delivery.client())
    for number in numbers:
        delivery.cluster("PUT", f"{number}/fault", {"available": 0.0})
    return numbers


def settle(delivery: Stage) -> None:
    """Let the interval's jobs and the engine take turns until it is paid."""
    for _ in range(10):
        delivery.market.work()
        jobs.work(kinds.URGENT)
        jobs.work(kinds.NORMAL)
        if clearing.IntervalSettlement.objects.exists():
            return
    pytest.fail("the interval is not settled")


def ask(client: openai.OpenAI):
    return client.chat.completions.with_raw_response.create(
        model=GRADE, messages=[{"role": "user", "content": "Say it."}], max_tokens=8
    )


def delivery_of_cover() -> int:
    """Return what cover has delivered, in mNTU."""
    covered = models.Request.objects.exclude(cover_offer=0).values("id")
    ends = models.UsageEvent.objects.exclude(state="OPEN").filter(request_id__in=covered)
    return sum(ends.values_list("mntu", flat=True))


def interval() -> demand.Interval:
    now = market_clock.now_micros()
    hour = contract.hour_start(now)
    number = (now - hour) // contract.INTERVAL + 1
    return demand.Interval(grade=GRADE, hour_starts_at=hour, number=number)


def reported() -> tuple[int, int, list[tuple[int, int, int, int]]]:
    """Return (missed, delivered, covers) of what the buyer holds, in the running interval."""
    now = interval()
    allocations = [
        row
        for row in reporting.settlement_queries.entitlements_snapshot(
            starts_at=market_clock.to_datetime(now.hour_starts_at)
        )
        if row.holder == BUYER
    ]
    (one,) = reporting._deliveries(now, allocations, reporting._delivered(now), demand.misses(now))
    covers = [(line.cluster, line.seller, line.price_ticks, line.mntu) for line in one.covers]
    return one.short_mntu, one.delivered_mntu, covers


def test_a_request_that_its_cluster_fails_is_served_by_cover_and_nothing_is_missed(
    delivery: Stage,
) -> None:
    number = offered(delivery)
    delivery.fault(0.0)
    for who in ("buyer", "rejecting"):
        answer = ask(delivery.client(who))
        pool = catalog.Cluster.objects.get(pk=HELPER).public_id
        assert answer.headers["x-baseload-pool"] == str(pool)
        assert answer.headers["x-baseload-class-served"] == "P2"
    used = {str(event.request_id): event.mntu for event in delivery.ends(5) if event.mntu}
    covered = models.Request.objects.filter(cover_offer=number)
    assert {(row.cluster, row.covered_cluster) for row in covered} == {(HELPER, CLUSTER)}
    helped = sum(used[str(row.pk)] for row in covered)
    assert len(used) == 3 and 0 < helped < sum(used.values())
    assert reported() == (0, sum(used.values()), [(HELPER, OTHER, 1_500, helped)])


def test_cover_is_debited_to_the_level_that_its_cluster_left_unserved(delivery: Stage) -> None:
    def remaining() -> int:
        return int(ask(delivery.client()).headers["x-baseload-entitlement-remaining-ntu"])

    offered(delivery)
    first, second = remaining(), remaining()
    assert first > second
    delivery.fault(0.0)
    ask(delivery.client())
    ask(delivery.client())
    delivery.fault(1.0)
    assert second - remaining() == 3 * (first - second)  # one of its own, and two by cover


def test_three_offers_are_asked_the_cheapest_first_and_no_more(delivery: Stage) -> None:
    dear, cheap, middle, dearest = offered_by_many(delivery, 1_500, 1_300, 1_400, 1_600)
    delivery.fault(0.0)
    begun = time.monotonic()
    with pytest.raises(openai.InternalServerError):
        ask(delivery.client("rejecting"))
    assert time.monotonic() - begun < FAILS_OVER_IN_S
    delivery.ends(5)
    asked = models.Request.objects.exclude(cover_offer=0).order_by("id")
    by_offer = dict(asked.values_list("cover_offer", "cluster"))
    offers = dict(models.CoverOffer.objects.values_list("cluster", "id"))
    assert {by_offer[offers[number]] for number in (cheap, middle, dear)} == {cheap, middle, dear}
    assert len(asked) == desk.COVERS_MAX == 3, "the fourth is never asked"
    assert dearest not in by_offer.values()
    # None of them had it, so all of it is missed, and nobody is paid for cover.
    missed, _, covers = reported()
    assert missed > 0 and covers == []


def test_a_covered_request_ends_as_money_in_the_ledger(delivery: Stage, monkeypatch) -> None:
    """From a request at the gateway to who was paid what for it: nothing in between is made up."""
    offered(delivery)
    delivery.fault(0.0)
    begun = time.monotonic()
    assert ask(delivery.client("rejecting")).headers["x-baseload-class-served"] == "P2"
    assert time.monotonic() - begun < FAILS_OVER_IN_S, "another cluster answers within 5 s"
    delivery.ends(3)
    mntu = delivery_of_cover()
    kinds.load()
    monkeypatch.setattr(jobs, "ring", lambda queue: None)
    monkeypatch.setattr(
        kinds, "_registry", {name: kinds._registry[name] for name in ("report_interval",
        "settle_interval", "grant_capacity")},
    )  # fmt: skip
    delivery.clock.set("2026-12-01T14:06:01Z")
    settle(delivery)
    # F is 1.250 and cover costs 1.500: a tick is a micro-USD of 1,000 NTU.
    paid = clearing.CoverSettlement.objects.get()
    released, excess = 1_250 * mntu // 10**6, (1_500 - 1_250) * mntu // 10**6
    assert (paid.cluster, paid.seller, paid.mntu) == (HELPER, OTHER, mntu)
    assert paid.released_micros == released
    assert abs(paid.excess_due_micros - excess) <= 1, "what is rounded goes to who covers"
    moved = clearing.Transfer.objects.filter(code__in=(Code.COVER_RELEASE, Code.COVER_EXCESS))
    cash = {who: ledger.cash_account(who, Kind.CASH) for who in (BUYER, SELLER, OTHER)}
    rows = moved.order_by("sequence").values_list("debit_account", "credit_account", "amount")
    assert list(rows) == [
        (ledger.cash_account(BUYER, Kind.ESCROW), cash[OTHER], released),
        (cash[SELLER], cash[OTHER], paid.excess_micros),
    ]
    assert [str(finding) for finding in audit.run() if finding.violations] == []


def test_nobody_covers_for_its_own_group(delivery: Stage) -> None:
    catalog.Organization.objects.filter(pk__in=(BUYER, OTHER)).update(group=BUYER)
    offered(delivery)
    delivery.fault(0.0)
    with pytest.raises(openai.InternalServerError):
        ask(delivery.client("rejecting"))


def test_an_offer_that_is_withdrawn_covers_no_more(delivery: Stage) -> None:
    number = offered(delivery)
    cover.withdraw(cluster_id=HELPER, offer_id=number)
    assert queries.snapshot(market_clock.now_micros()).covers == {}
    again = cover.withdraw(cluster_id=HELPER, offer_id=number)
    assert again.withdrawn_at == models.CoverOffer.objects.get().withdrawn_at


def test_room_for_cover_is_what_its_own_holders_leave(delivery: Stage) -> None:
    row = catalog.Cluster.objects.get(pk=CLUSTER)
    made = cover.offer(cluster=row, price_ticks=1_300, lots=1_000)
    snapshot = queries.snapshot(market_clock.now_micros())
    (hours,) = snapshot.windows[CLUSTER, -made.pk].values()
    assert hours[0].lots == row.certified_lots - 40
