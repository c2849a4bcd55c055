"""Calls, the uncross and halts: what a session asks of orders, and how it ends."""

import random

import pytest

from exchange import commands, events
from exchange.machine import sessions
from marketplace import contract
from marketplace.contract import CallKind
from settlement import instructions
from tests import oracle
from tests.floor import GRADE, Floor, hour, instant, symbol
from tests.sessions import MINUTE, TODAY, TOMORROW, levels, market, restored, state, states, trades

# A day


def test_the_walk_of_an_hour_from_its_listing_to_its_gate() -> None:
    floor = market("09:59")
    assert floor.machine.auction_view(TOMORROW) is None

    floor.to("10:00")
    assert states(floor, TOMORROW) == ["CALL"]
    (opened,) = [e for e in floor.of(events.CallOpened) if e.instrument == TOMORROW]
    assert (opened.kind, opened.frozen_at, opened.ends_at) == (
        "OPENING",
        instant("11:55"),
        instant("12:00"),
    )
    buy = floor.buy(3, 30, 1_300, at="+1 14")
    floor.to("10:30")
    first = floor.sell(1, 10, 1_240, at="+1 14")
    second = floor.sell(2, 25, 1_260, at="+1 14")
    assert trades(floor) == []
    assert levels(floor, TOMORROW) == ([(1_300, 30)], [(1_240, 10), (1_260, 25)])
    view = floor.machine.auction_view(TOMORROW)
    assert (view.indicative_price, view.indicative_lots) == (1_260, 30)
    assert (view.surplus, view.surplus_side) == (5, -1)
    assert (view.last_price, view.last_lots, view.last_at) == (0, 0, 0)

    floor.to("11:55")
    floor.cancel(3, buy)
    assert floor.of(events.CancelRefused)[0].reason == "frozen"

    floor.at = instant("12:00")
    floor.apply(commands.Tick())
    assert trades(floor) == [(first, buy, 10, 1_260, True), (second, buy, 20, 1_260, True)]
    (uncrossed,) = [e for e in floor.of(events.Uncrossed) if e.instrument == TOMORROW]
    assert (uncrossed.kind, uncrossed.price, uncrossed.lots) == ("OPENING", 1_260, 30)
    assert states(floor, TOMORROW) == ["CONTINUOUS"]
    assert levels(floor, TOMORROW) == ([], [(1_260, 5)])
    marked = [e for e in floor.of(events.Marked) if e.instrument == TOMORROW]
    assert [(e.price, e.method) for e in marked] == [(1_260, "auction")]
    view = floor.machine.auction_view(TOMORROW)
    assert (view.kind, view.frozen_at, view.ends_at, view.indicative_price) == ("", 0, 0, 0)
    assert (view.last_price, view.last_lots, view.last_at) == (1_260, 30, instant("12:00"))

    # Up to 1,323 is inside the dynamic band.
    floor.sell(1, 1, 1_324, at="+1 14")
    floor.buy(4, 10, 1_330, at="+1 14")
    assert [(lots, price) for _, _, lots, price, _ in trades(floor)] == [(5, 1_260)]
    assert states(floor, TOMORROW) == ["CALL"]
    floor.to("12:05")
    assert [(lots, price, auction) for _, _, lots, price, auction in trades(floor)] == [
        (1, 1_324, True)
    ]
    assert states(floor, TOMORROW) == ["CONTINUOUS"]

    floor.to("+1 13:54")
    assert state(floor, TOMORROW) == "CONTINUOUS"
    floor.to("+1 13:55")
    assert states(floor, TOMORROW) == ["CLOSED"]
    published = next(
        e for e in floor.of(events.IndexPublished) if e.hour_starts_at == hour("+1 14")
    )
    assert (published.price, published.method) == (1_260, "auction")
    (gate,) = [e for e in floor.of(events.GateClosed) if e.instrument == TOMORROW]
    assert gate.lots == 36


def test_a_grade_first_listed_during_the_call_takes_part_in_it() -> None:
    floor = Floor("11:30")
    assert state(floor, TODAY) == "CONTINUOUS"
    view = floor.machine.auction_view(TOMORROW)
    assert (view.state, view.kind, view.ends_at) == ("CALL", "OPENING", instant("12:00"))


