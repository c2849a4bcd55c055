"""Who is asked to cover, and whose part of an interval it was (RULEBOOK 6.6)."""

from dataclasses import replace

from admission import cover
from admission.decisions import ServiceClass
from admission.levels import Window
from admission.pools import Pools
from admission.snapshot import Offer, Snapshot
from marketplace import clock as market_clock
from marketplace import contract
from settlement.instructions import CoverLine
from tests.unit.test_pools import HOLDER, cluster

LOT = contract.MNTU_PER_LOT_INTERVAL
PRICES = {2: 1_900, 3: 1_500, 4: 1_500, 5: 1_200}
"""By cluster; an offer has ten times its cluster's number."""


def pools(clock, *, groups: dict[int, int] | None = None, lots: int = 30) -> Pools:
    """Return four clusters that offer cover for the first, each of a group of its own."""
    at = market_clock.now_micros()
    hour = {ServiceClass.P2: (Window(starts_at=at, ends_at=at + contract.HOUR, lots=lots),)}
    found = Pools()
    found.take(
        Snapshot(
            at=at,
            clusters={n: replace(cluster(n, "A"), group=100 + n) for n in range(1, 6)},
            windows={(1, HOLDER): hour} | {(n, -10 * n): hour for n in PRICES},
            covers={
                "A": tuple(
                    Offer(id=10 * n, cluster=n, price_ticks=price)
                    for n, price in sorted(PRICES.items(), key=lambda each: (each[1], each[0]))
                )
            },
            groups=groups or {},
        )
    )
    clock.advance(seconds=10)
    return found


def asked(of: Pools, without: tuple[int, ...] = ()) -> int | None:
    """Return whose cluster covers for the first."""
    found = of.cover("A", holder=HOLDER, failed=of.pools[1], without=without)
    return None if found is None else found[0].cluster.id


def test_the_cheapest_offer_is_asked_then_the_older_of_two_at_one_price(clock) -> None:
    of = pools(clock)
    order = [5, 3, 4, 2, None]
    assert [asked(of, without=tuple(order[:count])) for count in range(5)] == order
    assert of.cover("B", holder=HOLDER, failed=of.pools[1]) is None


def test_neither_the_holders_group_nor_the_failing_sellers_covers(clock) -> None:
    assert asked(pools(clock, groups={HOLDER: 105})) == 3
    of = pools(clock)
    of.pools[1].cluster = replace(of.pools[1].cluster, group=103)
    assert asked(of, without=(5,)) == 4


def test_an_offer_whose_lots_are_used_is_passed_over(clock) -> None:
    of = pools(clock, lots=1)
    used = of.pools[5]
    level = used.flows(-50)[0].level_mntu
    assert asked(of) == 5
    used.scheduler.consume(-50, mntu=level, at=used.now())
    assert used.flows(-50)[0].level_mntu == 0
    assert asked(of) == 3


def test_what_was_covered_is_parted_by_lots_and_never_more_than_they_hold() -> None:
    lines = [CoverLine(1, 3, 7, 1_200, 2 * LOT), CoverLine(2, 4, 8, 1_500, 2 * LOT)]
    assert cover.parts([], [1, 2]) == [(), ()]
    assert cover.parts(lines, [1, 2]) == [
        (CoverLine(1, 3, 7, 1_200, 3_333_333), CoverLine(2, 4, 8, 1_500, 1_666_666)),
        (CoverLine(1, 3, 7, 1_200, 6_666_667), CoverLine(2, 4, 8, 1_500, 3_333_333)),
    ]  # its two lots hold 10,000,000: a last mNTU, which rounding up would add, is not paid


def test_what_a_cover_serves_is_debited_to_the_level_it_stands_in_for(clock) -> None:
    own = pools(clock).pools[1]
    before = own.flows(HOLDER)[0].level_mntu
    own.scheduler.consume(HOLDER, mntu=700, at=own.now())
    assert own.flows(HOLDER)[0].level_mntu == before - 700
    own.scheduler.consume(HOLDER, mntu=-200, at=own.now())
    assert own.flows(HOLDER)[0].level_mntu == before - 500
    own.scheduler.consume(HOLDER + 1, mntu=700, at=own.now())
    assert own.flows(HOLDER)[0].level_mntu == before - 500
