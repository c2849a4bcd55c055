"""Splitting obligations, assigning lots, and the legs of an interval, by hand and in general."""

from hypothesis import given
from hypothesis import strategies as st

from settlement import delivery
from settlement.delivery import NO_CLUSTER, Assignment, Cover, Legs, Room, Share, Slots


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


def test_three_and_six_tenths_of_a_cluster_may_be_slots() -> None:
    assert delivery.room(99, p0_max=99, timed_max=99) == Room(29, 59)
    assert delivery.room(100, p0_max=0, timed_max=50) == Room(0, 50)


def test_p1_fails_first_and_nothing_is_delivered_beyond_the_lots_owed() -> None:
    rooms = [Room(10, 30), Room(20, 30)]
    assert delivery.deliverable(Slots(30, 30), 100, rooms) == Slots(30, 30)
    assert delivery.deliverable(Slots(40, 30), 100, rooms) == Slots(30, 30)
    assert delivery.deliverable(Slots(30, 30), 40, rooms) == Slots(30, 10)
    assert delivery.deliverable(Slots(30, 30), 20, rooms) == Slots(20, 0)
    assert delivery.deliverable(Slots(3, 3), 20, []) == Slots(0, 0)


def test_slots_go_where_they_may_and_lots_with_them() -> None:
    """Of 40 lots 20 would be on the cluster of one replica, but 30 slots are sold."""
    shares = delivery.split_obligation(
        obligation=1,
        lots=40,
        certified_lots={7: 50, 8: 50},
        slots=Slots(10, 20),
        rooms={7: Room(0, 0), 8: Room(15, 30)},
    )
    assert shares == [Share(1, 7, 10), Share(1, 8, 30, 10, 20)]


