"""The clusters as a gateway sees them."""

from admission.decisions import ServiceClass
from admission.levels import Window
from admission.pools import Pools
from admission.snapshot import Cluster, Snapshot, cluster_terms
from marketplace import clock as market_clock
from marketplace import contract

HOLDER = 7


def cluster(number: int, grade: str) -> Cluster:
    return Cluster(
        id=number,
        public_id=f"pool-{number}",
        grade=grade,
        seller=1,
        endpoint="http://127.0.0.1:1/v1",
        is_modelled=True,
        is_certified=True,
        terms=cluster_terms(
            accelerator="H100",
            model_shape="LLAMA70B",
            precision="fp8",
            tensor_parallel=4,
            replicas=1,
            certified_lots=100,
            is_modelled=True,
            weights=contract.WeightSchedule(uncached=1_000, cached=100, output=4_000),
        ),
    )


def test_what_remains_of_an_hour_is_counted_over_all_clusters_of_the_grade(clock) -> None:
    at = market_clock.now_micros()
    hour = {ServiceClass.P2: (Window(starts_at=at, ends_at=at + contract.HOUR, lots=9),)}
    pools = Pools()
    pools.take(
        Snapshot(
            at=at,
            clusters={1: cluster(1, "A"), 2: cluster(2, "A"), 3: cluster(3, "B")},
            windows={
                (1, HOLDER): hour,
                (2, HOLDER): hour,
                (3, HOLDER): hour,
                (2, HOLDER + 1): hour,
            },
        )
    )

    assert pools.remaining_mntu(HOLDER, "A", at) == 2 * 9 * contract.MNTU_PER_LOT_HOUR
    assert pools.remaining_mntu(HOLDER + 1, "A", at) == 9 * contract.MNTU_PER_LOT_HOUR
    assert pools.remaining_mntu(HOLDER, "C", at) == 0


def test_a_request_goes_where_its_class_has_something_left(clock) -> None:
    """P0 lots are on the first cluster and many more P2 lots on the second."""
    at = market_clock.now_micros()

    def hours(lots: int) -> tuple[Window, ...]:
        return (Window(starts_at=at, ends_at=at + contract.HOUR, lots=lots),)

    pools = Pools()
    pools.take(
        Snapshot(
            at=at,
            clusters={1: cluster(1, "A"), 2: cluster(2, "A")},
            windows={
                (1, HOLDER): {ServiceClass.P0: hours(2), ServiceClass.P2: hours(1)},
                (2, HOLDER): {ServiceClass.P2: hours(30)},
            },
        )
    )
    clock.advance(seconds=10)
    assert [flow.level_mntu for flow in pools.pools[1].flows(HOLDER)] == [25_000, 33_333]
    asked = {
        each: pools.entitled(HOLDER, "A", service_class=each)
        for each in (ServiceClass.P0, ServiceClass.P1, ServiceClass.P2)
    }
    assert {each: pool.cluster.id for each, pool in asked.items()} == {0: 1, 1: 2, 2: 2}
    assert pools.entitled(HOLDER, "A", without=(1,)).cluster.id == 2
    assert pools.remaining_mntu(HOLDER, "A", at) > 32 * contract.MNTU_PER_LOT_HOUR
