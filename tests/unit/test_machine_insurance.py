"""Price caps and shortage cover in the machine: listing, premiums, collateral, payments."""

from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import commands, events, insurance_events, preview_wire
from exchange.machine import Machine
from exchange.reasons import Reject
from marketplace import contract
from marketplace.wire import micros_text as wire_money
from settlement import instructions
from settlement.ledger import Code, Kind
from tests.floor import GRADE, RICH, Floor, hour, symbol

WRITER, HOLDER, OTHER, SECOND, SELLER = 1, 2, 3, 4, 5
JANUARY = contract.month_start(hour("27 00"))
MONTH = contract.month_contract(GRADE, JANUARY).symbol
CAP = contract.cap_contract(GRADE, JANUARY, 1_250).symbol
COVER = contract.cover_contract(GRADE, JANUARY).symbol
HOURS = 31 * 24
CAP_ASIDE = 5 * 1_250 * 60
"""What a lot of the cap can pay in an hour."""
CASH, CLEARING = Kind.CASH, (0, Kind.CLEARING)


def market(**terms: int) -> Floor:
    """Accounts with money, and options of January whose premiums begin at 62 and 37 ticks."""
    floor = Floor(
        "24 18:45", **{"premium_percents": (5, 3), "taker_fee_bp": 0, "maker_fee_bp": 0} | terms
    )
    for account in (WRITER, HOLDER, OTHER, SECOND):
        floor.account(account)
    return floor


def trade(
    floor: Floor, writer: int, holder: int, lots: int, price: int, instrument: str = CAP
) -> None:
    floor.sell(writer, lots, price, instrument=instrument)
    assert floor.rejected() is None
    floor.buy(holder, lots, price, instrument=instrument)
    assert floor.rejected() is None


def pay(floor: Floor, starts: str, **metered: int) -> str | None:
    """Pay an hour, with what `a2` and so on have used in NTU."""
    floor.at = max(floor.at, hour(starts) + contract.HOUR + contract.SETTLEMENT_LAG)
    return floor.instruct(
        instructions.PayInsurance(
            grade=GRADE,
            hour_starts_at=hour(starts),
            metered=tuple((int(name[1:]), ntu * 1_000) for name, ntu in metered.items()),
        )
    )


def set_index(floor: Floor, starts: str, price: int) -> None:
    """Have two operators put the index of an hour that has closed at a price."""
    refused = floor.instruct(
        instructions.OverrideIndex(
            grade=GRADE,
            hour_starts_at=hour(starts),
            version=2,
            price_ticks=price,
            reason="test",
            proposed_by=8,
            confirmed_by=9,
        )
    )
    assert refused is None


def paid(floor: Floor) -> dict[int, int]:
    """Return what the last command's insurance paid each account."""
    found: dict[int, int] = {}
    for event in floor.of(insurance_events.InsurancePaid):
        found[event.account] = found.get(event.account, 0) + event.amount
    return found


def strikes(floor: Floor, month: int = JANUARY) -> list[int]:
    caps = [i.contract for i in floor.machine.state.by_id.values() if i.contract.strike]
    return [terms.strike for terms in caps if terms.starts_at == month]


def test_three_months_have_five_caps_and_a_cover_each() -> None:
    floor = market()
    options = [i for i in floor.machine.state.by_id.values() if i.is_option]
    assert sorted({i.contract.starts_at for i in options}) == [
        contract.add_months(JANUARY, ahead) for ahead in range(3)
    ]
    assert strikes(floor) == [1_250, 1_400, 1_550, 1_900, 2_500]
    cap, cover = (floor.machine.state.instruments[symbol] for symbol in (CAP, COVER))
    assert (cap.reference, cap.mark, cap.unit) == (62, 62, 60 * HOURS)
    assert (cap.dynamic_percent, cap.band_low, cap.band_high) == (50, 52, 72)
    assert (cover.reference, cover.pay_ticks) == (37, 1_250)
    month = floor.machine.state.instruments[MONTH]
    assert cap.contract.trading_ends_at == month.contract.trading_ends_at


