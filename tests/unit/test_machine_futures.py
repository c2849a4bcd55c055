"""Days, weeks and months: listed, traded and cascaded, and what they are at delivery."""

import pytest

from exchange import events
from exchange.commands import Terms
from settlement.ledger import Code, Kind
from tests.floor import GRADE, Floor, hour, instant, symbol

SELLER, BUYER, OTHER = 1, 2, 3
TOMORROW = f"{GRADE}.D.20251206"
NEXT_DAY = f"{GRADE}.D.20251207"
WEEK = f"{GRADE}.W.25W50"
"""8 to 14 December; its trading ends on Saturday the 6th."""
JANUARY = f"{GRADE}.M.F26"
"""Its trading ends on 30 December."""


def floor_at(at: str = "09:00", *, certified: int = 10_000, **terms: int) -> Floor:
    floor = Floor(at, checked=False, **terms)
    floor.account(SELLER, certified=certified)
    floor.account(BUYER)
    floor.account(OTHER)
    floor.machine.check()
    return floor


def trade(floor: Floor, lots: int, price: int, instrument: str, *, buyer=BUYER, seller=SELLER):
    floor.sell(seller, lots, price, instrument=instrument)
    assert floor.rejected() is None
    floor.buy(buyer, lots, price, instrument=instrument)
    assert floor.rejected() is None
    assert len(floor.of(events.Traded)) == 1


def net(floor: Floor, account: int) -> dict[str, int]:
    """Return an account's open positions by symbol."""
    positions = floor.machine.state.accounts[account].positions
    return {name: positions[name].net for name in sorted(positions) if positions[name].net}


def days(first: int, last: int, month: str = "202512") -> list[str]:
    return [f"{GRADE}.D.{month}{day:02}" for day in range(first, last + 1)]


# Listing


def test_what_is_listed_when_a_grade_begins() -> None:
    listed = [e for e in Floor("09:00").events if isinstance(e, events.InstrumentListed)]
    symbols = [event.symbol.removeprefix(f"{GRADE}.") for event in listed]
    assert symbols[:12] == [f"M.{code}26" for code in "FGHJKMNQUVXZ"]
    assert symbols[12:20] == [f"W.25W{week}" for week in (50, 51, 52)] + [
        f"W.26W{week:02}" for week in range(1, 6)
    ]
    # December cascaded on 29 November, so all its days are listed, from tomorrow on.
    assert symbols[20:46] == [f"D.202512{day:02}" for day in range(6, 32)]
    assert symbols[46:] == [f"H.20251205T{one:02}Z" for one in range(10, 24)]


def test_a_day_is_listed_two_weeks_ahead_and_the_rest_with_its_month() -> None:
    floor = Floor("09:00", checked=False)
    floor.to("+21 23:59")
    known = floor.machine.state.instruments
    assert f"{GRADE}.D.20260109" in known
    assert f"{GRADE}.D.20260110" not in known
    floor.to("+22 00:00")
    assert [event.symbol for event in floor.of(events.InstrumentListed)] == [f"{GRADE}.D.20260110"]
    assert known[f"{GRADE}.D.20260110"].call.ends_at == instant("+22 12:00")
    floor.to("+25 11:30")
    (cascaded,) = [e for e in floor.of(events.Cascaded) if e.instrument == JANUARY]
    assert cascaded.lots == 0
    listed = [event.symbol for event in floor.last if isinstance(event, events.InstrumentListed)]
    assert listed[-19:] == [f"{GRADE}.M.F27", *days(14, 31, "202601")]
    assert {known[name].call.ends_at for name in listed[-19:]} == {instant("+25 12:00")}


def test_a_thirteenth_month_is_listed_when_the_first_cascades() -> None:
    floor = Floor("09:00", checked=False)
    floor.to("+25 11:29")
    months = [name for name in floor.machine.state.instruments if ".M." in name]
    assert len(months) == 12
    floor.to("+25 11:30")
    months = [name for name in floor.machine.state.instruments if ".M." in name]
    assert len(months) == 12
    assert months[-1] == f"{GRADE}.M.F27"


