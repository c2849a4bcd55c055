"""Every kind of order, as tables: what trades at once, what rests, what leaves and why."""

import pytest

from exchange import commands, events
from exchange.commands import Terms
from exchange.reasons import Reject
from tests.floor import Floor, instant, symbol
from tests.notation import play


def test_a_market_order_takes_what_the_bands_allow_and_never_rests() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 108
        place  C  buy   2 @ 101
        fill   C A  2 @ 101
        place  D  buy  12 market      # the dynamic band ends at 106
        fill   D A  3 @ 101
        closed D protection_band
        book   sell  5 @ 108
        book   buy
    """)


def test_a_market_order_before_the_first_trade_is_held_by_the_static_band_alone() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 115
        place  C  buy  12 market
        fill   C A  5 @ 101
        fill   C B  5 @ 115
        closed C protection_band
    """)


def test_a_market_sale_takes_the_highest_bids_first() -> None:
    play("""
        place  A  buy  5 @ 99
        place  B  buy  5 @ 98
        place  C  sell 7 market ioc
        fill   C A  5 @ 99
        fill   C B  2 @ 98
        book   buy  3 @ 98
    """)


def test_a_market_order_in_an_empty_book_just_leaves() -> None:
    play("""
        place  A  buy  5 market
        closed A protection_band
    """)


def test_all_or_nothing_trades_all() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 102
        place  C  buy  10 @ 102 fok
        fill   C A  5 @ 101
        fill   C B  5 @ 102
        book   sell
    """)


def test_all_or_nothing_trades_nothing_where_a_lot_is_missing() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  4 @ 102
        place  C  buy  10 @ 102 fok
        closed C fill_or_kill
        place  D  buy  10 @ 110 market fok
        reject D invalid_order
        place  E  buy  10 market fok
        closed E fill_or_kill
        book   sell  5 @ 101, 4 @ 102
    """)


def test_all_or_nothing_counts_what_an_iceberg_hides() -> None:
    play("""
        place  A  sell  50 @ 101 show 5
        book   sell  5 @ 101
        place  B  buy   12 @ 101 fok
        fill   B A  5 @ 101
        fill   B A  5 @ 101
        fill   B A  2 @ 101
        left   A 38
        book   sell  3 @ 101
        place  C  buy   39 @ 101 fok
        closed C fill_or_kill
    """)


def test_all_or_nothing_does_not_count_what_it_may_not_take() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 101 group 7
        place  C  sell  5 @ 101
        place  D  buy  10 @ 101 fok group 7
        closed D fill_or_kill
        place  E  buy  10 @ 101 fok stp oldest group 7
        fill   E A  5 @ 101
        closed B self_trade
        fill   E C  5 @ 101
    """)


def test_all_or_nothing_does_not_reach_beyond_the_dynamic_band_and_starts_no_auction() -> None:
    play("""
        place  A  sell  5 @ 100
        place  B  buy   1 @ 100
        fill   B A  1 @ 100
        place  C  sell  5 @ 106
        place  D  buy   9 @ 106 fok
        closed D fill_or_kill
        place  E  buy   4 @ 106 fok
        fill   E A  4 @ 100
        book   sell  5 @ 106
    """)


def test_a_minimum_quantity_trades_at_once_or_nothing_does() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  buy  10 @ 101 min 6
        closed B min_quantity
        place  C  buy  10 @ 101 min 5
        fill   C A  5 @ 101
        book   buy  5 @ 101
        place  D  sell 10 @ 101 ioc min 5
        fill   D C  5 @ 101
        closed D ioc_remainder
        book   buy
    """)


def test_a_minimum_quantity_counts_what_an_iceberg_hides_and_not_its_own_group() -> None:
    play("""
        place  A  sell  20 @ 101 show 2
        place  B  sell  20 @ 101 group 3
        place  C  buy   10 @ 101 min 4 group 3
        closed C min_quantity           # one tip, and then its own
        place  D  buy   10 @ 101 min 4 group 3 stp both
        closed D min_quantity
        place  E  buy    3 @ 101 ioc min 3 group 3 stp oldest
        fill   E A  2 @ 101
        closed B self_trade
        fill   E A  1 @ 101
    """)


