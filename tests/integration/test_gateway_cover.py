"""A cluster fails, and another seller's standing offer serves its holder (RULEBOOK 6.6).

Through the real gateway with the official client, on two modelled clusters.
"""

from collections.abc import Iterator

import openai
import pytest
import valkey as valkey_client

from admission import cover, demand, models, operations, queries, reporting
from marketplace import clock as market_clock
from marketplace import contract, keys
from marketplace import models as catalog
from tests.delivery import Stage, make_cluster, stage
from tests.market import BUYER, CLUSTER, GRADE, OTHER, Market

pytestmark = pytest.mark.django_db(transaction=True)

HELPER = CLUSTER + 50
"""A cluster of somebody who sells nothing else."""


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


def ask(client: openai.OpenAI):
    return client.chat.completions.with_raw_response.create(
        model=GRADE, messages=[{"role": "user", "content": "Say it."}], max_tokens=8
    )


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