def test_holders_with_slots_choose_before_larger_ones_without() -> None:
    shares = [Share(1, 7, 30, 5, 5), Share(2, 8, 50)]
    assert delivery.assign({5: 20, 6: 60}, shares, {6: [7]}, {5: Slots(4, 5)}) == [
        Assignment(6, 1, 7, 21),
        Assignment(6, 2, 8, 39),
        Assignment(5, 1, 7, 9, 4, 5),
        Assignment(5, 2, 8, 11),
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


def covered(available: int, *covers: tuple[int, int]) -> Legs:
    return delivery.interval_legs(
        price=1_250,
        lots=40,
        available_mntu=available * 1_000,
        short_mntu=0,
        replacement_price=1_250,
        covers=[Cover(price, mntu * 1_000) for price, mntu in covers],
    )


def test_cover_is_paid_out_of_the_escrow_up_to_the_delivery_price() -> None:
    assert covered(0, (1_500, 40_000)) == Legs(0, 200_000, 0, (50_000,))
    assert covered(0, (1_000, 40_000)) == Legs(0, 210_000, 0, (40_000,))
    assert covered(100_000, (1_500, 40_000)) == Legs(125_000, 75_000, 0, (50_000,))


def test_what_cover_has_delivered_its_seller_is_not_released() -> None:
    assert covered(200_000, (1_500, 40_000)) == Legs(200_000, 0, 0, (50_000,))


def test_cover_is_owed_its_price_beyond_the_delivery_price_up_to_five_times_that() -> None:
    owed = [delivery.cover_excess(Cover(at, 40_000_000), price=1_250) for at in (1_000, 1_500)]
    assert owed == [0, 10_000]
    assert delivery.cover_excess(Cover(9_000, 40_000_000), price=1_250) == 4 * 50_000


def test_replacement_costs_what_cover_has_cost() -> None:
    covers = [Cover(140, 1), Cover(120, 1)]
    assert delivery.replacement_price(price=100, next_mark=130, covers=covers) == 140
    assert delivery.replacement_price(price=20, next_mark=0, covers=covers) == 100


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
    st.lists(st.tuples(st.integers(1, 10**7), st.integers(1, 250)), max_size=4),
)
def test_legs_add_up_to_the_escrow(price, lots, available, short, next_mark, covers) -> None:
    whole = lots * 5_000_000
    helped = [Cover(at, whole * part // 1_000) for at, part in covers]
    result = delivery.interval_legs(
        price=price,
        lots=lots,
        available_mntu=whole * available // 1_000,
        short_mntu=whole * short // 1_000,
        replacement_price=delivery.replacement_price(
            price=price, next_mark=next_mark, covers=helped
        ),
        covers=helped,
    )
    assert result.released + result.refunded + sum(result.covered) == 5 * price * lots
    assert min(result[:3]) >= 0 and len(result.covered) == len(helped)


def slow_assign(holders, shares, before, slots):
    """Place lot by lot, out of a plain list of all lots, each with the class it is kept for."""
    lots = []
    for share in shares:
        kept = [0] * share.p0_lots + [1] * share.p1_lots
        kept += [2] * (share.lots - len(kept))
        lots += [[share.cluster, share.obligation, each] for each in kept]
    placed: dict[tuple[int, int, int], list[int]] = {}
    order = sorted(holders, key=lambda holder: (-holders[holder], holder))
    wants = {}
    for holder in order:
        of = slots.get(holder, Slots())
        p0 = min(of.p0, holders[holder])
        p1 = min(of.p1, holders[holder] - p0)
        wants[holder] = [p0, p1, holders[holder] - p0 - p1]
    for each in range(3):
        for holder in order:
            key = None
            for _ in range(wants[holder][each]):
                able = [lot for lot in lots if lot[2] == each or each == 2]
                count: dict[tuple[int, int], int] = {}
                for lot in able:
                    count[lot[0], lot[1]] = count.get((lot[0], lot[1]), 0) + 1
                if key not in count:
                    liked = [c for c in before.get(holder, ()) if c]
                    best = [k for c in liked for k in sorted(count) if k[0] == c]
                    best += sorted(count, key=lambda k: (k[0] == 0, -count[k], k))
                    key = best[0]
                lots.remove(next(lot for lot in able if (lot[0], lot[1]) == key))
                placed.setdefault((holder, *key), [0, 0, 0])[each] += 1
    return placed


@given(st.data())
def test_slots_and_lots_are_placed_as_by_hand(data) -> None:
    """From what is sold and certified to who is where, against one lot after the other."""
    small = st.integers(0, 12)
    shares: list[Share] = []
    delivered = [0, 0]
    for obligation in range(1, data.draw(st.integers(1, 4)) + 1):
        certified = {
            10 * obligation + number: data.draw(small) for number in range(data.draw(small) % 4)
        }
        rooms = {}
        for cluster, lots in certified.items():
            timed = data.draw(st.integers(0, lots))
            rooms[cluster] = Room(data.draw(st.integers(0, timed)), timed)
        owed = data.draw(st.integers(1, 30))
        behind = min(owed, sum(certified.values()))
        sold = Slots(data.draw(small), data.draw(small))
        slots = delivery.deliverable(sold, behind, rooms.values())
        # By hand: while a cluster has room for one more and a lot is left, it is delivered.
        room = [list(rooms[cluster]) for cluster in sorted(rooms)]
        left, counted = behind, [0, 0]
        for each in range(2):
            for _ in range(sold[each]):
                fit = [r for r in room if r[1] and (each or r[0])]
                if fit and left:
                    fit[0][1] -= 1
                    fit[0][0] -= not each
                    counted[each] += 1
                    left -= 1
        assert slots == tuple(counted)
        own = delivery.split_obligation(
            obligation=obligation, lots=owed, certified_lots=certified, slots=slots, rooms=rooms
        )
        assert sum(share.lots for share in own) == owed
        assert sum(share.p0_lots for share in own) == slots.p0
        assert sum(share.p1_lots for share in own) == slots.p1
        for share in own:
            if share.cluster != NO_CLUSTER:
                assert share.lots <= certified[share.cluster]
            p0, timed = rooms.get(share.cluster, Room(0, 0))
            assert share.p0_lots <= p0
            assert share.p0_lots + share.p1_lots <= min(timed, share.lots)
        shares += own
        delivered = [delivered[0] + slots.p0, delivered[1] + slots.p1]
    total = sum(share.lots for share in shares)
    holders, held = {}, {}
    for holder in range(101, 106):
        lots = total if holder == 105 else data.draw(st.integers(0, total))
        total -= lots
        if lots:
            holders[holder] = lots
        mine = [left if holder == 105 else data.draw(st.integers(0, left)) for left in delivered]
        delivered = [left - part for left, part in zip(delivered, mine, strict=True)]
        held[holder] = Slots(*mine)
    before = {
        holder: data.draw(st.lists(st.sampled_from([0, 10, 11, 20, 21, 30]), max_size=2))
        for holder in holders
    }
    found = delivery.assign(holders, shares, before, held)
    expected = slow_assign(holders, shares, before, held)
    assert {(a.holder, a.cluster, a.obligation): (a.lots, a.p0_lots, a.p1_lots) for a in found} == {
        key: (sum(lots), lots[0], lots[1]) for key, lots in expected.items()
    }


@given(st.dictionaries(st.integers(1, 9), st.integers(1, 20), min_size=1, max_size=5), st.data())
def test_failed_slots_are_borne_once_and_paired_with_who_failed(slots, data) -> None:
    failed_by, left = {}, sum(slots.values())
    for seller in range(20, 24):
        failed_by[seller] = data.draw(st.integers(0, left))
        left -= failed_by[seller]
    borne = delivery.share_failed(sum(failed_by.values()), slots)
    assert sum(borne.values()) == sum(failed_by.values())
    assert all(borne[holder] <= slots[holder] for holder in slots)
    pairs = delivery.pair_failed(failed_by, borne)
    for seller, failed in failed_by.items():
        assert sum(part for s, _, part in pairs if s == seller) == failed
    for holder, part in borne.items():
        assert sum(n for _, h, n in pairs if h == holder) == part
