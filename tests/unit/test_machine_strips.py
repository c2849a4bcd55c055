"""Strips: the same lots in every hour at an average price, at once or not at all."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from exchange import commands, events
from exchange.machine import Machine, strips
from exchange.reasons import Reject
from marketplace.contract import HOUR
from settlement import instructions
from tests.floor import GRADE, Floor, hour, instant, symbol

OTHER = "GPT4O"
HOURS = ("18", "19", "20")


def floor_with_offers(*ladder: tuple[int, int], cash: int = 10**9, **more) -> Floor:
    """Account 1 offers (lots, price) in each of three hours; 2 is who deals."""
    floor = Floor("13:10", **more)
    floor.account(1, certified=1_000)
    floor.account(2, cash=cash)
    for at in HOURS:
        for lots, price in ladder:
            floor.sell(1, lots, price, at=at)
    return floor


def outcome(floor: Floor) -> tuple[str, int, str, str]:
    """Return (grade, lots in each hour, status, reason) of the last command's strip."""
    (placed,) = floor.of(events.StripPlaced)
    (closed,) = [event for event in floor.of(events.OrderClosed) if event.order == placed.order]
    return placed.grade, placed.lots, closed.status, closed.reason


def traded(floor: Floor) -> dict[str, list[tuple[int, int]]]:
    """Return (lots, price) of the last command's trades by hour."""
    found: dict[str, list[tuple[int, int]]] = {}
    for event in floor.of(events.Traded):
        found.setdefault(event.instrument[-3:-1], []).append((event.lots, event.price))
    return found


# The search


@pytest.mark.parametrize(
    ("ladders", "side", "price", "lots", "least", "found"),
    [
        ([[(100, 10)]], 1, 100, 10, 10, 10),
        ([[(100, 10)]], 1, 99, 10, 1, 0),
        ([[(100, 10)]], 1, 100, 11, 11, 0),
        ([[(100, 10)]], 1, 100, 11, 1, 10),
        # 10 at 100 and 5 at 106: 1,530 for 15, which is 102 on average.
        ([[(100, 10), (106, 10)]], 1, 102, 20, 1, 15),
        ([[(100, 10), (106, 10)]], 1, 102, 15, 15, 15),
        ([[(100, 10), (106, 10)]], 1, 102, 16, 16, 0),
        # One hour is above the limit, the other pays for it.
        ([[(90, 8)], [(110, 9)]], 1, 100, 9, 1, 8),
        ([[(90, 8)], [(111, 9)]], 1, 100, 9, 1, 0),
        # Sales want an average that is not lower.
        ([[(110, 10), (95, 10)]], -1, 105, 20, 1, 15),
        ([[(110, 10), (95, 10)]], -1, 111, 20, 1, 0),
        ([[(100, 10)], []], 1, 100, 1, 1, 0),
        ([[(100, 10)], [(100, 3)]], 1, 100, 10, 4, 0),
        # The exact limit: 3 x 100 + 101 = 401 ticks for 4, not a tick more.
        ([[(100, 3), (101, 1)], [(100, 4)]], 1, 100, 4, 1, 3),
    ],
)
def test_the_largest_quantity_that_keeps_the_average(
    ladders, side, price, lots, least, found
) -> None:
    assert strips.largest(ladders, side, price, lots, least) == found


levels = st.lists(st.tuples(st.integers(80, 120), st.integers(1, 12)), max_size=5)


@given(
    ladders=st.lists(levels, min_size=1, max_size=4),
    side=st.sampled_from((1, -1)),
    price=st.integers(80, 120),
    lots=st.integers(1, 50),
    least=st.integers(1, 50),
)
@settings(max_examples=500, deadline=None)
def test_no_quantity_was_missed(ladders, side, price, lots, least) -> None:
    """Every quantity is tried, lot by lot."""
    best_first = [sorted(ladder, key=lambda level: side * level[0]) for ladder in ladders]
    loose = [[price for price, there in ladder for _ in range(there)] for ladder in best_first]
    kept = [
        quantity
        for quantity in range(least, lots + 1)
        if all(len(prices) >= quantity for prices in loose)
        and side * sum(sum(prices[:quantity]) - price * quantity for prices in loose) <= 0
    ]
    assert strips.largest(best_first, side, price, lots, least) == max(kept, default=0)


# What trades