def test_a_new_book_gathers_orders_until_noon_and_then_trades() -> None:
    floor = floor_at()
    floor.to("+25 11:30")
    new = f"{GRADE}.D.20260120"
    floor.sell(SELLER, 5, 1_240, instrument=new)
    floor.buy(BUYER, 5, 1_260, instrument=new)
    assert floor.of(events.Traded) == []
    floor.to("+25 12:00")
    (crossed,) = [e for e in floor.of(events.Uncrossed) if e.instrument == new]
    assert (crossed.lots, crossed.price) == (5, 1_250)
    assert net(floor, BUYER) == {new: 5}


def test_a_day_is_referred_to_its_week_before_its_month() -> None:
    floor = Floor("09:00", checked=False)
    known = floor.machine.state.instruments
    twentieth = known[f"{GRADE}.D.20251220"]
    assert [parent.symbol for parent in twentieth.parents] == [f"{GRADE}.W.25W51"]
    known[JANUARY].mark, known[f"{GRADE}.W.26W02"].mark = 1_300, 1_200
    floor.to("+20 00:00")
    eighth = known[f"{GRADE}.D.20260108"]
    assert [parent.symbol for parent in eighth.parents] == [f"{GRADE}.W.26W02", JANUARY]
    assert eighth.reference == known[f"{GRADE}.W.26W02"].mark


# The cascade


def test_a_week_becomes_its_days_lot_for_lot_at_its_final_mark() -> None:
    floor = floor_at("09:40")
    trade(floor, 40, 1_260, WEEK)
    trade(floor, 10, 1_240, f"{GRADE}.D.20251210", buyer=OTHER)
    trade(floor, 15, 1_260, WEEK, buyer=OTHER, seller=BUYER)
    resting = floor.buy(BUYER, 3, 1_200, instrument=WEEK)
    floor.to("+1 11:29")
    assert net(floor, BUYER) == {WEEK: 25}

    floor.to("+1 11:30")

    assert (resting, "expired", "expired") in floor.closed()
    (cascaded,) = [e for e in floor.of(events.Cascaded) if e.instrument == WEEK]
    assert (cascaded.price, cascaded.lots) == (1_260, 40)
    own = days(8, 14)
    assert net(floor, BUYER) == dict.fromkeys(own, 25)
    assert net(floor, OTHER) == dict.fromkeys(own, 15) | {f"{GRADE}.D.20251210": 25}
    assert net(floor, SELLER) == dict.fromkeys(own, -40) | {f"{GRADE}.D.20251210": -50}
    child = floor.machine.state.instruments[own[0]]
    assert (child.open_interest, child.parent_mark) == (40, 1_260)
    position = floor.machine.position(BUYER, own[0])
    assert (position.cost_ticks, position.received_ticks) == (25 * 1_260, 0)
    assert floor.machine.instrument_view(WEEK) is None
    floor.buy(BUYER, 1, 1_260, instrument=WEEK)
    assert floor.rejected() == "closed"
    floor.machine.check()
    restored = type(floor.machine).restore(floor.machine.snapshot())
    assert restored.digest() == floor.machine.digest()


def test_a_day_becomes_its_hours_and_what_was_bought_of_them_adds_up() -> None:
    floor = floor_at()
    trade(floor, 40, 1_250, NEXT_DAY)
    floor.to("+1 10:30")
    third = symbol("+2 03")
    floor.buy(BUYER, 7, 1_250, instrument=third)
    floor.sell(SELLER, 7, 1_250, instrument=third)
    assert floor.of(events.Traded) == [], "the hours are in their call until noon"
    floor.to("+1 11:30")
    assert set(net(floor, BUYER).values()) == {40}
    assert len(net(floor, BUYER)) == 24
    floor.to("+1 12:00")
    assert net(floor, BUYER)[third] == 47
    floor.machine.check()