def test_the_last_hour_of_the_day_goes_through_midnight_and_its_gate() -> None:
    floor = market("10:00")
    late = symbol("+1 00")
    floor.sell(1, 5, 1_250, at="+1 00")
    floor.buy(3, 5, 1_250, at="+1 00")
    floor.to("12:00")
    floor.to("23:54:59")
    floor.sell(1, 5, 1_250, at="+1 00")
    floor.at = instant("23:55")
    floor.buy(3, 5, 1_250, at="+1 00")
    assert floor.rejected() == "closed"
    assert trades(floor) == []
    assert state(floor, late) == "CLOSED"


# The uncross


def test_both_sides_of_an_auction_pay_the_makers_fee_once_per_order() -> None:
    floor = market("10:00")
    floor.sell(1, 7, 1_211, at="+1 14")
    floor.sell(2, 6, 1_229, at="+1 14")
    floor.buy(3, 13, 1_289, at="+1 14")
    floor.to("12:00")
    assert [(e.lots, e.price) for e in floor.of(events.Traded)] == [(7, 1_250), (6, 1_250)]
    fees = oracle.fees(floor.events, {"maker": 2, "taker": 2})
    paid: dict[int, int] = {}
    for e in floor.of(events.Traded):
        paid[e.maker_order] = paid.get(e.maker_order, 0) + e.maker_fee
        paid[e.taker_order] = paid.get(e.taker_order, 0) + e.taker_fee
    assert paid == fees
    assert oracle.balances(floor.events)[3, 1] == floor.view(3).cash


def test_at_the_margin_the_earlier_order_has_the_last_lot() -> None:
    floor = market("10:00")
    late = floor.buy(4, 8, 1_260, at="+1 14")
    best = floor.buy(5, 4, 1_270, at="+1 14")
    last = floor.buy(3, 8, 1_260, at="+1 14")
    sell = floor.sell(1, 15, 1_240, at="+1 14")
    floor.to("12:00")
    assert trades(floor) == [
        (sell, best, 4, 1_250, True),
        (sell, late, 8, 1_250, True),
        (sell, last, 3, 1_250, True),
    ]
    assert levels(floor, TOMORROW) == ([(1_260, 5)], [])


def test_an_iceberg_counts_in_full_and_shows_its_tip_again() -> None:
    floor = market("10:00")
    iceberg = floor.buy(3, 40, 1_260, at="+1 14", terms=commands.Terms(display_lots=6))
    plain = floor.buy(4, 10, 1_260, at="+1 14")
    sell = floor.sell(1, 33, 1_250, at="+1 14")
    assert levels(floor, TOMORROW) == ([(1_260, 16)], [(1_250, 33)])
    assert floor.machine.auction_view(TOMORROW).indicative_lots == 33
    floor.to("12:00")
    assert trades(floor) == [(sell, iceberg, 33, 1_250, True)]
    assert levels(floor, TOMORROW) == ([(1_260, 16)], [])
    # What it shows now stands behind the plain order of its price.
    floor.sell(1, 11, 1_260, at="+1 14")
    assert [(e.maker_order, e.lots) for e in floor.of(events.Traded)] == [(plain, 10), (iceberg, 1)]


@pytest.mark.parametrize("sides", [(), ("buy",), ("sell",), ("buy", "sell")])
def test_a_call_in_which_nothing_crosses_opens_the_book_without_a_price(sides) -> None:
    floor = market("10:00")
    if "buy" in sides:
        floor.buy(3, 5, 1_249, at="+1 14")
    if "sell" in sides:
        floor.sell(1, 5, 1_250, at="+1 14")
    before = levels(floor, TOMORROW)
    floor.to("12:00")
    (uncrossed,) = [e for e in floor.of(events.Uncrossed) if e.instrument == TOMORROW]
    assert (uncrossed.price, uncrossed.lots) == (0, 0)
    assert trades(floor) == []
    assert levels(floor, TOMORROW) == before
    view = floor.machine.auction_view(TOMORROW)
    assert (view.state, view.last_price, view.last_at) == ("CONTINUOUS", 0, 0)
    assert floor.machine.state.instruments[TOMORROW].opening_price == 0