def test_a_strip_trades_the_same_lots_in_every_hour_at_the_average_price() -> None:
    floor = floor_with_offers((10, 1_250), (20, 1_260))
    order = floor.strip(2, 1, 15, 1_254)
    assert outcome(floor) == (GRADE, 15, "filled", "")
    assert traded(floor) == {at: [(10, 1_250), (5, 1_260)] for at in HOURS}
    assert {event.taker_order for event in floor.of(events.Traded)} == {order}
    for at in HOURS:
        assert floor.machine.position(2, symbol(at)).net_lots == 15
        assert floor.machine.best(symbol(at)) == (0, 1_260)
    assert len(floor.of(events.BookChanged)) == 3
    assert order not in floor.machine.state.orders
    assert floor.machine.drain_touched().orders[-1].order != order, "its events are all of it"


def test_a_dear_hour_is_paid_for_by_cheap_ones() -> None:
    floor = Floor("13:10")
    floor.account(1, certified=1_000)
    floor.account(2)
    for at, price in zip(HOURS, (1_200, 1_210, 1_300), strict=True):
        floor.sell(1, 10, price, at=at)
    floor.strip(2, 1, 10, 1_236)
    assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled")
    floor.strip(2, 1, 10, 1_237)
    assert outcome(floor) == (GRADE, 10, "filled", "")
    assert traded(floor) == {"18": [(10, 1_200)], "19": [(10, 1_210)], "20": [(10, 1_300)]}


def test_a_strip_sells_too() -> None:
    floor = Floor("13:10")
    floor.account(1, certified=50)
    floor.account(2)
    for at in HOURS:
        floor.buy(2, 30, 1_250, at=at)
    floor.strip(1, -1, 20, 1_250)
    assert outcome(floor) == (GRADE, 20, "filled", "")
    assert [floor.machine.position(1, symbol(at)).net_lots for at in HOURS] == [-20] * 3
    floor.strip(1, -1, 10, 1_251)
    assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled")


def test_less_than_everything_trades_where_a_share_is_enough() -> None:
    floor = floor_with_offers((10, 1_250), (20, 1_260))
    floor.strip(2, 1, 40, 1_260, min_share=76)
    assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled"), "31 are the least"
    floor.strip(2, 1, 40, 1_260, min_share=75)
    assert outcome(floor) == (GRADE, 30, "canceled", "ioc_remainder")
    floor.strip(2, 1, 40, 1_260, min_share=0)
    assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled")


def test_the_hour_with_the_least_decides_for_all() -> None:
    floor = floor_with_offers((30, 1_250))
    floor.account(3)
    floor.buy(3, 23, 1_250, at="19")
    floor.strip(2, 1, 30, 1_250, min_share=1)
    assert outcome(floor)[1] == 7
    assert traded(floor) == {at: [(7, 1_250)] for at in HOURS}


def test_the_fee_is_rounded_up_once_over_the_strip() -> None:
    floor = floor_with_offers((10, 20), reference=20)
    floor.strip(2, 1, 1, 20)
    # A lot is 1,200 micro-USD: 2.4 for each hour, 7.2 in all.
    fees = [event.taker_fee for event in floor.of(events.Traded)]
    assert fees == [3, 2, 3]
    moved = [e.amount for e in floor.of(events.Transferred) if e.debit_owner == 2]
    assert sum(moved) == 8