def test_nothing_is_listed_without_the_operators_premium() -> None:
    assert not strikes(market(premium_percents=(0, 3)))
    assert COVER not in market(premium_percents=(5, 0)).machine.state.instruments


def test_the_fourth_month_is_listed_as_the_front_cascades() -> None:
    floor = market()
    april = contract.add_months(JANUARY, 3)
    floor.to("25 11:29")
    assert not strikes(floor, april)
    floor.to("26 00:00")  # January cascades at 11:30 two days before it starts.
    assert strikes(floor, april) == [1_250, 1_400, 1_550, 1_900, 2_500]


def test_a_month_that_passes_its_outermost_strike_gets_one_more_that_opens_at_noon() -> None:
    floor = market()
    month = floor.machine.state.instruments[MONTH]
    month.mark = 2_501
    floor.checked = False
    floor.to("24 19:00")
    assert strikes(floor)[-1] == 3_350
    added = floor.machine.state.instruments[f"{MONTH}.C3350"]
    assert added.phase is contract.InstrumentState.CALL
    assert added.call.ends_at == hour("25 12")
    floor.to("24 20:00")
    assert len(strikes(floor)) == 6


def test_the_premium_goes_from_the_buyer_through_clearing_to_the_writer() -> None:
    floor = market()
    trade(floor, WRITER, HOLDER, 2, 60)
    amount = 60 * 60 * HOURS * 2
    assert floor.moved() == [
        ((HOLDER, CASH), CLEARING, amount, Code.PREMIUM),
        (CLEARING, (WRITER, CASH), amount, Code.PREMIUM),
    ]
    holder, writer = (floor.machine.position(each, CAP) for each in (HOLDER, WRITER))
    assert (holder.net_lots, holder.cost_ticks, holder.initial_margin) == (2, 120, 0)
    assert (writer.net_lots, writer.cost_ticks) == (-2, -120)
    assert writer.initial_margin == CAP_ASIDE * HOURS * 2
    assert floor.view(WRITER).available == RICH + amount - CAP_ASIDE * HOURS * 2
    assert floor.view(HOLDER).available == RICH - amount


def test_premiums_of_an_auction_are_paid_too() -> None:
    floor = market()
    floor.instruct(instructions.Halt(instrument=CAP))
    floor.instruct(instructions.Resume(instrument=CAP))
    floor.sell(WRITER, 2, 60, instrument=CAP)
    floor.buy(HOLDER, 2, 64, instrument=CAP)
    floor.to("24 18:51")
    amount = 60 * HOURS * 2 * floor.machine.state.instruments[CAP].auction.price
    assert amount
    assert [code for *_, code in floor.moved()].count(Code.PREMIUM) == 2
    assert floor.view(HOLDER).cash == RICH - amount


def test_orders_reserve_the_premium_or_the_collateral() -> None:
    floor = market()
    floor.buy(HOLDER, 3, 55, instrument=CAP)
    assert floor.view(HOLDER).order_margin == 55 * 60 * HOURS * 3
    floor.sell(WRITER, 3, 60, instrument=CAP)
    assert floor.view(WRITER).order_margin == CAP_ASIDE * HOURS * 3
    poor = floor.account(6, cash=CAP_ASIDE * HOURS - 1)
    floor.sell(poor, 1, 60, instrument=CAP)
    assert floor.rejected() == Reject.INSUFFICIENT_FUNDS
    floor.deposit(poor, 1)
    floor.sell(poor, 1, 60, instrument=CAP)
    assert floor.rejected() is None


def test_buying_back_frees_the_collateral() -> None:
    floor = market()
    trade(floor, WRITER, HOLDER, 2, 60)
    trade(floor, OTHER, WRITER, 2, 62)
    assert floor.view(WRITER).initial_margin == 0
    assert floor.view(WRITER).cash == RICH - 2 * 60 * HOURS * 2
    assert floor.machine.state.instruments[CAP].open_interest == 2


def test_no_mark_is_paid_and_none_of_it_is_at_risk_of_one() -> None:
    floor = market()
    trade(floor, WRITER, HOLDER, 2, 60)
    before = floor.view(WRITER)
    assert before.withdrawable == before.available
    floor.to("24 19:00")
    assert floor.machine.state.instruments[CAP].mark == 60
    assert [code for *_, code in floor.moved()] == []