def test_a_post_only_order_is_refused_where_it_would_trade() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  buy   5 @ 101 post
        reject B post_only_would_trade
        place  C  buy   5 @ 100 post
        book   buy  5 @ 100
        place  D  sell  2 @ 100 post day
        reject D post_only_would_trade
        place  E  sell  2 @ 100
        fill   E C  2 @ 100
        book   buy  3 @ 100
    """)


def test_a_post_only_order_that_would_not_trade_with_its_own_makes_way_or_has_it_made() -> None:
    play("""
        place  A  sell  5 @ 101 group 7
        place  B  buy   5 @ 101 post group 7
        closed B self_trade
        place  C  buy   5 @ 101 post stp oldest group 7
        closed A self_trade
        book   buy  5 @ 101
        book   sell
    """)


def test_an_iceberg_shows_its_tip_and_goes_to_the_end_of_the_queue_with_each() -> None:
    play("""
        place  A  sell  9 @ 101 show 2
        place  B  sell  3 @ 101
        book   sell  5 @ 101
        place  C  buy   3 @ 101
        fill   C A  2 @ 101
        fill   C B  1 @ 101
        book   sell  4 @ 101
        place  D  buy   8 @ 101
        fill   D B  2 @ 101
        fill   D A  2 @ 101
        fill   D A  2 @ 101
        fill   D A  2 @ 101
        book   sell  1 @ 101
        place  E  buy   1 @ 101
        fill   E A  1 @ 101
        book   sell
    """)


def test_two_icebergs_take_turns() -> None:
    play("""
        place  A  sell  5 @ 101 show 2
        place  B  sell  4 @ 101 show 3
        place  C  buy   9 @ 101
        fill   C A  2 @ 101
        fill   C B  3 @ 101
        fill   C A  2 @ 101
        fill   C B  1 @ 101
        fill   C A  1 @ 101
        book   sell
    """)


def test_an_iceberg_that_arrives_trades_with_all_it_has() -> None:
    play("""
        place  A  buy   7 @ 100
        place  B  sell 12 @ 100 show 2
        fill   B A  7 @ 100
        book   sell  2 @ 100
        left   B 5
        cancel B
        closed B requested
        book   sell
    """)


def test_an_iceberg_shows_at_least_a_hundredth() -> None:
    floor = Floor()
    floor.account(1, certified=1_000)
    floor.sell(1, 201, 1_250, terms=Terms(display_lots=2))
    assert floor.rejected() == Reject.DISPLAY_TOO_SMALL
    order = floor.sell(1, 200, 1_250, terms=Terms(display_lots=2))
    assert floor.rejected() is None
    assert floor.machine.book_levels(symbol("20"), 1) == ([], [(1_250, 2)])
    assert floor.amend(1, order, lots=201) == Reject.DISPLAY_TOO_SMALL


def test_the_fees_of_an_iceberg_are_rounded_up_once() -> None:
    floor = Floor(reference=20)
    floor.account(1, certified=100)
    floor.account(2)
    maker = floor.sell(1, 3, 20, terms=Terms(display_lots=1))
    floor.buy(2, 3, 20)
    # A lot is 1,200 micro-USD: 0.24 to the maker each and 2.4 to the taker.
    fees = [(event.maker_fee, event.taker_fee) for event in floor.of(events.Traded)]
    assert fees == [(1, 3), (0, 2), (0, 3)]
    assert floor.machine.order_view(maker).fee == 1
    assert floor.closed()[0] == (maker, "filled", "")


def test_the_newest_gives_way() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 102 group 7
        place  C  buy  12 @ 103 group 7 stp newest
        fill   C A  5 @ 101
        closed C self_trade
        book   sell  5 @ 102
        book   buy
    """)


def test_the_oldest_gives_way_wherever_it_is_met() -> None:
    play("""
        place  A  sell  5 @ 101 group 7
        place  B  sell  5 @ 102
        place  C  sell  5 @ 102 group 7 show 1
        place  D  sell  5 @ 103 group 7
        place  E  buy  12 @ 102 group 7 stp oldest
        closed A self_trade
        fill   E B  5 @ 102
        closed C self_trade
        book   sell  5 @ 103
        book   buy  7 @ 102
    """)


