"""Stop orders: when they are triggered, in which order, what they reserve while they wait."""

import random

from exchange import commands, envelope, events
from exchange.commands import Terms
from exchange.reasons import Reject
from settlement import instructions
from tests.floor import Floor, instant, symbol
from tests.notation import play

LAST = """
        place  S  sell 100 @ 100
        place  L  buy    1 @ 100
        fill   L S  1 @ 100
"""


def test_a_stop_waits_unseen_until_the_last_price_reaches_it() -> None:
    play(
        LAST
        + """
        place  A  buy   5 stop 102
        cancel S
        closed S requested
        book   buy
        book   sell
        place  B  sell  3 @ 101
        place  C  sell  9 @ 102
        place  D  buy   3 @ 101
        fill   D B  3 @ 101
        place  E  buy   1 @ 102
        fill   E C  1 @ 102
        trigger A
        fill   A C  5 @ 102
        book   sell  3 @ 102
    """
    )


def test_a_stop_limit_rests_at_its_price_once_it_is_triggered() -> None:
    play(
        LAST
        + """
        place  A  sell  5 @ 98 stop 99
        place  B  buy   2 @ 99
        cancel S
        closed S requested
        book   sell
        place  C  sell  1 @ 99
        fill   C B  1 @ 99
        trigger A
        fill   A B  1 @ 99
        book   sell  4 @ 98
        place  D  buy   1 @ 98
        fill   D A  1 @ 98
    """
    )


def test_what_a_triggered_market_order_does_not_find_leaves() -> None:
    play(
        LAST
        + """
        place  A  buy  200 stop 100
        trigger A
        fill   A S  99 @ 100
        closed A protection_band
    """
    )


def test_a_stop_whose_price_was_passed_is_triggered_at_once() -> None:
    play(
        LAST
        + """
        place  A  buy  5 stop 99
        trigger A
        fill   A S  5 @ 100
        place  B  sell 5 @ 101 stop 100
        trigger B
        book   sell  94 @ 100, 5 @ 101
    """
    )


def test_before_the_first_trade_nothing_is_reached() -> None:
    play("""
        place  A  sell  5 @ 100
        place  B  buy   5 stop 90
        place  C  buy   1 @ 100
        fill   C A  1 @ 100
        trigger B
        fill   B A  4 @ 100
        closed B protection_band
    """)


def test_stops_that_one_command_reaches_go_nearest_price_first_then_oldest() -> None:
    play(
        LAST
        + """
        place  C  buy   1 @ 110 stop 102
        place  A  buy   1 @ 110 stop 101
        place  B  buy   1 @ 110 stop 101
        cancel S
        closed S requested
        place  M  sell  2 @ 101
        place  N  sell  9 @ 102
        place  T  buy   3 @ 102
        fill   T M  2 @ 101
        fill   T N  1 @ 102
        trigger A
        fill   A N  1 @ 102
        trigger B
        fill   B N  1 @ 102
        trigger C
        fill   C N  1 @ 102
        book   sell  5 @ 102
    """
    )


def test_stops_set_off_stops_one_after_another() -> None:
    play(
        LAST
        + """
        cancel S
        closed S requested
        place  K  sell  1 @ 101
        place  M  sell  1 @ 102
        place  N  sell  1 @ 103
        place  O  sell  1 @ 104
        place  C  buy   1 stop 103
        place  B  buy   1 stop 102
        place  A  buy   1 stop 101
        place  T  buy   1 @ 101
        fill   T K  1 @ 101
        trigger A
        fill   A M  1 @ 102
        trigger B
        fill   B N  1 @ 103
        trigger C
        fill   C O  1 @ 104
        book   sell
    """
    )


def test_a_stop_the_last_price_has_left_again_was_reached_all_the_same() -> None:
    play(
        LAST
        + """
        cancel S
        closed S requested
        place  A  sell  1 @ 96 stop 98
        place  K  sell  1 @ 98
        place  M  sell  1 @ 101
        place  B  buy   1 @ 103 stop 101
        place  T  buy   2 @ 101       # trades at 98, and then at 101
        fill   T K  1 @ 98
        fill   T M  1 @ 101
        trigger A
        trigger B
        fill   B A  1 @ 96
    """
    )


def test_a_chain_of_a_thousand_stops_needs_no_deep_stack() -> None:
    floor = Floor(reference=10_000, checked=False, dynamic_percent=50)
    floor.account(1, certified=100_000)
    for number in range(2, 5):
        floor.account(number)
    for number in range(900):
        floor.sell(1, 1, 10_000 + number)
        floor.buy(2 + number % 3, 1, 0, terms=Terms(type="STOP", stop_price=10_000 + number))
    floor.buy(2, 1, 10_000, time_in_force="IOC")
    assert len(floor.of(events.Traded)) == 900
    triggered = [event.order for event in floor.of(events.OrderTriggered)]
    assert triggered == sorted(triggered)
    assert len(triggered) == 900
    floor.machine.check()