def test_an_auction_conserves_cash_and_lots_and_a_restored_call_ends_alike() -> None:
    for seed in range(12):
        chance = random.Random(seed)
        floor = market("10:00")
        for _ in range(40):
            account = chance.choice((1, 1, 2, 2, 3, 4, 5))
            side = 1 if account > 2 else chance.choice((1, -1, -1, -1, -1, -1))
            price, lots = chance.randint(1_150, 1_350), chance.randint(1, 12)
            floor.place(account, side, lots, price, at="+1 14")
        indicated = floor.machine.auction_view(TOMORROW)
        restored(floor)
        assert floor.machine.auction_view(TOMORROW) == indicated
        floor.to("12:00")
        auctioned = [e for e in floor.of(events.Traded) if e.instrument == TOMORROW]
        assert sum(e.lots for e in auctioned) == indicated.indicative_lots > 0
        assert {e.price for e in auctioned} == {indicated.indicative_price}
        assert all(e.maker_order < e.taker_order for e in auctioned)
        assert all(e.maker != e.taker for e in auctioned)
        totals = oracle.balances(floor.events)
        assert sum(totals.values()) == 0
        for account in range(1, 6):
            assert totals[account, 1] == floor.view(account).cash
            held = oracle.positions(floor.events)[account, TOMORROW]
            position = floor.machine.position(account, TOMORROW)
            assert (position.net_lots, position.cost_ticks) == held


def slow_auction(resting: dict[int, tuple[int, int, int]]) -> tuple[int, dict[int, int]]:
    """Return the price by trying every tick of the band, and the lots of each order by hand."""
    best = None
    for price in range(1_063, 1_438):
        bought = sum(lots for side, limit, lots in resting.values() if side > 0 and limit >= price)
        sold = sum(lots for side, limit, lots in resting.values() if side < 0 and limit <= price)
        rank = -min(bought, sold), abs(bought - sold), abs(price - 1_250), price
        if best is None or rank < best:
            best = rank
    filled = dict.fromkeys(resting, 0)
    for side in (1, -1):
        left = -best[0]
        served = [
            (-side * limit, number, lots)
            for number, (of, limit, lots) in resting.items()
            if of == side and side * limit >= side * best[3]
        ]
        for _, number, lots in sorted(served):
            filled[number] = min(lots, left)
            left -= filled[number]
    return best[3], filled


def test_every_order_has_what_price_and_time_give_it_icebergs_too() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        floor = market("10:00")
        resting = {}
        for _ in range(40):
            account = chance.choice((1, 1, 2, 2, 3, 4, 5))
            side = 1 if account > 2 else -1
            price, lots = chance.randint(1_200, 1_300), chance.randint(2, 12)
            terms = commands.Terms(display_lots=1) if chance.random() < 0.3 else None
            order = floor.place(account, side, lots, price, at="+1 14", terms=terms)
            resting[order] = side, price, lots
        canceled = chance.choice(sorted(resting))
        floor.cancel(floor.machine.state.orders[canceled].account.id, canceled)
        del resting[canceled]
        price, expected = slow_auction(resting)
        floor.to("12:00")
        filled = dict.fromkeys(resting, 0)
        for event in floor.of(events.Traded):
            assert event.price == price
            filled[event.maker_order] += event.lots
            filled[event.taker_order] += event.lots
        assert filled == expected
        assert sum(filled.values()) > 0


# What a call takes, and what its freeze keeps


@pytest.mark.parametrize(
    ("time_in_force", "terms"),
    [
        ("IOC", None),
        ("FOK", commands.Terms()),
        ("GTC", commands.Terms(min_lots=2)),
        ("GTC", commands.Terms(type="STOP_LIMIT", stop_price=1_255)),
    ],
)
def test_what_has_to_trade_at_once_is_refused_in_a_call(time_in_force, terms) -> None:
    floor = market("10:00")
    floor.buy(3, 5, 1_260, at="+1 14", time_in_force=time_in_force, terms=terms)
    assert floor.rejected() == "not_in_call"


@pytest.mark.parametrize("kind", ["MARKET", "STOP"])
def test_what_has_no_limit_is_refused_in_a_call(kind) -> None:
    floor = market("10:00")
    stop = 1_255 if kind == "STOP" else 0
    floor.buy(3, 5, 0, at="+1 14", terms=commands.Terms(type=kind, stop_price=stop))
    assert floor.rejected() == "not_in_call"