def test_both_give_way() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 102 group 7
        place  C  sell  5 @ 102 group 7
        place  D  buy  12 @ 103 group 7 stp both
        fill   D A  5 @ 101
        closed B self_trade
        closed D self_trade
        book   sell  5 @ 102
        book   buy
    """)


def test_a_decrement_takes_the_smaller_ones_lots_off_both() -> None:
    play("""
        place  A  sell  5 @ 101 group 7
        place  B  sell  5 @ 101
        place  C  buy  12 @ 101 group 7 stp decrement
        closed A self_trade
        fill   C B  5 @ 101
        amended C 7 @ 101
        book   buy  2 @ 101
        place  D  sell  1 @ 101 group 7 stp decrement
        amended C 6 @ 101
        closed D self_trade
        book   buy  1 @ 101
        place  E  sell  1 @ 101 group 7 stp decrement
        closed C self_trade
        closed E self_trade
        book   buy
    """)


def test_a_decrement_takes_what_an_iceberg_hides_first() -> None:
    play("""
        place  A  sell  9 @ 101 show 2 group 7
        place  B  buy   6 @ 101 group 7 stp decrement
        amended A 3 @ 101
        closed B self_trade
        book   sell  2 @ 101
        left   A 3
        place  C  buy   2 @ 101 group 7 stp decrement
        amended A 1 @ 101
        closed C self_trade
        book   sell  1 @ 101
    """)


def test_an_order_for_the_day_leaves_at_midnight_before_the_mark() -> None:
    floor = Floor("23:00")
    floor.account(1)
    day = floor.buy(1, 1, 1_200, at="+1 10", time_in_force="DAY", terms=Terms())
    dated = floor.buy(
        1, 1, 1_200, at="+1 10", time_in_force="GTD", terms=Terms(expires_at=instant("+1 00:30"))
    )
    kept = floor.buy(1, 1, 1_200, at="+1 10")
    floor.to("+1 00:00")
    assert floor.closed() == [(day, "expired", "expired")]
    floor.to("+1 00:30")
    assert floor.closed() == [(dated, "expired", "expired")]
    assert set(floor.machine.state.orders) == {kept}


def test_an_order_with_a_date_leaves_at_its_instant_and_not_before() -> None:
    play("""
        place  A  buy  5 @ 99 gtd 13:30
        place  B  buy  5 @ 99 gtd 19:58
        at     13:29:59
        book   buy  10 @ 99
        at     13:30
        closed A expired
        place  C  buy  5 @ 99 gtd 13:30
        reject C already_expired
        at     19:55
        closed B expired
    """)


def test_entries_of_dated_orders_that_are_gone_do_not_pile_up() -> None:
    floor = Floor(checked=False)
    floor.account(1)
    for number in range(2_500):
        until = instant("18:00") + number
        order = floor.buy(1, 1, 1_200, time_in_force="GTD", terms=Terms(expires_at=until))
        floor.cancel(1, order)
    assert len(floor.machine.state.calendar) < 1_200
    live = floor.buy(1, 1, 1_200, time_in_force="GTD", terms=Terms(expires_at=instant("18:00")))
    floor.to("18:00")
    assert (live, "expired", "expired") in floor.closed()
    floor.machine.check()


def _held(lots: int) -> str:
    return f"""
        place  S  sell  {lots} @ 100
        place  L  buy   {lots} @ 100
        fill   L S  {lots} @ 100
    """


def test_a_reduce_only_order_is_refused_where_it_could_do_more() -> None:
    play(
        _held(10)
        + """
        place  A  sell 11 @ 101 reduce of L
        reject A reduce_only
        place  B  buy   1 @ 99 reduce of L
        reject B reduce_only
        place  C  sell  4 @ 101 of L
        place  D  sell  7 @ 101 reduce of L
        reject D reduce_only
        place  E  sell  6 @ 101 reduce of L
        place  F  sell  1 @ 101 reduce
        reject F reduce_only
        book   sell  10 @ 101
    """
    )


def test_a_reduce_only_order_leaves_when_a_plain_one_takes_its_room() -> None:
    play(
        _held(10)
        + """
        place  A  sell  4 @ 103 reduce of L
        place  B  sell  6 @ 102 reduce of L
        place  C  sell  1 @ 104 of L
        closed B reduce_only
        book   sell  4 @ 103, 1 @ 104
        place  D  sell  9 @ 104 of L
        closed A reduce_only
        book   sell  10 @ 104
    """
    )


def test_a_reduce_only_order_leaves_when_its_owner_reduces_as_a_taker() -> None:
    play(
        _held(10)
        + """
        place  A  sell 10 @ 103 reduce of L
        place  B  buy   3 @ 100
        place  C  sell  3 @ 100 of L
        fill   C B  3 @ 100
        closed A reduce_only
        book   sell
    """
    )


def test_a_reduce_only_order_that_fills_as_a_maker_makes_no_room_and_needs_none() -> None:
    floor = play(
        _held(10)
        + """
        place  A  sell  5 @ 100 reduce of L
        place  B  sell  5 @ 101 reduce of L
        place  C  buy   4 @ 100
        fill   C A  4 @ 100
        book   sell  1 @ 100, 5 @ 101
        place  D  buy   6 @ 101
        fill   D A  1 @ 100
        fill   D B  5 @ 101
    """
    )
    assert floor.machine.position(2, symbol("20")).net_lots == 0


def test_a_short_is_reduced_by_buying() -> None:
    play(
        _held(10)
        + """
        place  A  buy  11 @ 99 reduce of S
        reject A reduce_only
        place  B  buy  10 @ 99 reduce of S
        place  C  sell  1 @ 98 reduce of S
        reject C reduce_only
        place  D  sell 12 @ 99 ioc
        fill   D B 10 @ 99
        closed D ioc_remainder
    """
    )


WRONG = [
    {"terms": Terms(type="OTHER")},
    {"time_in_force": "OTHER", "terms": Terms()},
    {"terms": Terms(prevention="OTHER")},
    {"price": 0, "terms": Terms()},
    {"price": 10**9, "terms": Terms()},
    {"terms": Terms(type="MARKET")},
    {"terms": Terms(type="STOP", stop_price=100)},
    {"price": 0, "terms": Terms(type="STOP")},
    {"price": 0, "terms": Terms(type="STOP_LIMIT", stop_price=100)},
    {"terms": Terms(type="STOP_LIMIT", stop_price=-1)},
    {"terms": Terms(stop_price=100)},
    {"price": 0, "time_in_force": "GTD", "terms": Terms(type="MARKET", expires_at=10**16)},
    {"price": 0, "time_in_force": "DAY", "terms": Terms(type="MARKET")},
    {"time_in_force": "GTD", "terms": Terms()},
    {"time_in_force": "GTD", "terms": Terms(expires_at=-1)},
    {"terms": Terms(expires_at=10**16)},
    {"time_in_force": "IOC", "terms": Terms(post_only=True)},
    {"time_in_force": "FOK", "terms": Terms(post_only=True)},
    {"price": 0, "terms": Terms(type="MARKET", post_only=True)},
    {"terms": Terms(type="STOP_LIMIT", stop_price=100, post_only=True)},
    {"terms": Terms(post_only=True, min_lots=1)},
    {"terms": Terms(min_lots=11)},
    {"terms": Terms(min_lots=-1)},
    {"terms": Terms(display_lots=10)},
    {"terms": Terms(display_lots=-1)},
    {"time_in_force": "IOC", "terms": Terms(display_lots=5)},
    {"price": 0, "terms": Terms(type="MARKET", display_lots=5)},
    {"time_in_force": "FOK"},
    {"time_in_force": "DAY"},
    {"lots": 0, "terms": Terms()},
    {"side": 0, "terms": Terms()},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_terms_that_mean_nothing_are_invalid(wrong: dict) -> None:
    floor = Floor()
    floor.account(1)
    floor.place(**({"account": 1, "side": 1, "lots": 10, "price": 1_250} | wrong))
    assert floor.rejected() == Reject.INVALID_ORDER
    assert not floor.machine.state.orders


def test_every_term_survives_a_snapshot() -> None:
    floor = Floor("22:00")
    floor.account(1, certified=1_000)
    floor.account(2)
    at = {"at": "+1 10"}
    floor.sell(1, 50, 1_250, **at)
    floor.buy(2, 50, 1_250, **at)
    floor.sell(1, 30, 1_260, terms=Terms(display_lots=4), **at)
    floor.sell(2, 30, 1_270, terms=Terms(reduce_only=True), **at)
    until = instant("22:30")
    floor.buy(2, 3, 1_240, time_in_force="GTD", terms=Terms(expires_at=until), **at)
    floor.buy(2, 3, 1_240, time_in_force="DAY", terms=Terms(post_only=True), **at)
    stop = Terms(type="STOP", stop_price=1_265)
    floor.buy(1, 6, 0, terms=stop, **at)
    waiting = floor.buy(2, 7, 1_280, terms=Terms(type="STOP_LIMIT", stop_price=1_262), **at)
    floor.buy(2, 6, 1_260, **at)
    floor.amend(2, waiting, lots=5, stop_price=1_261)
    twin = type(floor.machine).restore(floor.machine.snapshot())
    twin.check()
    assert twin.snapshot() == floor.machine.snapshot()
    assert len(twin.state.orders) == 6
    for order in floor.machine.state.orders:
        assert twin.order_view(order) == floor.machine.order_view(order)
    follow = [
        commands.PlaceOrder(2, symbol("+1 10"), 1, 1_262, 30, "GTC", "sweep", b"f"),
        commands.CancelOrders(2),
        commands.Tick(),
    ]
    for number, command in enumerate(follow, start=floor.machine.sequence + 1):
        at = instant("22:30") if number > floor.machine.sequence + 1 else floor.at
        assert twin.apply(command, number, at) == floor.machine.apply(command, number, at)
    assert twin.snapshot() == floor.machine.snapshot()