def test_money_is_needed_for_exactly_what_trades_and_its_fee() -> None:
    price = 60 * 3 * (10 * 1_250 + 5 * 1_260)
    fee = -(-price * 20 // 10_000)
    floor = floor_with_offers((10, 1_250), (20, 1_260), cash=price + fee - 1)
    before = floor.view(2), floor.machine.book_levels(symbol("19"), 9)
    floor.strip(2, 1, 15, 1_300)
    assert floor.rejected() == Reject.INSUFFICIENT_FUNDS
    assert (floor.view(2), floor.machine.book_levels(symbol("19"), 9)) == before
    assert len(floor.last) == 1
    floor.deposit(2, 1)
    floor.strip(2, 1, 15, 1_300)
    assert outcome(floor)[2] == "filled"
    assert (floor.view(2).cash, floor.view(2).available) == (price, 0)


def test_what_one_hour_sets_free_pays_for_another() -> None:
    """Account 2 is short of one hour and buys it back; all hours are judged as one."""
    floor = floor_with_offers((10, 1_250), cash=60 * 2 * 10 * 1_250 + 10**5)
    floor.certify(2, 10)
    floor.account(3)
    floor.buy(3, 10, 1_245, at="19")
    floor.sell(2, 10, 1_245, at="19")
    free = floor.view(2).available
    floor.strip(2, 1, 10, 1_250)
    assert outcome(floor)[2] == "filled"
    assert floor.view(2).available < free
    floor.machine.check()


# Alternatives


def floor_with_two_grades(first: int, second: int) -> Floor:
    """Account 1 offers 10 lots in three hours of each grade at these prices; 2 deals."""
    floor = Floor("13:10")
    other = instructions.DefineGrade(grade=OTHER, reference_price_ticks=1_250)
    assert floor.instruct(other) is None
    floor.account(1, certified=100)
    certified = instructions.Certify(
        cluster=99, account=1, grade=OTHER, lots=100, valid_until=hour("+1 12")
    )
    assert floor.instruct(certified) is None
    floor.account(2)
    for at in HOURS:
        floor.sell(1, 10, first, at=at)
        floor.sell(1, 10, second, instrument=symbol(at, OTHER))
    return floor


@pytest.mark.parametrize(
    ("first", "second", "price", "taken"),
    [
        (1_250, 1_240, 1_250, GRADE),
        (1_250, 1_240, 1_245, OTHER),
        (1_250, 1_240, 1_239, ""),
    ],
)
def test_the_first_grade_that_can_trade_does_and_no_other(first, second, price, taken) -> None:
    floor = floor_with_two_grades(first, second)
    floor.strip(2, 1, 10, price, alternatives=(OTHER,))
    if not taken:
        assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled")
        assert floor.of(events.Traded) == []
        return
    assert outcome(floor) == (taken, 10, "filled", "")
    held = {
        grade: [floor.machine.position(2, symbol(at, grade)).net_lots for at in HOURS]
        for grade in (GRADE, OTHER)
    }
    assert held == {taken: [10] * 3, ({GRADE, OTHER} - {taken}).pop(): [0] * 3}


def test_a_grade_that_a_rule_forbids_leaves_the_next_one() -> None:
    floor = floor_with_two_grades(1_250, 1_250)
    floor.instruct(instructions.Halt(instrument=symbol("19")))
    floor.strip(2, 1, 10, 1_250)
    assert floor.rejected() == Reject.HALTED
    floor.strip(2, 1, 10, 1_250, alternatives=(OTHER,))
    assert outcome(floor) == (OTHER, 10, "filled", "")
    floor.strip(2, 1, 10, 1_250, alternatives=(OTHER,))
    assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled"), (
        "allowed, but nothing is left"
    )
    floor.instruct(instructions.Halt(grade=OTHER))
    floor.strip(2, 1, 10, 1_250, alternatives=(OTHER,))
    assert floor.rejected() == Reject.HALTED


# Refusals


