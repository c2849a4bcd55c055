"""Margin calls, liquidation, the waterfall, buy-ins and what may be withdrawn."""

from exchange import default_events, events
from exchange.machine import margin_calls, waterfall
from marketplace import contract
from settlement import instructions
from settlement.delivery import largest_remainder
from settlement.ledger import EXCHANGE, Code, Kind
from tests import oracle
from tests.floor import GRADE, RICH, Floor, hour, instant, symbol

SELLER, BUYER, OTHER = 1, 2, 3
MONTH = contract.month_contract(GRADE, contract.add_months(instant("00:00"), 1)).symbol
DAY = contract.day_contract(GRADE, instant("+2 00:00")).symbol
HOURS_OF_MONTH = 744
CASH, FUND = int(Kind.CASH), int(Kind.FUND)
LAYER = (EXCHANGE, int(Kind.LAYER))


def short(*, cash: int, lots: int = 50, covered: int = 1_000) -> Floor:
    """A seller that is short of a month at 1.250, with so much cash when it has paid its fee."""
    floor = Floor("13:00", dynamic_percent=20)
    floor.account(SELLER, certified=covered)
    floor.account(BUYER)
    floor.account(OTHER, certified=1_000)
    for account in (11, 12):
        floor.account(account, certified=1_000)
    floor.sell(SELLER, lots, 1_250, instrument=MONTH)
    assert floor.rejected() is None
    floor.buy(BUYER, lots, 1_250, instrument=MONTH)
    leave(floor, SELLER, cash)
    floor.to("13:45")  # What was traded until now is no part of the next mark.
    return floor


def leave(floor: Floor, account: int, cash: int) -> None:
    """Take cash away, down to what is wanted."""
    state = floor.machine.state
    spare = state.accounts[account].cash - cash
    if spare > 0:
        state.transfer(
            (account, Kind.CASH), (EXCHANGE, Kind.OUTSIDE), spare, Code.WITHDRAWAL, "spare"
        )


def move_to(floor: Floor, price: int, instrument: str = MONTH) -> None:
    """Have two others trade at a price, so that the next mark is there."""
    floor.sell(11, 1, price, instrument=instrument)
    assert floor.rejected() is None
    floor.buy(12, 1, price, instrument=instrument)
    assert floor.rejected() is None


def test_a_mark_pays_every_position_the_way_to_its_price_and_costs_begin_there() -> None:
    floor = short(cash=RICH)
    before = floor.view(SELLER).cash, floor.view(BUYER).cash
    move_to(floor, 1_300)
    floor.to("14:00")
    due = 60 * HOURS_OF_MONTH * 50 * 50
    assert floor.view(SELLER).cash == before[0] - due
    assert floor.view(BUYER).cash == before[1] + due
    position = floor.machine.position(BUYER, MONTH)
    assert (position.net_lots, position.cost_ticks, position.received_ticks) == (
        50,
        50 * 1_250,
        50 * 50,
    )
    assert floor.view(BUYER).initial_margin == 60 * HOURS_OF_MONTH * 50 * 1_300 // 10
    assert floor.view(SELLER).initial_margin == 60 * HOURS_OF_MONTH * 50 * 1_300 // 20


def test_a_large_move_is_marked_a_second_later_and_a_small_one_at_the_hour() -> None:
    floor = short(cash=RICH)
    move_to(floor, 1_270)
    floor.to("13:50")
    assert floor.of(events.Marked) == []
    move_to(floor, 1_330)
    floor.to("13:50:01")
    assert [(e.instrument, e.price) for e in floor.of(events.Marked)] == [(MONTH, 1_300)]


def test_below_maintenance_an_account_is_called_and_a_deposit_meets_the_call() -> None:
    initial = 60 * HOURS_OF_MONTH * 50 * 1_250 // 20
    floor = short(cash=initial)
    move_to(floor, 1_275)
    floor.to("13:45:01")
    (called,) = floor.of(default_events.MarginCalled)
    now = 60 * HOURS_OF_MONTH * 50 * 1_275 // 20
    assert (called.account, called.due_at) == (SELLER, instant("14:45:01"))
    assert called.amount == now - floor.view(SELLER).cash > 0
    assert floor.view(SELLER).margin_call_due == instant("14:45:01")
    assert floor.withdraw(SELLER, 1) == "insufficient_funds"
    floor.deposit(SELLER, called.amount - 1)
    assert floor.of(default_events.MarginCallMet) == []
    floor.deposit(SELLER, 1)
    assert [event.account for event in floor.of(default_events.MarginCallMet)] == [SELLER]
    floor.to("15:00")
    assert floor.of(default_events.LiquidationStarted) == []


