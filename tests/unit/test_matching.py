"""Price-time priority, at the maker's price, never with one's own."""

import random

from exchange import commands, events
from tests.floor import GRADE, Floor, symbol
from tests.notation import play
from tests.oracle import SlowBook


def test_better_prices_fill_first_then_earlier_orders() -> None:
    play("""
        place  A  sell   5 @ 103
        place  B  sell   5 @ 102
        place  C  sell   5 @ 102
        place  D  buy   12 @ 103     # sweeps B, then C, then part of A
        fill   D B  5 @ 102
        fill   D C  5 @ 102
        fill   D A  2 @ 103
        book   sell  3 @ 103
        book   buy
    """)


def test_a_sell_sweeps_bids_from_the_highest() -> None:
    play("""
        place  A  buy   5 @ 98
        place  B  buy   5 @ 99
        place  C  sell  7 @ 98
        fill   C B  5 @ 99
        fill   C A  2 @ 98
        book   buy  3 @ 98
    """)


def test_what_is_left_of_an_order_rests_at_its_price() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  buy   12 @ 102
        fill   B A  5 @ 101
        book   buy  7 @ 102
        book   sell
    """)


def test_orders_that_do_not_cross_rest() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  buy    5 @ 100
        book   buy  5 @ 100
        book   sell  5 @ 101
    """)


def test_the_rest_of_an_immediate_order_is_canceled() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  buy   12 @ 101 ioc
        fill   B A  5 @ 101
        closed B ioc_remainder
        book   buy
    """)


def test_an_immediate_order_that_fills_is_just_filled() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  buy    5 @ 101 ioc
        fill   B A  5 @ 101
        book   sell
    """)


def test_an_order_meets_no_order_of_its_group_and_what_is_left_is_canceled() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  sell   5 @ 102  group 7
        place  C  sell   5 @ 102
        place  D  buy   12 @ 103  group 7
        fill   D A  5 @ 101
        closed D self_trade
        book   sell  10 @ 102
        book   buy
    """)


def test_a_filled_part_keeps_its_time() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  sell   5 @ 101
        place  C  buy    2 @ 101
        fill   C A  2 @ 101
        place  D  buy    5 @ 101
        fill   D A  3 @ 101
        fill   D B  2 @ 101
        book   sell  3 @ 101
    """)


def test_a_canceled_order_does_not_trade() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  sell   5 @ 101
        cancel A
        closed A requested
        place  C  buy    5 @ 101
        fill   C B  5 @ 101
    """)


def test_orders_expire_when_trading_ends() -> None:
    play("""
        place  A  sell   5 @ 101
        place  B  buy    5 @ 100
        at     19:54:59
        at     19:55
        closed A expired
        closed B expired
        place  C  buy    5 @ 100
        reject C closed
    """)


def test_a_thousand_random_books_trade_as_the_slow_one_does() -> None:
    compared = 0
    for seed in range(1_000):
        compared += _compare(random.Random(seed))
    assert compared > 10_000


def _compare(chance: random.Random) -> int:
    """Run one random book through the machine and through the oracle; return its trades."""
    floor = Floor(reference=100, checked=False, dynamic_percent=99)
    for account in range(1, 7):
        floor.account(account, group=(account + 1) // 2, certified=100_000)
    slow = SlowBook()
    trades = []
    for _ in range(60):
        account = chance.randint(1, 6)
        if floor.machine.state.orders and chance.random() < 0.2:
            order = chance.choice(sorted(floor.machine.state.orders))
            owner = floor.machine.state.orders[order].account.id
            floor.apply(commands.CancelOrder(owner, order))
            slow.cancel(order)
            continue
        side, price = chance.choice((1, -1)), chance.randint(95, 105)
        lots, rests = chance.randint(1, 20), chance.random() < 0.8
        order = floor.place(account, side, lots, price, time_in_force="GTC" if rests else "IOC")
        assert floor.rejected() is None
        slow.place(order, (account + 1) // 2, side, price, lots, rests=rests)
        trades += [(e.taker_order, e.maker_order, e.lots, e.price) for e in floor.of(events.Traded)]
    assert trades == slow.trades
    bids, asks = floor.machine.book_levels(symbol("20"), 1_000)
    assert bids == slow.levels(1)
    assert asks == slow.levels(-1)
    assert floor.machine.symbols()[0].startswith(GRADE)
    floor.machine.check()
    return len(trades)