def test_a_reduce_only_order_leaves_when_the_cascade_turns_its_position() -> None:
    floor = floor_at()
    day = days(9, 9)[0]
    floor.certify(OTHER, 10_000)
    trade(floor, 10, 1_250, day, buyer=SELLER, seller=OTHER)
    reducing = floor.sell(SELLER, 10, 1_400, instrument=day, terms=Terms(reduce_only=True))
    trade(floor, 30, 1_250, WEEK)
    floor.to("+1 11:30")
    assert net(floor, SELLER)[day] == -20
    assert reducing not in floor.machine.state.orders
    floor.machine.check()


def test_a_month_is_cascaded_into_days_and_again_into_hours() -> None:
    floor = floor_at()
    trade(floor, 5, 1_250, JANUARY)
    floor.to("+25 11:30")
    assert net(floor, BUYER) == dict.fromkeys(days(1, 31, "202601"), 5)
    floor.to("+26 11:30")
    assert len(net(floor, BUYER)) == 30 + 24
    floor.machine.check()
    floor.to("+27 00:55")
    (granted,) = [
        e for e in floor.of(events.EntitlementGranted) if e.hour_starts_at == hour("+27 01")
    ]
    assert (granted.account, granted.lots) == (BUYER, 5)
    floor.machine.check()


def _cash_from(floor: Floor, since: int, account: int) -> list[tuple[int, int, str]]:
    """Return (amount, code, cause) of what an account paid and received; trades have no number."""
    own = (account, int(Kind.CASH))
    return [
        (
            -e.amount if (e.debit_owner, e.debit_kind) == own else e.amount,
            e.code,
            "trade" if e.cause.startswith("trade:") else e.cause,
        )
        for e in floor.events[since:]
        if isinstance(e, events.Transferred)
        and own in ((e.debit_owner, e.debit_kind), (e.credit_owner, e.credit_kind))
    ]


def test_a_position_built_as_a_week_is_at_delivery_one_that_was_built_from_days() -> None:
    """Two markets: one trades the week, the other its seven days, at the week's final mark.

    From the cascade on they are the same to the micro-dollar: the same positions and what they
    cost, the same variation of every hour, escrow, entitlements, obligations and allocations.
    """
    whole, parts = floor_at("09:40"), floor_at("09:40")
    since = {}
    trade(whole, 40, 1_260, WEEK)
    for day in days(8, 14):
        trade(parts, 40, 1_260, day)
    for floor in (whole, parts):
        floor.to("+1 11:30")
        since[floor] = len(floor.events)
    assert net(whole, BUYER) == net(parts, BUYER) == dict.fromkeys(days(8, 14), 40)
    for account in (SELLER, BUYER):
        for day in days(8, 14):
            held = [floor.machine.position(account, day) for floor in (whole, parts)]
            value = [one.cost_ticks + one.received_ticks for one in held]
            assert value[0] == value[1] == held[0].net_lots * 1_260, "all is paid up to the mark"
    # What moves the market later moves both.
    for floor in (whole, parts):
        floor.to("+1 12:10")
        trade(floor, 10, 1_280, days(9, 9)[0], buyer=OTHER)
        floor.to("+2 10:00")
        trade(floor, 8, 1_230, days(9, 9)[0], buyer=SELLER, seller=BUYER)
        floor.to("+3 13:00")
        floor.machine.check()
    for account in (SELLER, BUYER, OTHER):
        own = [_cash_from(floor, since[floor], account) for floor in (whole, parts)]
        assert own[0] == own[1]
        assert any(code == Code.VARIATION for _, code, _ in own[0])
        views = [floor.view(account) for floor in (whole, parts)]
        assert views[0].initial_margin == views[1].initial_margin
        assert views[0].escrow == views[1].escrow
    granted = [
        [e for e in floor.events if isinstance(e, kind)]
        for kind in (events.EntitlementGranted, events.ObligationIncurred, events.Allocated)
        for floor in (whole, parts)
    ]
    assert granted[0] == granted[1]
    assert granted[2] == granted[3]
    assert granted[4] == granted[5]
    assert len(granted[0]) >= 14, "hours of Monday, by 13:00"