def test_a_waiting_order_reserves_like_one_at_rest() -> None:
    floor = Floor()
    floor.account(1)
    limit = floor.buy(1, 40, 1_300)
    resting = floor.view(1).order_margin
    floor.cancel(1, limit)
    waiting = floor.buy(1, 40, 1_300, terms=Terms(type="STOP_LIMIT", stop_price=1_290))
    assert floor.view(1).order_margin == resting
    view = floor.machine.order_view(waiting)
    assert (view.status, view.stop_price, view.remaining) == ("untriggered", 1_290, 40)
    floor.cancel(1, waiting)
    assert floor.view(1).order_margin == 0
    floor.buy(1, 40, 0, terms=Terms(type="STOP", stop_price=1_290))
    edge = 60 * 40 * 1_437
    assert floor.view(1).order_margin == edge + -(-edge * 20 // 10_000)


def test_a_waiting_sale_reserves_its_fee_at_the_best_price_there_could_be() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.sell(1, 40, 1_100, terms=Terms(type="STOP_LIMIT", stop_price=1_150))
    notional = 60 * 40 * 1_250
    loss = 60 * 40 * 150
    fee = -(-60 * 40 * 1_437 * 20 // 10_000)
    assert floor.view(1).order_margin == notional // 20 + loss + fee


def test_what_is_refused_for_money_or_coverage_does_not_wait_either() -> None:
    floor = Floor()
    floor.account(1, cash=1_000, certified=10)
    floor.buy(1, 40, 0, terms=Terms(type="STOP", stop_price=1_290))
    assert floor.rejected() == Reject.INSUFFICIENT_FUNDS
    floor.deposit(1, 10**9)
    floor.sell(1, 11, 0, terms=Terms(type="STOP", stop_price=1_200))
    assert floor.rejected() == Reject.INSUFFICIENT_COVERAGE
    assert not floor.machine.state.orders


def test_a_waiting_order_is_canceled_amended_and_expires_like_any_other() -> None:
    play(
        LAST
        + """
        place  A  buy   5 stop 104 gtd 13:30
        place  B  buy   5 @ 108 stop 104
        place  C  buy   5 stop 104
        amend  B 4 @ 107 stop 103
        amended B 4 @ 107 stop 103
        amend  C 2
        amended C 2 stop 104
        amend  C @ 105
        refused C invalid_order
        cancel C
        closed C requested
        at     13:30
        closed A expired
        amend  B stop 100
        amended B 4 @ 107 stop 100
        trigger B
        fill   B S  4 @ 100
        amend  S stop 99
        refused S invalid_order
    """
    )


def test_a_reduce_only_stop_leaves_when_its_position_does() -> None:
    play("""
        place  S  sell 10 @ 100
        place  L  buy  10 @ 100
        fill   L S 10 @ 100
        place  A  sell  8 stop 98 reduce of L
        place  B  sell  3 @ 103 reduce of L
        reject B reduce_only
        place  C  buy   4 @ 100
        place  D  sell  4 @ 100 of L
        fill   D C  4 @ 100
        closed A reduce_only
    """)


def test_a_triggered_order_meets_its_own_group_in_its_own_mode() -> None:
    play(
        LAST
        + """
        place  A  buy   5 stop 102 group 7
        place  B  buy   5 stop 102 group 7 stp oldest
        cancel S
        closed S requested
        place  M  sell  5 @ 102 group 7
        place  K  sell  9 @ 102
        place  U  buy   1 @ 102
        fill   U M  1 @ 102
        trigger A
        closed A self_trade
        trigger B
        closed M self_trade
        fill   B K  5 @ 102
        book   sell  4 @ 102
    """
    )


def test_stops_are_refused_in_a_call_and_wait_through_it() -> None:
    floor = Floor("11:30")
    floor.account(1, certified=100)
    floor.account(2)
    floor.buy(2, 1, 1_250, at="+1 12", terms=Terms(type="STOP_LIMIT", stop_price=1_200))
    assert floor.rejected() == Reject.NOT_IN_CALL
    floor.to("13:00")
    floor.sell(1, 10, 1_250, at="+1 12")
    waiting = floor.buy(2, 5, 1_260, at="+1 12", terms=Terms(type="STOP_LIMIT", stop_price=1_245))
    floor.instruct(instructions.Halt(instrument=symbol("+1 12")))
    assert floor.amend(2, waiting, lots=4) == Reject.HALTED
    floor.instruct(instructions.Resume(instrument=symbol("+1 12")))
    assert floor.amend(2, waiting, lots=4) == Reject.NOT_IN_CALL
    floor.buy(2, 1, 1_240, at="+1 12")
    floor.buy(2, 2, 1_250, at="+1 12")
    floor.to("13:05")
    assert [event.order for event in floor.of(events.OrderTriggered)] == [waiting]
    assert [(e.price, e.lots, e.is_auction) for e in floor.of(events.Traded)] == [
        (1_250, 2, True),
        (1_250, 5, False),
    ]


def test_a_stop_reached_on_the_way_into_a_call_asks_the_price_after_it() -> None:
    way_in = """
        place  A sell 1 @ 100
        place  B buy 1 @ 100
        fill   B A 1 @ 100
        place  S buy 5 stop 104
        place  X sell 1 @ 104
        place  Z sell 5 @ 110
        place  Q buy 6 @ 110
        fill   Q X 1 @ 104
    """
    play(
        way_in
        + """
        place  C sell 5 @ 102
        at     13:05
        fill   C Q 5 @ 102
        """
    )
    play(
        way_in
        + """
        at     13:05
        fill   Q Z 5 @ 110
        trigger S
        closed S protection_band
        """
    )


def test_a_band_that_moves_takes_waiting_orders_with_it() -> None:
    floor = Floor("22:40")
    floor.account(1, certified=100)
    floor.account(2)
    at = {"at": "+1 10"}
    floor.sell(1, 5, 1_250, **at)
    floor.buy(2, 5, 1_250, **at)
    inside = floor.buy(2, 1, 1_400, terms=Terms(type="STOP_LIMIT", stop_price=1_380), **at)
    outside = floor.buy(2, 1, 1_437, terms=Terms(type="STOP_LIMIT", stop_price=1_380), **at)
    edge = floor.buy(2, 1, 0, terms=Terms(type="STOP", stop_price=1_390), **at)
    floor.at = instant("23:40")
    floor.sell(1, 5, 1_230, **at)
    floor.buy(2, 5, 1_230, **at)
    floor.to("+1 00:00")
    assert floor.closed() == [(outside, "canceled", "band_moved")]
    assert set(floor.machine.state.orders) == {inside, edge}
    assert floor.machine.state.orders[edge].price == 1_230 + 1_230 * 15 // 100


def test_what_a_command_answers_is_its_own_and_not_what_it_set_off() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    floor.account(3)
    floor.sell(1, 1, 1_250)
    waiting = floor.buy(3, 4, 1_260, terms=Terms(type="STOP_LIMIT", stop_price=1_250))
    placed = floor.last
    sequence = floor.machine.sequence
    taker = floor.buy(2, 1, 1_250)
    set_off = floor.last
    own = envelope.of_order(taker, sequence + 1, set_off)
    assert [type(event) for event in own] == [
        events.OrderPlaced,
        events.Traded,
        events.OrderClosed,
    ]
    assert envelope.of_order(waiting, sequence, placed + set_off) == placed[:1]
    assert [type(event) for event in envelope.of_order(waiting, sequence + 1, set_off)] == [
        events.OrderTriggered
    ]
    floor.sell(1, 2, 1_260)
    assert floor.machine.order_view(waiting).filled == 2


def test_an_order_may_meet_what_its_own_trades_have_triggered() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    floor.account(2)
    floor.account(3, certified=100)
    floor.sell(1, 1, 1_250)
    floor.sell(3, 4, 1_240, terms=Terms(type="STOP_LIMIT", stop_price=1_255))
    assert not floor.of(events.OrderTriggered)
    taker = floor.buy(2, 3, 1_250)
    own = envelope.of_order(taker, floor.machine.sequence, floor.last)
    trades = [(e.maker_order, e.lots) for e in own if isinstance(e, events.Traded)]
    assert trades == [(1, 1), (taker, 2)]
    assert floor.machine.order_view(taker).status == "filled"


def test_random_stops_are_triggered_and_nothing_is_lost() -> None:
    """The machine checks itself after each command; a twin answers as it does."""
    triggered = 0
    for seed in range(60):
        chance = random.Random(seed)
        floor = Floor(reference=100)
        for account in range(1, 5):
            floor.account(account, group=account // 2, certified=100_000)
        for _ in range(40):
            account, side = chance.randint(1, 4), chance.choice((1, -1))
            kind = chance.choice(("LIMIT", "LIMIT", "STOP", "STOP_LIMIT"))
            terms = Terms(
                type=kind,
                stop_price=chance.randint(96, 104) if kind.startswith("STOP") else 0,
                prevention=chance.choice(sorted(commands.PREVENTIONS)),
                reduce_only=chance.random() < 0.2,
            )
            price = 0 if kind == "STOP" else chance.randint(97, 103)
            floor.place(account, side, chance.randint(1, 9), price, terms=terms)
            triggered += len(floor.of(events.OrderTriggered))
            for trade in floor.of(events.Traded):
                assert trade.maker // 2 != trade.taker // 2, "no group trades with itself"
            orders = sorted(floor.machine.state.orders)
            if orders and chance.random() < 0.3:
                order = floor.machine.state.orders[chance.choice(orders)]
                floor.amend(order.account.id, order.id, lots=chance.randint(1, 12))
        twin = type(floor.machine).restore(floor.machine.snapshot())
        twin.check()
        sequence = floor.machine.sequence + 1
        sweep = commands.PlaceOrder(1, symbol("20"), 1, 104, 90, "IOC", "sweep", b"")
        assert twin.apply(sweep, sequence, floor.at) == floor.apply(sweep)
        assert twin.snapshot() == floor.machine.snapshot()
    assert triggered > 200