def test_a_frozen_order_stays_whoever_wants_it_gone_and_only_gets_better() -> None:
    floor = market("10:00")
    order = floor.buy(3, 10, 1_250, at="+1 14")
    elsewhere = floor.buy(3, 10, 1_200)
    floor.switch(3, 120 * 60 * contract.MICROS_PER_SECOND - MINUTE)
    floor.to("11:54:59")
    assert floor.amend(3, order, lots=9) is None
    floor.to("11:55")
    floor.cancel(3, order)
    assert [e.reason for e in floor.of(events.CancelRefused)] == ["frozen"]
    floor.apply(commands.CancelOrders(3, TOMORROW))
    assert floor.closed() == []
    assert floor.amend(3, order, lots=8) == "frozen"
    assert floor.amend(3, order, price=1_249) == "frozen"
    assert floor.amend(3, order, price=1_260, lots=8) == "frozen"
    assert floor.amend(3, order, price=1_260, lots=12) is None
    floor.buy(4, 1, 1_251, at="+1 14")
    assert floor.rejected() is None
    floor.to("11:59")
    assert floor.closed() == [(elsewhere, "canceled", "cancel_all_after")]
    floor.to("12:00")
    floor.cancel(3, order)
    assert floor.closed() == [(order, "canceled", "requested")]


@pytest.mark.parametrize(
    ("prevention", "expected"),
    [
        ("CANCEL_NEWEST", ["new"]),
        ("CANCEL_OLDEST", ["near", "far"]),
        ("CANCEL_BOTH", ["near", "new"]),
        ("DECREMENT", ["near", "new"]),
    ],
)
def test_in_a_call_orders_of_one_group_that_cross_give_way_on_entry(prevention, expected) -> None:
    floor = Floor("10:00")
    floor.account(1, group=9, certified=1_000)
    floor.account(2, group=9)
    near = floor.sell(1, 4, 1_240, at="+1 14")
    far = floor.sell(1, 20, 1_245, at="+1 14")
    floor.sell(1, 7, 1_300, at="+1 14")
    new = floor.buy(2, 10, 1_260, at="+1 14", terms=commands.Terms(prevention=prevention))
    names = {near: "near", far: "far", new: "new"}
    assert sorted(names[order] for order, _, _ in floor.closed()) == sorted(expected)
    assert {reason for _, _, reason in floor.closed()} == {"self_trade"}
    if prevention == "DECREMENT":
        assert levels(floor, TOMORROW) == ([], [(1_245, 14), (1_300, 7)])
    floor.to("12:00")
    assert trades(floor) == []


def test_a_group_cannot_take_its_order_out_of_the_freeze_by_crossing_it() -> None:
    floor = Floor("11:00")
    floor.account(1, group=9, certified=1_000)
    floor.account(2, group=9)
    floor.to("11:56")
    sell = floor.sell(1, 4, 1_240, at="+1 14")
    buy = floor.buy(2, 1, 1_260, at="+1 14", terms=commands.Terms(prevention="CANCEL_OLDEST"))
    assert floor.closed() == [(buy, "canceled", "self_trade")]
    assert sell in floor.machine.state.orders
    floor.buy(2, 1, 1_200, at="+1 14")
    assert floor.amend(1, sell, price=1_200) == "frozen"
    assert floor.amend(1, sell, price=1_201) is None


# Halts


@pytest.mark.parametrize("level", [{"instrument": TODAY}, {"grade": GRADE}, {}])
def test_a_book_goes_on_after_a_halt_by_a_call_of_five_minutes(level) -> None:
    floor = market("13:00")
    order = floor.buy(3, 5, 1_240)
    floor.instruct(instructions.Halt(**level))
    assert states(floor, TODAY) == ["HALTED"]
    floor.buy(3, 5, 1_240)
    assert floor.rejected() == "halted"
    floor.to("13:10")
    floor.instruct(instructions.Resume(**level))
    assert states(floor, TODAY) == ["CALL"]
    (opened,) = [e for e in floor.of(events.CallOpened) if e.instrument == TODAY]
    assert (opened.kind, opened.frozen_at, opened.ends_at) == (
        "REOPENING",
        instant("13:14"),
        instant("13:15"),
    )
    sell = floor.sell(1, 5, 1_230)
    floor.to("13:14:59")
    assert trades(floor) == []
    floor.to("13:15")
    assert trades(floor) == [(sell, order, 5, 1_240, True)]
    assert states(floor, TODAY) == ["CONTINUOUS"]
    # The index may use an opening auction's price, not a re-opening's.
    assert floor.machine.state.instruments[TODAY].opening_price == 0


def test_a_second_switch_keeps_a_book_halted_until_it_is_off_too() -> None:
    floor = market("13:00")
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.instruct(instructions.Halt(grade=GRADE))
    floor.instruct(instructions.Resume(instrument=TODAY))
    assert states(floor, TODAY) == []
    assert state(floor, TODAY) == "HALTED"
    floor.instruct(instructions.Resume(grade=GRADE))
    assert states(floor, TODAY) == ["CALL"]