def test_a_premium_nobody_trades_follows_what_the_cap_is_in_the_money() -> None:
    floor = market()
    floor.account(SELLER, certified=100)
    floor.sell(SELLER, 1, 1_300, instrument=MONTH)
    floor.buy(HOLDER, 1, 1_300, instrument=MONTH)
    floor.to("24 19:00")
    assert floor.machine.state.instruments[MONTH].mark == 1_300
    assert floor.machine.state.instruments[CAP].mark == 50 + 65
    assert floor.machine.state.instruments[COVER].mark == 39
    assert floor.machine.state.instruments[COVER].pay_ticks == 1_250


def test_a_group_with_a_cluster_may_not_hold_the_cover_of_its_grade() -> None:
    floor = market()
    floor.account(SELLER, group=HOLDER, certified=10)
    floor.sell(WRITER, 5, 37, instrument=COVER)
    floor.buy(HOLDER, 1, 37, instrument=COVER)
    assert floor.rejected() == Reject.NOT_ELIGIBLE
    assert floor.preview(HOLDER, 1, 1, 37, instrument=COVER).reason == Reject.NOT_ELIGIBLE
    floor.buy(HOLDER, 1, 62, instrument=CAP)
    assert floor.rejected() is None
    floor.sell(HOLDER, 1, 37, instrument=COVER)  # It may write it, and buy that back.
    assert floor.rejected() is None
    floor.buy(OTHER, 6, 37, instrument=COVER)
    assert floor.machine.position(HOLDER, COVER).net_lots == -1
    floor.buy(HOLDER, 1, 37, instrument=COVER)
    assert floor.rejected() is None
    floor.buy(HOLDER, 1, 37, instrument=COVER)
    assert floor.rejected() == Reject.NOT_ELIGIBLE


def test_who_may_not_hold_is_told_so_before_money_is_asked_for() -> None:
    floor = market()
    poor = floor.account(6, cash=1, certified=10)
    floor.buy(poor, 1, 37, instrument=COVER)
    assert floor.rejected() == Reject.NOT_ELIGIBLE
    floor.machine.state.accounts[poor].debt = 1
    floor.checked = False
    floor.buy(poor, 1, 37, instrument=COVER)
    assert floor.rejected() == Reject.ACCOUNT_IN_DEBT


def test_a_first_cluster_takes_a_bid_for_cover_away() -> None:
    floor = market()
    bid = floor.buy(HOLDER, 1, 37, instrument=COVER)
    floor.certify(HOLDER, 10)
    assert floor.closed() == [(bid, "canceled", "not_eligible")]


def test_options_stay_after_trading_with_what_is_set_aside() -> None:
    floor = market()
    trade(floor, WRITER, HOLDER, 2, 60)
    left = floor.sell(WRITER, 1, 70, instrument=CAP)
    floor.to("25 11:31")
    assert (left, "expired", "expired") in floor.closed()
    assert strikes(floor) == [1_250]  # Nobody holds the others.
    cap = floor.machine.state.instruments[CAP]
    assert cap.phase is contract.InstrumentState.CLOSED
    assert floor.view(WRITER).initial_margin == CAP_ASIDE * HOURS * 2
    restored = Machine.restore(floor.machine.snapshot())
    assert restored.digest() == floor.machine.digest()


def delivered(*, cap: int = 0, cover: int = 0, entitled: int = 0) -> Floor:
    """Lots of January's options of the holder's, and lots of its hour 28 14 from the seller."""
    floor = market()
    floor.account(SELLER, certified=100)
    if cap:
        trade(floor, WRITER, HOLDER, cap, 60)
    if cover:
        trade(floor, WRITER, HOLDER, cover, 37, COVER)
    floor.to("28 13:00")
    if entitled:
        floor.sell(SELLER, entitled, 1_250, at="28 14")
        floor.buy(HOLDER, entitled, 1_250, at="28 14")
        assert floor.rejected() is None
    floor.to("28 13:56")
    return floor