def test_what_means_nothing_is_refused() -> None:
    floor = floor_with_offers((10, 1_250))
    valid = commands.PlaceStrip(
        account=2,
        grade=GRADE,
        side=1,
        from_at=hour("18"),
        to_at=hour("21"),
        price=1_250,
        lots=1,
        min_share=100,
        client_order_id="s",
        fingerprint=b"",
    )
    assert strips.is_valid(valid)
    for wrong in (
        {"lots": 0},
        {"price": 0},
        {"price": 10**18},
        {"side": 0},
        {"to_at": hour("18")},
        {"to_at": hour("21") + 1},
        {"from_at": hour("18") - 1},
        {"to_at": hour("18") + 49 * HOUR},
        {"from_at": -HOUR, "to_at": 0},
        {"from_at": 2**62 // HOUR * HOUR, "to_at": 2**62 // HOUR * HOUR + HOUR},
        {"min_share": 101},
        {"min_share": -1},
        {"alternatives": (GRADE,)},
        {"alternatives": (OTHER, OTHER)},
        {"alternatives": tuple(f"GRADE{n}" for n in range(9))},
    ):
        fields = {name: getattr(valid, name) for name in valid.__struct_fields__}
        floor.apply(commands.PlaceStrip(**(fields | wrong)))
        assert floor.rejected() == Reject.INVALID_ORDER


def test_every_rule_is_asked_in_the_order_of_precedence() -> None:
    """One strip that breaks every rule is mended rule by rule, and each time the next answers."""
    floor = Floor("10:30")
    floor.account(1, certified=2_000)
    strip = {"account": 9, "side": 1, "lots": 100_001, "price": 0, "start": "20", "hours": 14}
    seen = []

    def attempt(**mended: object) -> None:
        strip.update(mended)
        before = floor.machine.state.next_trade, dict(floor.machine.state.orders), floor.view(9)
        floor.strip(**strip)
        after = floor.machine.state.next_trade, dict(floor.machine.state.orders), floor.view(9)
        assert after == before
        assert [type(event) for event in floor.last] == [events.StripRejected]
        seen.append(floor.rejected())

    attempt(grade=OTHER)
    attempt(price=1_400)
    floor.account(9, cash=0)
    floor.instruct(instructions.KillSwitch(account=9, enabled=True))
    attempt()
    floor.instruct(instructions.KillSwitch(account=9, enabled=False))
    attempt()
    floor.instruct(instructions.Halt(instrument=symbol("20")))
    attempt(grade=GRADE)
    floor.instruct(instructions.Resume(instrument=symbol("20")))
    attempt(start="10", hours=20)
    attempt(start="19", hours=14)
    floor.to("12:00")
    for at in HOURS:
        floor.sell(1, 600, 1_250, at=at)
    attempt(start="18", hours=3)
    floor.machine.state.accounts[9].entered = 10_000
    attempt(lots=600)
    floor.machine.state.accounts[9].entered = 0
    floor.machine.state.accounts[9].debt = 1
    floor.checked = False
    attempt()
    floor.machine.state.accounts[9].debt = 0
    floor.checked = True
    attempt()
    attempt(lots=500)
    assert seen == [
        "invalid_order",
        "unknown_account",
        "killed",
        "unknown_instrument",
        "halted",
        "closed",
        "not_in_call",
        "quantity_limit",
        "order_to_trade_ratio",
        "account_in_debt",
        "position_limit",
        "insufficient_funds",
    ]
    floor.deposit(9, 10**9)
    floor.strip(**strip)
    assert outcome(floor) == (GRADE, 500, "filled", "")


def test_a_sale_has_to_be_covered_in_every_hour() -> None:
    floor = Floor("13:10")
    floor.account(1)
    floor.account(2)
    floor.certify(1, 20, until=instant("21:00"))
    for at in (*HOURS, "21"):
        floor.buy(2, 30, 1_250, at=at)
    floor.strip(1, -1, 20, 1_250, hours=4)
    assert floor.rejected() == Reject.INSUFFICIENT_COVERAGE
    floor.strip(1, -1, 21, 1_250)
    assert floor.rejected() == Reject.INSUFFICIENT_COVERAGE
    floor.strip(1, -1, 20, 1_250)
    assert outcome(floor)[2] == "filled"


def test_resting_orders_count_in_every_limit() -> None:
    floor = floor_with_offers((200, 1_250))
    floor.buy(2, 200, 1_200, at="19")
    floor.strip(2, 1, 51, 1_250)
    assert floor.rejected() == Reject.POSITION_LIMIT
    floor.strip(2, 1, 50, 1_250)
    assert outcome(floor)[2] == "filled"


def test_an_order_of_the_own_group_ends_the_reach() -> None:
    floor = floor_with_offers((10, 1_250), (10, 1_260))
    floor.account(5, group=2, certified=50)
    mine = floor.sell(5, 5, 1_255, at="19")
    floor.strip(2, 1, 11, 1_300)
    assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled")
    floor.strip(2, 1, 11, 1_300, min_share=50)
    assert outcome(floor)[1] == 10
    assert mine in floor.machine.state.orders


def test_nothing_trades_outside_the_dynamic_band_and_no_call_begins() -> None:
    floor = floor_with_offers((10, 1_250), (10, 1_300), (10, 1_313))
    floor.account(3)
    for at in HOURS:
        floor.buy(3, 1, 1_250, at=at)  # from here on 1,188 to 1,312
    floor.strip(2, 1, 20, 1_400)
    assert outcome(floor) == (GRADE, 0, "canceled", "strip_unfilled")
    floor.strip(2, 1, 20, 1_400, min_share=1)
    assert outcome(floor)[1] == 19
    assert floor.of(events.CallOpened) == []


def test_stops_that_a_strip_triggers_follow_when_all_its_hours_are_done() -> None:
    floor = floor_with_offers((10, 1_250), (10, 1_260))
    floor.account(3)
    stop = floor.place(3, 1, 4, 0, at="18", terms=commands.Terms(type="STOP", stop_price=1_255))
    floor.strip(2, 1, 12, 1_260)
    assert outcome(floor) == (GRADE, 12, "filled", "")
    assert [(event.instrument[-3:-1], event.taker_order == stop, event.lots)
            for event in floor.of(events.Traded)][-3:] == [
        ("20", False, 10), ("20", False, 2), ("18", True, 4),
    ]  # fmt: skip
    assert [event.order for event in floor.of(events.OrderTriggered)] == [stop]


def test_a_strip_that_ends_what_reduce_only_orders_reduce_has_them_leave() -> None:
    floor = floor_with_offers((10, 1_250))
    floor.certify(2, 10)
    floor.account(3)
    floor.buy(3, 10, 1_245, at="19")
    floor.sell(2, 10, 1_245, at="19")
    reducing = floor.buy(2, 10, 1_200, at="19", terms=commands.Terms(reduce_only=True))
    floor.strip(2, 1, 5, 1_250)
    assert (reducing, "canceled", "reduce_only") in floor.closed()
    assert outcome(floor)[2] == "filled"


def test_icebergs_are_in_reach_with_all_that_they_hide() -> None:
    floor = floor_with_offers()
    for at in HOURS:
        floor.sell(1, 30, 1_250, at=at, terms=commands.Terms(display_lots=5))
    floor.strip(2, 1, 22, 1_250)
    assert outcome(floor) == (GRADE, 22, "filled", "")
    assert [floor.machine.book_levels(symbol(at), 1)[1] for at in HOURS] == [[(1_250, 3)]] * 3


def test_a_client_order_id_of_a_live_order_enters_nothing() -> None:
    floor = floor_with_offers((10, 1_250))
    floor.buy(2, 1, 1_200, name="mine")
    assert floor.strip(2, 1, 5, 1_250, name="mine") == 0
    assert floor.last == []


def test_a_restored_machine_trades_a_strip_alike() -> None:
    floor = floor_with_offers((10, 1_250), (20, 1_260))
    floor.strip(2, 1, 3, 1_250)
    twin = Machine.restore(floor.machine.snapshot())
    for lots, share in ((12, 100), (30, 10), (1, 100)):
        floor.strip(2, 1, lots, 1_258, min_share=share)
        item = floor.log[-1]
        assert twin.apply(item.command, item.sequence, item.at) == floor.last
        assert twin.snapshot() == floor.machine.snapshot()


# Anything


books = st.lists(
    st.tuples(st.sampled_from(HOURS), st.integers(1, 8), st.integers(90, 112), st.integers(1, 3)),
    max_size=14,
)


@given(
    orders=books,
    side=st.sampled_from((1, -1)),
    lots=st.integers(1, 20),
    price=st.integers(90, 112),
    min_share=st.integers(0, 100),
    cash=st.sampled_from((10**4, 10**5, 10**8)),
)
@settings(max_examples=150, deadline=None)
def test_a_strip_trades_the_most_it_may_or_changes_nothing(
    orders, side, lots, price, min_share, cash
) -> None:
    """The books are taken apart lot by lot; the machine checks all its invariants by itself."""
    floor = Floor("13:10", reference=100)
    for account in (1, 2, 3):
        floor.account(account, certified=1_000)
    floor.account(4, cash=cash, group=3, certified=12)
    for at, size, at_price, account in orders:
        floor.place(account, -side, size, at_price, at=at)
    reachable = []
    for at in HOURS:
        book = floor.machine.state.instruments[symbol(at)].book
        queue = []
        for order in book.ladder(-side):
            if order.group == 3:
                break
            queue += [order.price] * order.remaining
        reachable.append(queue)
    least = max(1, -(-lots * min_share // 100))
    kept = [
        quantity
        for quantity in range(least, lots + 1)
        if all(len(queue) >= quantity for queue in reachable)
        and side * sum(sum(queue[:quantity]) - price * quantity for queue in reachable) <= 0
    ]
    before = floor.view(4)

    floor.strip(4, side, lots, price, min_share=min_share)

    if floor.rejected() is None:
        assert outcome(floor)[1] == max(kept, default=0)
        positions = [floor.machine.position(4, symbol(at)).net_lots for at in HOURS]
        assert positions == [side * max(kept, default=0)] * 3
        assert floor.view(4).available >= 0
    else:
        assert kept, "what has nothing to trade is not refused"
        assert floor.view(4) == before
        assert len(floor.last) == 1