def test_a_halt_stops_a_call_and_the_resume_begins_another() -> None:
    floor = market("11:00")
    buy = floor.buy(3, 5, 1_260, at="+1 14")
    floor.sell(1, 5, 1_240, at="+1 14")
    floor.instruct(instructions.Halt(instrument=TOMORROW))
    assert floor.machine.auction_view(TOMORROW).kind == ""
    restored(floor)
    floor.to("11:57")
    floor.cancel(3, buy)
    assert floor.closed() == [(buy, "canceled", "requested")]
    buy = None
    floor.to("12:00")
    assert states(floor, TOMORROW) == []
    floor.to("12:10")
    floor.instruct(instructions.Resume(instrument=TOMORROW))
    view = floor.machine.auction_view(TOMORROW)
    assert (view.kind, view.ends_at) == ("OPENING", instant("12:15"))
    floor.buy(3, 5, 1_260, at="+1 14")
    floor.to("12:15")
    assert [(e.lots, e.price) for e in floor.of(events.Traded)] == [(5, 1_250)]
    assert floor.machine.state.instruments[TOMORROW].opening_price == 1_250


def test_an_opening_call_resumed_in_time_still_ends_at_noon() -> None:
    floor = market("10:30")
    floor.instruct(instructions.Halt())
    floor.instruct(instructions.Resume())
    view = floor.machine.auction_view(TOMORROW)
    assert (view.kind, view.frozen_at, view.ends_at) == (
        "OPENING",
        instant("11:55"),
        instant("12:00"),
    )
    floor.to("12:00")
    ended = [e for e in floor.of(events.Uncrossed) if e.instrument == TOMORROW]
    assert len(ended) == 1


def test_hours_listed_under_a_halt_have_their_opening_when_it_ends() -> None:
    floor = market("09:30")
    floor.instruct(instructions.Halt(grade=GRADE))
    floor.to("12:30")
    assert state(floor, TOMORROW) == "HALTED"
    assert floor.of(events.CallOpened) == []
    floor.instruct(instructions.Resume(grade=GRADE))
    opened = {e.instrument: e for e in floor.of(events.CallOpened)}
    assert (opened[TOMORROW].kind, opened[TOMORROW].ends_at) == ("OPENING", instant("12:35"))
    assert opened[TODAY].kind == "REOPENING"


def test_ten_minutes_before_trading_ends_a_book_resumes_without_a_call() -> None:
    floor = market("19:30")
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.to("19:44:59")
    floor.instruct(instructions.Resume(instrument=TODAY))
    assert states(floor, TODAY) == ["CALL"]
    buy, sell = floor.buy(3, 5, 1_260), floor.sell(1, 5, 1_240)
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.to("19:45")
    floor.instruct(instructions.Resume(instrument=TODAY))
    # What crosses cannot stay: it trades at once, at one price.
    assert trades(floor) == [(sell, buy, 5, 1_250, True)]
    assert states(floor, TODAY) == ["CONTINUOUS"]
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.instruct(instructions.Resume(instrument=TODAY))
    assert states(floor, TODAY) == ["CONTINUOUS"]


def test_orders_of_a_call_that_a_halt_stopped_expire_at_the_gate_and_nothing_trades() -> None:
    floor = market("19:30")
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.instruct(instructions.Resume(instrument=TODAY))
    buy, sell = floor.buy(3, 5, 1_260), floor.sell(1, 5, 1_240)
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.to("19:55")
    assert trades(floor) == []
    assert floor.closed()[:2] == [(buy, "expired", "expired"), (sell, "expired", "expired")]
    assert "CLOSED" in states(floor, TODAY)
    assert floor.instruct(instructions.Resume(instrument=TODAY)) == "unknown_instrument"


def test_where_a_call_ends_with_trading_its_orders_expire_and_nothing_trades() -> None:
    floor = market("19:50")
    machine = floor.machine
    # No rule lets a call begin this late; the order of one instant has to hold by itself.
    sessions.open_call(machine.state, machine.state.instruments[TODAY], CallKind.REOPENING)
    assert machine.auction_view(TODAY).ends_at == instant("19:55")
    floor.buy(3, 5, 1_260)
    floor.sell(1, 5, 1_240)
    assert machine.auction_view(TODAY).indicative_lots == 5
    floor.to("19:55")
    assert trades(floor) == []
    assert floor.of(events.Uncrossed) == []
    assert [(status, reason) for _, status, reason in floor.closed()] == [("expired",) * 2] * 2


