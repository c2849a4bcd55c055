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