def test_a_cap_pays_the_hour_on_what_was_used_and_insured() -> None:
    floor = delivered(cap=2)
    set_index(floor, "28 14", 1_450)
    before = floor.view(WRITER)
    assert pay(floor, "28 14", a2=90_000, a3=50_000) is None
    # 200 ticks on 90,000 of the 120,000 NTU that are insured; the other holds nothing.
    assert paid(floor) == {HOLDER: 18_000, WRITER: -18_000}
    assert floor.moved() == [
        ((WRITER, CASH), CLEARING, 18_000, Code.CAP_PAYMENT),
        (CLEARING, (HOLDER, CASH), 18_000, Code.CAP_PAYMENT),
    ]
    after = floor.view(WRITER)
    assert after.cash == before.cash - 18_000
    assert before.initial_margin - after.initial_margin == CAP_ASIDE * 2
    assert pay(floor, "28 14", a2=90_000) == "already_settled"
    restored = Machine.restore(floor.machine.snapshot())
    assert restored.digest() == floor.machine.digest()


def test_a_cap_pays_no_more_than_its_lots_insure_nor_than_five_strikes() -> None:
    floor = delivered(cap=2)
    set_index(floor, "28 14", 9_000)
    assert pay(floor, "28 14", a2=10**9) is None
    assert paid(floor) == {HOLDER: 2 * CAP_ASIDE, WRITER: -2 * CAP_ASIDE}


def test_nothing_is_paid_at_the_strike_but_what_was_set_aside_is_released() -> None:
    floor = delivered(cap=2)
    before = floor.view(WRITER).initial_margin
    assert pay(floor, "28 14", a2=90_000) is None
    assert paid(floor) == {}
    assert before - floor.view(WRITER).initial_margin == CAP_ASIDE * 2


def test_a_token_is_insured_once_by_the_lowest_strike_first() -> None:
    floor = market()
    high = f"{MONTH}.C1400"
    trade(floor, WRITER, HOLDER, 1, 60)
    trade(floor, OTHER, HOLDER, 2, 60, high)
    floor.to("28 13:56")
    set_index(floor, "28 14", 1_500)
    assert pay(floor, "28 14", a2=100_000) is None
    assert [(e.instrument, e.mntu, e.amount) for e in floor.of(insurance_events.InsurancePaid)] == [
        (CAP, 0, -15_000),
        (CAP, 60_000_000, 15_000),
        (high, 40_000_000, 4_000),
        (high, 0, -4_000),
    ]


def test_writers_pay_pro_rata_to_their_lots() -> None:
    floor = market()
    trade(floor, WRITER, HOLDER, 1, 60)
    trade(floor, OTHER, HOLDER, 2, 60)
    floor.to("28 13:56")
    set_index(floor, "28 14", 1_251)
    assert pay(floor, "28 14", a2=100_000) is None
    assert paid(floor) == {HOLDER: 100, WRITER: -33, OTHER: -67}


def test_an_hour_is_paid_once_it_is_over_and_settled() -> None:
    floor = delivered(cap=2, entitled=1)
    assert (
        floor.instruct(instructions.PayInsurance(grade=GRADE, hour_starts_at=hour("28 14")))
        == "interval_not_over"
    )
    assert pay(floor, "28 14") == "hour_not_settled"
    for interval in range(1, 13):
        assert floor.settle("28 14", interval, suspended=True) is None
    assert pay(floor, "28 14") is None


def test_what_is_reported_of_strangers_or_twice_is_refused() -> None:
    floor = delivered(cap=2)
    assert pay(floor, "28 14", a99=1) == "invalid_report"
    assert pay(floor, "28 14", a2=-1) == "invalid_report"
    twice = instructions.PayInsurance(
        grade=GRADE, hour_starts_at=hour("28 14"), metered=((2, 1), (2, 1))
    )
    assert floor.instruct(twice) == "invalid_report"


def missed(floor: Floor, interval: int, ntu: int) -> None:
    """Settle an interval in which the holder missed so much."""
    allocations = floor.machine.state.hours[GRADE, hour("28 14")].allocations
    assert floor.settle("28 14", interval, dict.fromkeys(allocations, (0, ntu))) is None


