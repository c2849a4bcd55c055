"""One price for all: how it is chosen, rule by rule, and who is served at it."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exchange import auction

REFERENCE = 100


@pytest.mark.parametrize(
    ("bids", "asks", "reference", "expected"),
    [
        # Maximum volume. At 103 one seller finds 10 lots, at 101 both find 15, at 99 only 5 are
        # offered.
        ([(103, 10), (101, 5)], [(99, 5), (101, 10)], REFERENCE, (101, 15, 0)),
        # Minimum surplus. From 98 to 104 ten lots trade; up to 101 eight buys are left over, above
        # it three.
        ([(104, 13), (101, 5)], [(98, 10)], REFERENCE, (102, 10, 3)),
        # The same on the side of the sells: from 98 on seven are left over, below 98 one.
        ([(104, 10)], [(96, 11), (98, 6)], 103, (97, 10, -1)),
        # Nearest to the reference. Any price from 96 to 108 trades ten lots and leaves nothing.
        ([(108, 10)], [(96, 10)], REFERENCE, (100, 10, 0)),
        ([(108, 10)], [(96, 10)], 111, (108, 10, 0)),
        ([(108, 10)], [(96, 10)], 90, (96, 10, 0)),
        # A volume that only the highest price reaches is worth any distance from the reference.
        ([(110, 10)], [(90, 6), (110, 4)], 100, (110, 10, 0)),
        # At 98 one buy is left over, at 104 one sell, between them nothing.
        ([(104, 5), (98, 1)], [(98, 5), (104, 1)], 90, (99, 5, 0)),
    ],
)
def test_three_rules_choose_the_price_each_among_what_the_one_before_leaves(
    bids, asks, reference, expected
) -> None:
    assert auction.uncross(bids, asks, reference) == expected


@pytest.mark.parametrize(
    ("bids", "asks"),
    [([], []), ([(100, 5)], []), ([], [(100, 5)]), ([(99, 5)], [(100, 5)])],
)
def test_where_nothing_crosses_there_is_no_price_and_no_surplus(bids, asks) -> None:
    assert auction.uncross(bids, asks, REFERENCE) == auction.NOTHING == (0, 0, 0)


def test_the_last_lots_go_by_time_at_the_margin() -> None:
    buys = [("early", 4), ("late", 4)]
    sells = [("best", 3), ("next", 2)]
    assert list(auction.pair(buys, sells, 5)) == [
        ("early", "best", 3),
        ("early", "next", 1),
        ("late", "next", 1),
    ]
    assert list(auction.pair(buys, sells, 0)) == []


def slow_uncross(bids, asks, reference):
    """Try every tick there is, by the letter of the rules."""
    best = None
    for price in range(1, 61):
        bought = sum(lots for limit, lots in bids if limit >= price)
        sold = sum(lots for limit, lots in asks if limit <= price)
        volume = min(bought, sold)
        if not volume:
            continue
        rank = -volume, abs(bought - sold), abs(price - reference), price
        if best is None or rank < best[0]:
            best = rank, (price, volume, bought - sold)
    return best[1] if best else (0, 0, 0)


levels = st.dictionaries(st.integers(1, 60), st.integers(1, 9), max_size=8)


@given(buys=levels, sells=levels, reference=st.integers(1, 60))
def test_no_tick_of_all_would_have_been_better(buys, sells, reference) -> None:
    bids = sorted(buys.items(), reverse=True)
    asks = sorted(sells.items())
    assert auction.uncross(bids, asks, reference) == slow_uncross(bids, asks, reference)


@given(buys=levels, sells=levels)
def test_the_best_prices_lie_side_by_side_so_one_is_nearest_to_any_reference(buys, sells) -> None:
    """The fourth rule, the lower of two that are equally near, has nothing left to decide."""
    bids = sorted(buys.items(), reverse=True)
    asks = sorted(sells.items())
    _, lots, surplus = slow_uncross(bids, asks, 1)
    best = [
        price
        for price in range(1, 61)
        if slow_uncross(bids, asks, price) in ((price, lots, surplus), (price, lots, -surplus))
    ]
    assert best == list(range(best[0], best[-1] + 1)) if lots else best == []


sides = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@given(buys=sides, sells=sides, data=st.data())
def test_pairs_serve_both_sides_in_their_order_to_the_last_lot(buys, sells, data) -> None:
    lots = data.draw(st.integers(0, min(sum(buys), sum(sells))))
    pairs = list(auction.pair(enumerate(buys), enumerate(sells), lots))
    assert sum(traded for _, _, traded in pairs) == lots
    for side, orders in ((0, buys), (1, sells)):
        left = lots
        for number, size in enumerate(orders):
            served = sum(pair[2] for pair in pairs if pair[side] == number)
            assert served == min(size, left)
            left -= served