def test_who_loses_its_capacity_is_called_at_once_may_sell_no_more_and_is_bought_in() -> None:
    covered = 60 * HOURS_OF_MONTH * 50 * 1_250 // 20
    floor = short(cash=2 * covered)
    floor.certify(SELLER, 0)
    (called,) = floor.of(default_events.MarginCalled)
    assert (called.account, called.due_at) == (SELLER, instant("14:45"))
    assert called.amount == 4 * covered - 2 * covered
    floor.sell(SELLER, 1, 1_250, instrument=MONTH)
    assert floor.rejected() == "insufficient_funds"
    floor.sell(OTHER, 100, 1_260, instrument=MONTH)
    floor.to("14:44:59")
    assert floor.machine.position(SELLER, MONTH).net_lots == -50
    floor.to("14:45")
    assert [event.account for event in floor.of(default_events.LiquidationStarted)] == [SELLER]
    assert {(e.price, e.taker) for e in floor.of(events.Traded)} == {(1_260, SELLER)}
    assert -50 < floor.machine.position(SELLER, MONTH).net_lots <= 0


def test_above_maintenance_nobody_is_called() -> None:
    initial = 60 * HOURS_OF_MONTH * 50 * 1_250 // 20
    floor = short(cash=initial)
    move_to(floor, 1_252)
    floor.to("14:00")
    assert floor.view(SELLER).available < 0
    assert floor.of(default_events.MarginCalled) == []


def test_a_call_that_is_not_met_sells_what_the_account_is_long_of_inside_the_band() -> None:
    initial = 60 * HOURS_OF_MONTH * 50 * 1_250 // 10
    floor = short(cash=RICH)
    floor.account(4)
    floor.sell(11, 50, 1_250, instrument=MONTH)
    floor.buy(4, 50, 1_250, instrument=MONTH)
    leave(floor, 4, initial)
    floor.to("14:20")
    floor.buy(12, 40, 1_190, instrument=MONTH)
    floor.buy(BUYER, 10, 1_190, instrument=MONTH)
    move_to(floor, 1_200)
    floor.to("15:00")
    assert [event.account for event in floor.of(default_events.MarginCalled)] == [4]
    held = floor.machine.position(4, MONTH).net_lots
    floor.to("16:00")
    (started,) = floor.of(default_events.LiquidationStarted)
    sold = [e for e in floor.of(events.Traded) if e.taker == 4]
    assert started.amount > 0
    assert sold
    assert all(e.price == 1_190 for e in sold)
    after = floor.machine.position(4, MONTH).net_lots
    assert 0 <= after < held
    account = floor.machine.state.accounts[4]
    assert account.cash >= margin_calls.initial_margin(account) or after == 0


def test_covered_shorts_are_not_bought_in_at_the_market() -> None:
    initial = 60 * HOURS_OF_MONTH * 50 * 1_250 // 20
    floor = short(cash=initial)
    floor.sell(OTHER, 100, 1_300, instrument=MONTH)
    move_to(floor, 1_275)
    floor.to("13:45:01")
    floor.to("14:45:01")
    assert len(floor.of(default_events.LiquidationStarted)) == 1
    assert floor.of(events.Traded) == []
    assert floor.machine.position(SELLER, MONTH).net_lots == -50
    assert floor.view(SELLER).margin_call_due == instant("15:45:01")
    told = {view.account: view for view in floor.machine.drain_touched().accounts}
    assert told[SELLER].margin_call_due == instant("15:45:01")


def test_uncovered_shorts_are_bought_back_as_far_as_they_are_uncovered() -> None:
    needed = 60 * HOURS_OF_MONTH * 50 * 1_250 // 20
    bare = 9 * HOURS_OF_MONTH * 20 * 1_250
    floor = short(cash=needed + bare, covered=30)
    assert floor.view(SELLER).initial_margin == needed + bare
    floor.sell(OTHER, 100, 1_310, instrument=MONTH)
    move_to(floor, 1_300)
    floor.to("13:45:01")
    floor.to("14:45:01")
    assert floor.machine.position(SELLER, MONTH).net_lots == -30
    assert {(e.price, e.taker) for e in floor.of(events.Traded)} == {(1_310, SELLER)}