def test_orders_of_the_day_and_of_a_date_leave_a_frozen_call_after_its_auction() -> None:
    floor = market("23:55:30")
    late = symbol("+1 08")
    floor.instruct(instructions.Halt(instrument=late))
    floor.instruct(instructions.Resume(instrument=late))

    def buy(lots: int, expires: str) -> int:
        terms = commands.Terms(expires_at=instant(expires) if expires else 0)
        in_force = "GTD" if expires else "DAY"
        return floor.buy(3, lots, 1_240, instrument=late, time_in_force=in_force, terms=terms)

    before, dated, of_the_day = buy(5, "23:59:29"), buy(5, "23:59:30"), buy(5, "")
    floor.to("23:59:29")
    assert floor.closed() == [(before, "expired", "expired")], "it was not frozen yet"
    floor.to("+1 00:00")
    assert floor.closed() == [], "no order leaves the freeze by having been dated into it"
    sell = floor.sell(1, 7, 1_240, instrument=late)
    floor = restored(floor)
    floor.to("+1 00:00:30")
    assert trades(floor) == [(sell, dated, 5, 1_240, True), (sell, of_the_day, 2, 1_240, True)]
    assert floor.closed() == [
        (dated, "filled", ""),
        (sell, "filled", ""),
        (of_the_day, "expired", "expired"),
    ]
    assert {event.at for event in floor.of(events.OrderClosed)} == {instant("+1 00:00:30")}


def test_a_halt_lets_what_was_dated_into_the_freeze_leave_when_the_call_would_have_ended() -> None:
    floor = market("13:00")
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.instruct(instructions.Resume(instrument=TODAY))
    dated = commands.Terms(expires_at=instant("13:04:30"))
    order = floor.buy(3, 5, 1_240, time_in_force="GTD", terms=dated)
    floor.to("13:04:40")
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.to("13:05")
    assert floor.closed() == [(order, "expired", "expired")]


def test_nobody_pulls_a_frozen_reduce_only_order_by_adding_another() -> None:
    floor = market("13:00")
    floor.sell(1, 10, 1_250)
    floor.buy(3, 10, 1_250)
    floor.instruct(instructions.Halt(instrument=TODAY))
    floor.instruct(instructions.Resume(instrument=TODAY))
    plain = floor.sell(3, 2, 1_260)
    only = floor.sell(3, 8, 1_200, terms=commands.Terms(reduce_only=True))
    floor.to("13:04")
    floor.sell(3, 1, 1_400)
    assert floor.rejected() == "frozen"
    assert floor.amend(3, plain, lots=3) == "frozen"
    floor.sell(3, 1, 1_400, terms=commands.Terms(reduce_only=True))
    assert floor.rejected() == "reduce_only"
    assert floor.amend(3, plain, price=1_255) is None, "a better price unseats nothing"
    floor.buy(3, 1, 1_100)
    assert floor.rejected() is None, "the other side is free"
    buy = floor.buy(4, 8, 1_200)
    floor.to("13:05")
    assert trades(floor) == [(buy, only, 8, 1_200, True)]


def test_a_quarantined_command_ends_with_a_call_too() -> None:
    floor = market("13:00")
    floor.apply(commands.Quarantine(b"", "a broken invariant", TODAY))
    assert states(floor, TODAY) == ["HALTED"]
    floor.instruct(instructions.Resume(instrument=TODAY))
    assert states(floor, TODAY) == ["CALL"]


def test_what_changed_of_calls_is_told_once_per_batch() -> None:
    floor = market("09:59")
    floor.machine.drain_touched()
    floor.to("10:00")
    assert len(floor.machine.drain_touched().auctions) == 24
    assert floor.machine.drain_touched().auctions == ()
    floor.buy(3, 5, 1_260, at="+1 14")
    (told,) = floor.machine.drain_touched().auctions
    assert (told.symbol, told.kind, told.indicative_price) == (TOMORROW, "OPENING", 0)
    floor.buy(3, 5, 1_200)
    assert floor.machine.drain_touched().auctions == ()
    floor.to("12:00")
    assert {told.kind for told in floor.machine.drain_touched().auctions} == {""}