# Marks


def test_a_week_is_marked_and_paid_by_the_hour_and_its_days_follow() -> None:
    floor = floor_at("09:10")
    trade(floor, 40, 1_250, WEEK)
    trade(floor, 10, 1_250, days(9, 9)[0], buyer=OTHER)
    floor.to("10:00")
    cash = floor.view(BUYER).cash, floor.view(OTHER).cash
    floor.to("10:40")
    floor.sell(SELLER, 1, 1_268, instrument=WEEK)
    floor.buy(BUYER, 1, 1_268, instrument=WEEK)
    fee = sum(e.amount for e in floor.of(events.Transferred) if e.debit_owner == BUYER)
    floor.to("11:00")
    marked = {e.instrument: (e.price, e.method) for e in floor.of(events.Marked)}
    assert marked[WEEK] == (1_268, "trades")
    assert marked[days(9, 9)[0]] == (1_268, "parent")
    assert floor.view(BUYER).cash - cash[0] + fee == 60 * 168 * 40 * 18
    assert floor.view(OTHER).cash - cash[1] == 60 * 24 * 10 * 18
    paid = [e for e in floor.of(events.Transferred) if e.code == Code.VARIATION]
    assert {e.cause for e in paid} == {f"mark:{instant('11:00')}"}
    assert sum(e.amount if e.credit_owner else -e.amount for e in paid) == 0


def test_a_buyer_prepays_each_hour_when_it_is_a_day_ahead() -> None:
    floor = floor_at("09:10")
    trade(floor, 40, 1_250, NEXT_DAY)
    for at, prepaid in (("10:00", 0), ("23:00", 0), ("+1 00:00", 1), ("+1 05:00", 6)):
        floor.to(at)
        expected = 60 * 40 * 1_250 * (10 * prepaid + (24 - prepaid)) // 10
        assert floor.view(BUYER).initial_margin == expected, at
        assert floor.view(SELLER).initial_margin == 3 * 24 * 40 * 1_250


def test_a_buyer_who_cannot_prepay_loses_its_orders_newest_first() -> None:
    floor = floor_at("22:30")
    floor.account(4, cash=1_800_000 + 200_000)
    trade(floor, 10, 1_250, NEXT_DAY, buyer=4)
    assert floor.view(4).initial_margin == 1_800_000
    bid = floor.buy(4, 1, 1_200, instrument=symbol("+1 20"))
    floor.to("23:00")
    assert bid in floor.machine.state.orders
    floor.to("+1 00:00")
    assert floor.closed() == [(bid, "canceled", "unfunded")]
    assert floor.view(4).initial_margin == 1_800_000 + 9 * 75_000
    assert not floor.view(4).margin_call_due, "it has three quarters of what it should"
    floor.to("+1 01:00")
    assert floor.view(4).margin_call_due == instant("+1 02:00")
    floor.machine.check()


@pytest.mark.parametrize("lots", [1, 40])
def test_variation_adds_up_to_what_the_lots_gained(lots: int) -> None:
    floor = floor_at("09:10", dynamic_percent=20)
    trade(floor, lots, 1_250, WEEK)
    before = floor.view(BUYER).cash
    for at, price in (("09:50", 1_300), ("10:50", 1_280), ("+1 10:50", 1_330)):
        floor.to(at)
        trade(floor, 1, price, WEEK, buyer=OTHER)
    floor.to("+1 11:30")
    assert floor.view(BUYER).cash - before == 60 * 168 * lots * 80
    total = sum(
        (e.amount if e.credit_owner else -e.amount)
        for e in floor.events
        if isinstance(e, events.Transferred) and e.code == Code.VARIATION
    )
    assert total == 0