def test_the_waterfall_uses_its_layers_strictly_in_order_and_adds_up_to_the_loss() -> None:
    initial = 60 * HOURS_OF_MONTH * 50 * 1_250 // 20
    floor = short(cash=2 * initial)
    floor.to("+1 00:00")
    leave(floor, SELLER, initial)
    shares = {n: a.fund for n, a in floor.machine.state.accounts.items() if a.fund}
    assert SELLER in shares
    floor.machine.state.layer_max = 1_000_000
    for _ in range(20):
        floor.account(100 + len(floor.machine.state.accounts), certified=0)
    cash = floor.view(SELLER).cash
    move_to(floor, 1_400)
    floor.events.clear()
    floor.to("+1 01:00")
    loss = 60 * HOURS_OF_MONTH * 50 * 150
    moved = [e for e in floor.events if isinstance(e, events.Transferred)]
    own = [e for e in moved if e.code == Code.FUND_USE]
    lent = [e for e in moved if e.code == Code.LAYER_LOAN]
    others = [e for e in moved if e.code == Code.FUND_SHARE]
    paid = [e for e in moved if e.code == Code.VARIATION and e.debit_owner == SELLER]
    assert [e.amount for e in own] == [shares[SELLER]]
    assert [e.amount for e in lent] == [1_000_000]
    assert sum(e.amount for e in others) == sum(shares.values()) - shares[SELLER]
    assert [moved.index(own[0]), moved.index(lent[0])] == sorted(
        [moved.index(own[0]), moved.index(lent[0])]
    )
    reached = cash + sum(e.amount for e in (*own, *lent, *others))
    assert sum(e.amount for e in paid) == min(loss, reached)
    cut = sum(e.amount for e in floor.events if isinstance(e, default_events.HaircutTaken))
    assert cut == loss - min(loss, reached)
    defaulted = next(e for e in floor.events if isinstance(e, default_events.Defaulted))
    assert defaulted.account == SELLER
    assert defaulted.amount == loss - cash - shares[SELLER]


def test_who_is_owed_receives_less_by_largest_remainder_when_nothing_is_left() -> None:
    floor = Floor()
    for account, cash in ((1, 100), (2, 0), (3, 0), (4, 0)):
        floor.account(account, cash=cash)
    state = floor.machine.state
    state.layer_max = 0
    state.events = []
    waterfall.settle(state, {1: -1_000, 2: 333, 3: 333, 4: 334}, Code.VARIATION, "test")
    parts = largest_remainder(100, [333, 333, 334])
    assert [state.accounts[n].cash for n in (1, 2, 3, 4)] == [0, *parts]
    assert state.exchange[Kind.CLEARING] == 0
    cuts = [e.amount for e in state.events if isinstance(e, default_events.HaircutTaken)]
    assert sum(cuts) == 900


def test_the_limit_of_the_layer_is_set_from_now_on_and_asks_nothing_back() -> None:
    floor = Floor()
    for account in (1, 2):
        floor.account(account, cash=0)
    state = floor.machine.state
    assert floor.instruct(instructions.SetLayer(limit_micros=100)) is None
    assert floor.of(default_events.LayerSet) == [default_events.LayerSet(100, floor.at)]
    assert waterfall.cover(state, state.accounts[1], 150, "test") == 50
    assert floor.instruct(instructions.SetLayer(limit_micros=40)) is None
    assert state.exchange[Kind.LAYER] == -100
    assert waterfall.cover(state, state.accounts[2], 10, "test") == 10
    assert floor.instruct(instructions.SetLayer(limit_micros=105)) is None
    assert waterfall.cover(state, state.accounts[2], 10, "test") == 5
    for limit in (-1, waterfall.LAYER_LIMIT_MAX + 1):
        assert floor.instruct(instructions.SetLayer(limit_micros=limit)) == "invalid_amount"
    assert state.layer_max == 105


def test_an_account_shows_whom_it_owes_and_that_it_is_in_default() -> None:
    floor = Floor()
    for account in (1, 2):
        floor.account(account, cash=100)
    state = floor.machine.state
    state.transfer((2, Kind.CASH), (2, Kind.FUND), 60, Code.FUND_CONTRIBUTION, "t")
    state.layer_max = 50
    assert not floor.view(1).in_default
    assert waterfall.cover(state, state.accounts[1], 180, "test") == 0
    view = floor.view(1)
    assert (view.in_default, view.debt, view.owed) == (True, 80, ((2, 30),))


