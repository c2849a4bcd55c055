"""Margin by hand, and that a fill never asks for more than was reserved."""

from hypothesis import given
from hypothesis import strategies as st

from settlement import margin
from settlement.margin import Resting

LOTS = 40
PRICE = 1250


def test_a_long_has_its_whole_price_behind_it() -> None:
    needed = margin.position_margin(net_lots=LOTS, cost_ticks=LOTS * PRICE, mark=1000)
    assert needed == 60 * LOTS * PRICE == 3_000_000


def test_a_covered_short_has_five_percent_of_the_mark_behind_it() -> None:
    needed = margin.position_margin(net_lots=-LOTS, cost_ticks=-LOTS * PRICE, mark=PRICE)
    assert needed == 60 * LOTS * PRICE // 20 == 150_000


def test_a_short_that_lost_has_the_loss_behind_it_too() -> None:
    needed = margin.position_margin(net_lots=-LOTS, cost_ticks=-LOTS * 1200, mark=PRICE)
    assert needed == 60 * LOTS * 50 + 60 * LOTS * PRICE // 20


def test_a_short_that_gained_still_has_five_percent_behind_it() -> None:
    needed = margin.position_margin(net_lots=-LOTS, cost_ticks=-LOTS * 1400, mark=PRICE)
    assert needed == 150_000


def test_a_loss_made_by_trading_out_stays_reserved_and_a_gain_does_not_count() -> None:
    assert margin.position_margin(net_lots=0, cost_ticks=50, mark=PRICE) == 3_000
    assert margin.position_margin(net_lots=0, cost_ticks=-50, mark=PRICE) == 0


def test_a_sale_out_of_a_long_needs_nothing_more() -> None:
    resting = Resting(sell_lots=LOTS, sell_fees=6_000)
    with_sale = margin.requirement(LOTS, LOTS * PRICE, PRICE, resting)
    assert with_sale == margin.requirement(LOTS, LOTS * PRICE, PRICE, Resting())


def test_a_bid_and_an_offer_are_not_charged_twice() -> None:
    excess = margin.order_excess(side=-1, price=1260, lots=10, mark=PRICE)
    both = Resting(buy_ticks=10 * 1240, sell_lots=10, excess=excess)
    assert margin.requirement(0, 0, PRICE, both) == 60 * 10 * 1240


def test_fees_are_rounded_up_once() -> None:
    assert margin.fee_points(price=1, lots=1, basis_points=2) == 120
    assert margin.fee_charged(120) == 1
    assert margin.fee_charged(10_000) == 1
    assert margin.fee_charged(10_001) == 2


def test_maintenance_is_three_quarters_against_the_account() -> None:
    assert margin.maintenance(100) == 75
    assert margin.maintenance(101) == 76


def test_lots_beyond_coverage_count_what_is_held() -> None:
    assert margin.uncovered_lots(net_lots=-60, sell_lots=50, certified_lots=100) == 10
    assert margin.uncovered_lots(net_lots=30, sell_lots=50, certified_lots=20) == 0


ORDERS = st.lists(
    st.tuples(st.sampled_from((1, -1)), st.integers(1, 300), st.integers(1, 50)), max_size=8
)


def _resting(orders, mark: int) -> Resting:
    return Resting(
        buy_ticks=sum(p * q for s, p, q in orders if s > 0),
        sell_lots=sum(q for s, _, q in orders if s < 0),
        excess=sum(margin.order_excess(side=s, price=p, lots=q, mark=mark) for s, p, q in orders),
    )


@given(ORDERS, st.integers(-100, 100), st.integers(-20_000, 20_000), st.integers(1, 300), st.data())
def test_no_order_of_fills_needs_more_than_was_reserved(orders, net, cost, mark, data) -> None:
    reserved = margin.requirement(net, cost, mark, _resting(orders, mark))
    left = list(orders)
    while left:
        side, price, lots = left.pop(data.draw(st.integers(0, len(left) - 1)))
        filled = data.draw(st.integers(0, lots))
        net += side * filled
        cost += side * filled * price
        if filled < lots and data.draw(st.booleans()):
            left.append((side, price, lots - filled))
        now = margin.requirement(net, cost, mark, _resting(left, mark))
        assert now <= reserved
        reserved = now
    assert reserved == margin.position_margin(net_lots=net, cost_ticks=cost, mark=mark)