def test_cover_pays_the_months_mark_at_listing_on_what_was_missed() -> None:
    floor = delivered(cover=2, entitled=1)
    missed(floor, 1, 4_000)
    assert paid(floor) == {HOLDER: 5_000, WRITER: -5_000}  # 1,250 ticks on 4,000 NTU.
    assert ((WRITER, CASH), CLEARING, 5_000, Code.COVER_PAYMENT) in floor.moved()
    assert floor.of(insurance_events.InsurancePaid)[1].interval == 1


def test_cover_insures_no_more_lots_than_it_has() -> None:
    floor = delivered(cover=1, entitled=3)
    missed(floor, 1, 12_000)
    assert paid(floor) == {HOLDER: 6_250, WRITER: -6_250}  # 5,000 NTU of a lot.
    missed(floor, 2, 0)
    assert paid(floor) == {}


def test_cover_is_released_with_the_hour_not_with_the_interval() -> None:
    floor = delivered(cover=2, entitled=1)
    before = floor.view(WRITER).initial_margin
    for interval in range(1, 13):
        missed(floor, interval, 0)
    assert floor.view(WRITER).initial_margin == before
    assert pay(floor, "28 14") is None
    assert before - floor.view(WRITER).initial_margin == 1_250 * 60 * 2


def test_cover_pays_nothing_to_a_group_that_has_come_to_have_a_cluster() -> None:
    floor = delivered(cover=2, entitled=1)
    floor.certify(HOLDER, 1)
    missed(floor, 1, 4_000)
    (said,) = floor.of(insurance_events.InsurancePaid)
    assert (said.account, said.interval, said.mntu, said.amount) == (HOLDER, 1, 0, 0)
    assert Code.COVER_PAYMENT not in {code for *_, code in floor.moved()}
    floor.certify(HOLDER, 0)
    missed(floor, 2, 4_000)
    assert paid(floor) == {HOLDER: 5_000, WRITER: -5_000}


def test_cover_pays_nothing_for_what_an_affiliate_has_not_delivered() -> None:
    floor = market()
    floor.account(SELLER, certified=100, group=9)
    ally = floor.account(7, group=HOLDER)
    trade(floor, WRITER, HOLDER, 2, 37, COVER)
    # The ally is short without anything behind it; the exchange cannot buy it in.
    day = contract.day_contract(GRADE, hour("28 00")).symbol
    floor.sell(ally, 1, 1_250, instrument=day)
    assert floor.rejected() is None
    floor.buy(OTHER, 1, 1_250, instrument=day)
    floor.sell(OTHER, 1, 1_250, instrument=day)
    floor.buy(HOLDER, 1, 1_250, instrument=day)
    assert floor.rejected() is None
    floor.to("28 13:56")
    missed(floor, 1, 4_000)
    assert paid(floor) == {}


def test_an_option_is_over_with_the_months_last_hour() -> None:
    floor = delivered(cap=2)
    floor.checked = False
    for number in range(HOURS):
        floor.at = max(floor.at, JANUARY + (number + 1) * contract.HOUR)
        order = instructions.PayInsurance(
            grade=GRADE, hour_starts_at=JANUARY + number * contract.HOUR
        )
        assert floor.view(WRITER).initial_margin == CAP_ASIDE * 2 * (HOURS - number)
        assert floor.instruct(order) is None
    floor.machine.check()
    assert CAP not in floor.machine.state.instruments
    assert floor.view(WRITER).initial_margin == 0
    assert floor.machine.position(HOLDER, CAP).net_lots == 0


