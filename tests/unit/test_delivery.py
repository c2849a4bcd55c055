"""Splitting obligations, assigning lots, and the legs of an interval, by hand and in general."""

from hypothesis import given
from hypothesis import strategies as st

from settlement import delivery
from settlement.delivery import NO_CLUSTER, Assignment, Legs, Share


def test_parts_go_by_largest_remainder_and_ties_to_the_first() -> None:
    assert delivery.largest_remainder(10, [1, 1, 1]) == [4, 3, 3]
    assert delivery.largest_remainder(100, [50, 30, 20]) == [50, 30, 20]
    assert delivery.largest_remainder(7, [5, 3, 2]) == [4, 2, 1]
    assert delivery.largest_remainder(0, [5, 3]) == [0, 0]


def test_an_obligation_is_split_over_clusters_by_certified_lots() -> None:
    shares = delivery.split_obligation(obligation=1, lots=40, certified_lots={8: 75, 7: 25})
    assert shares == [Share(1, 7, 10), Share(1, 8, 30)]


def test_what_no_cluster_stands_behind_fails() -> None:
    shares = delivery.split_obligation(obligation=1, lots=40, certified_lots={7: 10, 8: 20, 9: 0})
    assert shares == [Share(1, 7, 10), Share(1, 8, 20), Share(1, NO_CLUSTER, 10)]
    nothing = delivery.split_obligation(obligation=1, lots=40, certified_lots={})
    assert nothing == [Share(1, NO_CLUSTER, 40)]


def test_larger_holders_choose_first_and_take_the_freest_cluster() -> None:
    shares = [Share(1, 7, 30), Share(2, 8, 50)]
    assert delivery.assign({5: 20, 6: 60}, shares, {}) == [
        Assignment(6, 2, 8, 50),
        Assignment(6, 1, 7, 10),
        Assignment(5, 1, 7, 20),
    ]


def test_a_holder_stays_where_it_was_served() -> None:
    shares = [Share(1, 7, 30), Share(2, 8, 50)]
    assert delivery.assign({5: 40, 6: 40}, shares, {5: [7], 6: [9, 8]}) == [
        Assignment(5, 1, 7, 30),
        Assignment(5, 2, 8, 10),
        Assignment(6, 2, 8, 40),
    ]


def test_failed_lots_are_taken_last() -> None:
    shares = [Share(1, NO_CLUSTER, 70), Share(2, 8, 10)]
    assert delivery.assign({5: 50, 6: 30}, shares, {5: [NO_CLUSTER]}) == [
        Assignment(5, 2, 8, 10),
        Assignment(5, 1, NO_CLUSTER, 40),
        Assignment(6, 1, NO_CLUSTER, 30),
    ]


def legs(available: int, short: int, *, replacement: int = 1_250) -> Legs:
    return delivery.interval_legs(
        price=1_250,
        lots=40,
        available_mntu=available * 1_000,
        short_mntu=short * 1_000,
        replacement_price=replacement,
    )


def test_a_full_interval_is_released_whole() -> None:
    assert legs(200_000, 0) == Legs(250_000, 0, 0)


def test_what_was_not_available_is_refunded_whether_wanted_or_not() -> None:
    assert legs(50_000, 0) == Legs(62_500, 187_500, 0)


def test_missed_demand_is_refunded_and_compensated() -> None:
    """20,000 NTU missed at 1.250: a quarter of 0.025 is 6,250; at 1.500 elsewhere 5,000 more."""
    assert legs(200_000, 20_000) == Legs(225_000, 25_000, 6_250)
    assert legs(200_000, 20_000, replacement=1_500) == Legs(225_000, 25_000, 11_250)


def test_missed_demand_beyond_what_was_available_releases_nothing() -> None:
    assert legs(10_000, 20_000) == Legs(0, 250_000, 6_250)


def test_parts_of_a_token_unit_are_rounded_down() -> None:
    part = delivery.interval_legs(
        price=1, lots=1, available_mntu=1_999_999, short_mntu=999, replacement_price=1
    )
    assert part == Legs(1, 4, 0)


def test_replacement_is_between_the_delivery_price_and_five_times_it() -> None:
    assert delivery.replacement_price(price=100, next_mark=0) == 100
    assert delivery.replacement_price(price=100, next_mark=130) == 130
    assert delivery.replacement_price(price=100, next_mark=900) == 500


def test_usage_costs_ten_percent_more_rounded_up() -> None:
    assert delivery.usage_price(1_250) == 1_375
    assert delivery.usage_price(1) == 2
    assert delivery.usage_charge(price=1_375, mntu=1_000_000_000) == 1_375_000
    assert delivery.usage_charge(price=1_375, mntu=1) == 1
    assert delivery.usage_charge(price=1_375, mntu=0) == 0


@given(
    st.dictionaries(st.integers(1, 30), st.integers(1, 500), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 300)), max_size=8),
    st.data(),
)
def test_every_lot_is_assigned_once(holders, wanted, data) -> None:
    left = sum(holders.values())
    shares: dict[tuple[int, int], int] = {}
    for number, (cluster, lots) in enumerate(wanted):
        if min(lots, left):
            shares[number, cluster] = min(lots, left)
            left -= min(lots, left)
    if left:
        shares[99, 13] = left
    before = data.draw(
        st.dictionaries(st.sampled_from(sorted(holders)), st.lists(st.integers(0, 13), max_size=3))
    )
    assigned = delivery.assign(holders, [Share(o, c, n) for (o, c), n in shares.items()], before)

    assert all(item.lots > 0 for item in assigned)
    for holder, lots in holders.items():
        assert sum(item.lots for item in assigned if item.holder == holder) == lots
    for (obligation, cluster), lots in shares.items():
        own = [i for i in assigned if (i.obligation, i.cluster) == (obligation, cluster)]
        assert sum(item.lots for item in own) == lots


@given(
    st.integers(1, 10**7),
    st.integers(1, 10**5),
    st.integers(0, 1_000),
    st.integers(0, 1_000),
    st.integers(1, 10**7),
)
def test_legs_add_up_to_the_escrow(price, lots, available, short, next_mark) -> None:
    whole = lots * 5_000_000
    result = delivery.interval_legs(
        price=price,
        lots=lots,
        available_mntu=whole * available // 1_000,
        short_mntu=whole * short // 1_000,
        replacement_price=delivery.replacement_price(price=price, next_mark=next_mark),
    )
    assert result.released + result.refunded == 5 * price * lots
    assert min(result) >= 0
