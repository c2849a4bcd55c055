"""Previews: what placing an order would give, to the micro-dollar, and nothing is changed."""

import hypothesis.strategies as st
from hypothesis import given, settings

from exchange import commands, events
from settlement import instructions
from tests.floor import Floor, symbol

Terms = commands.Terms


def market(**more) -> Floor:
    """Account 1 offers and bids, 2 asks, 3 is of its group."""
    floor = Floor("13:10", **more)
    floor.account(1, certified=1_000)
    floor.account(2, cash=10_000_000, group=22, certified=100)
    floor.account(3, group=22, certified=100)
    floor.sell(1, 10, 1_250)
    floor.sell(1, 10, 1_255)
    floor.sell(1, 10, 1_260)
    floor.buy(1, 10, 1_240)
    return floor


def test_a_preview_shows_fills_fee_margin_and_what_moves() -> None:
    floor = market()
    found = floor.preview(2, 1, 25, 1_258)
    cost = 60 * (10 * 1_250 + 10 * 1_255)
    fee = -(-cost * 20 // 10_000)
    rest = 60 * 5 * 1_258
    rest_fee = -(-(cost + rest) * 20 // 10_000) - fee
    assert found == events.Previewed(
        reason="",
        status="partially_filled",
        lots=20,
        fills=((1_250, 10), (1_255, 10)),
        fee=fee,
        margin=cost + rest + rest_fee,
        available_after=10_000_000 - cost - fee - rest - rest_fee,
        best_before=1_250,
        best_after=1_260,
    )


def test_fills_of_one_price_are_shown_as_one() -> None:
    floor = market()
    floor.account(4, certified=50)
    floor.sell(4, 7, 1_250)
    assert floor.preview(2, 1, 15, 1_250).fills == ((1_250, 15),)


def test_a_preview_that_takes_a_whole_side_leaves_none() -> None:
    floor = market()
    found = floor.preview(2, 1, 40, 0, time_in_force="IOC", terms=Terms(type="MARKET"))
    assert (found.status, found.reason, found.lots) == ("canceled", "protection_band", 30)
    assert (found.best_before, found.best_after) == (1_250, 0)


def test_an_order_that_would_be_refused_says_why() -> None:
    floor = market()
    available = floor.view(2).available
    for order, reason in (
        ((2, 1, 1, 5_000), "outside_band"),
        ((2, 1, 200, 1_250), "insufficient_funds"),
        ((2, 1, 301, 1_250), "position_limit"),
        ((2, -1, 101, 1_250), "insufficient_coverage"),
    ):
        found = floor.preview(*order)
        assert (found.reason, found.status, found.fills) == (reason, "rejected", ())
        assert (found.margin, found.fee, found.available_after) == (0, 0, available)
    assert floor.preview(9, 1, 1, 1_250).reason == "unknown_account"
    assert floor.preview(2, 1, 1, 1_250, instrument="NOPE").reason == "unknown_instrument"
    assert floor.preview(2, 1, 1, 1_250, at="13").reason == "closed"
    floor.instruct(instructions.Halt())
    assert floor.preview(2, 1, 1, 1_250).reason == "halted"


def test_other_accounts_of_the_group_count_and_stop_an_order() -> None:
    floor = market()
    floor.sell(3, 5, 1_252)
    found = floor.preview(2, 1, 20, 1_260)
    assert (found.status, found.reason, found.fills) == ("canceled", "self_trade", ((1_250, 10),))
    terms = Terms(prevention="CANCEL_OLDEST")
    found = floor.preview(2, 1, 20, 1_260, terms=terms)
    assert (found.status, found.fills) == ("filled", ((1_250, 10), (1_255, 10)))
    floor.buy(3, 270, 1_200)
    assert floor.preview(2, 1, 31, 1_200).reason == "position_limit"


def test_a_stop_that_would_trigger_at_once_is_shown_as_what_it_becomes() -> None:
    floor = market()
    floor.buy(3, 1, 1_250)
    found = floor.preview(2, 1, 5, 0, terms=Terms(type="STOP", stop_price=1_250))
    assert (found.status, found.fills) == ("filled", ((1_250, 5),))


def test_stops_that_its_own_trades_would_trigger_are_left_out() -> None:
    floor = market()
    floor.account(4, certified=50)
    floor.place(4, 1, 5, 0, terms=Terms(type="STOP", stop_price=1_250))
    found = floor.preview(2, 1, 10, 1_250)
    floor.buy(2, 10, 1_250)
    assert (found.fills, found.best_after) == (((1_250, 10),), 1_255)
    assert len(floor.of(events.Traded)) == 2, "the stop took the next level in fact"


def test_a_stop_that_waits_and_an_order_in_a_call_trade_nothing() -> None:
    floor = market()
    floor.buy(2, 1, 1_250)
    found = floor.preview(2, 1, 5, 0, terms=Terms(type="STOP", stop_price=1_260))
    assert (found.status, found.fills, found.lots) == ("untriggered", (), 0)
    assert found.margin > 60 * 5 * 1_437
    floor = Floor("10:30")
    floor.account(1, certified=100)
    floor.account(2)
    floor.sell(1, 10, 1_250, at="+1 10")
    found = floor.preview(2, 1, 10, 1_260, at="+1 10")
    assert (found.status, found.fills, found.margin > 0) == ("open", (), True)
    found = floor.preview(2, 1, 10, 1_260, at="+1 10", time_in_force="IOC")
    assert found.reason == "not_in_call"


def test_reduce_only_orders_that_would_have_to_leave_set_free_what_they_reserve() -> None:
    floor = market()
    floor.sell(2, 10, 1_240)
    leaving = floor.buy(2, 10, 1_200, terms=Terms(reduce_only=True))
    found = floor.preview(2, 1, 4, 1_190)
    before = floor.machine.state.accounts[2].required
    floor.buy(2, 4, 1_190)
    assert floor.closed() == [(leaving, "canceled", "reduce_only")]
    assert found.margin == floor.machine.state.accounts[2].required - before
    assert found.margin < 0, "the fee of four lots, no longer that of ten"


def test_a_preview_does_not_count_as_an_order() -> None:
    floor = market()
    entered = floor.machine.state.accounts[2].entered
    for _ in range(3):
        floor.preview(2, 1, 5, 1_250)
    assert floor.machine.state.accounts[2].entered == entered
    assert floor.machine.best(symbol("20")) == (1_240, 1_250)


# Exactly what placing would do

kinds = st.one_of(
    st.none(),
    st.builds(
        Terms,
        prevention=st.sampled_from(sorted(commands.PREVENTIONS)),
        post_only=st.booleans(),
        reduce_only=st.booleans(),
    ),
    st.builds(Terms, display_lots=st.integers(1, 3)),
    st.builds(Terms, min_lots=st.integers(1, 12), prevention=st.just("DECREMENT")),
    st.builds(Terms, type=st.just("MARKET"), prevention=st.just("CANCEL_OLDEST")),
    st.builds(Terms, type=st.just("STOP"), stop_price=st.integers(92, 108)),
    st.builds(Terms, type=st.just("STOP_LIMIT"), stop_price=st.integers(92, 108)),
)
orders = st.tuples(
    st.integers(1, 5),
    st.sampled_from((1, -1)),
    st.integers(1, 14),
    st.integers(90, 110),
    st.sampled_from(("GTC", "GTC", "IOC", "FOK", "DAY")),
    kinds,
)


@given(
    steps=st.lists(orders, min_size=1, max_size=25),
    start=st.sampled_from(("13:10", "13:10", "10:30", "19:47")),
    cash=st.sampled_from((30_000, 10**8)),
)
@settings(max_examples=200, deadline=None)
def test_a_preview_is_what_placing_gives(steps, start, cash) -> None:
    at = "+1 10" if start == "10:30" else "20"
    floor = Floor(start, reference=100)
    for account, group in ((1, 1), (2, 2), (3, 2), (4, 4), (5, 5)):
        floor.account(account, group=group, certified=60, cash=cash if account == 4 else 10**8)
    for account, side, lots, price, time_in_force, terms in steps:
        if terms is not None and terms.type in ("MARKET", "STOP"):
            price = 0
        more = {"at": at, "time_in_force": time_in_force, "terms": terms}
        found = floor.preview(account, side, lots, price, **more)
        holder = floor.machine.state.accounts[account]
        before = holder.required
        number = floor.place(account, side, lots, price, **more)
        if any(event.order != number for event in floor.of(events.OrderTriggered)):
            continue  # What its trades trigger comes after it.
        fills: dict[int, int] = {}
        for event in floor.of(events.Traded):
            fills[event.price] = fills.get(event.price, 0) + event.lots
        assert found.fills == tuple(fills.items())
        assert found.best_after == floor.machine.best(symbol(at))[side > 0]
        assert found.margin == holder.required - before
        assert found.available_after == holder.available
        if floor.rejected():
            assert (found.status, found.reason) == ("rejected", floor.rejected())
            continue
        view = floor.machine.order_view(number)
        assert (found.status, found.reason) == (view.status, view.reason)
        assert (found.lots, found.fee) == (view.filled, view.fee)


def test_a_preview_that_withdraws_an_order_leaves_those_beside_it_alone() -> None:
    floor = Floor("13:10")
    for account in (1, 2, 3, 4):
        floor.account(account, certified=100)
    floor.buy(2, 10, 1_250)
    floor.sell(1, 10, 1_250)
    first = floor.buy(2, 5, 1_240)
    reducing = floor.place(1, 1, 10, 1_240, terms=Terms(reduce_only=True))
    last = floor.buy(3, 5, 1_240)
    # Beside so much more of its side the order could not only reduce, and would leave.
    assert floor.preview(1, 1, 5, 1_239).status == "open"
    assert floor.machine.book_levels(symbol("20"), 5) == ([(1_240, 20)], [])
    floor.sell(4, 20, 1_240)
    assert [event.maker_order for event in floor.of(events.Traded)] == [first, reducing, last]


def test_a_preview_into_a_call_knows_what_the_group_has_behind_all_it_would_meet() -> None:
    floor = Floor("13:10", reference=100)
    floor.account(1)
    floor.account(2, group=22, certified=100)
    floor.account(3, group=22)
    floor.account(4, certified=100)
    floor.buy(1, 1, 100)
    floor.sell(4, 1, 100)
    for price, lots in ((98, 5), (94, 10), (93, 1)):
        floor.buy(1, lots, price)
    floor.buy(3, 5, 92)
    # Five lots are inside the band; the rest would go into a call, and meet its own group there.
    found = floor.preview(2, -1, 6, 92)
    assert (found.lots, found.status, found.reason) == (5, "canceled", "self_trade")
    number = floor.sell(2, 6, 92)
    assert floor.closed()[-1] == (number, "canceled", "self_trade")
