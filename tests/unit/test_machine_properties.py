"""What random markets have found (`tests/simulation`), each as a table of its own."""

from tests.notation import play


def test_an_order_that_rests_outside_the_band_its_own_trades_have_moved_is_not_hit_there() -> None:
    play("""
        place  A  sell  10 @ 93
        place  B  buy   29 @ 110      # no band before the first trade
        fill   B A  10 @ 93
        place  C  sell   5 @ 96       # 110 is more than 5 % away from 93: a call begins
        book   sell  5 @ 96
        book   buy   19 @ 110
    """)


def test_stops_that_trigger_one_another_stay_in_the_band_that_the_command_found() -> None:
    play("""
        place   A  sell  1 @ 100
        place   B  buy   1 @ 100
        fill    B A  1 @ 100
        place   C  buy   1 @ 97
        place   D  buy   5 @ 96
        place   E  buy   5 @ 93
        place   F  sell  5 stop 97
        place   G  sell  5 stop 96
        place   H  sell  1 @ 97
        fill    H C  1 @ 97
        trigger F
        fill    F D  5 @ 96
        trigger G                     # 93 is beyond 5 % of 100, though not of 96
        closed  G  protection_band
        book    buy  5 @ 93
    """)


def test_a_stop_order_that_triggers_at_once_near_the_end_is_a_market_order_like_others() -> None:
    play("""
        place   A  sell  1 @ 100
        place   B  buy   1 @ 100
        fill    B A  1 @ 100
        place   C  buy   5 @ 94       # beyond 5 % of 100
        at      19:46
        place   D  sell  5 stop 101   # passed already
        trigger D
        closed  D  protection_band
        place   E  sell  5 market
        closed  E  protection_band
        place   F  sell  5 @ 94
        reject  F  volatility
    """)


def test_a_fat_finger_is_refused_by_a_band_that_trades_do_not_move() -> None:
    """FAULTS H83."""
    play("""
        place   A  sell  5 @ 114
        place   B  buy   5 @ 114
        fill    B A  5 @ 114
        place   C  buy   1 @ 116
        reject  C  outside_band
        place   D  buy   1 @ 1000
        reject  D  outside_band
        place   E  sell  1 @ 84
        reject  E  outside_band
        place   F  buy   100001 @ 100
        reject  F  quantity_limit
    """)


def test_nothing_is_held_for_orders_that_ended_whichever_way() -> None:
    """FAULTS H86."""
    floor = play("""
        place   A  sell  5 @ 100
        place   B  buy   9 @ 100 ioc
        fill    B A  5 @ 100
        closed  B  ioc_remainder
        place   C  sell  5 @ 101
        place   D  buy   9 @ 101 fok
        closed  D  fill_or_kill
        place   E  buy   9 @ 101 post
        reject  E  post_only_would_trade
        place   F  buy   9 @ 101 min 6
        closed  F  min_quantity
        place   G  sell  6 @ 105 reduce of B
        reject  G  reduce_only
        place   H  sell  5 @ 105 reduce of B
        place   I  sell  1 @ 105 of B
        closed  H  reduce_only
        cancel  I
        closed  I  requested
        place   J  buy   9 market
        fill    J C  5 @ 101
        closed  J  protection_band
        place   K  buy   9 stop 110
        cancel  K
        closed  K  requested
    """)
    for number, account in sorted(floor.machine.state.accounts.items()):
        assert not account.orders
        assert floor.view(number).order_margin == 0