def test_a_debt_is_paid_back_to_other_members_before_the_exchange() -> None:
    floor = Floor()
    for account in (1, 2, 3):
        floor.account(account, cash=1_000)
    state = floor.machine.state
    for number, share in ((2, 300), (3, 100)):
        state.transfer((number, Kind.CASH), (number, Kind.FUND), share, Code.FUND_CONTRIBUTION, "t")
    state.layer_max = 50
    state.events = []
    assert waterfall.cover(state, state.accounts[1], 1_250, "test") == 0
    account = state.accounts[1]
    assert (account.debt, account.owed) == (250, {2: 150, 3: 50})
    assert account.in_default
    waterfall.repay(state, account, 220, "test")
    assert (account.debt, account.owed) == (30, {})
    assert (state.accounts[2].fund, state.accounts[3].fund) == (300, 100)
    waterfall.repay(state, account, 30, "test")
    assert not account.in_default
    assert state.exchange[Kind.LAYER] == 0


def test_a_members_share_of_the_fund_is_two_percent_of_its_highest_short_notional() -> None:
    floor = short(cash=RICH)
    floor.to("14:00")
    floor.to("+1 00:00")
    assert floor.view(SELLER).fund == 60 * HOURS_OF_MONTH * 50 * 1_250 * 2 // 100
    assert floor.view(BUYER).fund == 0
    assert oracle.balances(floor.events)[SELLER, FUND] == floor.view(SELLER).fund


def test_uncovered_hours_are_bought_in_through_the_day_the_auction_and_the_hour() -> None:
    floor = Floor("13:00")
    floor.account(SELLER, certified=60)
    floor.account(BUYER)
    floor.account(OTHER, certified=1_000)
    floor.sell(SELLER, 60, 1_250, instrument=DAY)
    floor.buy(BUYER, 60, 1_250, instrument=DAY)
    floor.certify(SELLER, 10)
    assert floor.machine.state.orders == {}, "it is not near enough yet"
    floor.to("+1 00:00")
    (order,) = floor.machine.state.orders.values()
    assert (order.position.instrument.symbol, order.left, order.price) == (DAY, 50, 1_437)
    assert floor.cancel(SELLER, order.id)
    assert [event.reason for event in floor.of(events.CancelRefused)] == ["frozen"]
    floor.sell(OTHER, 20, 1_400, instrument=DAY)
    assert floor.of(events.Traded) == [], "it is too far from the last trade but for an auction"
    floor.to("+1 00:05")
    assert [(e.price, e.lots) for e in floor.of(events.Traded)] == [(1_400, 20)]
    floor.to("+1 10:00")
    bought = {
        o.position.instrument.contract.starts_at: o.left
        for o in floor.machine.state.orders.values()
        if o.is_of_clearing and o.position.instrument.symbol != DAY
    }
    assert bought == {hour(f"+2 {h:02}"): 30 for h in range(11)}
    floor.to("+1 11:30")
    floor.to("+1 12:00")
    floor.sell(OTHER, 30, 1_250, at="+2 05")
    assert sum(e.lots for e in floor.of(events.Traded)) == 30
    floor.to("+2 05:00")
    incurred = {
        (e.account, e.hour_starts_at): e
        for e in floor.events
        if isinstance(e, events.ObligationIncurred)
    }
    assert incurred[SELLER, hour("+2 05")].lots == 10
    assert incurred[SELLER, hour("+2 05")].failed_lots == 0
    assert incurred[SELLER, hour("+2 04")].lots == 40
    assert incurred[SELLER, hour("+2 04")].failed_lots == 30


def test_what_is_covered_again_is_not_bought_in_any_more() -> None:
    floor = Floor("13:00")
    floor.account(SELLER, certified=60)
    floor.account(BUYER)
    floor.sell(SELLER, 60, 1_250, instrument=DAY)
    floor.buy(BUYER, 60, 1_250, instrument=DAY)
    floor.certify(SELLER, 10)
    floor.to("+1 01:00")
    floor.certify(SELLER, 60)
    assert [reason for _, _, reason in floor.closed()] == ["covered"]


def test_a_withdrawal_leaves_the_worse_edge_of_the_band_behind() -> None:
    floor = short(cash=RICH)
    view = floor.view(SELLER)
    at_risk = 50 * 60 * HOURS_OF_MONTH * (1_437 - 1_250)
    assert view.withdrawable == view.available - at_risk
    assert floor.withdraw(SELLER, view.withdrawable + 1) == "insufficient_funds"
    assert floor.withdraw(SELLER, view.withdrawable) is None


