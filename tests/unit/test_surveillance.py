"""Who trades to be seen: round trips, concentration and layering, to the lot."""

from hypothesis import given
from hypothesis import strategies as st

from settlement import surveillance
from settlement.surveillance import Layering, Share, Wash, Withdrawn

A, B, C, D = 1, 2, 3, 4
SECOND = 1_000_000


def tape(*rows: tuple[int, int, int, int, int]) -> list[surveillance.Trade]:
    """Trades whose instants are given in seconds."""
    return [(at * SECOND, *rest) for at, *rest in rows]


def test_lots_that_two_groups_pass_back_and_forth_are_left_out_both_ways() -> None:
    found = surveillance.round_trips(
        tape((0, 40, 1_300, A, B), (10, 10, 1_250, C, D), (60, 30, 1_300, B, A))
    )
    assert found.pairs == (Wash(groups=(A, B), lots=70, round_lots=60, volume=80),)
    assert found.excluded == {0: 30, 2: 30}


def test_what_is_genuine_keeps_its_price_to_the_tick() -> None:
    lots, value = surveillance.genuine(
        tape((0, 40, 1_300, A, B), (10, 10, 1_250, C, D), (60, 30, 1_300, B, A))
    )
    assert (lots, value) == (20, 10 * 1_300 + 10 * 1_250)


def test_where_everything_went_round_nothing_is_left() -> None:
    assert surveillance.genuine(tape((0, 5, 1_300, A, B), (1, 5, 1_310, B, A))) == (0, 0)


def test_a_pair_needs_more_than_the_named_share_of_the_volume() -> None:
    round_trip = [(0, 10, 1_250, A, B), (1, 10, 1_250, B, A)]
    at_the_share = tape(*round_trip, (2, 80, 1_250, C, D))
    above_it = tape(*round_trip, (2, 79, 1_250, C, D))
    assert surveillance.round_trips(at_the_share).excluded == {}
    assert surveillance.round_trips(above_it).excluded == {0: 10, 1: 10}


def test_most_of_what_a_pair_trades_has_to_go_round() -> None:
    half = tape((0, 30, 1_250, A, B), (1, 10, 1_250, B, A))
    more = tape((0, 29, 1_250, A, B), (1, 10, 1_250, B, A))
    assert surveillance.round_trips(half).excluded == {}
    assert surveillance.round_trips(more).excluded == {0: 10, 1: 10}


def test_lots_that_come_back_too_late_have_borne_the_markets_risk() -> None:
    limit = surveillance.ROUND_TRIP_MAX // SECOND
    in_time = tape((0, 5, 1_250, A, B), (limit, 5, 1_250, B, A))
    late = tape((0, 5, 1_250, A, B), (limit + 1, 5, 1_250, B, A))
    assert surveillance.round_trips(in_time).excluded == {0: 5, 1: 5}
    assert surveillance.round_trips(late).excluded == {}


def test_a_lot_goes_round_once() -> None:
    found = surveillance.round_trips(
        tape((0, 10, 1_250, A, B), (1, 10, 1_250, B, A), (2, 10, 1_250, B, A))
    )
    assert found.pairs == (Wash(groups=(A, B), lots=30, round_lots=20, volume=30),)
    assert found.excluded == {0: 10, 1: 10}


def test_one_way_trade_between_two_groups_is_nobodys_concern() -> None:
    trades = tape((0, 500, 1_250, A, B), (1, 500, 1_260, A, B))
    assert surveillance.round_trips(trades).pairs == ()
    assert surveillance.genuine(trades) == (1_000, 500 * 1_250 + 500 * 1_260)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 900), st.integers(1, 50), st.integers(1, 9),
            st.permutations([A, B, C]).map(lambda groups: (groups[0], groups[1])),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_no_more_is_left_out_than_went_both_ways_within_the_time(rows) -> None:
    trades = tape(*((at, lots, price, *pair) for at, lots, price, pair in sorted(rows)))
    found = surveillance.round_trips(trades)
    for position, lots in found.excluded.items():
        assert 0 < lots <= trades[position][1]
    for wash in found.pairs:
        low, high = wash.groups
        ways = {(low, high): 0, (high, low): 0}
        for position, lots in found.excluded.items():
            at, _, _, buyer, seller = trades[position]
            if (buyer, seller) in ways:
                ways[buyer, seller] += lots
                assert any(
                    (other[3], other[4]) == (seller, buyer)
                    and abs(other[0] - at) <= surveillance.ROUND_TRIP_MAX
                    for other in trades
                )
        assert ways[low, high] == ways[high, low] == wash.round_lots // 2
    lots, value = surveillance.genuine(trades)
    assert lots == sum(trade[1] for trade in trades) - sum(found.excluded.values())
    assert lots >= 0 and value >= 0


def test_a_group_that_buys_more_than_half_of_the_volume_is_concentrated() -> None:
    trades = tape((0, 60, 1_250, A, B), (1, 40, 1_250, C, B))
    assert surveillance.bought_most(trades) == [Share(group=A, lots=60, of=100)]
    sold_again = [*trades, *tape((2, 30, 1_250, D, A))]
    assert surveillance.bought_most(sold_again) == []


def test_a_large_share_of_few_lots_is_nothing() -> None:
    assert surveillance.bought_most(tape((0, 49, 1_250, A, B))) == []
    assert surveillance.bought_most(tape((0, 50, 1_250, A, B))) == [Share(group=A, lots=50, of=50)]


def test_long_lots_are_measured_against_the_open_interest() -> None:
    assert surveillance.holds_most({A: 51, B: 49, C: -100}) == [Share(group=A, lots=51, of=100)]
    assert surveillance.holds_most({A: 50, B: 50, C: -100}) == []


def test_a_side_filled_and_emptied_while_selling_into_it_is_layered() -> None:
    layers = [Withdrawn(side=1, price=1_240 - level, lots=20) for level in range(10)]
    sold = tape((5, 10, 1_250, C, A))
    assert surveillance.layering(A, layers, sold) == Layering(
        side=1, orders=10, lots=200, traded=10
    )
    assert surveillance.layering(A, layers[1:], sold) is None
    assert surveillance.layering(A, layers, tape((5, 10, 1_250, A, C))) is None
    assert surveillance.layering(C, layers, sold) is None


def test_offers_above_ones_own_purchases_are_layered_too() -> None:
    layers = [Withdrawn(side=-1, price=1_260 + level, lots=20) for level in range(10)]
    bought = tape((5, 10, 1_250, A, C))
    assert surveillance.layering(A, layers, bought) == Layering(
        side=-1, orders=10, lots=200, traded=10
    )


def test_a_maker_that_requotes_both_sides_layers_none() -> None:
    quotes = [
        Withdrawn(side=side, price=1_250 - side * (2 + level), lots=20)
        for side in (1, -1)
        for level in range(10)
    ]
    assert surveillance.layering(A, quotes, tape((5, 10, 1_250, C, A))) is None


def test_orders_at_the_touch_are_meant_to_trade() -> None:
    touch = [Withdrawn(side=1, price=1_249, lots=20)] * 20
    assert surveillance.layering(A, touch, tape((5, 10, 1_250, C, A))) is None