def test_damages_do_not_reach_for_what_is_set_aside() -> None:
    floor = market()
    floor.account(SELLER, cash=CAP_ASIDE * HOURS, certified=100)
    trade(floor, SELLER, HOLDER, 1, 60)
    floor.to("28 13:00")
    floor.sell(SELLER, 20, 1_250, at="28 14")
    floor.buy(HOLDER, 20, 1_250, at="28 14")
    assert floor.withdraw(SELLER, floor.view(SELLER).withdrawable) is None
    floor.certify(OTHER, 100)
    floor.to("28 13:45")
    trade(floor, OTHER, SECOND, 1, 1_430, symbol("28 15"))
    floor.to("28 13:56")
    for interval in range(1, 13):
        missed(floor, interval, 100_000)
    owed = sum(e.compensation_due for e in floor.events if isinstance(e, events.IntervalSettled))
    got = sum(e.compensated for e in floor.events if isinstance(e, events.IntervalSettled))
    assert 0 < got < owed
    assert floor.view(SELLER).cash == CAP_ASIDE * HOURS
    assert floor.view(SELLER).initial_margin == CAP_ASIDE * HOURS


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_is_traded_and_paid_nobody_loses_more_than_it_set_aside(data) -> None:
    floor = market()
    draw = data.draw
    accounts = st.sampled_from((WRITER, HOLDER, OTHER, SECOND))
    symbols = st.sampled_from((CAP, f"{MONTH}.C1400", COVER))
    for _ in range(draw(st.integers(1, 12))):
        side, account = draw(st.sampled_from((1, -1))), draw(accounts)
        price = draw(st.integers(34, 42)) if draw(st.booleans()) else 58
        floor.place(account, side, draw(st.integers(1, 9)), price, instrument=draw(symbols))
    floor.apply(commands.CancelOrders(WRITER))
    floor.to("28 13:56")
    cash = {number: floor.view(number).cash for number in (WRITER, HOLDER, OTHER, SECOND)}
    aside = {number: floor.view(number).initial_margin for number in cash}
    set_index(floor, "28 14", draw(st.integers(300, 12_000)))
    used = {f"a{number}": draw(st.integers(0, 10**6)) for number in cash}
    pay(floor, "28 14", **used)
    for number in cash:
        loss = cash[number] - floor.view(number).cash
        assert loss * HOURS <= aside[number]
    assert sum(cash.values()) == sum(floor.view(number).cash for number in cash)


def test_asking_first_tells_what_a_cap_leaves_to_pay_at_most() -> None:
    floor = market(taker_fee_bp=20, maker_fee_bp=2)
    floor.sell(WRITER, 2, 60, instrument=CAP)
    found = floor.preview(HOLDER, 1, 3, 62, instrument=CAP)
    # Two lots at 60 and one that would rest at 62, and the fee of all three as a taker's.
    value = 2 * 60 + 62
    assert found.capped == (3, value, -(-value * 60 * HOURS * 20 // 10_000))
    worst = preview_wire.preview_out(CAP, [found]).worst_case
    assert (worst.price, worst.holds_to_index) == ("1.311", "7.500")
    assert worst.insured_ntu == f"{3 * 60_000 * HOURS}.000"
    assert worst.total == wire_money((value + 3 * 1_250) * 60 * HOURS + found.capped[2])
    taken = floor.preview(HOLDER, 1, 3, 62, instrument=CAP, time_in_force="IOC")
    assert taken.capped[:2] == (2, 120)
    assert floor.preview(WRITER, -1, 1, 62, instrument=CAP).capped == (0, 0, 0)
    assert floor.preview(HOLDER, 1, 1, 37, instrument=COVER).capped == (0, 0, 0)


def test_what_was_told_holds_in_every_hour_however_high_the_index_is() -> None:
    floor = market()
    floor.sell(WRITER, 2, 60, instrument=CAP)
    told = preview_wire.preview_out(
        CAP, [floor.preview(HOLDER, 1, 2, 60, instrument=CAP)]
    ).worst_case
    before = floor.view(HOLDER).cash
    floor.buy(HOLDER, 2, 60, instrument=CAP)
    premium = before - floor.view(HOLDER).cash
    floor.to("28 00:00")
    for number, price in enumerate((1_252, 3_000, 7_500, 400, 1_251)):
        starts = f"28 {number:02}"
        floor.at = max(floor.at, hour(starts))
        floor.apply(commands.Tick())
        set_index(floor, starts, price)
        before = floor.view(HOLDER).cash
        assert pay(floor, starts, a2=120_000) is None
        cost = price * 60 * 2 - (floor.view(HOLDER).cash - before)
        assert cost == min(price, 1_250) * 60 * 2
    assert told.total == wire_money(premium + 1_250 * 60 * 2 * HOURS)