def test_proceeds_can_be_withdrawn_two_hours_into_the_next_day() -> None:
    floor = Floor("13:00")
    floor.account(SELLER, certified=100)
    floor.account(BUYER)
    floor.sell(SELLER, 40, 1_250)
    floor.buy(BUYER, 40, 1_250)
    floor.to("19:55")
    (allocated,) = floor.of(events.Allocated)
    floor.settle("20", 1, {allocated.allocation: (200_000, 0)})
    assert floor.view(SELLER).locked == 250_000
    before = floor.view(SELLER)
    assert before.withdrawable == before.available - 250_000
    for interval in range(2, 13):
        floor.settle("20", interval, {allocated.allocation: (200_000, 0)})
    floor.to("+1 01:59")
    assert floor.view(SELLER).locked == 3_000_000
    floor.to("+1 02:00")
    assert floor.view(SELLER).locked == 0
    assert floor.view(SELLER).withdrawable == floor.view(SELLER).available


def test_compensation_can_be_withdrawn_when_its_day_is_final_and_a_refund_at_once() -> None:
    """A quarter of the price of what was missed, 62,500; the whole 250,000 is the buyer's own."""
    floor = Floor("13:00")
    floor.account(SELLER, certified=100)
    floor.account(BUYER)
    floor.sell(SELLER, 40, 1_250)
    floor.buy(BUYER, 40, 1_250)
    floor.to("19:55")
    (allocated,) = floor.of(events.Allocated)
    before = floor.view(BUYER)
    floor.settle("20", 1, {allocated.allocation: (0, 200_000)})
    after = floor.view(BUYER)
    assert after.cash == before.cash + 250_000 + 62_500
    assert after.locked == 62_500
    assert after.withdrawable == before.withdrawable + 250_000
    floor.to("+1 01:59")
    assert floor.view(BUYER).locked == 62_500
    floor.to("+1 02:00")
    assert floor.view(BUYER).withdrawable == floor.view(BUYER).available


def test_a_snapshot_in_the_middle_of_calls_and_debts_restores_them() -> None:
    initial = 60 * HOURS_OF_MONTH * 50 * 1_250 // 20
    floor = short(cash=initial)
    floor.to("+1 00:00")
    move_to(floor, 1_400)
    floor.to("+1 01:00")
    assert floor.view(SELLER).debt > 0
    written = floor.machine.snapshot()
    restored = type(floor.machine).restore(written)
    assert restored.snapshot() == written
    restored.check()
    assert restored.account_view(SELLER) == floor.view(SELLER)
    assert symbol("+1 20") in restored.state.instruments


def called_long() -> Floor:
    """Account 4, long of 50 of a month, was called at 14:20:01 and had a round an hour later."""
    floor = short(cash=RICH)
    floor.account(4)
    floor.sell(11, 50, 1_250, instrument=MONTH)
    floor.buy(4, 50, 1_250, instrument=MONTH)
    leave(floor, 4, 60 * HOURS_OF_MONTH * 50 * 1_250 // 10)
    floor.to("14:20")
    move_to(floor, 1_200)
    floor.to("15:00")
    assert [event.account for event in floor.of(default_events.MarginCalled)] == [4]
    floor.to("16:00")
    return floor


def test_what_finds_nobody_rests_at_the_bands_edge_and_leaves_when_the_call_is_met() -> None:
    floor = called_long()
    (order,) = floor.machine.state.accounts[4].orders.values()
    assert (order.side, order.left, order.price) == (-1, 50, 1_063)
    floor.cancel(4, order.id)
    assert [event.reason for event in floor.of(events.CancelRefused)] == ["frozen"]
    floor.deposit(4, RICH)
    assert [(n, reason) for n, _, reason in floor.closed()] == [(order.id, "covered")]
    assert len(floor.of(default_events.MarginCallMet)) == 1


def test_a_bid_that_comes_later_meets_what_rests_and_only_reduces() -> None:
    floor = called_long()
    floor.sell(4, 45, 1_150, instrument=MONTH)
    floor.buy(12, 60, 1_150, instrument=MONTH)
    assert floor.machine.position(4, MONTH).net_lots == 0
    assert floor.machine.state.accounts[4].orders == {}


def test_three_rounds_that_reduce_nothing_are_enough_until_the_bands_move() -> None:
    floor = called_long()
    floor.events.clear()
    floor.to("23:59:59")
    rounds = [e for e in floor.events if isinstance(e, default_events.LiquidationStarted)]
    assert [e.at for e in rounds] == [instant(f"{hour}:20:01") for hour in (16, 17, 18)]
    (stopped,) = [e for e in floor.events if isinstance(e, default_events.LiquidationStopped)]
    assert (stopped.account, stopped.reason) == (4, "no_counterparty")
    assert stopped.next_at == floor.view(4).margin_call_due == instant("+1 00:00")
    assert len(floor.machine.state.accounts[4].orders) == 1, "what rests goes on"
