"""Amendments: what keeps its time and what loses it, what is judged, and that nothing overfills."""

import pytest

from exchange import events
from exchange.commands import Terms
from exchange.reasons import Reject
from settlement import instructions
from tests.floor import Floor, symbol
from tests.notation import play


def test_less_quantity_keeps_its_time() -> None:
    play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 101
        amend  A 3
        amended A 3 @ 101
        book   sell  8 @ 101
        place  C  buy   4 @ 101
        fill   C A  3 @ 101
        fill   C B  1 @ 101
    """)


@pytest.mark.parametrize("change", ["6", "@ 101", "5 @ 101"])
def test_a_new_price_or_more_quantity_goes_behind_all_others(change: str) -> None:
    start = "102" if "@" in change else "101"
    lots = change.split()[0] if change[0] != "@" else "5"
    play(f"""
        place  A  sell  5 @ {start}
        place  B  sell  5 @ 101
        amend  A {change}
        amended A {lots} @ 101
        place  C  buy   6 @ 101
        fill   C B  5 @ 101
        fill   C A  1 @ 101
    """)


def test_an_amendment_that_changes_nothing_changes_nothing() -> None:
    floor = play("""
        place  A  sell  5 @ 101
        place  B  sell  5 @ 101
        amend  A 5 @ 101
        amended A 5 @ 101
        amend  A
        amended A 5 @ 101
        place  C  buy   1 @ 101
        fill   C A  1 @ 101
    """)
    before = floor.machine.order_view(1)
    floor.amend(1, 1, lots=5)
    assert floor.machine.order_view(1) == before


def test_a_new_price_that_crosses_trades_as_a_taker() -> None:
    floor = play("""
        place  A  sell  5 @ 103
        place  B  buy   8 @ 100
        amend  B @ 103
        amended B 8 @ 103
        fill   B A  5 @ 103
        book   buy  3 @ 103
        book   sell
    """)
    (trade,) = [event for event in floor.events if isinstance(event, events.Traded)]
    assert (trade.taker_order, trade.taker_fee) == (2, -(-60 * 103 * 5 * 20 // 10_000))


def test_the_quantity_of_an_amendment_counts_what_was_filled_before() -> None:
    play("""
        place  A  sell 10 @ 101
        place  B  buy   6 @ 101
        fill   B A  6 @ 101
        amend  A 7                 # sent before the fill was known
        amended A 7 @ 101
        left   A 1
        place  C  buy   5 @ 101
        fill   C A  1 @ 101
        book   buy  4 @ 101
    """)


@pytest.mark.parametrize("lots", ["6", "5", "3 @ 100", "6 @ 100"])
def test_an_order_amended_to_no_more_than_is_filled_is_canceled(lots: str) -> None:
    floor = play(f"""
        place  A  sell 10 @ 101
        place  B  buy   6 @ 101
        fill   B A  6 @ 101
        amend  A {lots}
        amended A 10 @ 101
        closed A amended
        book   sell
        amend  A 20
        refused A unknown_order
    """)
    view = floor.machine.order_view(1)
    assert (view.status, view.filled, view.reason) == ("canceled", 6, "amended")


def test_fees_are_rounded_up_once_through_amendments() -> None:
    floor = Floor(reference=20)
    floor.account(1, certified=100)
    floor.account(2)
    order = floor.sell(1, 2, 20)
    floor.buy(2, 1, 20)
    floor.buy(2, 3, 19)
    assert floor.amend(1, order, price=19, lots=5) is None
    # 1,200 micro-USD at 2 bp as a maker, then three lots of 1,140 at 20 bp as a taker: 0.24 + 6.84.
    view = floor.machine.order_view(order)
    assert (view.fee, view.filled, view.remaining) == (8, 4, 1)
    floor.buy(2, 1, 19)
    # And 1,140 more as a maker: 0.228, in all 7.308.
    assert floor.machine.order_view(order).fee == 8
    assert [event.maker_fee for event in floor.of(events.Traded)] == [0]


def test_an_iceberg_keeps_its_tip_and_hides_the_rest_of_what_it_becomes() -> None:
    play("""
        place  A  sell 10 @ 101 show 3
        place  B  sell  1 @ 101
        amend  A 5
        amended A 5 @ 101
        book   sell  4 @ 101
        amend  A 2
        amended A 2 @ 101
        book   sell  3 @ 101
        amend  A 9
        amended A 9 @ 101
        book   sell  4 @ 101
        place  C  buy   2 @ 101
        fill   C B  1 @ 101
        fill   C A  1 @ 101
    """)


def test_an_amended_order_meets_its_own_group_in_its_own_mode() -> None:
    play("""
        place  A  sell  5 @ 103 group 7
        place  B  buy   5 @ 100 group 7 stp oldest
        place  C  buy   5 @ 101 group 7
        amend  C @ 103
        amended C 5 @ 103
        closed C self_trade
        amend  B @ 103
        amended B 5 @ 103
        closed A self_trade
        book   buy  5 @ 103
    """)


def test_a_post_only_order_is_not_amended_into_a_trade() -> None:
    play("""
        place  A  sell  5 @ 103
        place  B  buy   5 @ 100 post
        amend  B @ 103
        refused B post_only_would_trade
        amend  B @ 102
        amended B 5 @ 102
    """)


def test_a_reduce_only_order_does_not_outgrow_its_position() -> None:
    play("""
        place  S  sell 10 @ 100
        place  L  buy  10 @ 100
        fill   L S 10 @ 100
        place  A  sell  6 @ 102 reduce of L
        place  B  sell  3 @ 102 of L
        amend  A 8
        refused A reduce_only
        amend  A 7
        amended A 7 @ 102
        amend  B 4
        amended B 4 @ 102
        closed A reduce_only
        book   sell  4 @ 102
    """)


def test_an_amendment_names_a_live_order_of_its_account() -> None:
    floor = Floor()
    floor.account(1)
    floor.account(2)
    order = floor.buy(1, 5, 1_250)
    for account, number in ((2, order), (1, order + 1), (9, order)):
        assert floor.amend(account, number, lots=1) == "unknown_order"
    floor.cancel(1, order)
    assert floor.amend(1, order, lots=1) == "unknown_order"


def test_every_reason_to_refuse_an_amendment_in_order_of_precedence() -> None:
    floor = Floor()
    floor.account(9, certified=300)
    floor.sell(9, 5, 1_260)
    floor.account(1, cash=4_000_000)
    order = floor.buy(1, 40, 1_200, terms=Terms(display_lots=2, post_only=True))
    account = floor.machine.state.accounts[1]
    seen = []

    def attempt(**new: int) -> None:
        before = floor.view(1), floor.machine.order_view(order)
        seen.append(floor.amend(1, order, **new))
        assert (floor.view(1), floor.machine.order_view(order)) == before
        assert [type(event) for event in floor.last] == [events.AmendRefused]

    other = floor.buy(1, 1, 1_200, at="23")
    floor.instruct(instructions.Halt(instrument=symbol("23")))
    assert floor.amend(1, other, price=-1) == Reject.INVALID_ORDER
    assert floor.amend(1, other, price=2_000) == Reject.HALTED
    assert floor.amend(1, other, lots=1) == Reject.HALTED
    attempt(price=2_000, lots=200_000, stop_price=1_300)
    attempt(price=2_000, lots=200_000)
    attempt(price=1_260, lots=200_000)
    attempt(price=1_260, lots=300)
    floor.checked = False
    account.entered, account.debt = 20_000, 1
    attempt(price=1_260, lots=200)
    account.entered = 0
    attempt(price=1_260, lots=200)
    account.debt = 0
    floor.checked = True
    attempt(price=1_260, lots=200)
    attempt(price=1_260, lots=90)
    floor.deposit(1, 10_000_000)
    attempt(price=1_260, lots=90)
    assert seen == [
        Reject.INVALID_ORDER,
        Reject.OUTSIDE_BAND,
        Reject.QUANTITY_LIMIT,
        Reject.DISPLAY_TOO_SMALL,
        Reject.ORDER_TO_TRADE_RATIO,
        Reject.ACCOUNT_IN_DEBT,
        Reject.POSITION_LIMIT,
        Reject.INSUFFICIENT_FUNDS,
        Reject.POST_ONLY_WOULD_TRADE,
    ]
    assert floor.amend(1, order, price=1_250, lots=90) is None


def test_who_is_in_debt_may_still_shrink_an_order() -> None:
    floor = Floor()
    floor.account(1)
    order = floor.buy(1, 5, 1_250)
    floor.machine.state.accounts[1].debt = 1
    floor.checked = False
    assert floor.amend(1, order, lots=6) == Reject.ACCOUNT_IN_DEBT
    assert floor.amend(1, order, lots=4) is None


def test_the_money_behind_the_old_terms_pays_for_the_new() -> None:
    floor = Floor()
    price = 60 * 40 * 1_250
    enough = price + price * 20 // 10_000
    floor.account(1, cash=enough)
    order = floor.buy(1, 40, 1_250)
    assert floor.view(1).available == 0
    assert floor.amend(1, order, price=1_251) == Reject.INSUFFICIENT_FUNDS
    assert floor.amend(1, order, price=1_251, lots=39) is None
    assert floor.amend(1, order, price=1_250, lots=40) is None
    assert floor.view(1).available == 0
    assert floor.amend(1, order, lots=10) is None
    assert floor.view(1).available == enough - enough // 4


def test_coverage_is_judged_without_the_order_that_is_amended() -> None:
    floor = Floor()
    floor.account(1, certified=100)
    order = floor.sell(1, 60, 1_250)
    floor.sell(1, 30, 1_260)
    assert floor.amend(1, order, price=1_255, lots=71) == Reject.INSUFFICIENT_COVERAGE
    assert floor.amend(1, order, price=1_255, lots=70) is None


def test_an_amendment_at_the_cap_of_open_orders_is_no_new_order() -> None:
    floor = Floor(checked=False)
    floor.account(1, certified=10_000)
    orders = [floor.sell(1, 1, 1_300) for _ in range(1_000)]
    floor.sell(1, 1, 1_300)
    assert floor.rejected() == Reject.OPEN_ORDER_LIMIT
    assert floor.amend(1, orders[7], price=1_301, lots=2) is None


def test_amendments_count_towards_the_ratio_to_trades() -> None:
    floor = Floor()
    floor.account(1)
    order = floor.buy(1, 5, 1_250)
    for price in (1_249, 1_248):
        floor.amend(1, order, price=price)
    floor.amend(1, order, price=9_999)
    assert floor.machine.state.accounts[1].entered == 3


def test_a_frozen_order_only_improves() -> None:
    floor = Floor("11:50")
    floor.account(1, certified=100)
    bid = floor.buy(1, 5, 1_250, at="+1 12")
    offer = floor.sell(1, 5, 1_260, at="+1 12")
    assert floor.amend(1, bid, price=1_240) is None
    floor.to("11:55")
    for order, new in (
        (bid, {"price": 1_239}),
        (bid, {"lots": 4}),
        (bid, {"price": 1_245, "lots": 4}),
        (offer, {"price": 1_261}),
        (offer, {"lots": 5, "price": 1_265}),
    ):
        assert floor.amend(1, order, **new) == Reject.FROZEN
    assert floor.amend(1, bid, price=1_245, lots=6) is None
    assert floor.amend(1, offer, price=1_255) is None
    floor.cancel(1, bid)
    assert [event.reason for event in floor.of(events.CancelRefused)] == ["frozen"]
